"""The verdicts of `tapio health`: what degrades, what never does, what Tapio causes itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.data_dirs import DataDir, as_read

from tapio.cli.agent_state import read_agent
from tapio.cli.directory import DataDirectory
from tapio.cli.judgement import judge, overall, worst_places
from tapio.cli.probe import is_own

NOW_S = 1_795_376_000.0


def verdicts(path: Path, *occurrences: str, **heartbeat: object) -> dict[str, str]:
    data = DataDir(path)
    data.heartbeat(now_s=NOW_S, **heartbeat)  # type: ignore[arg-type]
    for what in occurrences:
        data.add(what, 60, now_s=NOW_S)
    directory = DataDirectory(path)
    start_ms = int(NOW_S - 3600) * 1000
    judged = judge(read_agent(directory, NOW_S), directory.occurrences(start_ms), start_ms, int(NOW_S) * 1000, 60)
    return {"all": overall(judged), **{found.name: found.verdict for found in judged}} | {"-": "-"}


def test_quiet_is_healthy(tmp_path: Path) -> None:
    assert set(verdicts(tmp_path).values()) == {"healthy", "-"}


def test_anomalies_degrade_and_criticals_are_critical(tmp_path: Path) -> None:
    found = verdicts(tmp_path, "connection_refused", "oom_kill", "connection_timeout")
    assert (found["network"], found["container"], found["storage"]) == ("degraded", "critical", "healthy")


def test_a_detached_hook_degrades(tmp_path: Path) -> None:
    assert verdicts(tmp_path, detached="storage")["storage"] == "degraded"


def test_observers_that_are_off_do_not_count(tmp_path: Path) -> None:
    found = verdicts(tmp_path, observers=["container"])
    assert (found["all"], found["network"], found["container"]) == ("healthy", "off", "healthy")


@pytest.mark.parametrize("heartbeat", [{"age_s": 11}, {"age_s": -11}, {"state": "stopped"}, {"sinks": {}},
                                       {"trouble": "something new"},
                                       {"trouble": "the rings were not drained within the last 5 s"}])  # fmt: skip
def test_blind_is_never_healthy(tmp_path: Path, heartbeat: dict[str, object]) -> None:
    assert verdicts(tmp_path, **heartbeat)["container"] == "unknown"


def test_the_end_of_an_episode_alone_does_not_degrade(tmp_path: Path) -> None:
    DataDir(tmp_path).add("connection_refused", 60, now_s=NOW_S, count=0)
    assert verdicts(tmp_path)["network"] == "healthy"


def test_an_expected_exit_does_not_degrade(tmp_path: Path) -> None:
    DataDir(tmp_path).add("abnormal_exit", 60, now_s=NOW_S, severity="info", expected=True)
    assert verdicts(tmp_path)["container"] == "healthy"


def test_what_tapio_causes_itself_does_not_degrade(tmp_path: Path) -> None:
    """`tapio health --exit-code` that ends with 10 must not be the reason for the next 10."""
    data = DataDir(tmp_path)
    data.add("abnormal_exit", 60, now_s=NOW_S, comm="tapio", exit_code=10)
    data.add("oom_kill", 60, now_s=NOW_S, comm="tapio-st-0a1b2c", memory_limit_bytes=32 << 20)
    assert verdicts(tmp_path)["container"] == "healthy"
    data.add("oom_kill", 60, now_s=NOW_S, comm="tapio")
    assert verdicts(tmp_path)["container"] == "critical"


PROBE, LOOPBACK = "tapio-st-0a1b2c", "127.0.0.1"

SHOP = {"node": "n", "namespace": "shop", "entities": [{"kind": "pod", "id": "shop/a", "name": "a"}]}


@pytest.mark.parametrize(
    ("what", "changes", "own"),
    [
        # the command's own ends
        ("abnormal_exit", {"comm": "tapio", "exit_code": 1}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 10}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 130, "signal": 2}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 129, "signal": 1}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 141, "signal": 13}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 139, "signal": 11}, False),  # it crashed
        ("abnormal_exit", {"comm": "tapio", "exit_code": 137, "signal": 9}, False),  # somebody killed it
        ("abnormal_exit", {"comm": "tapio", "exit_code": 3}, False),
        ("abnormal_exit", {"comm": "tapio-agent", "exit_code": 1}, False),
        ("oom_kill", {"comm": "tapio"}, False),
        # the faults of a selftest
        ("abnormal_exit", {"comm": PROBE, "exit_code": 97}, True),
        ("abnormal_exit", {"comm": PROBE, "exit_code": 143, "signal": 15}, True),
        ("abnormal_exit", {"comm": PROBE, "exit_code": 3}, False),
        ("oom_kill", {"comm": PROBE, "memory_limit_bytes": 32 << 20}, True),
        ("oom_kill", {"comm": PROBE, "memory_limit_bytes": 64 << 20}, False),
        ("connection_refused", {"comm": PROBE, "dst_ip": LOOPBACK}, True),
        ("connection_refused", {"comm": PROBE, "dst_ip": "10.0.0.9"}, False),
        ("connection_timeout", {"comm": PROBE, "dst_ip": LOOPBACK}, False),
        ("io_error", {"comm": PROBE}, False),
        # a name alone hides nothing
        ("abnormal_exit", {"comm": PROBE + "d", "exit_code": 97}, False),
        ("abnormal_exit", {"comm": "tapio-st-XYZXYZ", "exit_code": 97}, False),
        ("abnormal_exit", {"comm": PROBE, "exit_code": 97, "context": SHOP}, False),  # a pod's always counts
    ],
)
def test_what_counts_as_tapios_own(tmp_path: Path, what: str, changes: dict[str, object], own: bool) -> None:
    document = DataDir(tmp_path).document(what)
    for name, value in changes.items():
        (document if name == "context" else document["data"])[name] = value
    assert is_own(as_read(document)) is own


def test_the_worst_place_comes_first(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.heartbeat(now_s=NOW_S)
    data.add("connection_refused", 60, now_s=NOW_S, pod="shop/web-1", count=1000)
    data.add("oom_kill", 60, now_s=NOW_S, pod="shop/api-1")
    directory = DataDirectory(tmp_path)
    judged = judge(read_agent(directory, NOW_S), directory.occurrences(), 0, 1, 1)
    assert list(worst_places(judged)) == [("shop/api-1", "critical", 1), ("shop/web-1", "warning", 1000)]
