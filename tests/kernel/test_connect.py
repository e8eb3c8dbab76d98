"""Real connects that fail and real connects that do not: exact counts, cgroups and pids."""

from __future__ import annotations

import contextlib
import errno
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import clients
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import UNFOLDED, RunningAgent, configured_agent, running_agent, wait_for
from helpers.tunnel import Tunnel, icmp_unreachable, is_tcp, tunnel

pytestmark = pytest.mark.kernel

REFUSED = "kernel.network.connection_refused"
TIMEOUT = "kernel.network.connection_timeout"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent that folds nothing, so that each anomaly can be looked at."""
    with configured_agent(tmp_path_factory.mktemp("agent"), UNFOLDED, "--observer=network") as running:
        yield running


@pytest.fixture
def wire() -> Iterator[Tunnel]:
    with tunnel() as made:
        yield made


def closed_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on: below the ephemeral ones, so that no connect finds itself there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(20011, 30000, 2):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return port
    raise AssertionError("no free port")


def network(agent: RunningAgent, cgroup: ScratchCgroup) -> list[dict[str, Any]]:
    return [item for item in agent.of_cgroup(cgroup.id) if item["type"].startswith("kernel.network.")]


def events(agent: RunningAgent, cgroup: ScratchCgroup, expected: int, timeout_s: float = 5) -> list[dict[str, Any]]:
    """The network occurrences of the cgroup once there are `expected`, after time for one too many to show up."""
    wait_for(lambda: len(network(agent, cgroup)) >= expected, timeout_s, lambda: str(network(agent, cgroup)))
    agent.settle()
    return network(agent, cgroup)


def run(cgroup: ScratchCgroup, command: list[str]) -> subprocess.Popen[bytes]:
    process = cgroup.run(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        assert process.returncode == 0, process.stderr.read().decode()
    return process


@pytest.mark.parametrize(
    ("address", "shown", "family"),
    [
        ("127.0.0.1", "127.0.0.1", "ipv4"),
        ("::1", "::1", "ipv6"),
        ("::ffff:127.0.0.1", "127.0.0.1", "ipv4"),
    ],
)
def test_47_refused_connects(agent: RunningAgent, cgroup: ScratchCgroup, address: str, shown: str, family: str) -> None:
    """One occurrence each, with the pid of the client and the cgroup of its socket, and nothing else."""
    port = closed_port(shown)
    client = run(cgroup, clients.command("connect", address, port, 47, errno.ECONNREFUSED))
    found = events(agent, cgroup, 47)
    assert len(found) == 47
    for item in found:
        assert item["type"] == REFUSED
        assert (item["severity"], item["outcome"], item["error"]["code"]) == (
            "warning",
            "failure",
            "CONNECTION_REFUSED",
        )
        data = item["data"]
        assert (data["src_ip"], data["dst_ip"], data["dst_port"], data["family"]) == (shown, shown, port, family)
        assert (data["pid"], data["comm"], data["cgroup_id"]) == (client.pid, "python3", cgroup.id)
        assert (data["attribution"], data["errno"], data["phase"]) == ("socket", "ECONNREFUSED", "connect")
        assert (data["old_state"], data["new_state"], data["protocol"]) == ("SYN_SENT", "CLOSE", "tcp")
        assert data["src_port"] > 0


@pytest.mark.parametrize(
    ("code", "error", "kind"),
    [(3, errno.ECONNREFUSED, REFUSED), (1, errno.EHOSTUNREACH, TIMEOUT), (0, errno.ENETUNREACH, TIMEOUT)],
)
def test_connects_that_a_router_answers(
    agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel, code: int, error: int, kind: str
) -> None:
    """Port unreachable is a refusal, host and net unreachable after a SYN was sent again are timeouts."""
    seen: set[bytes] = set()

    def answer(packet: bytes) -> bytes | None:
        first = packet[20:22] not in seen
        seen.add(packet[20:22])
        return packet if first and kind == TIMEOUT else icmp_unreachable(packet, code)  # its own SYN: ignored

    wire.answer = answer
    client = run(cgroup, wire.command("left", clients.command("connect", "10.77.0.2", 8081, 3, error)))
    found = events(agent, cgroup, 3)
    assert [item["type"] for item in found] == [kind] * 3
    assert {item["data"]["errno"] for item in found} == {errno.errorcode[error]}
    assert {item["data"]["pid"] for item in found} == {client.pid}


def test_a_connect_that_a_router_forbids_at_once_is_counted(
    agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel
) -> None:
    """Nothing timed out and no peer refused: no occurrence, but a count."""
    series = 'tapio_suppressed_records_total{observer="network",reason="unreachable_at_once"}'
    before = agent.metric(series)
    wire.answer = lambda packet: icmp_unreachable(packet, 13)
    run(cgroup, wire.command("left", clients.command("connect", "10.77.0.2", 8081, 5, errno.EHOSTUNREACH)))
    assert events(agent, cgroup, 0) == []
    assert agent.metric(series) >= before + 5


@pytest.mark.parametrize("address", ["10.77.0.2", "fd77::2"])
def test_13_timeouts_by_dropped_syns(agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel, address: str) -> None:
    wire.set("left", "net.ipv4.tcp_syn_retries", 1)
    wire.drop = lambda _sender, packet: is_tcp(packet)
    client = run(cgroup, wire.command("left", clients.command("connect_at_once", address, 8080, 13, errno.ETIMEDOUT)))
    found = events(agent, cgroup, 13)
    assert len(found) == 13
    for item in found:
        assert (item["type"], item["severity"], item["outcome"]) == (TIMEOUT, "error", "timeout")
        data = item["data"]
        assert (data["errno"], data["phase"], data["dst_ip"]) == ("ETIMEDOUT", "connect", address)
        assert (data["pid"], data["cgroup_id"], data["attribution"]) == (client.pid, cgroup.id, "socket")


def test_timeouts_by_a_full_backlog(agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel) -> None:
    """listen(0) takes one connection; what comes later is not answered."""
    wire.set("left", "net.ipv4.tcp_syn_retries", 1)
    with wire.listener("right", 0) as server:
        port = server.getsockname()[1]
        run(cgroup, wire.command("left", clients.command("connect", "10.77.0.2", port, 1, 0)))
        run(cgroup, wire.command("left", clients.command("connect_at_once", "10.77.0.2", port, 7, errno.ETIMEDOUT)))
        found = events(agent, cgroup, 7)
    assert [item["type"] for item in found] == [TIMEOUT] * 7


def lose_the_peer(cgroup: ScratchCgroup, wire: Tunnel, what: str, *arguments: object) -> int:
    """A client whose peer falls silent once it is connected; the client's pid when it has ended."""
    with wire.listener("right") as server:
        port = server.getsockname()[1]
        command = wire.command("left", clients.command(what, "10.77.0.2", port, *arguments))
        client = cgroup.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdout is not None
        assert client.stdin is not None
        with server.accept()[0], client.stdin, client.stdout:
            assert client.stdout.readline() == b"connected\n"
            wire.drop = lambda _sender, packet: is_tcp(packet)
            client.stdin.write(b"\n")
            client.stdin.flush()
            assert client.wait(30) == 0
    return client.pid


