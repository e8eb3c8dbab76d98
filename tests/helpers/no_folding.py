"""Configurations of a test, and the one in which no anomaly is folded: for tests that count occurrences one by one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

_EPISODES = "[episodes]\nindividual = 1000000\nburst = 1000000\nrate_per_s = 1000000\n"


def no_folding(more: str = "") -> contextlib.AbstractContextManager[str]:
    """The flag that names the file. `more` are further sections."""
    return configuration(_EPISODES + more)


@contextlib.contextmanager
def configuration(text: str) -> Iterator[str]:
    """The flag that names a file of this content, in a folder that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="tapio-test-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "tapio.toml"
        path.write_text(text)
        yield f"--config={path}"
