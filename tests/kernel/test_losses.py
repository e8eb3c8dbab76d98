"""An agent that cannot keep up says exactly how much it did not see."""

from __future__ import annotations

import errno
import json
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import clients
from helpers.cgroups import ScratchCgroup
from helpers.ports import closed_port
from helpers.running_agent import RunningAgent, configured_agent, running_agent, wait_for
from helpers.schema import PROMETHEUS
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.kernel

CONFIG = """
[kernel]
ring_kib = 64
[network]
rtt_samples_per_s = 0
[episodes]
interval_s = 1
"""
STORM = 5003
LOST = "tapio.agent.events_lost"


def counts(agent: RunningAgent) -> Counter[str]:
    """The sum of data.count by type."""
    sums: Counter[str] = Counter()
    for found in agent.occurrences():
        sums[found["type"]] += found["data"]["count"]
    return sums


def test_a_stopped_agent_knows_what_it_missed(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """SIGSTOP during a storm: what the kernel counted is what was emitted and what was reported as lost."""
    with configured_agent(tmp_path, CONFIG, "--observer=network") as agent:
        agent.process.send_signal(signal.SIGSTOP)
        with closed_port() as port:
            storm = clients.command("connect", "127.0.0.1", port, STORM, errno.ECONNREFUSED)
            assert cgroup.run(storm).returncode == 0
        agent.process.send_signal(signal.SIGCONT)
        wait_for(lambda: counts(agent)[LOST], 15)
        agent.settle(2.5)
        assert agent.stop() == 0

        lost = [found for found in agent.occurrences() if found["type"] == LOST]
        assert {(one["severity"], one["outcome"], one["error"]["code"]) for one in lost} == {
            ("warning", "failure", "EVENTS_LOST")
        }
        assert {(one["data"]["observer"], one["data"]["reason"]) for one in lost} == {("network", "ring_full")}
        seen = sum(found["data"]["count"] for found in agent.of_cgroup(cgroup.id))
        missed = sum(one["data"]["count"] for one in lost)
        # Others on this machine lose events, too.
        assert STORM <= seen + missed <= STORM + 500
        assert 300 < seen < 600  # seven eighths of the ring


def test_the_kernels_count_is_what_was_emitted_and_lost(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """By the kernel's own counters, whoever else is on the machine: every record was read, every loss reported."""
    with configured_agent(tmp_path, CONFIG, "--observer=network", "--observer=container") as agent:
        for _ in range(3):
            agent.process.send_signal(signal.SIGSTOP)
            with closed_port() as port:
                cgroup.run(clients.command("connect", "127.0.0.1", port, 1009, errno.ECONNREFUSED))
            agent.process.send_signal(signal.SIGCONT)
            agent.settle(1.5)
        wait_for(
            lambda: counts(agent)[LOST] == agent.metric('tapio_lost_events_total{observer="network"}')
            + agent.metric('tapio_lost_events_total{observer="container"}') > 0,
            15,
            lambda: str(counts(agent)),
        )  # fmt: skip
        wait_for(
            lambda: (
                agent.metric('tapio_kernel_records_total{hook="inet_sock_set_state",observer="network"}')
                == sum(
                    agent.metric(f'tapio_anomalies_total{{anomaly_type="kernel.network.{kind}",observer="network"}}')
                    for kind in ("connection_refused", "connection_timeout")
                )
                + sum(
                    agent.metric(f'tapio_suppressed_records_total{{observer="network",reason="{reason}"}}')
                    for reason in ("own_process", "ignored", "unreachable_at_once", "undecodable")
                )
            ),
            15,
        )


def test_what_a_stop_leaves_in_the_ring_is_lost_and_counted(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """A ring with more than can be read in the time that a stop has; here that time is none."""
    hasty = "from tapio import agent, agent_main; agent._DRAIN_WITHIN_S = -1.0; raise SystemExit(agent_main.main())"
    config = tmp_path / "tapio.toml"
    config.write_text(CONFIG.replace("ring_kib = 64", "ring_kib = 8192"))
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    program = (sys.executable, "-c", hasty)
    with running_agent(tmp_path / "data", f"--config={config}", "--observer=network", program=program) as agent:
        agent.process.send_signal(signal.SIGSTOP)
        with closed_port() as port:
            cgroup.run(clients.command("connect", "127.0.0.1", port, 20_011, errno.ECONNREFUSED))
        agent.process.send_signal(signal.SIGTERM)
        agent.process.send_signal(signal.SIGCONT)
        assert agent.process.wait(30) == 0
        seen = json.loads((agent.data_dir / ".agent.json").read_text())["observers"]["network"]
        lost = [one["data"] for one in agent.occurrences() if one["type"] == LOST]
        assert {one["reason"] for one in lost} == {"not_read"}
        missed = sum(one["count"] for one in lost)
        assert missed == seen["lost"] > 5000
        assert sum(hook["submitted"] for hook in seen["hooks"]) == seen["events"] + missed


def test_nothing_lost_is_nothing_reported(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """Filtered events are not lost: a thousand healthy exits and a storm that fits."""
    with configured_agent(tmp_path, CONFIG) as agent:
        cgroup.run(["/bin/sh", "-c", "i=0; while [ $i -lt 997 ]; do (exit 0); i=$((i+1)); done"])
        with closed_port() as port:
            cgroup.run(clients.command("connect", "127.0.0.1", port, 101, errno.ECONNREFUSED))
        wait_for(lambda: sum(one["data"]["count"] for one in agent.of_cgroup(cgroup.id)) == 101, 10)
        assert agent.stop() == 0
        lost = sum(agent_lost["data"]["count"] for agent_lost in agent.occurrences() if agent_lost["type"] == LOST)
        assert lost == 0


def test_every_run_of_a_program_is_accounted_for(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """Passed on, lost, filtered out or not readable: healthy connections, refused ones, and ends of processes."""
    with configured_agent(tmp_path, CONFIG, "--observer=network", "--observer=container") as agent:
        with socket.create_server(("127.0.0.1", 0)) as server:
            for _ in range(23):
                with socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
                    client.sendall(b"x" * 100_000)
                    accepted.recv(100_000, socket.MSG_WAITALL)
        with closed_port() as port:
            cgroup.run(clients.command("connect", "127.0.0.1", port, 101, errno.ECONNREFUSED))
        assert agent.stop() == 0
        seen = json.loads((agent.data_dir / ".agent.json").read_text())["observers"]
        hooks = {hook["name"]: hook for observer in seen.values() for hook in observer["hooks"]}
        assert hooks["tcp_probe"]["hits"] > 23
        for hook in hooks.values():
            told = sum(hook[name] for name in ("submitted", "filtered", "unreadable"))
            assert told <= hook["hits"] <= told + hook["lost"], hook


def test_a_storm_adds_no_series(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """Thousands of peers and pids: /metrics has at most as many series as otel/schema says of each metric."""
    with configured_agent(tmp_path, CONFIG) as agent:
        for peer in range(1, 30):
            with closed_port() as port:
                cgroup.run(clients.command("connect_many", "127.0.0.1", port, 101, peer))
        cgroup.run(["/bin/sh", "-c", "i=0; while [ $i -lt 503 ]; do (exit $((i % 200 + 1))); i=$((i+1)); done"])
        wait_for(lambda: counts(agent)["kernel.network.connection_refused"] >= 101, 15)
        families = list(text_string_to_metric_families(agent.get("/metrics")[1]))
        assert len(families) > 25
        for family in families:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            limit = PROMETHEUS[name]["annotations"]["prometheus"]
            if "each" not in limit:
                assert len(family.samples) <= limit["series"], name
            else:
                each = Counter(sample.labels.get(limit["each"]) for sample in family.samples)
                assert max(each.values(), default=0) <= limit["series"], name
