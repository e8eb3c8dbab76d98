"""A storm of real exits: few occurrences, and the sum of their counts is exact."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import clients
from helpers.cgroups import ScratchCgroup
from helpers.ports import closed_port
from helpers.running_agent import configured_agent, running_agent, wait_for

pytestmark = pytest.mark.kernel

CONFIG = "[episodes]\ninterval_s = 1\nclose_after_s = 2\n"


def test_a_storm_is_one_story(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """1,009 equal exits: five alone, a handful for the rest, an end; nothing is missing, twice or invented."""
    config = tmp_path / "tapio.toml"
    config.write_text(CONFIG)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with running_agent(tmp_path / "data", f"--config={config}") as agent:
        cgroup.run(["/bin/sh", "-c", "i=0; while [ $i -lt 1009 ]; do (exit 3); i=$((i+1)); done; exit 0"])

        def states() -> list[str]:
            return [item["data"]["episode"]["state"] for item in agent.of_cgroup(cgroup.id)]

        wait_for(lambda: "closed" in states(), 30)
        found = agent.of_cgroup(cgroup.id)
        assert sum(item["data"]["count"] for item in found) == 1009
        assert found[-1]["data"]["episode"]["total"] == 1009
        assert len({item["data"]["episode"]["id"] for item in found}) == 1
        assert states()[:5] == ["open"] * 5
        assert len(found) < 40
        folded = [item for item in found if item["data"]["count"] > 1]
        assert all(item["data"]["exit_code"] == 3 and "pid" not in item["data"] for item in folded)
        assert agent.metric('tapio_folded_total{anomaly_type="kernel.container.abnormal_exit"}') >= 1004


def test_a_stop_in_mid_storm_loses_nothing(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    with running_agent(tmp_path / "data") as agent:
        cgroup.run(["/bin/sh", "-c", "i=0; while [ $i -lt 211 ]; do (exit 3); i=$((i+1)); done; exit 0"])
        assert agent.stop() == 0
        found = agent.of_cgroup(cgroup.id)
        assert sum(item["data"]["count"] for item in found) == 211
        assert len(found) == 6
        assert json.loads((agent.data_dir / f"{found[-1]['id']}.json").read_text()) == found[-1]


def test_more_kinds_than_keys_lose_nothing(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """1,009 connects to as many peers with room for seven keys: what the kernel counted is what left the agent.

    By the kernel's counters: beyond the keys all cgroups are folded together, so others' connects are in both sums.
    """
    config = f"{CONFIG}max_keys = 7\n[network]\nrtt_samples_per_s = 0\n"
    with configured_agent(tmp_path, config, "--observer=network") as agent:
        for block, peers in enumerate((165, 211, 211, 211, 211)):
            with closed_port() as port:
                cgroup.run(clients.command("connect_many", "127.0.0.1", port, peers, block))

        def balance() -> tuple[int, int]:
            left = sum(one["data"]["count"] for one in agent.occurrences() if ".connection_" in one["type"])
            reasons = ("own_process", "ignored", "unreachable_at_once", "undecodable")
            suppressed = (f'tapio_suppressed_records_total{{observer="network",reason="{name}"}}' for name in reasons)
            kernel = agent.metric('tapio_kernel_records_total{hook="inet_sock_set_state",observer="network"}')
            return left, int(kernel - sum(map(agent.metric, suppressed)))

        wait_for(lambda: balance()[0] == balance()[1] >= 1009, 20, lambda: str(balance()))
        assert agent.metric('tapio_overflow_folded_total{reason="keys"}') >= 1009 - 7
        assert len(agent.occurrences()) < 60


def test_reloads_in_mid_storm_lose_nothing(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """SIGHUP with other intervals and numbers, ten times while 20,011 connects are refused."""
    with configured_agent(tmp_path, CONFIG, "--observer=network") as agent, closed_port() as port:
        storm = clients.command("connect", "127.0.0.1", port, 20_011, errno.ECONNREFUSED)
        process = cgroup.start(storm, stderr=subprocess.DEVNULL)
        for number in range(10):
            values = {"interval_s": number % 3 + 1, "close_after_s": number % 2 + 1, "individual": number * 7 % 11 + 1}
            values |= {"rate_per_s": 20 + number, "burst": 100 + number}
            lines = "".join(f"{key} = {value}\n" for key, value in values.items())
            (tmp_path / "tapio.toml").write_text(f"[episodes]\n{lines}[network]\nwindow_s = {number + 1}\n")
            agent.process.send_signal(signal.SIGHUP)
            time.sleep(0.1)
        assert process.wait() == 0
        agent.settle(1)
        assert agent.stop() == 0
        assert agent.log.read_text().count("configuration reloaded") >= 5
        found = agent.of_cgroup(cgroup.id)
        assert sum(one["data"]["count"] for one in found) == 20_011
        assert len(found) < 60
