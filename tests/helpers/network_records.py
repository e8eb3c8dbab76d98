"""Records of the network observer that are made up, and an observer that reads them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import pytest

from helpers.records import make_layout, make_loaded, pack
from tapio.config import Config, NetworkConfig
from tapio.kernel.layout import Layout
from tapio.observers import network_socket
from tapio.observers.network import NetworkObserver

FIELDS = {
    "connection_failed": ("error", "old_state", "retries"),
    "reset": ("state",),
    "retransmit": ("segments", "total_retrans", "segs_out", "snd_cwnd", "srtt_us"),
    "rtt": ("srtt_us", "rtt_us", "ack_delayed"),
}
LAYOUTS: dict[str, Layout] = {
    f"{name}_record": make_layout(f"{name}_record", ("kind", "boot_ns", *fields, *network_socket.FIELDS))
    for name, fields in FIELDS.items()
}
ENUMS = {f"RECORD_{name.upper()}": 10 + number for number, name in enumerate(FIELDS)}
ENUMS |= {"SIDE_UNKNOWN": 0, "SIDE_CONNECTED": 1, "SIDE_ACCEPTED": 2}
SYN_SENT, ESTABLISHED = 2, 1
REFUSED, TIMED_OUT, HOST_UNREACHABLE = 111, 110, 113


def make_observer(monkeypatch: pytest.MonkeyPatch | None = None, **config: Any) -> NetworkObserver:
    if monkeypatch is not None:  # a host with cgroup v1 alone
        monkeypatch.setattr(network_socket, "has_unified_hierarchy", lambda: False)
    observer = NetworkObserver(make_loaded("network", LAYOUTS, ENUMS, {}))
    observer.configure(Config(network=NetworkConfig(**config)))
    return observer


def record(name: str, **values: Any) -> bytes:
    base: Mapping[str, Any] = {
        "kind": ENUMS[f"RECORD_{name.upper()}"],
        "boot_ns": 5_000_000_000,
        "socket_cgroup_id": 77,
        "socket_family": 2,
        "socket_local_address": socket.inet_aton("10.0.0.1"),
        "socket_peer_address": socket.inet_aton("10.0.0.2"),
        "socket_local_port": 40001,
        "socket_peer_port": 80,
        "socket_side": 1,
    }
    return pack(LAYOUTS[f"{name}_record"], **{**base, **values})


def failed(**values: Any) -> bytes:
    return record("connection_failed", **{"error": REFUSED, "old_state": SYN_SENT, **values})
