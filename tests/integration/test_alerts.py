"""The rules of dashboards/alerts, as Prometheus' own tool reads and tries them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from helpers.backends import require_prometheus
from helpers.boards import FOLDER

ALERTS = FOLDER / "alerts"


@pytest.fixture(autouse=True)
def _promtool() -> None:
    require_prometheus()


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", ALERTS / "prometheus.yaml")


def test_each_alert_fires_when_it_must_and_not_otherwise() -> None:
    """tests/unit/test_dashboards.py sees to it that there are cases of both for each."""
    promtool("test", "rules", ALERTS / "tests" / "prometheus.yaml")
