"""Durations as people write them, and times as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tapio.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_MAX_S = 3650 * 86400


def parse_duration(text: str, flag: str = "--since") -> float:
    """Seconds in '90s', '5m', '1h30m', '2d'; UsageError names `flag` and what is possible."""
    problem = ""
    if not text.isascii() or not _DURATION.fullmatch(text):
        problem = "not a duration"
    else:
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
        if seconds <= 0:
            problem = "a duration must be more than nothing"
        elif seconds > _MAX_S:
            problem = "more than ten years"
        else:
            return seconds
    raise UsageError(f"{flag} {text!r}: {problem}: write it as 30s, 5m, 1h30m or 2d")


def format_duration(seconds: float) -> str:
    """'0.4 s', '42 s', '3 m 5 s', '2 h 13 m', '4 d 2 h': the two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    parts = []
    for unit, size in reversed(_UNITS_S.items()):
        if unit != "w" and whole >= size:
            parts.append(f"{whole // size} {unit}")
            whole %= size
        elif parts:
            break
    return " ".join(parts[:2])


class TimeFormat:
    """Formats times in local time, or in UTC. The date is shown where it is not today's."""

    def __init__(self, now_s: float, *, utc: bool, short: bool = False) -> None:
        """`now_s`: Unix seconds. `short`: without milliseconds."""
        self._short = short
        self._zone = UTC if utc else None
        self._today = datetime.fromtimestamp(now_s, UTC).astimezone(self._zone).date()

    def timestamp(self, timestamp: str) -> str:
        """An occurrence's timestamp: '14:23:01.042', '04-03 14:23:01', or '2025-04-03 14:23' of another year."""
        try:
            moment = datetime.fromisoformat(timestamp).astimezone(self._zone)
        except (ValueError, OverflowError):  # the year 1 in another zone
            return timestamp
        if moment.date() == self._today:
            return f"{moment:%H:%M:%S}" + ("" if self._short else f".{moment.microsecond // 1000:03d}")
        return f"{moment:%m-%d %H:%M:%S}" if moment.year == self._today.year else f"{moment:%Y-%m-%d %H:%M}"


def unix_s(timestamp: str) -> float:
    """Unix seconds of an RFC 3339 timestamp; ValueError when it is none."""
    return datetime.fromisoformat(timestamp).timestamp()
