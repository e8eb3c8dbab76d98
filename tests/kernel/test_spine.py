"""The whole job in one picture: what a new user sees first."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from helpers import victims
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import running_agent, wait_for

pytestmark = pytest.mark.kernel


def test_eleven_faults_among_sixty_clean_exits(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """Nine bad ends and two OOM kills, one of them of eight threads: eleven occurrences with the true values."""
    codes, numbers = (1, 2, 3, 126, 255), (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
    with running_agent(tmp_path / "data") as agent:
        expected = {}
        for _ in range(60):
            cgroup.run(["/bin/true"])
        for code in codes:
            expected[cgroup.run(["/bin/sh", "-c", f"exit {code}"]).pid] = ("abnormal_exit", code, 0)
        for number in numbers:
            pid = cgroup.run(victims.command("die_by", int(number))).pid
            expected[pid] = ("abnormal_exit", 128 + number, int(number))
        cgroup.limit_memory(32 << 20)
        for threads in (1, 8):
            expected[cgroup.run(victims.command("eat_memory", threads)).pid] = ("oom_kill", 137, 9)
        wait_for(lambda: len(agent.of_cgroup(cgroup.id)) >= 11)
        agent.settle()
        found = agent.of_cgroup(cgroup.id)
        assert {
            item["data"]["pid"]: (item["type"].rsplit(".", 1)[1], item["data"]["exit_code"], item["data"]["signal"])
            for item in found
        } == expected
        assert len(found) == 11
        files = [path for path in agent.data_dir.glob("0*.json") if f'"cgroup_id":{cgroup.id},' in path.read_text()]
        assert len(files) == 11
