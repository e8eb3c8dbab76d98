"""Counting the occurrences of a stretch of time, and knowing whether the files can tell it all."""

from __future__ import annotations

from collections import Counter

import msgspec

from tapio.anomalies import EVENTS_LOST
from tapio.cli.agent_state import Agent
from tapio.cli.directory import DataDirectory
from tapio.cli.filters import count_of, observer_of
from tapio.cli.times import unix_s
from tapio.store import emission_ms

WINDOWS = {"5m": 300, "1h": 3600}


class Tally(msgspec.Struct, frozen=True):
    """Anomalies by window and observer. `covers_s`: how far back the files surely reach, None: the whole window."""

    counts: dict[str, Counter[str]]
    covers_s: float | None


def tally(directory: DataDirectory, agent: Agent, now_s: float) -> Tally:
    """Count the anomalies of every window, going by the time at which occurrences were emitted; losses are none."""
    counts: dict[str, Counter[str]] = {window: Counter() for window in WINDOWS}
    starts_ms = {window: int((now_s - seconds) * 1000) for window, seconds in WINDOWS.items()}
    for occurrence in directory.occurrences(min(starts_ms.values())):
        if occurrence.type == EVENTS_LOST.name:
            continue
        emitted_ms = emission_ms(occurrence.id)
        for window, start_ms in starts_ms.items():
            if emitted_ms >= start_ms:
                counts[window][observer_of(occurrence)] += count_of(occurrence)
    return Tally(counts, covers_s(directory, agent, now_s, max(WINDOWS.values())))


def covers_s(directory: DataDirectory, agent: Agent, now_s: float, window_s: float) -> float | None:
    """How many seconds back the files tell everything, where that is less than the window.

    Retention removes the oldest files. If the agent wrote more files since its start than there are, some are gone.
    """
    heartbeat = agent.heartbeat
    if heartbeat is None or not agent.writes_files:
        return None
    stock = directory.stock(int(unix_s(heartbeat.started_at) * 1000))
    reach_s = now_s - stock.oldest_ms / 1000
    if stock.files and (reach_s >= window_s or heartbeat.sinks["file"].accepted <= stock.since):
        return None
    return max(0.0, reach_s) if stock.files else (None if heartbeat.sinks["file"].accepted == 0 else 0.0)
