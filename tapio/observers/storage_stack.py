"""Disks that stand on disks: one slow or failed request below is one story, not one for each floor.

A loop device's file lies on a disk (the record tells which), a multipath or mapped disk on its slaves (sysfs tells).
The lower request completes first, so its record comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from tapio.observers.base import RecentMap

_MAX_FLOORS = 8
_REMEMBER_S = 10.0
_MAX_SPANS = 64


class Disk(NamedTuple):
    """A disk or partition by its number; (0, 0) is none."""

    major: int
    minor: int


_NONE = Disk(0, 0)


class Span(NamedTuple):
    """From issue to completion on the boot clock, in nanoseconds."""

    start_ns: int
    end_ns: int


class Disks(Protocol):
    """Who knows what a disk stands on."""

    def below(self, disk: Disk) -> frozenset[Disk]:
        """The whole disks right below, the disk of a partition included."""


class SysfsDisks:
    """What sysfs tells, remembered for some seconds."""

    def __init__(self, sys_root: Path, evicted: dict[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._root = sys_root / "dev" / "block"
        self._clock = clock
        self._known: RecentMap[Disk, tuple[float, frozenset[Disk]]] = RecentMap("disks", evicted, 256)

    def below(self, disk: Disk) -> frozenset[Disk]:
        """Slaves of a mapped disk, the disk of a partition; nothing when sysfs does not tell."""
        known, now = self._known.get(disk), self._clock()
        if known is None or known[0] < now:
            known = now + _REMEMBER_S, frozenset(self._read(disk))
            self._known[disk] = known
        return known[1]

    def _read(self, disk: Disk) -> Iterable[Disk]:
        folder = self._root / f"{disk.major}:{disk.minor}"
        try:
            numbers = [entry / "dev" for entry in (folder / "slaves").iterdir()] if (folder / "slaves").is_dir() else []
            if (folder / "partition").exists():
                numbers.append(folder.resolve().parent / "dev")
            return [Disk(*map(int, number.read_text().split(":"))) for number in numbers]
        except (OSError, ValueError, TypeError):
            return []


class _History:
    """When requests of one disk were reported: times that overlap become one."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.failed_at_ns = -1

    def add(self, span: Span, failed: bool) -> None:
        if failed:
            self.failed_at_ns = max(self.failed_at_ns, span.end_ns)
        if self.spans and self.spans[-1].start_ns <= span.start_ns <= self.spans[-1].end_ns <= span.end_ns:
            self.spans[-1] = Span(self.spans[-1].start_ns, span.end_ns)  # as in every storm
            return
        apart = [other for other in self.spans if other.end_ns < span.start_ns or other.start_ns > span.end_ns]
        joined = [other for other in self.spans if other not in apart] + [span]
        merged = Span(min(other.start_ns for other in joined), max(other.end_ns for other in joined))
        self.spans = sorted([*apart, merged])[-_MAX_SPANS:]


class Stacks:
    """Remembers what was reported of each disk, to tell whether that explains a request above it."""

    def __init__(self, disks: Disks, evicted: dict[str, int]) -> None:
        self._disks = disks
        self._histories: RecentMap[Disk, _History] = RecentMap("histories", evicted, 256)

    def report(self, disk: Disk, span: Span, failed: bool) -> None:
        """A request was reported, or explained by one that was."""
        history = self._histories.get(disk) or _History()
        history.add(span, failed)
        self._histories[disk] = history

    def explain(self, disk: Disk, lower: Disk, span: Span, failed: bool, warning_ns: int) -> bool:
        """Whether what was reported of the disks below is why this request failed, or was slow.

        Slow: without the time that it shares with reported requests below it would have been fast enough.
        """
        floors = self._all_below(disk, lower)
        if not floors:
            return False
        below = [self._histories.get(floor) for floor in floors]
        histories = [history for history in below if history is not None]
        if failed:
            return any(history.failed_at_ns >= span.start_ns for history in histories)
        shared = _union_ns([other for history in histories for other in history.spans], span)
        return shared > 0 and span.end_ns - span.start_ns - shared < warning_ns

    def _all_below(self, disk: Disk, lower: Disk) -> set[Disk]:
        found: set[Disk] = set()
        floor = set(self._disks.below(disk))
        if lower != _NONE:
            floor.add(lower)
        for _ in range(_MAX_FLOORS):
            floor = floor - found - {disk}
            if not floor:
                break
            found |= floor
            floor = {next_lower for upper in floor for next_lower in self._disks.below(upper)}
        return found


def _union_ns(spans: Iterable[Span], within: Span) -> int:
    """How much of `within` the spans cover together."""
    covered, end = 0, within.start_ns
    for span in sorted(spans):
        start, stop = max(span.start_ns, end), min(span.end_ns, within.end_ns)
        if stop > start:
            covered, end = covered + stop - start, stop
    return covered
