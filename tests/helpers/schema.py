"""otel/schema as tests see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent.parent.parent / "otel" / "schema"


def groups() -> list[dict[str, Any]]:
    """All groups of all files."""
    return [group for path in sorted(FOLDER.glob("*.yaml")) for group in yaml.safe_load(path.read_text())["groups"]]


def attributes(group_id: str) -> set[str]:
    """The ids of one registry group's attributes."""
    group = next(group for group in groups() if group["id"] == group_id)
    return {attribute["id"] for attribute in group["attributes"]}


RESOURCE = attributes("registry.tapio.resource")
RECORD = attributes("registry.tapio.record")
METRIC_LABELS = attributes("registry.tapio.metric") | RECORD
DATA = {name.removeprefix("data.") for name in attributes("registry.tapio.data")}
EVENTS = {group["name"] for group in groups() if group["type"] == "event"}
METRICS = {group["metric_name"]: group for group in groups() if group["type"] == "metric"}
PROMETHEUS = {group["annotations"]["prometheus"]["name"]: group for group in METRICS.values()}


def unknown_names(record: dict[str, Any]) -> set[str]:
    """What a log record, as the receiver decoded it, has that the schema does not know."""
    unknown = set(record["resource"]) - RESOURCE | set(record["attributes"]) - RECORD
    unknown |= {record["event_name"]} - EVENTS
    return unknown | {f"data.{name}" for name in set(record["body"]["data"]) - DATA}
