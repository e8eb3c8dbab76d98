"""The clocks: kernel events carry the boot clock, people read the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class WallClock:
    """Turns boot-clock times into Unix times.

    The offset is taken anew on every `sync`, so that a step of the wall clock (NTP, a resumed VM) is followed.
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._wall_ns = wall_ns
        self._offset_ns = 0
        self.sync()

    def sync(self) -> None:
        """Measure the distance of the two clocks, with the tighter of two tries."""
        tries = []
        for _ in range(2):
            before = boot_ns()
            wall = self._wall_ns()
            after = boot_ns()
            tries.append((after - before, wall - (before + after) // 2))
        self._offset_ns = min(tries)[1]

    def unix_ns(self, boot_time_ns: int) -> int:
        """Unix nanoseconds of a boot-clock time."""
        return boot_time_ns + self._offset_ns


def boot_ns() -> int:
    """Nanoseconds since boot, suspended time included: what bpf_ktime_get_boot_ns() gives."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def rfc3339_ms(unix_ns: int) -> str:
    """UTC with milliseconds: '2026-04-03T14:23:01.042Z'."""
    moment = datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ns // 1_000_000 % 1000:03d}Z"
