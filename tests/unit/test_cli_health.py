"""`tapio health`: exit codes, what is said beside the verdict, sparklines."""

from __future__ import annotations

import json

from helpers.data_dirs import DataDir, tapio

from tapio.cli.health import sparkline


def test_exit_codes_of_health(data: DataDir) -> None:
    data.heartbeat()
    data.add("abnormal_exit", 30)
    assert tapio(data.path, "health", "--exit-code").returncode == 10
    data.add("oom_kill", 30)
    assert tapio(data.path, "health", "--exit-code").returncode == 11
    assert tapio(data.path, "health", "storage", "--exit-code").returncode == 0
    assert tapio(data.path, "health").returncode == 0
    assert tapio(data.path, "health", "--since", "10s", "--exit-code").returncode == 0


def test_health_says_why_it_cannot_judge_without_files(data: DataDir) -> None:
    data.heartbeat(sinks={"stdout": {"accepted": 5, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    ended = tapio(data.path, "health")
    assert ended.stdout.startswith("node is unknown")
    assert ended.stderr == "tapio: the agent writes no files, so nothing can be judged: start it with --sink=file\n"
    (note,) = json.loads(tapio(data.path, "health", "--json").stdout)["notes"]
    assert note in ended.stderr


def test_losses_are_said_beside_the_verdict(data: DataDir) -> None:
    data.heartbeat(sinks={"file": {"accepted": 1, "rejected": 2, "dropped": 3, "queue": 0, "last_error": "disk full"}})
    data.add("oom_kill", 5)
    assert "5 occurrences did not become files since the agent's start: disk full" in tapio(data.path, "health").stderr


def test_sparklines_show_whatever_is_not_zero() -> None:
    assert sparkline([0, 1, 500, 1000]) == "▕ ▁▄█▏"
    assert sparkline([0, 0]) == "▕  ▏"
    assert sparkline([0, 1, 500, 1000], plain=True) == "| .=@|"
