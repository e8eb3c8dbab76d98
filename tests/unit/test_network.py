"""The network observer on records that are made up: sockets, attribution, filters."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from helpers.network_records import (
    ESTABLISHED,
    HOST_UNREACHABLE,
    SYN_SENT,
    TIMED_OUT,
    failed,
    make_observer,
    record,
)

from tapio.config import Config
from tapio.observers import network_socket


def test_a_refused_connect() -> None:
    observer = make_observer()
    (anomaly,) = observer.decode([failed(socket_pid=42, socket_comm=b"curl\0")])
    assert anomaly.type.name == "kernel.network.connection_refused"
    assert anomaly.message == "Connection refused by 10.0.0.2:80 (ECONNREFUSED)"
    assert anomaly.data == {
        "pid": 42,
        "comm": "curl",
        "src_ip": "10.0.0.1",
        "src_port": 40001,
        "dst_ip": "10.0.0.2",
        "dst_port": 80,
        "family": "ipv4",
        "protocol": "tcp",
        "cgroup_id": 77,
        "attribution": "socket",
        "errno": "ECONNREFUSED",
        "phase": "connect",
        "old_state": "SYN_SENT",
        "new_state": "CLOSE",
    }


def test_ipv6_and_what_is_unknown_is_left_out() -> None:
    peer = socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    (anomaly,) = make_observer().decode([failed(socket_family=10, socket_peer_address=peer, socket_local_port=0)])
    assert (anomaly.data["dst_ip"], anomaly.data["family"]) == ("2001:db8::7", "ipv6")
    assert anomaly.message.startswith("Connection refused by [2001:db8::7]:80")
    assert {"pid", "comm", "src_port"}.isdisjoint(anomaly.data)


@pytest.mark.parametrize(
    ("error", "retries", "old_state", "phase"),
    [
        (TIMED_OUT, 0, SYN_SENT, "connect"),
        (HOST_UNREACHABLE, 2, SYN_SENT, "connect"),
        (TIMED_OUT, 3, ESTABLISHED, "established"),
        (HOST_UNREACHABLE, 1, ESTABLISHED, "established"),
    ],
)
def test_timeouts(error: int, retries: int, old_state: int, phase: str) -> None:
    (anomaly,) = make_observer().decode([failed(error=error, retries=retries, old_state=old_state)])
    assert anomaly.type.name == "kernel.network.connection_timeout"
    assert anomaly.data["phase"] == phase


def test_unreachable_at_once_is_no_timeout() -> None:
    observer = make_observer()
    assert observer.decode([failed(error=HOST_UNREACHABLE)]) == []
    assert observer.suppressed["unreachable_at_once"] == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"cgroup_id": 77, "attribution": "socket"}),
        ({"socket_cgroup_id": 1}, {"cgroup_id": 1, "attribution": "socket"}),
        (
            {"socket_cgroup_id": 1, "socket_task_cgroup_id": 9, "socket_task_hierarchy": 4},
            {"cgroup_id": 1, "cgroup_v1_id": 9, "attribution": "socket"},
        ),
        ({"socket_cgroup_id": 0, "socket_task_cgroup_id": 9}, {"cgroup_id": 9, "attribution": "task"}),
        ({"socket_cgroup_id": 0}, {"attribution": "none"}),
    ],
)
def test_attribution(values: dict[str, int], expected: dict[str, Any]) -> None:
    (anomaly,) = make_observer().decode([failed(**values)])
    assert expected.items() <= anomaly.data.items()
    assert ("cgroup_id" in anomaly.data) == ("cgroup_id" in expected)


def test_attribution_where_cgroup_v2_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every socket is in the root there, which says nothing."""
    observer = make_observer(monkeypatch)
    known, unknown = observer.decode(
        [failed(socket_cgroup_id=1, socket_task_cgroup_id=9, socket_task_hierarchy=4), failed(socket_cgroup_id=1)]
    )
    assert (known.data["cgroup_v1_id"], known.data["attribution"]) == (9, "task")
    assert unknown.data["attribution"] == "none"
    assert "cgroup_id" not in known.data | unknown.data


