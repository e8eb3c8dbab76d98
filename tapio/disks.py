"""What each disk did, from the rows that the kernel side keeps, for /metrics and the OTel metrics.

Rows of disks that are gone are given back when few are free. What such a disk did is remembered by its name, so that
its totals go on, never backwards, when a disk of that name comes again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tapio.observers.base import RecentMap
from tapio.telemetry import DISK_LATENCY_BOUNDS_S, DiskIo

_OPERATIONS = ("read", "write", "flush", "discard", "other")  # enum io_operation of ebpf/headers/events.h
_BUCKETS = len(DISK_LATENCY_BOUNDS_S) + 1
_TOTALS = ("latency", "sum_ns", "errors")
_GRACE_S = 2.0  # requests may still complete, and a program that has found the row may still add to it

Row = Mapping[str, Any]


class DiskRows:
    """The rows. Any thread may read them."""

    def __init__(
        self,
        read_rows: Callable[[], list[dict[str, Any]]],
        write_row: Callable[[dict[str, Any], int], None],
        evicted: dict[str, int],
        sys_root: Path = Path("/sys"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`write_row` sets fields of the row of that index, in the order given."""
        self._read_rows, self._write_row = read_rows, write_row
        self._root, self._clock = sys_root / "dev" / "block", clock
        self._lock = threading.Lock()
        self._gone: dict[int, tuple[Row, float]] = {}  # rows of disks that are, as they were then, and since when
        self._before: RecentMap[bytes, Row] = RecentMap("gone_disks", evicted, 256)  # by name: what others of it did

    def read(self) -> list[DiskIo]:
        """What each disk that has a row did since the start of the agent."""
        with self._lock:
            rows: list[Row] = [*self._read_rows()]
            free = sum(not row["disk"] for row in rows)
            if free < len(rows) / 4:
                rows = [row for index, row in enumerate(rows) if not self._give_back(index, row)]
            before = [self._before.get(name) for name in {row["name"] for row in rows if row["disk"]}]
            return disk_io([*rows, *(row for row in before if row is not None)])

    def _give_back(self, index: int, row: Row) -> bool:
        """Whether the row was given back: its disk is gone, and nothing was added for a while."""
        if not row["disk"] or not self._is_gone(row):
            self._gone.pop(index, None)
            return False
        known, since = self._gone.get(index, (None, 0.0))
        if known != row:
            self._gone[index] = row, self._clock()
            return False
        if self._clock() - since < _GRACE_S:
            return False
        del self._gone[index]
        before = self._before.get(row["name"])
        sums = row if before is None else {name: _sum(row[name], before[name]) for name in _TOTALS}
        self._before[row["name"]] = {**row, **sums}
        nothing = {name: (0,) * len(row[name]) for name in _TOTALS}
        self._write_row({"instance": 0, "name": b"", **nothing, "disk": 0}, index)  # `disk` last: then it is free
        return True

    def _is_gone(self, row: Row) -> bool:
        """Whether there is no such disk any more, or nothing in it: a loop device without a file, say."""
        folder = self._root / f"{row['disk'] >> 32}:{row['disk'] & 0xFFFFFFFF}"
        name = _text(row["name"]).replace("/", "!")
        try:
            return folder.resolve(strict=True).name != name or int((folder / "size").read_text()) == 0
        except FileNotFoundError:
            return self._root.is_dir()
        except (OSError, ValueError):
            return False


def disk_io(rows: Iterable[Row]) -> list[DiskIo]:
    """One entry for each disk and each operation that it was asked for, sorted.

    Rows of the same name are added up: a disk that was taken away and came back can have another number.
    """
    totals: dict[tuple[str, str], tuple[int, ...]] = {}
    for row in rows:
        device = _text(row["name"])
        if not row["disk"] or not device:
            continue
        for index, operation in enumerate(_OPERATIONS):
            latency = row["latency"][index * _BUCKETS : (index + 1) * _BUCKETS]
            values = (*latency, row["sum_ns"][index], row["errors"][index])
            if any(values):
                totals[device, operation] = _sum(values, totals.get((device, operation), (0,) * len(values)))
    return [
        DiskIo(device, operation, values[:_BUCKETS], values[_BUCKETS], values[_BUCKETS + 1])
        for (device, operation), values in sorted(totals.items())
    ]


def _sum(some: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(one + other for one, other in zip(some, others, strict=True))


def _text(name: bytes) -> str:
    return name.split(b"\0", 1)[0].decode("utf-8", "replace")
