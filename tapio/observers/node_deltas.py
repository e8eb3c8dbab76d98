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
_WRAP = (1 << 64) - 1
_MOST_PER_NS = 64  # no CPU completes more instructions, or runs more cycles


class Delta(NamedTuple):
    """One interval of one CPU. Times are of the boot clock; `idle_samples` of the `samples` found it idle.

    Some kernels leave idle samples out, so their number comes from the time that has passed.
    """

    cpu: int
    start_ns: int
    end_ns: int
    samples: int
    idle_samples: int
    cycles: int
    instructions: int
    stalls: int | None  # not known


class ImplausibleError(ValueError):
    """A counter has moved further than any CPU can count."""


def difference(before: Any, after: Any, period_ns: int) -> Delta | None:
    """What happened from one record to the next of the same CPU; None if cycles or instructions were not counted.

    `period_ns` is the time between two samples.

    ImplausibleError for counts that cannot be, and for records in the wrong order.
    """
    interval_ns = after.boot_ns - before.boot_ns
    busy_samples = after.busy_samples - before.busy_samples
    if interval_ns <= 0 or busy_samples < 0:
        raise ImplausibleError
    samples = max(1, busy_samples, round(interval_ns / period_ns))
    cycles, instructions, stalls = [_counted(totals(before), totals(after), interval_ns) for totals in _TOTALS]
    if cycles is None or instructions is None:
        return None
    return Delta(
        after.cpu, before.boot_ns, after.boot_ns, samples, samples - busy_samples, cycles, instructions, stalls
    )


def _counted(before: tuple[int, int, int], after: tuple[int, int, int], interval_ns: int) -> int | None:
    """The count of the whole interval, from the part of it in which the event had a counter; None: it had none."""
    enabled_ns, running_ns = after[1] - before[1], after[2] - before[2]
    # All zero: this total could not be read, or not yet. What follows it is not the count of one interval.
    if running_ns <= 0 or before[1] == 0:
        return None
    count = after[0] - before[0] & _WRAP
    if enabled_ns > running_ns:
        count = count * enabled_ns // running_ns
    if count > _MOST_PER_NS * interval_ns:
        raise ImplausibleError
    return count
