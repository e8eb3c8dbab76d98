"""Real processes that end badly: exact counts, codes, pids and cgroups."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
from helpers import victims
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import RunningAgent, running_agent, wait_for

pytestmark = pytest.mark.kernel


def exits(agent: RunningAgent, cgroup: ScratchCgroup, expected: int) -> list[dict[str, Any]]:
    """The occurrences of the cgroup once there are `expected`, after time for one too many to show up."""
    wait_for(lambda: len(agent.of_cgroup(cgroup.id)) >= expected, failure=lambda: str(agent.of_cgroup(cgroup.id)))
    agent.settle()
    return agent.of_cgroup(cgroup.id)


def test_23_exit_codes_among_61_clean_exits(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """Each failing process is one occurrence with its own code and pid; clean exits never show."""
    pids = {}
    for number in range(1, 62):
        cgroup.run(["/bin/true"])
        if number <= 23:
            pids[cgroup.run(["/bin/sh", "-c", f"exit {number}"]).pid] = number
    found = exits(agent, cgroup, 23)
    assert {item["data"]["pid"]: item["data"]["exit_code"] for item in found} == pids
    assert len(found) == 23
    for item in found:
        assert item["type"] == "kernel.container.abnormal_exit"
        assert (item["severity"], item["outcome"], item["error"]["code"]) == ("warning", "failure", "ABNORMAL_EXIT")
        data = item["data"]
        assert (data["signal"], data["comm"], data["count"], data["attribution"]) == (0, "sh", 1, "task")
        assert data["cgroup_id"] == cgroup.id
        assert data.get("cgroup_v1_id") == cgroup.memory_v1_id


def test_signals(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """A signal gives 128 + its number, also in a process of four threads, which is one occurrence."""
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, signal.SIGHUP, signal.SIGUSR1, 40]
    pids = {cgroup.run(victims.command("die_by", int(number))).pid: int(number) for number in numbers}
    found = exits(agent, cgroup, len(numbers))
    assert {item["data"]["pid"]: item["data"]["signal"] for item in found} == pids
    assert len(found) == len(numbers)
    for item in found:
        assert item["data"]["exit_code"] == 128 + item["data"]["signal"]
        assert (item["severity"], item["outcome"]) == ("error", "failure")


@pytest.mark.parametrize("how", ["exit_from_thread", "leader_first", "exec_from_thread"])
def test_processes_of_many_threads_are_one_occurrence(agent: RunningAgent, cgroup: ScratchCgroup, how: str) -> None:
    """The code is the one that waitpid() gives, whichever thread ended the process and how."""
    status = {}
    for code in (3, 5, 7, 11, 13):
        process = cgroup.run(victims.command(how, code))
        status[process.pid] = process.returncode
    found = exits(agent, cgroup, 5)
    assert {item["data"]["pid"]: item["data"]["exit_code"] for item in found} == status
    assert 0 not in status.values()
    assert len(found) == 5


def test_clean_exits_of_many_threads_are_silent(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    for how in ("exit_from_thread", "leader_first", "exec_from_thread"):
        for _ in range(5):
            assert cgroup.run(victims.command(how, 0)).returncode == 0
    assert exits(agent, cgroup, 0) == []


def test_the_time_is_that_of_the_event(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """`timestamp`, `data.timestamp_ns` and the wall clock around the exit agree."""
    before = time.time_ns()
    cgroup.run(["/bin/sh", "-c", "exit 1"])
    after = time.time_ns()
    (item,) = exits(agent, cgroup, 1)
    assert before - 5_000_000 <= item["data"]["timestamp_ns"] <= after + 5_000_000
    assert item["timestamp"].endswith(f".{item['data']['timestamp_ns'] // 1_000_000 % 1000:03d}Z")


def test_scope_main_takes_first_processes_and_fatal_signals(tmp_path: Any, cgroup: ScratchCgroup) -> None:
    """In scope `main` a container's first process counts, its children and the host's processes only by signal."""
    config = tmp_path / "tapio.toml"
    config.write_text('[container]\nexit_scope = "main"\n')
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with running_agent(tmp_path / "data", f"--config={config}") as agent:
        cgroup.run(["/bin/sh", "-c", "exit 4"])
        container = ["/usr/bin/unshare", "--pid", "--fork", "/bin/sh", "-c"]
        cgroup.run([*container, "(exit 8); /bin/sh -c 'exit 9'; exit 6"])
        cgroup.run(victims.command("die_by", int(signal.SIGTERM)))
        found = exits(agent, cgroup, 2)
        assert sorted(item["data"]["exit_code"] for item in found) == [6, 143]


def test_ignored_codes_and_names_follow_a_reload(tmp_path: Any, cgroup: ScratchCgroup) -> None:
    """SIGHUP puts new filters in force in the running kernel program; a bad file keeps the old ones."""
    config = tmp_path / "tapio.toml"
    config.write_text('[container]\nignore_exit_codes = [7, 200]\nignore_comm = ["s?"]\n')
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    quiet, ignored = ["/bin/sh", "-c", "exit 1"], victims.command("exit_from_thread", 7)
    with running_agent(tmp_path / "data", f"--config={config}") as agent:
        cgroup.run(quiet)
        cgroup.run(ignored)
        assert exits(agent, cgroup, 0) == []
        assert agent.metric('tapio_suppressed_records_total{observer="container",reason="ignored_comm"}') >= 1

        config.write_text('[container]\nignore_comm = ["other"]\n')
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "reloaded" in agent.log.read_text())
        cgroup.run(quiet)
        cgroup.run(ignored)
        assert sorted(item["data"]["exit_code"] for item in exits(agent, cgroup, 2)) == [1, 7]

        config.write_text("[container]\nignore_comm = 5\n")
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "container.ignore_comm: expected array, got int" in agent.log.read_text())
        cgroup.run(quiet)
        assert len(exits(agent, cgroup, 3)) == 3
