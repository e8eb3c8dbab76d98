"""`tapio status`, and where `tapio health` must agree with it: observers' states, counts, how far the files reach."""

from __future__ import annotations

import json

import pytest
from helpers.data_dirs import OBSERVERS, DataDir, tapio


def test_quiet_is_healthy_and_blind_is_not(data: DataDir) -> None:
    data.heartbeat()
    assert tapio(data.path, "status").returncode == 0
    assert tapio(data.path, "health", "--exit-code").stdout.startswith("node is healthy")
    data.heartbeat(detached="storage")
    status = tapio(data.path, "status")
    assert status.returncode == 1
    assert "storage is blind: storage_one is detached" in status.stdout
    assert tapio(data.path, "health", "--exit-code").returncode == 10
    assert tapio(data.path, "health", "network", "--exit-code").returncode == 0


def test_enrichment_is_no_observer_but_its_troubles_are_told(data: DataDir) -> None:
    """No row of its own among the observers; a detached hook and what it lost are said."""
    data.heartbeat(observers=(*OBSERVERS, "enrichment"))
    status, health = tapio(data.path, "status"), tapio(data.path, "health")
    assert status.returncode == 0
    assert "enrichment" not in status.stdout + health.stdout
    document = json.loads(tapio(data.path, "status", "--json").stdout)
    assert [view["name"] for view in document["observers"]] == list(OBSERVERS)
    assert (document["enrichment"]["state"], len(document["enrichment"]["hooks"])) == ("up", 2)
    data.heartbeat(observers=(*OBSERVERS, "enrichment"), detached="enrichment", lost={"enrichment": 4711})
    status, health = tapio(data.path, "status"), tapio(data.path, "health")
    assert status.returncode == 1
    for output in (status.stdout, health.stdout):
        assert "enrichment is blind: enrichment_one is detached" in output
    assert "enrichment lost 4 711 events of cgroups that came or went" in status.stdout
    assert "enrichment lost 4711 events since the agent's start" in health.stderr


def test_an_observer_that_is_attached_and_sees_nothing_is_blind(data: DataDir) -> None:
    """Its canaries do not come back: only the reason tells, every hook is attached."""
    why = "its canary did not come back 3 times"
    data.heartbeat(blind={"network": why})
    status = tapio(data.path, "status")
    assert status.returncode == 1
    assert status.stdout.startswith("agent running")
    assert f"network is blind: {why}" in status.stdout
    assert tapio(data.path, "health", "network", "--exit-code").returncode == 10
    assert tapio(data.path, "health", "storage", "--exit-code").returncode == 0
    (found, *_) = json.loads(tapio(data.path, "status", "--json").stdout)["observers"]
    assert (found["state"], found["reason"]) == ("blind", why)


def test_what_an_observer_lacks_does_not_make_it_look_off(data: DataDir) -> None:
    """A node without stall events still counts IPC."""
    lacks = "no event for stalled cycles on this CPU: cpu_stall is not available"
    data.heartbeat(lacks={"node": lacks})
    status = tapio(data.path, "status")
    assert status.returncode == 0
    (row,) = [line for line in status.stdout.splitlines() if line.startswith("node  ")]
    assert row.split()[1] == "up"
    remark = f"node lacks something: {lacks}"
    assert status.stdout.count(lacks) == status.stdout.count(remark) == 1
    health = tapio(data.path, "health", "--exit-code")
    assert health.returncode == 0
    assert remark in health.stdout
    (found,) = [o for o in json.loads(tapio(data.path, "status", "--json").stdout)["observers"] if o["name"] == "node"]
    assert (found["state"], found["reason"]) == ("up", lacks)


def test_an_agent_without_files_tells_nothing(data: DataDir) -> None:
    data.heartbeat(sinks={"stdout": {"accepted": 5, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    assert tapio(data.path, "health").returncode == 1
    status = tapio(data.path, "status")
    assert status.returncode == 0
    assert "the agent writes no files" in status.stdout


@pytest.mark.parametrize("command", ["status", "health"])
def test_occurrences_from_the_future_are_pointed_out(data: DataDir, command: str) -> None:
    """The clock stepped back: they count, because the agent's next ones have such ids too."""
    data.heartbeat()
    data.add("oom_kill", -30)
    assert tapio(data.path, command).stderr == ""
    data.add("oom_kill", -7259)
    ended = tapio(data.path, command)
    assert ended.stderr.startswith("tapio: the newest occurrence is 2 h in the future: the clock stepped back")
    assert json.loads(tapio(data.path, "status", "--json").stdout)["observers"][1]["anomalies"]["5m"] == 2


def test_status_says_how_far_the_files_reach(data: DataDir) -> None:
    """Retention removed what the agent wrote since its start: the sums are lower bounds."""
    for ago_s in (30, 90):
        data.add("oom_kill", ago_s)
    data.heartbeat(sinks={"file": {"accepted": 5, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    status = tapio(data.path, "status").stdout
    assert "≥2" in status
    assert "the files reach back only 1 m 30 s" in status
    data.heartbeat(sinks={"file": {"accepted": 2, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    assert "≥" not in tapio(data.path, "status").stdout


def test_counts_are_sums_of_what_occurrences_stand_for(data: DataDir) -> None:
    data.heartbeat()
    data.add("connection_refused", 30, count=23)
    data.add("connection_refused", 40, count=0)
    data.add("rst_storm", 600)
    data.add("rst_storm", 6000)
    document = json.loads(tapio(data.path, "status", "--json").stdout)
    assert document["observers"][0]["anomalies"] == {"5m": 23, "1h": 24}
