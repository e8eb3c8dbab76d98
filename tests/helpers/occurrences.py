"""Occurrences for tests that need no kernel."""

from __future__ import annotations

import time
from typing import Any

from tapio.anomalies import CATALOGUE
from tapio.clock import rfc3339_ms
from tapio.ids import IdSource
from tapio.occurrence import PROTOCOL_VERSION, Context, Entity, Error, Occurrence

_IDS = IdSource()

POD = Context(
    node="worker-3",
    namespace="default",
    entities=(
        Entity(kind="pod", id="default/checkout-api-7f8b9", name="checkout-api-7f8b9"),
        Entity(kind="deployment", id="default/checkout-api", name="checkout-api"),
    ),
)


def make_occurrence(**data: Any) -> Occurrence:
    """A valid abnormal_exit with a new id."""
    return Occurrence(
        id=_IDS.next(),
        timestamp="2026-04-03T14:23:01.042Z",
        source="tapio",
        type="kernel.container.abnormal_exit",
        protocol_version="1.0",
        severity="warning",
        outcome="failure",
        error=Error(code="ABNORMAL_EXIT", message="Abnormal exit pid=1 (exit_code=3)"),
        data={"pid": 1, "exit_code": 3, "signal": 0, "count": 1, **data},
    )


def occurrence(type_name: str = "kernel.container.oom_kill", context: Context | None = None, **data: Any) -> Occurrence:
    """An occurrence of a type; `data` is added to what most have."""
    kind, now = CATALOGUE[type_name], time.time_ns()
    fields = {"count": 1, "pid": 1234, "comm": "victim", "cgroup_id": 8429, "attribution": "victim", **data}
    return Occurrence(
        id=_IDS.next(),
        timestamp=rfc3339_ms(now),
        source="tapio",
        type=kind.name,
        protocol_version=PROTOCOL_VERSION,
        severity=kind.severity,
        outcome=kind.outcome,
        error=Error(code=kind.code, message="OOM kill pid=1234 (usage=512MB, limit=0MB)"),
        context=context,
        data={**fields, "timestamp_ns": now},
    )


def occurrences(number: int, **data: Any) -> list[Occurrence]:
    """So many."""
    return [occurrence(**data) for _ in range(number)]
