"""`tapio health`: healthy, degraded or critical, and what to look at first."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from tapio.cli import lines
from tapio.cli.agent_state import Agent, read_agent, reasons, without_directory
from tapio.cli.directory import DataDirectory, find_directory
from tapio.cli.filters import find_observer
from tapio.cli.judgement import Judged, Verdict, judge, overall, worst_places
from tapio.cli.notes import future_note, loss_notes, reach_note, skipped_note
from tapio.cli.screen import Cell, Column, Screen, warn
from tapio.cli.times import format_duration, parse_duration
from tapio.errors import StoreError

_EXIT_CODES = {"degraded": 10, "critical": 11}
_STYLES = {"healthy": "good", "degraded": "warning", "critical": "critical", "off": "dim", "unknown": "warning"}
_BUCKETS = 60
_BARS, _PLAIN_BARS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
_COLUMNS = (
    Column("OBSERVER"),
    Column("HEALTH"),
    Column("CRITICAL", right=True),
    Column("ERROR", right=True),
    Column("WARNING", right=True),
    Column("MOST FREQUENT", wraps=True),
)
_PLACE_COLUMNS = (Column("WORST", shrinks=True, least=20), Column("SEVERITY"), Column("ANOMALIES", right=True))
_KEY_COLUMNS = (Column("ANOMALIES", right=True), Column("WHAT AND WHERE", wraps=True))


class Assessment(msgspec.Struct, frozen=True):
    """The answer, and what it rests on. `notes` are remarks for the reader."""

    verdict: Verdict
    agent: Agent
    judged: list[Judged]
    window_s: float
    notes: list[str]


def assess(path: Path, window_s: float, now_s: float, chosen: str = "") -> Assessment:
    """Judge the node, or one observer, by the last `window_s` seconds."""
    start_ms, end_ms = int((now_s - window_s) * 1000), int(now_s * 1000)
    notes = []
    try:
        directory = DataDirectory(path)
    except StoreError as error:
        agent = without_directory(str(error))
        judged = judge(agent, (), start_ms, end_ms, _BUCKETS)
    else:
        agent = read_agent(directory, now_s)
        judged = judge(agent, directory.occurrences(start_ms), start_ms, end_ms, _BUCKETS)
        blind = "the agent writes no files, so nothing can be judged: start it with --sink=file"
        notes = [
            blind if agent.is_live and not agent.writes_files else "",
            skipped_note(directory),
            future_note(directory, now_s),
            reach_note(directory, now_s, window_s, agent),
            *loss_notes(agent),
        ]
        directory.close()
    if chosen:
        judged = [found for found in judged if found.name == chosen]
    verdict = judged[0].verdict if chosen else overall(judged)
    return Assessment(verdict, agent, judged, window_s, [note for note in (agent.explanation, *notes) if note])


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """0 when the question could be answered, else 1; with --exit-code 10 and 11 tell the answer."""
    window_s = parse_duration(arguments.since)
    chosen = find_observer(arguments.observer) if arguments.observer is not None else ""
    found = assess(find_directory(arguments.data_dir), window_s, time.time(), chosen)
    if arguments.json:
        screen.json(document(found, detailed=bool(chosen)))
    else:
        screen.line(f"{chosen or 'node'} is {found.verdict} (last {arguments.since})", _STYLES[found.verdict])
        if chosen:
            _draw_one(screen, found.judged[0], window_s, utc=arguments.utc)
        else:
            _draw_all(screen, found.agent, found.judged)
    screen.flush()
    for note in found.notes:
        warn(note)
    if found.verdict == "unknown":
        return 1
    return _EXIT_CODES.get(found.verdict, 0) if arguments.exit_code else 0


def _draw_all(screen: Screen, agent: Agent, judged: list[Judged]) -> None:
    rows: list[list[Cell | str]] = [
        [
            found.name,
            Cell(found.verdict, _STYLES[found.verdict]),
            *(_figure(found.severities[name], name) for name in ("critical", "error", "warning")),
            _most_frequent(found.types),
        ]
        for found in judged
    ]
    screen.table(_COLUMNS, rows)
    for line in reasons(agent.parts if agent.is_live else ()):
        screen.line(line)
    places = list(worst_places(judged))
    if places:
        screen.line()
        screen.table(_PLACE_COLUMNS, [[name, Cell(worst, worst), str(count)] for name, worst, count in places])
    own = sum(found.own for found in judged)
    if own:
        screen.line(f"{own} more came from tapio itself and do not count")


def _draw_one(screen: Screen, judged: Judged, window_s: float, *, utc: bool) -> None:
    if judged.reason:
        screen.line(judged.reason)
    together = -(-_BUCKETS // (screen.columns - 2))  # parts of the timeline that share a bar
    bars = [sum(judged.timeline[at : at + together]) for at in range(0, _BUCKETS, together)]
    screen.line(sparkline(bars, plain=not screen.has_unicode))
    screen.line(f"one bar: {format_duration(together * window_s / _BUCKETS)}, the highest: {max(bars)}")
    if judged.keys:
        screen.line()
        screen.table(_KEY_COLUMNS, [[str(count), name] for name, count in judged.keys.most_common(5)])
    if judged.last:
        screen.line()
        lines.Rows(screen, utc=utc).draw(judged.last)
    if judged.own:
        screen.line(f"{judged.own} more came from tapio itself and do not count")


def sparkline(values: list[int], *, plain: bool = False) -> str:
    """Bars of eight heights between two edges, one for each value. Whatever is not zero shows. `plain`: ASCII."""
    highest, bars = max(values) or 1, _PLAIN_BARS if plain else _BARS
    line = "".join(bars[-(-8 * value // highest)] for value in values)
    return f"|{line}|" if plain else f"▕{line}▏"


def _figure(number: int, severity: str) -> Cell:
    return Cell(str(number), severity if number else "dim")


def _most_frequent(types: Counter[str]) -> str:
    return ", ".join(f"{lines.short_type(name)} {count}" for name, count in types.most_common(3))


def document(found: Assessment, *, detailed: bool) -> dict[str, Any]:
    """What --json prints; tapio/cli/README.md documents it."""
    return {
        "kind": "health",
        "health": found.verdict,
        "window_s": found.window_s,
        "agent": {"state": found.agent.condition, "explanation": found.agent.explanation},
        "observers": [_observer_document(judged, detailed=detailed) for judged in found.judged],
        "worst": [
            {"where": place, "severity": severity, "anomalies": count}
            for place, severity, count in worst_places(found.judged)
        ],
        "notes": found.notes,
    }


def _observer_document(judged: Judged, *, detailed: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": judged.name,
        "health": judged.verdict,
        "reason": judged.reason,
        "severities": dict(judged.severities),
        "types": dict(judged.types.most_common()),
        "own": judged.own,
    }
    if detailed:
        document["timeline"] = judged.timeline
        document["top"] = [{"what": name, "anomalies": count} for name, count in judged.keys.most_common(5)]
        document["last"] = judged.last
    return document
