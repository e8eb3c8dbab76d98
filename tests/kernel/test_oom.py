"""Real OOM kills: one for each process, whose limit, whose cgroup."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import victims
from helpers.cgroups import ScratchCgroup, scratch_cgroup
from helpers.running_agent import RunningAgent, running_agent, wait_for

pytestmark = pytest.mark.kernel

MIB = 1 << 20


def kills(agent: RunningAgent, cgroup: ScratchCgroup, expected: int) -> list[dict[str, Any]]:
    wait_for(lambda: len(agent.of_cgroup(cgroup.id)) >= expected, failure=lambda: str(agent.of_cgroup(cgroup.id)))
    agent.settle()
    return agent.of_cgroup(cgroup.id)


def test_five_kills_of_processes_with_eight_threads(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """One occurrence each, although threads are marked, and no abnormal_exit beside it."""
    cgroup.limit_memory(32 * MIB)
    pids = set()
    for _ in range(5):
        process = cgroup.run(victims.command("eat_memory", 8))
        assert process.returncode == -9
        pids.add(process.pid)
    found = kills(agent, cgroup, 5)
    assert [item["type"] for item in found] == ["kernel.container.oom_kill"] * 5
    assert {item["data"]["pid"] for item in found} == pids
    for item in found:
        assert (item["severity"], item["outcome"], item["error"]["code"]) == ("critical", "failure", "OOM_KILL")
        data = item["data"]
        assert (data["exit_code"], data["signal"], data["count"], data["attribution"]) == (137, 9, 1, "victim")
        assert data["memory_limit_bytes"] == 32 * MIB
        assert 16 * MIB < data["memory_usage_bytes"] < 64 * MIB
        assert data["oom_scope"] == "container"
        assert data["cgroup_id"] == cgroup.id
        assert data.get("cgroup_v1_id") == cgroup.memory_v1_id
        usage = data["memory_usage_bytes"] >> 20
        assert item["error"]["message"] == f"OOM kill pid={data['pid']} (usage={usage}MB, limit=32MB)"


def test_the_limit_of_an_ancestor(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """The victim's own cgroup has no limit, or one far away: the ancestor's is reported as the one that was hit."""
    cgroup.limit_memory(32 * MIB)
    with scratch_cgroup(cgroup) as child:
        child.limit_memory(512 * MIB)
        assert child.run(victims.command("eat_memory", 1)).returncode == -9
        (item,) = kills(agent, child, 1)
    assert item["data"]["oom_scope"] == "ancestor"
    assert item["data"]["memory_limit_bytes"] == 32 * MIB
    assert item["data"]["limit_cgroup_id"] == (cgroup.memory_v1_id or cgroup.id)
    assert item["data"]["cgroup_id"] == child.id


def test_the_victim_is_not_the_one_that_asked_for_memory(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """A small process allocates, a large one in another cgroup dies: its pid and cgroup are reported."""
    cgroup.limit_memory(64 * MIB)

    with scratch_cgroup(cgroup) as large, scratch_cgroup(cgroup) as small:
        victim = large.start(["/bin/sh", "-c", "echo 1000 > /proc/self/oom_score_adj; exec \"$@\"", "sh",
                              *victims.command("eat_memory", 1, 40)])  # fmt: skip
        wait_for(lambda: _resident(victim.pid) > 40 * MIB)
        trigger = small.start(victims.command("eat_memory", 1, 30))
        assert victim.wait(10) == -9
        (item,) = kills(agent, large, 1)
        agent.settle()
        # Before the victim's memory is free the kernel may kill for the same limit again, and only the trigger is left.
        also_killed = trigger.poll() == -9
        assert len(kills(agent, small, also_killed)) == also_killed
        trigger.kill()
        trigger.wait()
    assert item["data"]["pid"] == victim.pid
    assert item["data"]["trigger_pid"] == trigger.pid
    assert item["data"]["oom_scope"] == "ancestor"


def test_sigkill_by_hand_at_the_limit_is_no_oom_kill(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """Code 137 alone does not make an OOM kill."""
    cgroup.limit_memory(64 * MIB)
    process = cgroup.start(victims.command("eat_memory", 1, 30))
    wait_for(lambda: _resident(process.pid) > 30 * MIB)
    os.kill(process.pid, 9)
    process.wait()
    (item,) = kills(agent, cgroup, 1)
    assert item["type"] == "kernel.container.abnormal_exit"
    assert item["data"]["exit_code"] == 137


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("depth", [7, 40])
def test_a_limit_far_above(agent: RunningAgent, cgroup: ScratchCgroup, depth: int) -> None:
    """Within reason the limit is found, beyond that nothing is claimed."""
    cgroup.limit_memory(32 * MIB)
    with contextlib.ExitStack() as stack:
        below = cgroup
        for _ in range(depth):
            below = stack.enter_context(scratch_cgroup(below))
        assert below.run(victims.command("eat_memory", 1)).returncode == -9
        (item,) = kills(agent, below, 1)
        expected = ("ancestor", 32 * MIB) if depth < 32 else (None, 0)
        assert (item["data"].get("oom_scope"), item["data"]["memory_limit_bytes"]) == expected


def test_a_storm_of_exits_does_not_hide_a_kill(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """The agent stands still, the ring fills with exits, records are lost: the OOM kill is not among them."""
    config = tmp_path / "tapio.toml"
    config.write_text("[kernel]\nring_kib = 64\n")
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with running_agent(tmp_path / "data", f"--config={config}") as agent:
        cgroup.limit_memory(32 * MIB)
        os.kill(agent.pid, signal.SIGSTOP)
        cgroup.run(["/bin/sh", "-c", "i=0; while [ $i -lt 1500 ]; do (exit 3); i=$((i+1)); done; exit 0"])
        assert cgroup.run(victims.command("eat_memory", 8)).returncode == -9
        os.kill(agent.pid, signal.SIGCONT)
        wait_for(lambda: any(item["type"] == "kernel.container.oom_kill" for item in agent.of_cgroup(cgroup.id)))
        agent.settle()
        assert agent.metric('tapio_lost_events_total{observer="container"}') > 0

        def adds_up() -> bool:
            observer = json.loads((agent.data_dir / ".agent.json").read_text())["observers"]["container"]
            (hook,) = (hook for hook in observer["hooks"] if hook["name"] == "sched_process_exit")
            accounted = sum(hook[name] for name in ("submitted", "lost", "filtered", "unreadable"))
            return bool(hook["lost"] and hook["hits"] == accounted)

        wait_for(adds_up)
