"""BPF objects whose source a test has changed, so that on this kernel they do what they would do on another."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tapio.config import CHECKOUT_EBPF_DIR


def changed_object(folder: Path, program: str, *changes: tuple[str, str]) -> Path:
    """The object `program` (a stem) with each first text replaced by the second; it has a new folder for itself."""
    sources = folder / "ebpf"
    shutil.copytree(CHECKOUT_EBPF_DIR.parent, sources, ignore=shutil.ignore_patterns("build"))
    source = sources / f"{program}.c"
    text = source.read_text()
    for old, new in changes:
        assert old in text, f"{program}.c has changed: {old!r}"
        text = text.replace(old, new)
    source.write_text(text)
    subprocess.run(["make", "-s", "-C", sources, f"SOURCES={program}.c"], check=True)
    return sources / "build" / f"{program}.o"
