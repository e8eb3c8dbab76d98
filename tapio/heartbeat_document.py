"""The document that the heartbeat `.agent.json` holds. The agent writes it, the CLI reads it.

Fields may be added: readers ignore those they do not know. What changes the meaning of a field raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tapio.errors import HeartbeatError
from tapio.telemetry import Hook

SCHEMA_VERSION = 1
ENRICHMENT = "enrichment"  # among the observers, but none: the program that tells enrichment of cgroups, if that is on


class ObserverState(msgspec.Struct, frozen=True):
    """One observer: `up` when it is attached and not blind; `reason`: why not, or what it lacks. Counts since start."""

    up: bool
    reason: str
    hooks: list[Hook]
    events: int
    events_per_s: float
    anomalies: dict[str, int]
    lost: int
    unattributed: int
    suppressed: dict[str, int]
    canary_round_trip_s: float | None = None  # None: none came back yet, or the observer has none
    canary_missed: int = 0


class SinkState(msgspec.Struct, frozen=True):
    """One sink: what became of the occurrences, how many wait, and its latest failure."""

    accepted: int
    rejected: int
    dropped: int
    queue: int
    last_error: str


class Heartbeat(msgspec.Struct, frozen=True):
    """The document. A reader refuses another `schema_version`."""

    schema_version: int
    agent_version: str
    pid: int
    state: Literal["running", "stopped"]
    started_at: str
    updated_at: str
    trouble: str  # why the agent is not ready; "" when it is
    observers: dict[str, ObserverState]
    sinks: dict[str, SinkState]


class _Version(msgspec.Struct, frozen=True):
    """What every version of the document has."""

    schema_version: int


def decode(document: bytes) -> Heartbeat:
    """The heartbeat; HeartbeatError when it is not one, or one of another version."""
    try:
        version = msgspec.json.decode(document, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise HeartbeatError(
                f"it has schema version {version}, this tapio reads {SCHEMA_VERSION}: "
                "use the tapio that came with the agent"
            )
        return msgspec.json.decode(document, type=Heartbeat)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HeartbeatError(f"it is damaged or not Tapio's ({error}): restart the agent") from error
