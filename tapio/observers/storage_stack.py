"""Disks that stand on disks: one slow or failed request below is one story, not one for each floor.

A loop device's file lies on a disk (the record tells which), a multipath or mapped disk on its slaves (sysfs tells).
The lower request completes first, so its record comes first.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from tapio.observers.base import RecentMap

_LOOP_MAJOR = 7
_MAX_FLOORS = 8
_REMEMBER_S = 10.0
_MAX_HISTORIES = 64
_MAX_REPORTS = 256
_DISORDER_NS = 1_000_000  # records of several CPUs come about in the order of their times


class Disk(NamedTuple):
    """A disk or partition by its number; (0, 0) is none."""

    major: int
    minor: int


_NONE = Disk(0, 0)


class Request(NamedTuple):
    """What two requests are compared by. Times on the boot clock, in nanoseconds."""

    issued_ns: int
    completed_ns: int
    bytes: int
    reads: bool
    flushes: bool = False
    error: int | None = None  # None: it was only slow
    cgroup: tuple[int, int] | None = None  # of its first bio, with the hierarchy, if that names somebody
    by_process: bool = False  # issued by a process for itself, not by a kernel worker


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


class _Report:
    """A request that was reported, and for how many bytes above it that can still be the reason."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.left = float(request.bytes or math.inf)  # many may wait for one flush


class Stacks:
    """Remembers what was reported of each disk, to tell whether that explains a request above it.

    Nothing in the kernel links the two. So a request below explains one above if all that can be compared fits: it is
    of the same direction, was issued and completed while the upper one was on its way, failed with the same error, and
    is of no other cgroup; and it explains at most as many bytes as it had itself, because requests are split and merged
    on their way down. What a loop disk reads and writes below is issued by kernel workers, never by a process.
    """

    def __init__(self, disks: Disks, evicted: dict[str, int]) -> None:
        self._disks = disks
        self._histories: RecentMap[Disk, deque[_Report]] = RecentMap("histories", evicted, _MAX_HISTORIES)

    def report(self, disk: Disk, request: Request) -> None:
        """A request was reported, or explained by one that was."""
        history = self._histories.get(disk)
        if history is None:
            history = deque(maxlen=_MAX_REPORTS)
        history.append(_Report(request))
        self._histories[disk] = history

    def explain(self, disk: Disk, lower: Disk, upper: Request, warning_ns: int) -> bool:
        """Whether requests below that were reported are why this one failed, or was slow.

        Slow: without the time in which one of them was on its way it would have been fast enough.
        """
        floors = self._all_below(disk, lower)
        found = [report for floor in floors for report in self._candidates(floor, upper)]
        if disk.major == _LOOP_MAJOR:
            found = [report for report in found if not report.request.by_process]
        found.sort(key=lambda report: report.request.issued_ns)  # later ones also fit uppers that complete later
        took_ns = upper.completed_ns - upper.issued_ns

        def enough(*reports: _Report) -> bool:
            return upper.error is not None or took_ns - _shared_ns(reports, upper) < warning_ns

        chosen = next(([report] for report in found if enough(report)), found)
        if not chosen or not enough(*chosen):
            return False
        for report in chosen:
            report.left -= upper.bytes
        return True

    def _candidates(self, floor: Disk, upper: Request) -> Iterable[_Report]:
        for report in reversed(self._histories.get(floor) or ()):
            request = report.request
            if request.completed_ns < upper.issued_ns - _DISORDER_NS:
                break
            # A flush waits for what is already on its way.
            issued_within = upper.flushes or request.issued_ns >= upper.issued_ns
            within = issued_within and upper.issued_ns <= request.completed_ns <= upper.completed_ns
            fits = request.reads == upper.reads and upper.error in (None, request.error)
            others = upper.cgroup and request.cgroup and upper.cgroup != request.cgroup
            if within and fits and not others and report.left > 0:
                yield report

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


def _shared_ns(reports: Iterable[_Report], upper: Request) -> int:
    """For how long of the upper request at least one of these was on its way."""
    covered, end = 0, upper.issued_ns
    for request in sorted((report.request for report in reports), key=lambda request: request.issued_ns):
        start, stop = max(request.issued_ns, end), min(request.completed_ns, upper.completed_ns)
        if stop > start:
            covered, end = covered + stop - start, stop
    return covered
