"""Is the node healthy? The rules of `tapio health`, and the figures behind them.

critical: an occurrence of severity critical. degraded: one of severity warning or error, or a blind observer.
healthy: neither, and the observer is up. What tapio itself caused is counted apart. Nothing can be said
without a live agent that writes files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from tapio.cli import lines
from tapio.cli.agent_state import Agent, View
from tapio.cli.filters import count_of, observer_of, rank
from tapio.cli.probe import is_own
from tapio.occurrence import Occurrence
from tapio.store import emission_ms

Verdict = Literal["healthy", "degraded", "critical", "off", "unknown"]

_ORDER = ("healthy", "degraded", "critical")
_LAST = 5


class Judged(msgspec.Struct):
    """One observer's figures and verdict. `last` holds the newest occurrences, newest first."""

    name: str
    verdict: Verdict
    reason: str
    severities: Counter[str]
    types: Counter[str]
    places: Counter[str]
    worst: dict[str, str]  # the worst severity at each place
    keys: Counter[str]
    timeline: list[int]
    last: list[Occurrence]
    own: int = 0


def judge(agent: Agent, occurrences: Iterable[Occurrence], start_ms: int, end_ms: int, buckets: int) -> list[Judged]:
    """A verdict for each observer. `occurrences` are those emitted since `start_ms`, newest first."""
    judged = {view.name: _empty(view.name, buckets) for view in agent.observers}
    for occurrence in occurrences:
        name = observer_of(occurrence)
        if name in judged:
            _add(judged[name], occurrence, start_ms, end_ms)
    for view in agent.observers:
        found = judged[view.name]
        found.verdict, found.reason = _verdict(found, view, agent)
    return list(judged.values())


def _empty(name: str, buckets: int) -> Judged:
    return Judged(name, "unknown", "", Counter(), Counter(), Counter(), {}, Counter(), [0] * buckets, [])


def _add(judged: Judged, occurrence: Occurrence, start_ms: int, end_ms: int) -> None:
    count = count_of(occurrence)
    if is_own(occurrence):
        judged.own += count
        return
    if len(judged.last) < _LAST:
        judged.last.append(occurrence)
    if not count:
        return  # it only says that an episode is over; its anomalies were counted when they happened
    judged.severities[occurrence.severity] += count
    judged.types[occurrence.type] += count
    if rank(occurrence.severity) >= rank("warning"):
        place = lines.place(occurrence)
        judged.places[place] += count
        judged.worst[place] = max(judged.worst.get(place, "debug"), occurrence.severity, key=rank)
        judged.keys[f"{lines.short_type(occurrence.type)}  {key(occurrence)}"] += count
    part = (emission_ms(occurrence.id) - start_ms) / max(1, end_ms - start_ms)
    buckets = len(judged.timeline)
    judged.timeline[min(buckets - 1, max(0, int(part * buckets)))] += count


def key(occurrence: Occurrence) -> str:
    """What tells an anomaly from others of its type: where, and the peer, the device or the way it ended."""
    data = occurrence.data
    parts = [lines.place(occurrence)]
    if "dst_ip" in data:
        address = f"[{data['dst_ip']}]" if data.get("family") == "ipv6" else data["dst_ip"]
        parts.append(f"→ {address}:{data['dst_port']}" if "dst_port" in data else f"→ {address}")
    parts += [str(data[name]) for name in ("operation", "errno") if name in data]
    if data.get("signal"):
        parts.append(f"signal {data['signal']}")
    elif "exit_code" in data:
        parts.append(f"exit code {data['exit_code']}")
    return " ".join(lines.cut(part) for part in parts)


def _verdict(judged: Judged, view: View, agent: Agent) -> tuple[Verdict, str]:
    if not agent.is_live:
        return "unknown", agent.explanation
    if not agent.writes_files:
        return "unknown", "the agent writes no files (--sink=file)"
    if judged.severities["critical"]:
        return "critical", f"{judged.severities['critical']} critical"
    if view.condition == "blind":
        return "degraded", f"blind: {view.reason}"
    bad = [f"{judged.severities[name]} {name}" for name in ("error", "warning") if judged.severities[name]]
    if bad:
        return "degraded", ", ".join(bad)
    return ("off", view.reason) if view.condition == "off" else ("healthy", "")


def overall(judged: Iterable[Judged]) -> Verdict:
    """The worst verdict; unknown when nothing can be said about any observer."""
    verdicts = {found.verdict for found in judged}
    for verdict in reversed(_ORDER):
        if verdict in verdicts:
            return verdict
    return "unknown"


def worst_places(judged: Iterable[Judged], limit: int = 5) -> Iterator[tuple[str, str, int]]:
    """Pods, or what else is known, with their worst severity and number of anomalies: the worst first."""
    counts: Counter[str] = Counter()
    worst: dict[str, str] = {}
    for found in judged:
        counts.update(found.places)
        for place, severity in found.worst.items():
            worst[place] = max(worst.get(place, "debug"), severity, key=rank)
    ranked = sorted(counts, key=lambda place: (-rank(worst[place]), -counts[place], place))
    return ((place, worst[place], counts[place]) for place in ranked[:limit])
