"""An occurrence as one row: when, how bad, what, where, and the facts in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tapio.cli.filters import count_of, pod_of
from tapio.cli.screen import Cell, Column, Screen
from tapio.cli.times import TimeFormat
from tapio.occurrence import Occurrence

COLUMNS = (
    Column("TIME"),
    Column("SEVERITY"),
    Column("TYPE", shrinks=True, least=12),
    Column("COUNT", right=True),
    Column("WHERE", shrinks=True, least=14),
    Column("MESSAGE"),
)
# A stream cannot know the widest cell: these hold everything but long pod names.
_STREAM_WIDTHS = (14, 8, 18, 5, 24, 1 << 16)
_NARROW = 100


def short_type(name: str) -> str:
    """'oom_kill' for 'kernel.container.oom_kill'."""
    return name.rsplit(".", 1)[-1]


def where(occurrence: Occurrence) -> str:
    """The pod, or what else is known: process, device, CPU, cgroup. '-' when nothing is."""
    pod = pod_of(occurrence)
    if pod is not None:
        return pod.id
    data = occurrence.data
    for name, text in (("device", "{}"), ("comm", "{}"), ("cpu", "cpu {}"), ("cgroup_id", "cgroup {}")):
        if data.get(name) not in (None, ""):
            found = text.format(data[name])
            return f"{found}[{data['pid']}]" if name == "comm" and "pid" in data else found
    return "-"


def place(occurrence: Occurrence) -> str:
    """Where it happened, without the pid: what happens again and again in one place has one name."""
    pod = pod_of(occurrence)
    data = occurrence.data
    if pod is None and "cgroup_id" in data and "device" not in data:
        return f"{data['comm']} in cgroup {data['cgroup_id']}" if data.get("comm") else f"cgroup {data['cgroup_id']}"
    return where(occurrence).split("[")[0] if pod is None else pod.id


def cells(occurrence: Occurrence, times: TimeFormat) -> list[Cell | str]:
    """The row for an occurrence."""
    count = count_of(occurrence)
    episode = occurrence.data.get("episode")
    state = episode.get("state") if isinstance(episode, dict) else None
    message = occurrence.error.message
    if state in ("open", "ongoing", "closed") and isinstance(episode, dict):
        message += f" (episode {state}, {episode.get('total', '?')} so far)"
    return [
        times.timestamp(occurrence.timestamp),
        Cell(occurrence.severity, occurrence.severity),
        short_type(occurrence.type),
        "" if count == 1 else f"×{count}",
        where(occurrence),
        message,
    ]


def draw(screen: Screen, occurrences: Iterable[Occurrence], times: TimeFormat) -> None:
    """A table of occurrences."""
    screen.table(COLUMNS, [cells(occurrence, times) for occurrence in occurrences])


class Stream:
    """Rows that come one by one."""

    def __init__(self, screen: Screen, times: TimeFormat) -> None:
        self._screen, self._times = screen, times
        self._widths: Sequence[int] = _STREAM_WIDTHS
        if screen.columns < _NARROW:
            self._widths = (14, 8, 14, 5, 16, 1 << 16)

    def titles(self) -> None:
        """The line above the first row."""
        self._screen.row(COLUMNS, self._widths, [Cell(column.title, "dim") for column in COLUMNS])

    def row(self, occurrence: Occurrence) -> None:
        """One more row."""
        self._screen.row(COLUMNS, self._widths, cells(occurrence, self._times))
