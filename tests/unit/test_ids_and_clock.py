"""Ids only grow; times follow the wall clock."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from tapio.clock import WallClock, boot_ns, rfc3339_ms
from tapio.ids import IdSource
from tapio.store import emission_ms


@given(st.lists(st.integers(0, 2**47).map(lambda ms: ms * 1_000_000), min_size=2, max_size=60))
def test_ids_grow_however_the_clock_steps(readings: list[int]) -> None:
    clock = iter(readings)
    ids = IdSource(lambda: next(clock))
    made = [ids.next() for _ in readings]
    assert made == sorted(set(made))
    assert [emission_ms(name) for name in made] == [max(readings[: n + 1]) // 1_000_000 for n in range(len(readings))]


def test_thousands_of_ids_in_one_millisecond() -> None:
    ids = IdSource(lambda: 1_700_000_000_000_000_000)
    made = [ids.next() for _ in range(5000)]
    assert made == sorted(set(made))


def test_boot_time_becomes_wall_time() -> None:
    clock = WallClock()
    assert abs(clock.unix_ns(boot_ns()) - time.time_ns()) < 50_000_000


def test_a_step_of_the_wall_clock_is_followed() -> None:
    now = 1_700_000_000_000_000_000
    clock = WallClock(lambda: now)
    assert abs(clock.unix_ns(boot_ns()) - now) < 50_000_000
    now -= 3_600_000_000_000
    clock.sync()
    assert abs(clock.unix_ns(boot_ns()) - now) < 50_000_000


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_timestamps_are_utc_with_milliseconds(unix_ns: int) -> None:
    seconds, milliseconds = divmod(unix_ns // 1_000_000, 1000)
    expected = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    assert rfc3339_ms(unix_ns) == f"{expected}.{milliseconds:03d}Z"
