"""Durations and times of the CLI, as they are read and as they are shown."""

from __future__ import annotations

import pytest

from tapio.cli.times import TimeFormat, format_duration, parse_duration
from tapio.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("1w", 604800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["banana", "-5m", "0", "0s", "5", "", " 5m", "5 m", "m", "1e9d", "99999d", "\u0665m", "5M", "1h-5m", "5m\n", "nan"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"--since .*: write it as 30s, 5m, 1h30m or 2d"):
        parse_duration(text)


def test_durations_for_people() -> None:
    assert [format_duration(s) for s in (0, 0.44, 9.94, 59, 61, 7990, 90_061, 10**6)] == [
        "0.0 s", "0.4 s", "9.9 s", "59 s", "1 m 1 s", "2 h 13 m", "1 d 1 h", "11 d 13 h",
    ]  # fmt: skip


def test_times_show_the_date_where_it_is_not_today() -> None:
    times = TimeFormat(1_775_226_181, utc=True)  # 2026-04-03
    assert times.timestamp("2026-04-03T14:23:01.042Z") == "14:23:01.042"
    assert times.timestamp("2026-04-02T14:23:01.042Z") == "04-02 14:23:01"
    assert times.timestamp("2025-12-31T14:23:01.042Z") == "2025-12-31 14:23"
