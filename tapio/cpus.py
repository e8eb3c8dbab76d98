"""What the CPUs have done since the agent's start, as /metrics and OTel tell it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class CpuCounters(msgspec.Struct, frozen=True):
    """Counts of one CPU, scaled to the whole time where the kernel shared the counters; they only grow.

    `cpu` None: of all CPUs together. `stalled_cycles` None: they are not counted here. `ipc` is of the latest interval,
    None when there is none.
    """

    cpu: int | None
    cycles: int
    instructions: int
    stalled_cycles: int | None
    ipc: float | None


class CpuReport(msgspec.Struct, frozen=True):
    """The counters, and on how many CPUs that are online each of them is not counted."""

    counters: list[CpuCounters]
    uncounted: dict[str, int]  # cycles, instructions, stalls


def together(cpus: Sequence[CpuCounters], ipc: float | None) -> list[CpuCounters]:
    """All CPUs as one; nothing if there is none. Stalls only if all have them: else they would be of other cycles."""
    if not cpus:
        return []
    stalls = [cpu.stalled_cycles for cpu in cpus if cpu.stalled_cycles is not None]
    cycles, instructions = sum(cpu.cycles for cpu in cpus), sum(cpu.instructions for cpu in cpus)
    return [CpuCounters(None, cycles, instructions, sum(stalls) if len(stalls) == len(cpus) else None, ipc)]
