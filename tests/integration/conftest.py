"""A data directory, and receivers that misbehave."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.receiver import Receiver, receiver


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a data directory."""
    path = tmp_path / "data"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that every user can reach: pytest's own are closed to the agent's."""
    with tempfile.TemporaryDirectory(prefix="tapio-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)
