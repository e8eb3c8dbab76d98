"""The CLI beside a real agent: selftest, watch, status and health on real faults."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.cgroups import ScratchCgroup, mount_point, scratch_cgroup
from helpers.data_dirs import TAPIO, DataDir, tapio
from helpers.running_agent import RunningAgent, running_agent, wait_for

pytestmark = pytest.mark.kernel

SELFTEST = "tapio-st-"


def open_path_to(path: Path) -> None:
    """Let every user reach a temporary path."""
    for parent in list(path.parents)[:3]:
        parent.chmod(0o755)


def leftovers() -> list[str]:
    """Cgroups of a selftest."""
    roots = [mount_point("cgroup2"), mount_point("cgroup", "memory")]
    return [path.name for root in roots if root for path in root.iterdir() if path.name.startswith(SELFTEST)]


def selftest(agent: RunningAgent, *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Exit code and results by the fault."""
    ended = tapio(agent.data_dir, "selftest", "--json", "--timeout", "20s", *arguments)
    assert ended.stderr == ""
    return ended.returncode, {found["fault"]: found for found in map(json.loads, ended.stdout.splitlines())}


def test_selftest_sees_its_faults_and_leaves_nothing(agent: RunningAgent) -> None:
    wait_for(lambda: (agent.data_dir / ".agent.json").exists())
    code, results = selftest(agent)
    assert code == 0, results
    assert [results[fault]["result"] for fault in ("exit with a code", "OOM kill")] == ["arrived", "arrived"]
    assert results["refused connect"]["result"] in ("arrived", "skipped")
    for result in results.values():
        if result["result"] == "arrived":
            assert 0 < float(str(result["latency_ms"])) < 20_000
        else:
            assert "observer is off" in str(result["reason"])
    assert leftovers() == []
    on_screen = tapio(agent.data_dir, "selftest", "--timeout", "20s")
    assert on_screen.returncode == 0
    assert "faults were reported" in on_screen.stdout


def test_a_selftest_does_not_make_the_node_sick(agent: RunningAgent) -> None:
    def own() -> int:
        document = json.loads(tapio(agent.data_dir, "health", "container", "--json").stdout)
        return int(document["observers"][0]["own"])

    before = own()
    selftest(agent)
    assert own() >= before + 2


def test_selftest_says_why_something_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "tapio.toml"
    config.write_text('[container]\nignore_comm = ["tapio-st-*"]\n')
    open_path_to(config)
    with running_agent(tmp_path / "data", f"--config={config}") as agent:
        wait_for(lambda: (agent.data_dir / ".agent.json").exists())
        ended = tapio(agent.data_dir, "selftest", "--json", "--timeout", "2s")
        results = {found["fault"]: found for found in map(json.loads, ended.stdout.splitlines())}
        assert ended.returncode == 1
        assert results["exit with a code"]["result"] == "missing"
        assert (
            "nothing within 2 s: the agent saw it and left it out: ignored_comm"
            in results["exit with a code"]["reason"]
        )
        assert results["OOM kill"]["result"] == "arrived"  # never ignored
        config.write_text("[container]\nignore_exit_codes = [97]\n")
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "configuration reloaded" in agent.log.read_text(), 10)
        heartbeat = agent.data_dir / ".agent.json"
        written = heartbeat.stat().st_mtime_ns
        wait_for(lambda: heartbeat.stat().st_mtime_ns > written + 10**9, 10)  # with all that came before counted
        ended = tapio(agent.data_dir, "selftest", "--json", "--timeout", "2s")
        results = {found["fault"]: found for found in map(json.loads, ended.stdout.splitlines())}
        assert ": filtered by exit_scope" in results["exit with a code"]["reason"]