def test_own_connections_and_broken_records_are_counted() -> None:
    observer = make_observer()
    assert observer.decode([failed(socket_own=1), failed()[:20], b"", b"\xff" * 200, failed(socket_family=7)]) == []
    assert observer.suppressed["own_process"] == 1
    assert observer.suppressed["undecodable"] == 4


@pytest.mark.parametrize(
    ("config", "values", "ignored"),
    [
        ({"ignore_ports": (80,)}, {}, True),
        ({"ignore_ports": (40001,)}, {}, False),  # our end is no service
        ({"ignore_ports": (40001,)}, {"socket_side": 2}, True),
        ({"ignore_ports": (40001,)}, {"socket_side": 0}, True),
        ({"ignore_cidrs": ("10.0.0.0/8",)}, {}, True),
        ({"ignore_cidrs": ("10.0.0.1/32", "::/0")}, {}, False),
    ],
)
def test_ignored(config: dict[str, Any], values: dict[str, int], ignored: bool) -> None:
    observer = make_observer(**config)
    assert (observer.decode([failed(**values)]) == []) == ignored
    assert observer.suppressed["ignored"] == ignored


def test_resets_and_retransmits_are_counted_by_peer() -> None:
    observer = make_observer(rst_storm_count=3, retransmit_spike_count=4)
    other = socket.inet_aton("10.0.0.3")
    resets = [record("reset", state=ESTABLISHED, socket_local_port=port) for port in (1, 2, 3)]
    resets.append(record("reset", state=ESTABLISHED, socket_peer_address=other))
    values = {"total_retrans": 9, "segs_out": 99, "snd_cwnd": 3, "srtt_us": 1500}
    assert observer.decode([*resets, record("retransmit", segments=4, **values)]) == []
    spike, storm = observer.due(None)
    assert (storm.type.name, storm.data["rst_count"], storm.data["dst_ip"]) == (
        "kernel.network.rst_storm",
        3,
        "10.0.0.2",
    )
    assert spike.type.name == "kernel.network.retransmit_spike"
    assert (spike.data["retransmits"], spike.data["total_retrans"], spike.data["srtt_ms"]) == (4, 9, 1.5)


def test_a_slow_path_is_one_of_its_service() -> None:
    """Connections to one service share a path, whatever their own ports are."""
    observer = make_observer()

    def sample(number: int, rtt_us: int) -> bytes:
        return record("rtt", boot_ns=number * 10**9, srtt_us=rtt_us, rtt_us=rtt_us, socket_local_port=30000 + number)

    assert observer.decode([sample(number, 5000) for number in range(1, 7)]) == []
    (anomaly,) = observer.decode([sample(number, 90_000) for number in range(7, 10)])
    assert anomaly.type.name == "kernel.network.rtt_degradation"
    assert (anomaly.data["baseline_ms"], anomaly.data["current_ms"]) == (5.0, 90.0)
    assert anomaly.message == "RTT to 10.0.0.2:80 is 90.0 ms, normally 5.0 ms"


def test_samples_without_a_path_or_a_value_are_counted() -> None:
    observer = make_observer()
    assert observer.decode([record("rtt", srtt_us=1, socket_side=0), record("rtt", srtt_us=0)]) == []
    assert (observer.suppressed["no_path"], observer.suppressed["no_rtt"]) == (1, 1)


def test_the_kernel_side_is_told_who_the_agent_is() -> None:
    settings = make_observer().configure(Config())
    assert settings["own_tgid"] == os.getpid()
    assert settings["jiffies_per_s"] in (100, 250, 300, 1000)
    assert settings["sample_interval_jiffies"] == settings["jiffies_per_s"]


def test_whether_cgroup_v2_is_mounted(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\nproc /proc proc rw 0 0\n")
    assert not network_socket.has_unified_hierarchy(mounts)
    mounts.write_text("none /sys/fs/cgroup/unified cgroup2 rw 0 0\n")
    assert network_socket.has_unified_hierarchy(mounts)
