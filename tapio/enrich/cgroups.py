"""Cgroup id → the pod and container that its path names, also for a while after the cgroup is gone.

Filled at the start by a walk through the mounted hierarchies, then by the kernel's records of cgroups that come and
go (cgroup_events.py). An id means something only within its hierarchy.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from tapio.enrich.cgroup_paths import PodCgroup, read_path
from tapio.enrich.hierarchies import Hierarchy, walk

log = logging.getLogger(__name__)

_RESCAN_PAUSE_S = 1.0
_KEPT_NS = 120_000_000_000  # a socket outlives its cgroup, an anomaly may be folded for some time
_MAX_GONE = 16_384
_MAX_KNOWN = 131_072

Key = tuple[int, int]  # hierarchy and id


class Cgroup(NamedTuple):
    """What is known of one: the pods its path names, () for the host's, and since when it has this id."""

    pods: tuple[PodCgroup, ...]
    made_ns: int  # boot clock; 0: before the agent


class CgroupIndex:
    """All cgroups that matter. For the agent's loop alone."""

    def __init__(self, hierarchies: Iterable[int]) -> None:
        """`hierarchies` are the numbers of those that it is to know; ids of others mean nothing to it."""
        self.hierarchies = frozenset(hierarchies)
        self.version = 0  # grows with every cgroup that becomes known
        self.evicted = {"removed_cgroups": 0, "refused_cgroups": 0}  # forgotten early; not taken for want of room
        self._known: dict[Key, Cgroup] = {}
        self._gone: OrderedDict[Key, int] = OrderedDict()  # removed when, the first first

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: Key, boot_ns: int) -> Cgroup | None:
        """The cgroup that had this id at that time; None: not known."""
        found = self._known.get(key)
        return found if found is not None and found.made_ns <= boot_ns else None

    def add(self, key: Key, path: str, boot_ns: int) -> None:
        """A cgroup was made. One that had the same id before is forgotten."""
        self._gone.pop(key, None)
        if len(self._known) >= _MAX_KNOWN and key not in self._known:
            self.evicted["refused_cgroups"] += 1
            return
        self._known[key] = Cgroup(read_path(path), boot_ns)
        self.version += 1

    def remove(self, key: Key, boot_ns: int) -> None:
        """A cgroup was removed: its entry stays for a while, and at most so many of them."""
        if key in self._known:
            self._gone[key] = boot_ns
        while self._gone:
            oldest, removed_ns = next(iter(self._gone.items()))
            if len(self._gone) <= _MAX_GONE and boot_ns - removed_ns < _KEPT_NS:
                break
            self.evicted["removed_cgroups"] += boot_ns - removed_ns < _KEPT_NS
            del self._gone[oldest]
            self._known.pop(oldest, None)

    def merge(self, found: dict[Key, Cgroup]) -> None:
        """Take over what a walk found and the kernel did not tell; what it told is newer."""
        missing = {key: cgroup for key, cgroup in found.items() if key not in self._known}
        if missing and len(self._known) + len(missing) <= _MAX_KNOWN:
            self._known.update(missing)
            self.version += 1
        elif missing:
            self.evicted["refused_cgroups"] += len(missing)


def find_all(hierarchies: Iterable[Hierarchy]) -> dict[Key, Cgroup]:
    """Every cgroup that exists now. Slow on a large node: not for the agent's loop."""
    return {
        (hierarchy.number, number): Cgroup(read_path(path), 0)
        for hierarchy in hierarchies
        for number, path in walk(hierarchy)
    }


class Rescan:
    """Walks the hierarchies anew in a thread of its own: what the kernel's records lack because some were lost."""

    def __init__(self, hierarchies: Iterable[Hierarchy]) -> None:
        self._hierarchies = list(hierarchies)
        self._asked = threading.Event()
        self._found: dict[Key, Cgroup] | None = None
        threading.Thread(target=self._run, name="cgroup-rescan", daemon=True).start()

    def ask(self) -> None:
        """Start a walk, unless one was made within the last second."""
        self._asked.set()

    def take(self) -> dict[Key, Cgroup] | None:
        """What the latest walk found, once."""
        found, self._found = self._found, None
        return found

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            try:
                self._found = find_all(self._hierarchies)
            except Exception as error:  # noqa: BLE001  # a stage boundary: without it events only lack their pod
                log.warning("walking the cgroups: %s: please report it", error)
            time.sleep(_RESCAN_PAUSE_S)
