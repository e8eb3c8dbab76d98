"""The rules of dashboards/alerts, as Prometheus' own tool reads and tries them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.backends import require_prometheus
from helpers.boards import FOLDER

ALERTS = FOLDER / "alerts"
CASES = ALERTS / "tests" / "prometheus.yaml"


@pytest.fixture(autouse=True)
def _promtool() -> None:
    require_prometheus()


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def minutes(case: dict[str, Any]) -> int:
    """How long the longest series of a case is."""

    def length(values: str) -> int:
        repeated = (re.search(r"x(\d+)$", word) for word in values.split())
        return sum(int(found[1]) + 1 if found else 1 for found in repeated)

    return max(length(series["values"]) for series in case["input_series"])


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", ALERTS / "prometheus.yaml")


def test_each_alert_fires_when_it_must() -> None:
    """tests/unit/test_dashboards.py sees to it that there are cases of both for each."""
    promtool("test", "rules", CASES)


def test_what_must_not_fire_is_silent_at_every_minute(tmp_path: Path) -> None:
    """Silence at one time only, the end, would say nothing of the minutes after a burst."""
    document = yaml.safe_load(CASES.read_text())
    document["rule_files"] = [str(ALERTS / "prometheus.yaml")]
    for case in document["tests"]:
        silent = [one["alertname"] for one in case["alert_rule_test"] if not one.get("exp_alerts")]
        case["alert_rule_test"] = [
            {"eval_time": f"{minute}m", "alertname": name} for name in silent for minute in range(1, minutes(case))
        ]
    document["tests"] = [case for case in document["tests"] if case["alert_rule_test"]]
    assert document["tests"]
    cases = tmp_path / "cases.yaml"
    cases.write_text(yaml.safe_dump(document))
    promtool("test", "rules", cases)
