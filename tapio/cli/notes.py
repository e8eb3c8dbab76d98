"""Remarks that several commands make about what they could not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tapio.cli.agent_state import Agent, read_agent
from tapio.cli.directory import SKIPPED, DataDirectory
from tapio.cli.tally import covers_s
from tapio.cli.times import format_duration
from tapio.store import emission_ms

_AHEAD_S = 60.0


def skipped_note(directory: DataDirectory) -> str:
    """'skipped 3 files in DIR: 2 damaged, 1 unreadable'; '' when nothing was skipped."""
    skipped = directory.skipped + Counter(foreign=directory.misnamed)
    total = skipped.total()
    if not total:
        return ""
    reasons = ", ".join(f"{skipped[reason]} {reason.replace('_', ' ')}" for reason in SKIPPED if skipped[reason])
    return f"skipped {total} file{'s' if total > 1 else ''} in {directory.shown}: {reasons}"


def future_note(directory: DataDirectory, now_s: float) -> str:
    """That the newest occurrence that was looked at has an id from the future; '' when it has not."""
    ahead_s = emission_ms(directory.newest) / 1000 - now_s if directory.newest else 0.0
    if ahead_s < _AHEAD_S:
        return ""
    ago = format_duration(ahead_s)
    return f"the newest occurrence is {ago} in the future: the clock stepped back, older ones may count as recent"


def loss_notes(agent: Agent) -> Iterator[str]:
    """What the agent knows to be missing: then no anomalies does not quite mean that nothing happened."""
    for view in agent.parts:
        if view.state is not None and view.state.lost:
            who = f"observer {view.name}" if view in agent.observers else view.name
            yield f"{who} lost {view.state.lost} events since the agent's start: the rings were full"
    sink = agent.heartbeat.sinks.get("file") if agent.heartbeat else None
    if sink is not None and sink.rejected + sink.dropped:
        why = f": {sink.last_error}" if sink.last_error else ""
        yield f"{sink.rejected + sink.dropped} occurrences did not become files since the agent's start{why}"


def reach_note(directory: DataDirectory, now_s: float, window_s: float, agent: Agent | None = None) -> str:
    """That retention removed files of the window; '' when it did not."""
    reach_s = covers_s(directory, agent or read_agent(directory, now_s), now_s, window_s)
    if reach_s is None:
        return ""
    return f"the files reach back only {format_duration(reach_s)}: older ones were removed by retention"
