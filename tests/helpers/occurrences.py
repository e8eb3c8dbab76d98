"""Occurrences for tests of sinks."""

from __future__ import annotations

from typing import Any

from tapio.ids import IdSource
from tapio.occurrence import Error, Occurrence

_IDS = IdSource()


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