@pytest.mark.parametrize(("what", "arguments"), [("keep_alive", ()), ("send", (1, 1000))])
def test_an_established_connection_dies(
    agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel, what: str, arguments: tuple[int, ...]
) -> None:
    """Silence of the peer ends the connection, by keepalive or user timeout: a timeout in phase `established`."""
    pid = lose_the_peer(cgroup, wire, what, *arguments)
    (item,) = [item for item in events(agent, cgroup, 1) if item["type"] == TIMEOUT]
    assert item["data"]["phase"] == "established"
    assert (item["data"]["errno"], item["data"]["old_state"]) == ("ETIMEDOUT", "ESTABLISHED")
    assert (item["data"]["pid"], item["data"]["cgroup_id"]) == (pid, cgroup.id)


def test_a_connection_that_was_closed_may_die_silently(
    agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel
) -> None:
    """The application closed it and does not care; the kernel gives up after the user timeout."""
    lose_the_peer(cgroup, wire, "close_and_leave", 500)
    agent.settle(3)
    assert events(agent, cgroup, 0) == []


def test_aborted_connects_are_silent(agent: RunningAgent, cgroup: ScratchCgroup, wire: Tunnel) -> None:
    """The application closes, runs out of patience, or gives the socket another use: its own decision."""
    wire.drop = lambda _sender, packet: is_tcp(packet)
    run(cgroup, wire.command("left", clients.command("abort", "10.77.0.2", 8080, 15)))
    killed = cgroup.start(wire.command("left", clients.command("connect", "10.77.0.2", 8080, 1, 0)))
    wait_for(lambda: killed.poll() is None)
    agent.settle()
    killed.kill()
    killed.wait()
    assert events(agent, cgroup, 0) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_400_healthy_connections_are_silent(agent: RunningAgent, cgroup: ScratchCgroup, address: str) -> None:
    port = closed_port(address)
    server = start_server(cgroup, address, port, 400, 2)
    run(cgroup, clients.command("exchange", address, port, 400))
    assert server.wait(10) == 0
    assert events(agent, cgroup, 0) == []


@pytest.mark.parametrize("forms", [0, 1])
def test_a_port_scan_against_our_listener_is_silent(agent: RunningAgent, cgroup: ScratchCgroup, forms: int) -> None:
    """Neither connects that are reset at once, accepted or not, nor SYNs to closed ports, nor LISTEN to CLOSE."""
    port = closed_port()
    server = start_server(cgroup, "127.0.0.1", port, 101, forms)
    subprocess.run(clients.command("scan", "127.0.0.1", port, 101), check=True)
    subprocess.run(clients.command("connect", "127.0.0.1", closed_port(), 3, errno.ECONNREFUSED), check=True)
    if forms == 1:
        server.kill()
    server.wait(10)
    assert events(agent, cgroup, 0) == []


def start_server(cgroup: ScratchCgroup, address: str, port: int, times: int, forms: int) -> subprocess.Popen[bytes]:
    server = cgroup.start(clients.command("listen", address, port, times, forms), stdout=subprocess.PIPE)
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline() == b"listening\n"
    return server


def test_many_threads_connect_at_once(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    """Refused connects on all CPUs together: none is lost, none counted twice, every pid is right."""
    port, started = closed_port(), []

    def one() -> None:
        started.append(run(cgroup, clients.command("connect", "127.0.0.1", port, 211, errno.ECONNREFUSED)).pid)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = events(agent, cgroup, 844, 20)
    pids = [item["data"].get("pid") for item in found]
    assert {pid: pids.count(pid) for pid in set(pids)} == dict.fromkeys(started, 211)


def test_a_storm_is_one_story_with_the_exact_count(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """With the default configuration 1009 refused connects are few occurrences that stand for 1009."""
    port = closed_port()
    with running_agent(tmp_path / "data", "--observer=network") as agent:
        run(cgroup, clients.command("connect", "127.0.0.1", port, 1009, errno.ECONNREFUSED))
        agent.settle()
        assert agent.stop() == 0
        found = network(agent, cgroup)
    assert sum(item["data"]["count"] for item in found) == 1009
    assert len(found) < 20
    assert {(item["type"], item["data"]["dst_ip"], item["data"]["dst_port"]) for item in found} == {
        (REFUSED, "127.0.0.1", port)
    }
