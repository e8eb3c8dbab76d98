"""What the CPUs have done since the agent's start, as /metrics and OTel tell it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class CpuCounters(msgspec.Struct, frozen=True):
    """Counts of one CPU, scaled to the whole time where the kernel shared the counters; they only grow.

    `cpu` None: of all CPUs together. `stalled_cycles` None: no event for it here. `ipc` is of the latest interval,
    None when there is none.
    """

    cpu: int | None
    cycles: int
    instructions: int
    stalled_cycles: int | None
    ipc: float | None


class CpuReport(msgspec.Struct, frozen=True):
    """The counters, and how many CPUs are online without being counted."""

    counters: list[CpuCounters]
    uncounted: int


def together(cpus: Sequence[CpuCounters], ipc: float | None) -> list[CpuCounters]:
    """All CPUs as one; nothing if there is none."""
    if not cpus:
        return []
    stalls = [cpu.stalled_cycles for cpu in cpus if cpu.stalled_cycles is not None]
    cycles, instructions = sum(cpu.cycles for cpu in cpus), sum(cpu.instructions for cpu in cpus)
    return [CpuCounters(None, cycles, instructions, sum(stalls) if stalls else None, ipc)]
