"""From totals to what happened between two samples of a CPU."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

COUNTERS = ("cycles", "instructions", "stalls")
_PARTS = ("value", "enabled_ns", "running_ns")
FIELDS = (
    *("kind", "cpu", "boot_ns", "busy_samples"),
    *(f"{counter}_{part}" for counter in COUNTERS for part in _PARTS),
)
_TOTALS = [attrgetter(*(f"{counter}_{part}" for part in _PARTS)) for counter in COUNTERS]
_RUNNING = attrgetter(*(f"{counter}_running_ns" for counter in COUNTERS))
_WRAP = (1 << 64) - 1
_MOST_PER_NS = 64  # no CPU completes more instructions, or runs more cycles
_PATIENCE_NS = 10_000_000_000


class Delta(NamedTuple):
    """One interval of one CPU, by the boot clock; for `busy_ns` of it the samples found the CPU busy.

    Some kernels leave idle samples out, so it is idle for the time that no busy sample accounts for.
    """

    cpu: int
    start_ns: int
    end_ns: int
    busy_ns: int
    cycles: int
    instructions: int
    stalls: int | None  # not known

    @property
    def duration_ns(self) -> int:
        """How long the interval was."""
        return self.end_ns - self.start_ns


class ImplausibleError(ValueError):
    """A counter has moved further than any CPU can count, or back."""


def difference(before: Any, after: Any, period_ns: int) -> Delta | None:
    """What happened from one record to the next of the same CPU; None if cycles or instructions were not counted.

    `period_ns` is the time between two samples.

    ImplausibleError for counts that cannot be, and for records in the wrong order.
    """
    interval_ns = after.boot_ns - before.boot_ns
    busy_samples = after.busy_samples - before.busy_samples
    if interval_ns <= 0 or busy_samples < 0:
        raise ImplausibleError
    samples = max(1, round(interval_ns / period_ns))
    busy_ns = interval_ns * min(busy_samples, samples) // samples
    cycles, instructions, stalls = [_counted(totals(before), totals(after), interval_ns) for totals in _TOTALS]
    if cycles is None or instructions is None:
        return None
    return Delta(after.cpu, before.boot_ns, after.boot_ns, busy_ns, cycles, instructions, stalls)


def _counted(before: tuple[int, int, int], after: tuple[int, int, int], interval_ns: int) -> int | None:
    """The count of the whole interval, from the part of it in which the event had a counter; None: it had none."""
    # All zero: this total could not be read, or not yet. What follows it is not the count of one interval.
    if before[1] == 0 or after[1] == 0:
        return None
    enabled_ns, running_ns = after[1] - before[1], after[2] - before[2]
    if enabled_ns < 0 or running_ns < 0:
        raise ImplausibleError
    if running_ns == 0:
        return None
    count = after[0] - before[0] & _WRAP
    if enabled_ns > running_ns:
        count = count * enabled_ns // running_ns
    if count > _MOST_PER_NS * interval_ns:
        raise ImplausibleError
    return count


class Standstill:
    """Which events of a CPU have not been on a counter of its PMU for long: from the start, or taken away later."""

    def __init__(self) -> None:
        self._ran: list[tuple[int, int]] = []  # of each: how long until now, and when that was last more than before

    def look(self, record: Any) -> tuple[str, ...]:
        """Those that stand still, by a CPU's latest record. Asked now and then."""
        running = _RUNNING(record)
        self._ran = self._ran or [(ns, record.boot_ns) for ns in running]
        self._ran = [ran if ran[0] == ns else (ns, record.boot_ns) for ran, ns in zip(self._ran, running, strict=True)]
        return tuple(
            counter
            for counter, (_, since_ns) in zip(COUNTERS, self._ran, strict=True)
            if record.boot_ns - since_ns >= _PATIENCE_NS
        )
