"""What the heartbeat says about the agent and its observers: telling *quiet* from *blind*."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from tapio.cli.directory import DataDirectory
from tapio.cli.filters import OBSERVERS
from tapio.cli.times import format_duration, unix_s
from tapio.errors import HeartbeatError
from tapio.heartbeat_document import ENRICHMENT, Heartbeat, ObserverState

# The agent writes once a second; a busy disk may hold it up for a while.
STALE_AFTER_S = 5.0  # it is written every second

AgentCondition = Literal["running", "stalled", "stale", "stopped", "missing", "unreadable"]
Condition = Literal["up", "blind", "off", "unknown"]


class View(msgspec.Struct, frozen=True):
    """One observer as a reader may take it. `reason` says why it is not up, or what it lacks although it is."""

    name: str
    condition: Condition
    reason: str
    state: ObserverState | None


class Agent(msgspec.Struct, frozen=True):
    """The agent as far as its heartbeat tells. `explanation` is a line for the user, '' when all is well.

    `brief`: in a few words why there is no heartbeat to go by.
    """

    condition: AgentCondition
    explanation: str
    heartbeat: Heartbeat | None
    age_s: float | None
    observers: tuple[View, ...]
    brief: str = ""
    enrichment: View | None = None  # of the program that tells it of cgroups; None: enrichment is off

    @property
    def is_live(self) -> bool:
        """Whether what is not in the data directory did not happen."""
        return self.condition == "running"

    @property
    def is_well(self) -> bool:
        """Whether the agent runs, no observer is blind and at least one is up."""
        up = any(view.condition == "up" for view in self.observers)
        return self.is_live and up and all(view.condition != "blind" for view in self.parts)

    @property
    def parts(self) -> tuple[View, ...]:
        """Observers and enrichment."""
        return (*self.observers, *([self.enrichment] if self.enrichment is not None else []))

    @property
    def writes_files(self) -> bool:
        """Whether the agent has the file sink: without it the data directory says nothing about now."""
        return self.heartbeat is not None and "file" in self.heartbeat.sinks

    def observer(self, name: str) -> View:
        """One observer."""
        return next(view for view in self.observers if view.name == name)


def reasons(views: Iterable[View]) -> Iterator[str]:
    """Lines that say why observers are blind or off, or what they lack; those with the same reason share a line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for view in views:
        if view.condition != "unknown" and view.reason:
            groups.setdefault((view.condition, view.reason), []).append(view.name)
    for (condition, reason), names in groups.items():
        if condition == "up":
            what = "lack something" if len(names) > 1 else "lacks something"
        else:
            what = f"{'are' if len(names) > 1 else 'is'} {condition}"
        yield f"{', '.join(names)} {what}: {reason}"


def read_agent(directory: DataDirectory, now_s: float) -> Agent:
    """The agent's state at `now_s` (Unix seconds)."""
    try:
        heartbeat = directory.heartbeat()
        age_s = None if heartbeat is None else now_s - unix_s(heartbeat.updated_at)
        if heartbeat is not None:
            unix_s(heartbeat.started_at)
    except HeartbeatError as error:
        return _without("unreadable", str(error), "the heartbeat cannot be read")
    except (ValueError, OverflowError) as error:
        explanation = f"reading the heartbeat in {directory.shown}: its times are damaged: {error}: restart the agent"
        return _without("unreadable", explanation, "the heartbeat cannot be read")
    if heartbeat is None or age_s is None:
        return _without(
            "missing",
            f"no heartbeat in {directory.shown}: no agent ever ran with this data directory: "
            "start tapio-agent, or choose its directory with --data-dir",
            "no heartbeat",
        )
    condition, explanation = _condition(heartbeat, age_s)
    names = dict.fromkeys([*OBSERVERS, *heartbeat.observers])
    views = {name: _view(name, heartbeat.observers.get(name), condition, explanation) for name in names}
    enrichment = views.pop(ENRICHMENT, None)
    return Agent(condition, explanation, heartbeat, age_s, tuple(views.values()), enrichment=enrichment)


def without_directory(explanation: str) -> Agent:
    """What is known where not even the data directory can be read: nothing."""
    return _without("missing", explanation, "the data directory cannot be read")


def _without(condition: AgentCondition, explanation: str, brief: str) -> Agent:
    views = tuple(View(name, "unknown", brief, None) for name in OBSERVERS)
    return Agent(condition, explanation, None, None, views, brief)


def _condition(heartbeat: Heartbeat, age_s: float) -> tuple[AgentCondition, str]:
    ago = format_duration(abs(age_s))
    if heartbeat.state == "stopped":
        return "stopped", f"the agent was stopped {ago} ago: nothing was observed since"
    if age_s > STALE_AFTER_S:
        return "stale", f"the last heartbeat is {ago} old: the agent (pid {heartbeat.pid}) is dead, stuck or frozen"
    if age_s < -STALE_AFTER_S:
        return "stale", f"the last heartbeat is {ago} in the future: the clock stepped back and no agent wrote since"
    blind = any(state.hooks and not state.up for state in heartbeat.observers.values())
    # A detached hook or a missing canary makes its observer blind, no other; other trouble is the whole agent's.
    if heartbeat.trouble and (not blind or "not drained" in heartbeat.trouble):
        return "stalled", f"the agent says that it is not well: {heartbeat.trouble}"
    return "running", ""


def _view(name: str, state: ObserverState | None, condition: AgentCondition, explanation: str) -> View:
    if state is None:
        return View(name, "off", "not started: the agent's configuration leaves it out", None)
    if not state.hooks:
        return View(name, "off", state.reason or "it has no hook", state)
    if condition != "running":
        return View(name, "blind", explanation, state)
    detached = [f"{hook.name} is detached {hook.reason}".rstrip() for hook in state.hooks if not hook.attached]
    if detached:
        return View(name, "blind", "; ".join(detached), state)
    if not state.up:
        return View(name, "blind", state.reason or "it is not up", state)
    return View(name, "up", state.reason, state)
