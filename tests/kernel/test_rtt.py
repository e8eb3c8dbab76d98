"""Round-trip times of living connections over a wire whose delay the test sets."""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import clients
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import UNFOLDED, RunningAgent, configured_agent, running_agent, wait_for
from helpers.tunnel import Tunnel, tunnel

pytestmark = pytest.mark.kernel

RTT = "kernel.network.rtt_degradation"
WINDOW_S = 3


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent with a short window, and a change of 20 seconds for the new normal."""
    config = UNFOLDED + f"[network]\nwindow_s = {WINDOW_S}\nrtt_relearn_s = 20\n"
    with configured_agent(tmp_path_factory.mktemp("agent"), config, "--observer=network") as running:
        yield running


@pytest.fixture
def wire() -> Iterator[Tunnel]:
    with tunnel() as made:
        yield made


def echo(server: socket.socket, think_s: Callable[[], float] = lambda: 0.0) -> None:
    """Answer each message of one client, after thinking about it."""

    def run() -> None:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while data := connection.recv(65536):
                time.sleep(think_s())
                connection.sendall(data)

    threading.Thread(target=run, daemon=True).start()


def call(
    wire: Tunnel, cgroup: ScratchCgroup, server: socket.socket, duration_s: int, pause_ms: int = 20
) -> subprocess.Popen[bytes]:
    """A client in the cgroup with one connection that lives as long as that."""
    port = server.getsockname()[1]
    return cgroup.start(wire.command("left", clients.command("call", "10.77.0.2", port, duration_s, pause_ms)))


def slow_paths(agent: RunningAgent, cgroup: ScratchCgroup) -> list[dict[str, Any]]:
    found = agent.of_cgroup(cgroup.id)
    assert {item["type"] for item in found} <= {RTT}
    return found


def test_a_path_that_gets_slow_is_seen_and_so_is_its_recovery(
    agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel
) -> None:
    """5 ms become 90 ms on one connection that never closes: seen within 10 s, over when the path is."""
    wire.delay_s = lambda: 0.0025
    with wire.listener("right") as server:
        echo(server)
        client = call(wire, cgroup, server, 45)
        agent.settle(9)
        assert slow_paths(agent, cgroup) == []
        wire.delay_s = lambda: 0.045
        wait_for(lambda: slow_paths(agent, cgroup), 10)
        agent.settle(2 * WINDOW_S)
        wire.delay_s = lambda: 0.0025
        agent.settle(5)
        found = slow_paths(agent, cgroup)
        agent.settle(2 * WINDOW_S)
        assert slow_paths(agent, cgroup) == found
        client.kill()
        client.wait()
    assert 2 <= len(found) <= 5
    for item in found:
        assert (item["severity"], item["outcome"]) == ("warning", "in_progress")
        data = item["data"]
        assert 4 < data["baseline_ms"] < 15
        assert 55 < data["current_ms"] < 200
        assert (data["dst_ip"], data["dst_port"]) == ("10.77.0.2", server_port(item))
        assert (data["pid"], data["cgroup_id"], data["attribution"]) == (client.pid, cgroup.id, "socket")


def server_port(item: dict[str, Any]) -> int:
    return int(item["data"]["dst_port"])


def test_a_lasting_change_becomes_normal(agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel) -> None:
    wire.delay_s = lambda: 0.0025
    with wire.listener("right") as server:
        echo(server)
        client = call(wire, cgroup, server, 60)
        agent.settle(8)
        wire.delay_s = lambda: 0.045
        wait_for(lambda: slow_paths(agent, cgroup), 10)
        agent.settle(24)
        found = slow_paths(agent, cgroup)
        agent.settle(3 * WINDOW_S)
        assert slow_paths(agent, cgroup) == found
        client.kill()
        client.wait()


def test_a_quiet_connection_from_before_the_agents_start(tmp_path: Path, cgroup: ScratchCgroup, wire: Tunnel) -> None:
    """One request a second is enough; whose pid it is, is not known, and so not said."""
    wire.delay_s = lambda: 0.0025
    with wire.listener("right") as server:
        echo(server)
        client = call(wire, cgroup, server, 60, 1000)
        time.sleep(1)
        with running_agent(tmp_path / "data", "--observer=network") as agent:
            agent.settle(9)
            wire.delay_s = lambda: 0.045
            wait_for(lambda: slow_paths(agent, cgroup), 14)
            item = slow_paths(agent, cgroup)[0]
        client.kill()
        client.wait()
    assert (item["data"]["dst_ip"], item["data"]["cgroup_id"]) == ("10.77.0.2", cgroup.id)
    assert {"pid", "comm"}.isdisjoint(item["data"])


def test_jitter_of_5_ms_is_silent(agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel) -> None:
    lottery = random.Random(5)  # noqa: S311
    wire.delay_s = lambda: lottery.random() * 0.0025
    with wire.listener("right") as server:
        echo(server)
        assert call(wire, cgroup, server, 20).wait(30) == 0
    assert slow_paths(agent, cgroup) == []


@pytest.mark.parametrize("think_ms", [30, 39, 90])
def test_a_slow_application_is_silent(agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel, think_ms: int) -> None:
    """The server comes to think before it answers; the wire is as fast as ever, and so are the ACKs for all we know."""
    thinking = threading.Event()
    with wire.listener("right") as server:
        echo(server, lambda: think_ms / 1000 if thinking.is_set() else 0.0)
        client = call(wire, cgroup, server, 20)
        agent.settle(8)
        thinking.set()
        assert client.wait(30) == 0
    assert slow_paths(agent, cgroup) == []
