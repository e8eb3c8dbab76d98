"""What the kernel tells of a loaded program through the descriptor's fdinfo, without privilege."""

from __future__ import annotations

from pathlib import Path

import msgspec


class ProgramInfo(msgspec.Struct, frozen=True):
    """`run_ns` is 0 unless kernel.bpf_stats_enabled is set. A missed run is an event that nobody saw."""

    run_ns: int = 0
    missed: int = 0


def program_info(descriptor: int, proc_root: Path = Path("/proc")) -> ProgramInfo:
    """Run time and missed runs of a program; zeros where the kernel does not tell (recursion_misses came in 5.12)."""
    try:
        text = (proc_root / f"self/fdinfo/{descriptor}").read_text()
    except OSError:
        return ProgramInfo()
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return ProgramInfo(int(values.get("run_time_ns", 0)), int(values.get("recursion_misses", 0)))
