"""A node without memory. Only in a machine of the tests' own (tests/vm): it would hit everything else on this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import victims
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import RunningAgent, wait_for

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif("TAPIO_VM" not in os.environ, reason="takes all of the machine's memory (tests/vm runs this)"),
]


def test_a_node_out_of_memory_is_no_limit_that_was_hit(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """The victim's cgroup has a limit, and it is far away: the node is what ran out."""
    memory_mib = int(Path("/proc/meminfo").read_text().split()[1]) >> 10
    cgroup.limit_memory(2 * memory_mib << 20)
    eater = cgroup.start(["/bin/sh", "-c", 'echo 1000 > /proc/self/oom_score_adj; exec "$@"', "sh",
                          *victims.command("eat_memory", 1)])  # fmt: skip
    assert eater.wait(300) == -9
    wait_for(lambda: agent.of_cgroup(cgroup.id), 20)
    agent.settle(1)
    (item,) = agent.of_cgroup(cgroup.id)
    assert (item["type"], item["data"]["pid"]) == ("kernel.container.oom_kill", eater.pid)
    assert item["data"]["memory_usage_bytes"] > memory_mib << 18
    assert (item["data"]["oom_scope"], item["data"]["memory_limit_bytes"]) == ("node", 0)
    assert "limit_cgroup_id" not in item["data"]
