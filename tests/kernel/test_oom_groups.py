"""Group kills by cgroup v2: the first victim alone, the rest as one. Where memory is a v1 controller there are none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import victims
from helpers.cgroups import ScratchCgroup, mount_point, scratch_cgroup
from helpers.running_agent import RunningAgent, wait_for

MIB = 1 << 20


def _unavailable() -> str:
    unified = mount_point("cgroup2")
    if unified is None or "memory" not in (unified / "cgroup.subtree_control").read_text().split():
        return "memory is not controlled by cgroup v2 here (tests/vm runs this)"
    return ""


pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(_unavailable()), reason=_unavailable())]


def directory(cgroup: ScratchCgroup) -> Path:
    return cgroup._directories[0]


def bystander(cgroup: ScratchCgroup, mebibytes: int) -> subprocess.Popen[bytes]:
    """A process that holds memory and waits; it is there when this returns."""
    process = cgroup.start(victims.command("eat_memory", 1, mebibytes))

    def has_it() -> bool:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 > mebibytes * MIB

    wait_for(has_it)
    return process


def kills(agent: RunningAgent, cgroups: list[ScratchCgroup], expected: int) -> list[dict[str, Any]]:
    """The occurrences of all these cgroups once they count `expected` kills; a second more for one too many."""

    def found() -> list[dict[str, Any]]:
        return [item for cgroup in cgroups for item in agent.of_cgroup(cgroup.id)]

    wait_for(lambda: sum(item["data"]["count"] for item in found()) >= expected, 10, lambda: str(found()))
    agent.settle(1.5)
    return found()


def needs_named_victims(agent: RunningAgent) -> None:
    """Where marks carry only a pid, each further victim is told alone, by its exit."""
    wait_for((agent.data_dir / ".agent.json").exists)
    beat = json.loads((agent.data_dir / ".agent.json").read_text())
    if "by pid alone" in beat["observers"]["container"]["reason"]:
        pytest.skip(beat["observers"]["container"]["reason"])


def test_a_group_of_seven_dies_as_two_occurrences(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """Six wait, one asks for too much: all seven are killed, the first is told at once and six in one story."""
    needs_named_victims(agent)
    cgroup.limit_memory(64 * MIB)
    (directory(cgroup) / "memory.oom.group").write_text("1")
    group = [bystander(cgroup, 2) for _ in range(6)]
    group.append(cgroup.start(victims.command("eat_memory", 1)))
    assert [process.wait(60) for process in group] == [-9] * 7
    first, rest = kills(agent, [cgroup], 7)
    assert {item["type"] for item in (first, rest)} == {"kernel.container.oom_kill"}
    assert (first["data"]["count"], rest["data"]["count"]) == (1, 6)
    killed = {first["data"]["pid"], *(victim["pid"] for victim in rest["data"]["victims"])}
    assert killed == {process.pid for process in group}
    assert len(rest["data"]["victims"]) == 6
    for item in (first, rest):
        assert item["data"]["memory_limit_bytes"] == 64 * MIB
        assert (item["data"]["oom_scope"], item["data"]["limit_cgroup_id"]) == ("container", cgroup.id)
    assert rest["error"]["message"] == "OOM kill of 6 more processes of the same group"


def test_a_group_above_two_containers(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """The pod's limit, the pod dies as a whole: victims of both containers are in the story, each with its cgroup."""
    needs_named_victims(agent)
    cgroup.limit_memory(64 * MIB)
    (directory(cgroup) / "memory.oom.group").write_text("1")
    with scratch_cgroup(cgroup) as greedy, scratch_cgroup(cgroup) as modest:
        group = [bystander(modest, 2) for _ in range(4)]
        eater = greedy.start(victims.command("eat_memory", 1))
        assert [process.wait(60) for process in (*group, eater)] == [-9] * 5

        def told() -> list[dict[str, Any]]:
            pids = {process.pid for process in (*group, eater)}
            return [
                item
                for item in agent.occurrences()
                if item["data"].get("pid") in pids or any(v["pid"] in pids for v in item["data"].get("victims", ()))
            ]

        wait_for(lambda: sum(item["data"]["count"] for item in told()) >= 5, 10, lambda: str(told()))
        agent.settle(1.5)
        first, rest = told()
        of_cgroup = {first["data"]["pid"]: first["data"]["cgroup_id"]}
        of_cgroup |= {victim["pid"]: victim["cgroup_id"] for victim in rest["data"]["victims"]}
        assert of_cgroup == {eater.pid: greedy.id} | {process.pid: modest.id for process in group}
        assert (first["data"]["count"], rest["data"]["count"]) == (1, 4)
        assert {item["data"]["memory_limit_bytes"] for item in (first, rest)} == {64 * MIB}
        assert {item["data"]["oom_scope"] for item in (first, rest)} == {"ancestor"}


def test_without_the_group_only_one_dies(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    cgroup.limit_memory(64 * MIB)
    waiting = [bystander(cgroup, 2) for _ in range(3)]
    eater = cgroup.start(victims.command("eat_memory", 1))
    assert eater.wait(60) == -9
    (item,) = kills(agent, [cgroup], 1)
    assert (item["data"]["pid"], item["data"]["count"]) == (eater.pid, 1)
    assert [process.poll() for process in waiting] == [None] * 3
    for process in waiting:
        process.kill()
        process.wait()
