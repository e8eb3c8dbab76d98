"""`tapio status`: does the agent see anything? Observers, hooks, losses, sinks."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from tapio.cli.agent_state import Agent, View, read_agent, reasons, without_directory
from tapio.cli.directory import DataDirectory, find_directory
from tapio.cli.notes import future_note, skipped_note
from tapio.cli.screen import Cell, Column, Screen, warn
from tapio.cli.tally import WINDOWS, Tally, tally
from tapio.cli.times import format_duration, unix_s
from tapio.errors import StoreError

STATE_STYLES = {"up": "good", "blind": "critical", "off": "dim", "unknown": "warning"}
_OBSERVER_COLUMNS = (
    Column("OBSERVER"),
    Column("STATE"),
    Column("HOOKS", right=True),
    Column("EVENTS/S", right=True),
    Column("LAST 5M", right=True),
    Column("LAST 1H", right=True),
    Column("LOST", right=True),
    Column("UNATTRIBUTED", right=True),
)
_SINK_COLUMNS = (
    Column("SINK"),
    Column("ACCEPTED", right=True),
    Column("REJECTED", right=True),
    Column("DROPPED", right=True),
    Column("QUEUE", right=True),
    Column("LAST ERROR", wraps=True),
)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """0 when the agent runs, no observer is blind and one at least is up; else 1."""
    now_s = time.time()
    path = find_directory(arguments.data_dir)
    try:
        directory = DataDirectory(path)
    except StoreError as error:
        agent, counted, note = without_directory(str(error)), None, ""
    else:
        agent = read_agent(directory, now_s)
        counted = tally(directory, agent, now_s)
        note = "; ".join(found for found in (skipped_note(directory), future_note(directory, now_s)) if found)
    if arguments.json:
        screen.json(_document(agent, counted, note))
    else:
        _draw(screen, agent, counted, now_s)
    screen.flush()
    for line in (agent.explanation, note):
        if line:
            warn(line)
    return 0 if agent.is_well else 1


def _document(agent: Agent, counted: Tally | None, note: str) -> dict[str, Any]:
    """What --json prints; tapio/cli/README.md documents it."""
    heartbeat = agent.heartbeat
    document: dict[str, Any] = {
        "kind": "status",
        "ok": agent.is_well,
        "agent": {"state": agent.condition, "explanation": agent.explanation},
        "observers": [_observer_document(view, counted) for view in agent.observers],
        "sinks": [],
        "note": note,
    }
    if heartbeat is not None and agent.age_s is not None:
        document["agent"] |= {
            "pid": heartbeat.pid,
            "version": heartbeat.agent_version,
            "started_at": heartbeat.started_at,
            "heartbeat_at": heartbeat.updated_at,
            "heartbeat_age_s": round(agent.age_s, 3),
        }
        document["sinks"] = [
            {
                "name": name,
                "accepted": sink.accepted,
                "rejected": sink.rejected,
                "dropped": sink.dropped,
                "queue": sink.queue,
                "last_error": sink.last_error,
            }
            for name, sink in heartbeat.sinks.items()
        ]
    if agent.enrichment is not None:
        document["enrichment"] = _observer_document(agent.enrichment, None)
    if counted is not None and counted.covers_s is not None:
        document["files_reach_back_s"] = round(counted.covers_s, 3)
    return document


def _observer_document(view: View, counted: Tally | None) -> dict[str, Any]:
    document: dict[str, Any] = {"name": view.name, "state": view.condition, "reason": view.reason}
    if counted is not None and (view.state is not None or any(counted.counts[w][view.name] for w in WINDOWS)):
        document["anomalies"] = {window: counted.counts[window][view.name] for window in WINDOWS}
    if view.state is not None:
        document |= {
            "hooks": view.state.hooks,
            "events": view.state.events,
            "events_per_s": view.state.events_per_s,
            "anomalies_since_start": view.state.anomalies,
            "lost": view.state.lost,
            "unattributed": view.state.unattributed,
            "suppressed": view.state.suppressed,
            "canary_round_trip_s": view.state.canary_round_trip_s,
            "canary_missed": view.state.canary_missed,
        }
    return document


def _draw(screen: Screen, agent: Agent, counted: Tally | None, now_s: float) -> None:
    style = "good" if agent.is_well else "critical"
    screen.line(f"agent {_headline(agent, now_s)}", style)
    rows = [_row(view, agent, counted) for view in agent.observers]
    screen.table(_OBSERVER_COLUMNS, rows)
    for line in _remarks(agent, counted):
        screen.line(line)
    if agent.heartbeat is not None:
        screen.line()
        screen.table(
            _SINK_COLUMNS,
            [
                [name, _number(sink.accepted), _bad(sink.rejected), _bad(sink.dropped), _number(sink.queue),
                 Cell(sink.last_error, "warning")]
                for name, sink in agent.heartbeat.sinks.items()
            ],
        )  # fmt: skip


def _headline(agent: Agent, now_s: float) -> str:
    heartbeat = agent.heartbeat
    if heartbeat is None or agent.age_s is None:
        return f"unknown: {agent.brief}"
    text = f"{agent.condition}, pid {heartbeat.pid}, version {heartbeat.agent_version}"
    if agent.condition == "running":
        text += f", up {format_duration(max(0.0, now_s - unix_s(heartbeat.started_at)))}"
    return f"{text}, heartbeat {format_duration(abs(agent.age_s))} {'ago' if agent.age_s >= 0 else 'ahead'}"


def _row(view: View, agent: Agent, counted: Tally | None) -> list[Cell | str]:
    cells: list[Cell | str] = [view.name, Cell(view.condition, STATE_STYLES[view.condition])]
    state = view.state
    if state is None or not state.hooks:
        figures: list[Cell | str] = ["-", "-"]
    else:
        attached = sum(hook.attached for hook in state.hooks)
        live = f"{state.events_per_s:.1f}" if agent.is_live else "-"
        figures = [f"{attached}/{len(state.hooks)}", live]
    if counted is None or (view.state is None and not any(counted.counts[w][view.name] for w in WINDOWS)):
        figures += ["-"] * len(WINDOWS)
    elif agent.heartbeat is not None and not agent.writes_files:
        figures += ["?"] * len(WINDOWS)
    else:
        figures += [
            ("≥" if counted.covers_s is not None and counted.covers_s < seconds else "")
            + _number(counted.counts[window][view.name])
            for window, seconds in WINDOWS.items()
        ]
    if state is None:
        return [*cells, *figures, "-", "-"]
    return [*cells, *figures, _bad(state.lost), _bad(state.unattributed, "warning")]


def _remarks(agent: Agent, counted: Tally | None) -> Iterator[str]:
    yield from reasons(view for view in agent.parts if view.reason != agent.explanation)
    if agent.enrichment is not None and agent.enrichment.state is not None and agent.enrichment.state.lost:
        lost = _number(agent.enrichment.state.lost)
        yield f"enrichment lost {lost} events of cgroups that came or went: pods of new containers may be missing"
    if agent.heartbeat is not None and not agent.writes_files:
        yield "the agent writes no files (--sink=file): what happened lately is known to its other sinks only"
    elif counted is not None and counted.covers_s is not None:
        yield f"the files reach back only {format_duration(counted.covers_s)}: older ones were removed by retention"


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _bad(value: int, style: str = "critical") -> Cell:
    """A number that should be zero."""
    return Cell(_number(value), style if value else "")
