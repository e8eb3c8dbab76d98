"""What the kernel tells of a loaded program through the descriptor's fdinfo."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class ProgramInfo(msgspec.Struct, frozen=True):
    """`run_ns` is 0 unless kernel.bpf_stats_enabled is set. A missed run is an event that nobody saw (since 5.12)."""

    run_ns: int = 0
    missed: int = 0


class Program:
    """A program's fdinfo, opened while the agent is root: before 5.14 only root may open it."""

    def __init__(self, descriptor: int, proc_root: Path = Path("/proc")) -> None:
        self._file = os.open(proc_root / f"self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)

    def info(self) -> ProgramInfo:
        """Run time and missed runs so far."""
        text = os.pread(self._file, 4096, 0).decode()
        values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return ProgramInfo(int(values.get("run_time_ns", 0)), int(values.get("recursion_misses", 0)))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
