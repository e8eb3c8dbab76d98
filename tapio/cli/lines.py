"""An occurrence as one row: when, how bad, what, where, and the facts in one line."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from tapio.cli.filters import count_of, pod_of
from tapio.cli.screen import Cell, Column, Screen
from tapio.cli.times import TimeFormat
from tapio.occurrence import Occurrence

_COLUMNS = (
    Column("TIME"),
    Column("SEVERITY"),
    Column("TYPE", shrinks=True, least=18),  # cut is only what tapio has never heard of
    Column("WHERE", shrinks=True, least=36),
    Column("MESSAGE", wraps=True),
)
# In a narrow terminal where and message share a column: pods have long names, and their ends tell them apart.
_NARROW_COLUMNS = (*_COLUMNS[:3], Column("WHERE AND MESSAGE", wraps=True))
_NARROW, _NARROW_STREAM, _STACKED_STREAM = 100, 130, 66
_MAX_NAME = 512
# A stream cannot know its widest cell: these hold everything but long pod names.
_STREAM_WIDTHS = (14, 8, 18, 36, 1 << 16)
_NARROW_STREAM_WIDTHS = (14, 8, 18, 1 << 16)


def short_type(name: str) -> str:
    """'oom_kill' for 'kernel.container.oom_kill'."""
    return name.rsplit(".", 1)[-1]


def where(occurrence: Occurrence) -> str:
    """The pod, or what else is known: process, device, CPU, cgroup, observer. '-' when nothing is."""
    found, data = _what(occurrence), occurrence.data
    is_process = pod_of(occurrence) is None and "device" not in data and data.get("comm")
    return f"{found}[{data['pid']}]" if is_process and "pid" in data else found


def _what(occurrence: Occurrence) -> str:
    pod = pod_of(occurrence)
    if pod is not None:
        return cut(pod.id)
    data = occurrence.data
    for name, text in (
        *(("device", "{}"), ("comm", "{}"), ("cpu", "cpu {}"), ("cgroup_id", "cgroup {}")),
        ("observer", "tapio's {} observer"),
    ):
        if data.get(name) not in (None, ""):
            return cut(text.format(data[name]))
    return "-"


def cut(text: str) -> str:
    """`text` without what is longer than any name in a cluster, so that a foreign file's takes no memory or screen."""
    return text if len(text) <= _MAX_NAME else text[:_MAX_NAME] + "…"


def place(occurrence: Occurrence) -> str:
    """Where it happened, without the pid: what happens again and again in one place has one name."""
    data = occurrence.data
    if pod_of(occurrence) is None and "cgroup_id" in data and "device" not in data:
        cgroup = f"cgroup {data['cgroup_id']}"
        return f"{cut(data['comm'])} in {cgroup}" if data.get("comm") else cgroup
    return _what(occurrence)


def cells(occurrence: Occurrence, times: TimeFormat) -> list[Cell | str]:
    """The row for an occurrence."""
    count, message = count_of(occurrence), occurrence.error.message
    if count > 1 and f"({count} more)" not in message:
        message += f" ({count} of them)"
    episode = occurrence.data.get("episode")
    if isinstance(episode, dict) and episode.get("state") == "closed" and "(over after" not in message:
        message += f" (over after {episode.get('total', '?')})"
    return [
        times.timestamp(occurrence.timestamp),
        Cell(occurrence.severity, occurrence.severity),
        cut(short_type(occurrence.type)),
        where(occurrence),
        message,
    ]


class Rows:
    """Occurrences as rows of a table, as far as a screen of this width can show them."""

    def __init__(self, screen: Screen, *, utc: bool, stream: bool = False) -> None:
        """`stream`: rows come one by one, under columns of fixed widths."""
        self._screen, self._utc = screen, utc
        self._narrow = screen.columns < (_NARROW_STREAM if stream else _NARROW)
        self._stacked = stream and screen.columns < _STACKED_STREAM
        self.columns = _NARROW_COLUMNS if self._narrow else _COLUMNS
        self.stream_widths: Sequence[int] = _NARROW_STREAM_WIDTHS if self._narrow else _STREAM_WIDTHS

    def cells(self, occurrence: Occurrence) -> list[Cell | str]:
        """One row."""
        times = TimeFormat(time.time(), utc=self._utc, short=self._narrow)  # anew: midnight may have passed
        *first, place, message = cells(occurrence, times)
        return [*first, f"{place}: {message}"] if self._narrow else [*first, place, message]

    def draw(self, occurrences: Iterable[Occurrence]) -> None:
        """All at once, as a table."""
        self._screen.table(self.columns, [self.cells(occurrence) for occurrence in occurrences])

    def titles(self) -> None:
        """The title line of a stream."""
        if self._stacked:
            return
        self._screen.row(self.columns, self.stream_widths, [Cell(column.title, "dim") for column in self.columns])

    def row(self, occurrence: Occurrence) -> None:
        """One more row of a stream."""
        if self._stacked:
            self._screen.stack(self.columns, self.cells(occurrence))
        else:
            self._screen.row(self.columns, self.stream_widths, self.cells(occurrence))