def test_selftest_without_root_skips_with_the_reason(agent: RunningAgent) -> None:
    wait_for(lambda: (agent.data_dir / ".agent.json").exists())
    open_path_to(agent.data_dir)
    ended = subprocess.run(
        [TAPIO, "selftest", "--json", "--timeout", "20s", "--data-dir", agent.data_dir], user=65534, group=65534,
        extra_groups=[], capture_output=True, text=True, check=False, cwd="/", env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    results = {found["fault"]: found for found in map(json.loads, ended.stdout.splitlines())}
    assert (ended.returncode, results["OOM kill"]["result"]) == (0, "skipped"), ended
    assert "permission denied: it needs root" in results["OOM kill"]["reason"]
    assert results["exit with a code"]["result"] == "arrived"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_selftest_that_is_ended_in_the_middle_leaves_nothing(agent: RunningAgent, number: signal.Signals) -> None:
    """Also when its terminal goes away."""
    wait_for(lambda: (agent.data_dir / ".agent.json").exists())
    for delay_s in (0.2, 0.3, 0.4, 0.5):
        with subprocess.Popen(
            [TAPIO, "selftest", "--data-dir", agent.data_dir], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(delay_s)
            process.send_signal(number)
            process.wait(10)
        assert leftovers() == []


def test_selftest_without_an_agent(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    ended = tapio(data.path, "selftest")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "testing the agent: no heartbeat in" in ended.stderr


def test_watch_and_recent_show_every_real_exit(agent: RunningAgent, cgroup: ScratchCgroup, tmp_path: Path) -> None:
    """23 processes that fail are 23 lines, through inotify and from the files alike."""
    output = tmp_path / "watch.out"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [TAPIO, "watch", "--json", "--container", "--data-dir", agent.data_dir], stdout=file,
            stderr=subprocess.DEVNULL,
        ) as watch,
    ):  # fmt: skip
        time.sleep(1)
        pids = [cgroup.run(["/bin/sh", "-c", "exit 5"]).pid for _ in range(23)]

        def seen() -> list[dict[str, Any]]:
            found = [json.loads(line) for line in output.read_bytes().split(b"\n")[:-1]]
            return [item for item in found if item["data"].get("cgroup_id") == cgroup.id]

        def counted() -> int:
            return sum(item["data"]["count"] for item in seen())

        # The first five leave alone, the others as one after ten seconds.
        wait_for(lambda: counted() >= len(pids), 30, lambda: f"{seen()} of {pids}")
        time.sleep(0.5)
        assert counted() == len(pids)
        assert [item["data"]["pid"] for item in seen()[:5]] == pids[:5]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 0
    lines = tapio(agent.data_dir, "recent", "--json", "--limit", "10000", "--since", "10m").stdout.splitlines()
    stored = [json.loads(line) for line in lines]
    of_ours = [item for item in stored if item["data"].get("cgroup_id") == cgroup.id]
    assert sorted(item["id"] for item in of_ours) == sorted(item["id"] for item in seen())


def test_status_and_health_of_a_real_agent(agent: RunningAgent, cgroup: ScratchCgroup, tmp_path: Path) -> None:
    wait_for(lambda: (agent.data_dir / ".agent.json").exists())
    cgroup.run(["/bin/sh", "-c", "exit 5"])
    agent.settle()
    status = tapio(agent.data_dir, "status")
    assert status.returncode == 0, status
    (line,) = [words for words in map(str.split, status.stdout.splitlines()) if words[:2] == ["container", "up"]]
    assert line[2] in ("2/2", "3/3")  # with the entry of out_of_memory(), where it can be watched
    assert tapio(agent.data_dir, "health", "container", "--exit-code").returncode in (10, 11)
    assert tmp_path.exists()


def test_a_frozen_agent_is_blind_and_a_stopped_one_too(tmp_path: Path) -> None:
    with running_agent(tmp_path / "data") as agent:
        wait_for(lambda: (agent.data_dir / ".agent.json").exists())
        assert tapio(agent.data_dir, "status").returncode == 0
        agent.process.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: tapio(agent.data_dir, "status").returncode == 1, 30)
            assert "is dead, stuck or frozen" in tapio(agent.data_dir, "status").stderr
        finally:
            agent.process.send_signal(signal.SIGCONT)
        wait_for(lambda: tapio(agent.data_dir, "status").returncode == 0, 10)
        agent.stop()
        ended = tapio(agent.data_dir, "status")
        assert ended.returncode == 1
        assert "the agent was stopped" in ended.stderr


def test_watch_under_a_storm_with_retention_shows_each_once(tmp_path: Path) -> None:
    """Files vanish within moments of being written: shown once, or counted as gone."""
    config = tmp_path / "tapio.toml"
    config.write_text("[episodes]\nindividual = 10000\nrate_per_s = 10000\nburst = 10000\n[file]\nmax_files = 20\n")
    open_path_to(config)
    output = tmp_path / "watch.out"
    with running_agent(tmp_path / "data", f"--config={config}") as agent, scratch_cgroup() as cgroup:
        with (
            output.open("wb") as file,
            subprocess.Popen(
                [TAPIO, "watch", "--json", "--data-dir", agent.data_dir], stdout=file, stderr=subprocess.PIPE
            ) as watch,
        ):
            time.sleep(1)
            script = "i=0; while [ $i -lt 499 ]; do (exit 7); i=$((i+1)); done"
            cgroup.run(["/bin/sh", "-c", script])
            agent.settle(2)
            watch.send_signal(signal.SIGINT)
            _, said = watch.communicate(timeout=10)
        assert len(agent.of_cgroup(cgroup.id)) == 499
        assert watch.returncode == 0
    lines = [json.loads(line) for line in output.read_bytes().split(b"\n")[:-1]]
    ours = [line["id"] for line in lines if line["data"].get("cgroup_id") == cgroup.id]
    assert len(ours) == len(set(ours))
    gone = re.search(rb"(\d+) occurrences were removed", said)
    assert len(ours) <= 499 <= len(ours) + (int(gone[1]) if gone else 0)
