"""What each disk did, from the rows that the kernel side keeps, for /metrics and the OTel metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tapio.telemetry import DISK_LATENCY_BOUNDS_S, DiskIo

_OPERATIONS = ("read", "write", "flush", "discard", "other")  # enum io_operation of ebpf/headers/events.h
_BUCKETS = len(DISK_LATENCY_BOUNDS_S) + 1


def disk_io(rows: Iterable[Mapping[str, Any]]) -> list[DiskIo]:
    """One entry for each disk and each operation that it was asked for, sorted.

    Rows of the same name are added up: a disk that was taken away and came back can have another number.
    """
    totals: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        device = row["name"].split(b"\0", 1)[0].decode("utf-8", "replace")
        if not row["disk"] or not device:
            continue
        for index, operation in enumerate(_OPERATIONS):
            latency = row["latency"][index * _BUCKETS : (index + 1) * _BUCKETS]
            values = [*latency, row["sum_ns"][index], row["errors"][index]]
            if any(values):
                before = totals.get((device, operation), [0] * len(values))
                totals[device, operation] = [sum(pair) for pair in zip(before, values, strict=True)]
    return [
        DiskIo(device, operation, tuple(values[:_BUCKETS]), values[_BUCKETS], values[_BUCKETS + 1])
        for (device, operation), values in sorted(totals.items())
    ]
