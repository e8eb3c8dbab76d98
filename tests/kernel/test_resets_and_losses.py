"""Resets and retransmits on real connections: storms are one anomaly with the exact count, single ones are silent."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import clients
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import UNFOLDED, RunningAgent, configured_agent, running_agent, wait_for
from helpers.tunnel import Tunnel, carries_data, tunnel

pytestmark = pytest.mark.kernel

RST_STORM = "kernel.network.rst_storm"
RETRANSMITS = "kernel.network.retransmit_spike"
WINDOW_S = 4


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent with a short window."""
    config = UNFOLDED + f"[network]\nwindow_s = {WINDOW_S}\n"
    with configured_agent(tmp_path_factory.mktemp("agent"), config, "--observer=network") as running:
        yield running


def after_the_window(agent: RunningAgent, cgroup: ScratchCgroup) -> list[dict[str, Any]]:
    agent.settle(WINDOW_S + 1)
    return agent.of_cgroup(cgroup.id)


def reset_everybody(server: socket.socket, times: int) -> threading.Thread:
    """Accept so many connections and reset each."""

    def run() -> None:
        for _ in range(times):
            connection, _ = server.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_31_resets_are_one_storm(agent: RunningAgent, cgroup: ScratchCgroup, address: str) -> None:
    """One anomaly with all 31, none of the connections refused; the pid is that of the client."""
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        port = server.getsockname()[1]
        thread = reset_everybody(server, 31)
        client = cgroup.run(clients.command("await_reset", address, port, 31))
        thread.join()
    assert client.returncode == 0
    (item,) = after_the_window(agent, cgroup)
    assert (item["type"], item["severity"], item["outcome"]) == (RST_STORM, "warning", "failure")
    data = item["data"]
    assert (data["rst_count"], data["count"], data["window_ms"]) == (31, 1, WINDOW_S * 1000)
    assert (data["dst_ip"], data["dst_port"], data["pid"]) == (address, port, client.pid)
    assert (data["cgroup_id"], data["attribution"]) == (cgroup.id, "socket")
    assert "src_port" not in data  # each connection had its own


def test_7_resets_are_silent(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = reset_everybody(server, 7)
        assert cgroup.run(clients.command("await_reset", "127.0.0.1", server.getsockname()[1], 7)).returncode == 0
        thread.join()
    assert after_the_window(agent, cgroup) == []


def bulk(wire: Tunnel, cgroup: ScratchCgroup, kibibytes: int) -> tuple[int, int]:
    """Send in bulk from left to right; the client's pid and the port."""
    with wire.listener("right") as server:
        port = server.getsockname()[1]
        client = cgroup.start(wire.command("left", clients.command("send", "10.77.0.2", port, kibibytes)))
        connection, _ = server.accept()
        with connection:
            received = 0
            while data := connection.recv(65536):
                received += len(data)
        assert received == kibibytes * 1024
        assert client.wait(30) == 0
    return client.pid, port


def test_loss_of_30_percent_is_a_spike(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """The counts of all windows together are most of what the kernel itself counted, and never more."""
    lottery = random.Random(23)  # noqa: S311  # the same loss in each run
    with tunnel() as wire:
        wire.drop = lambda sender, packet: sender == "left" and carries_data(packet) and lottery.random() < 0.3
        pid, port = bulk(wire, cgroup, 200)
        found = after_the_window(agent, cgroup)
        assert wire.dropped >= 20
    assert {item["type"] for item in found} == {RETRANSMITS}
    total = sum(item["data"]["retransmits"] for item in found)
    for item in found:
        assert (item["severity"], item["outcome"]) == ("warning", "in_progress")
        data = item["data"]
        assert 5 <= data["retransmits"] <= data["total_retrans"] <= data["segs_out"]
        assert (data["dst_ip"], data["dst_port"], data["pid"], data["cgroup_id"]) == ("10.77.0.2", port, pid, cgroup.id)
        assert data["snd_cwnd"] >= 1
        assert data["srtt_ms"] > 0
    # What is too thinly spread, after long timeouts, is not reported.
    kernel_total = max(item["data"]["total_retrans"] for item in found)
    assert kernel_total / 2 <= total <= kernel_total


def test_one_lost_segment_is_silent(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    lost: list[bytes] = []

    def drop(sender: str, packet: bytes) -> bool:
        if sender == "left" and carries_data(packet) and not lost:
            lost.append(packet)
            return True
        return False

    with tunnel() as wire:
        wire.drop = drop
        bulk(wire, cgroup, 300)
        assert len(lost) == 1
        assert after_the_window(agent, cgroup) == []


def test_lost_syns_are_no_spike(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """Eleven connects whose SYNs are lost are eleven timeouts and no retransmit_spike."""
    with tunnel() as wire:
        wire.set("left", "net.ipv4.tcp_syn_retries", 1)
        wire.drop = lambda _sender, _packet: True
        cgroup.run(wire.command("left", clients.command("connect_at_once", "10.77.0.2", 8080, 11, 110)))
        found = after_the_window(agent, cgroup)
    assert [item["type"] for item in found] == ["kernel.network.connection_timeout"] * 11


def test_the_agents_own_connections_are_counted_and_not_reported(agent: RunningAgent) -> None:
    """Somebody resets the agent's /metrics connections, more often than a storm takes."""
    series = 'tapio_suppressed_records_total{observer="network",reason="own_process"}'
    before = agent.metric(series)
    for _ in range(29):
        with socket.create_connection(("127.0.0.1", agent.port())) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
            time.sleep(0.01)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: agent.metric(series) >= before + 29)
    agent.settle(WINDOW_S + 1)
    own = [item for item in agent.occurrences() if item["data"].get("src_port") == agent.port()]
    assert own == []


def test_ignored_ports_and_peers_follow_a_reload(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """The health checks of a node: named by port or network they are silent, at once after SIGHUP."""
    config = agent.data_dir.parent / "tapio.toml"
    text = config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1] | 1  # an even one can connect to itself
    command = clients.command("connect", "127.0.0.1", port, 5, 111)
    try:
        for ignored in (f"ignore_ports = [{port}]", 'ignore_cidrs = ["127.0.0.0/8", "::1/128"]'):
            config.write_text(f"{text}{ignored}\n")
            agent.process.send_signal(1)
            agent.settle(0.3)
            cgroup.run(command)
            agent.settle()
            assert agent.of_cgroup(cgroup.id) == []
    finally:
        config.write_text(text)
        agent.process.send_signal(1)
    agent.settle(0.3)
    cgroup.run(command)
    wait_for(lambda: len(agent.of_cgroup(cgroup.id)) == 5)


def test_the_storm_of_a_window_that_is_not_over_is_told_at_the_end(tmp_path: Any, cgroup: ScratchCgroup) -> None:
    """An agent that stops in the middle of a window says what it has."""
    with running_agent(tmp_path / "data", "--observer=network") as agent:
        with socket.create_server(("127.0.0.1", 0)) as server:
            reset_everybody(server, 13)
            cgroup.run(clients.command("await_reset", "127.0.0.1", server.getsockname()[1], 13))
        agent.settle()
        assert agent.of_cgroup(cgroup.id) == []
        assert agent.stop() == 0
        (item,) = agent.of_cgroup(cgroup.id)
    assert item["data"]["rst_count"] == 13
    with contextlib.suppress(subprocess.TimeoutExpired):
        agent.process.wait(0)
