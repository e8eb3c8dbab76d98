"""The dashboards' JSON as tests see it: panels, queries, variables filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent.parent.parent / "dashboards"
VARIABLES = ("cluster", "node", "namespace", "workload", "pod")
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


class Asked(NamedTuple):
    """One query of one panel."""

    board: str
    panel: dict[str, Any]
    target: dict[str, Any]
    source: str
    expression: str
    legend: str
    instant: bool

    @property
    def name(self) -> str:
        return f"{self.board}: {self.panel['title']}"


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels but the rows' headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries() -> list[Asked]:
    """Every query of every panel."""
    return [
        Asked(name, panel, target, target["datasource"]["type"], target["expr"], target.get("legendFormat", ""),
              bool(target.get("instant")) or target.get("queryType") == "instant")
        for name, board in BOARDS.items() for panel in panels(board) for target in panel["targets"]
    ]  # fmt: skip


def annotations() -> list[tuple[str, str]]:
    """Dashboard and LogQL of every annotation."""
    return [(name, one["expr"]) for name, board in BOARDS.items() for one in board["annotations"]["list"]]


def chosen(expression: str, **values: str) -> str:
    """A query with the variables filled in that one chooses: `.*`, as for all, of those that are not given."""
    for name in VARIABLES:
        value = values.get(name, ".*")
        expression = expression.replace(f"${{{name}:pipe}}", value).replace(f"${name}", value)
    return expression


def filled(expression: str, seconds: int = 60, interval: str = "10s", **values: str) -> str:
    """A query with everything filled in, as Grafana would before it asks."""
    expression = chosen(expression, **values)
    windows = {"__rate_interval": interval, "__range": f"{seconds}s", "__auto": interval}
    for name, window in windows.items():
        expression = expression.replace(f"${name}", window)
    assert "$" not in expression.replace('"$1"', ""), expression
    return expression
