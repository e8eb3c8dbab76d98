"""Whose a socket is and what it is connected to: the `socket_identity` part of every network record as data."""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from tapio.kernel.channel import Loaded
from tapio.observers.base import RecentMap, comm_text

_ROOT_CGROUP_ID = 1
_FAMILIES = {
    socket.AF_INET.value: (socket.AF_INET, 4, "ipv4"),
    socket.AF_INET6.value: (socket.AF_INET6, 16, "ipv6"),
}

FIELDS = tuple(
    f"socket_{name}"
    for name in (
        *("cgroup_id", "task_cgroup_id", "task_hierarchy", "pid", "comm", "local_address", "peer_address"),
        *("local_port", "peer_port", "family", "side", "own"),
    )
)


def has_unified_hierarchy(mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether cgroup v2 is in use here. Without it every socket is in its root, which then says nothing."""
    return any(line.split()[2] == "cgroup2" for line in mounts.read_text().splitlines())


_comm_text = functools.lru_cache(1024)(comm_text)


@functools.lru_cache(1024)
def _address_text(family: int, address: bytes) -> str:
    kind, length, _ = _FAMILIES[family]
    return socket.inet_ntop(kind, address[:length])


class Sockets:
    """Reads the socket of a record. KeyError for a family that is neither IPv4 nor IPv6."""

    def __init__(self, loaded: Loaded, evicted: dict[str, int], *, unified: bool) -> None:
        self._evicted = evicted
        self._connected, self._accepted = loaded.enum("SIDE_CONNECTED"), loaded.enum("SIDE_ACCEPTED")
        self._unified = unified
        self._ports: frozenset[int] = frozenset()
        self._networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
        self._ignored_peers: RecentMap[tuple[int, bytes], bool] = RecentMap("peers", evicted)

    def ignore(self, ports: Iterable[int], cidrs: Iterable[str]) -> None:
        """Service ports and peers that `is_ignored` is to know."""
        self._ports = frozenset(ports)
        self._networks = tuple(ipaddress.ip_network(cidr) for cidr in cidrs)
        self._ignored_peers = RecentMap("peers", self._evicted)

    def is_ignored(self, record: Any) -> bool:
        """Whether the connection is to or from an ignored peer, or its service's port is ignored."""
        if self._ports:
            ports: tuple[int | None, ...] = (self.service_port(record),)
            if ports[0] is None:  # not known which: either
                ports = record.socket_local_port, record.socket_peer_port
            if not self._ports.isdisjoint(ports):
                return True
        return bool(self._networks) and self._is_ignored_peer(record.socket_family, record.socket_peer_address)

    def _is_ignored_peer(self, family: int, address: bytes) -> bool:
        ignored = self._ignored_peers.get((family, address))
        if ignored is None:
            peer = ipaddress.ip_address(address[: _FAMILIES[family][1]])
            ignored = any(peer in network for network in self._networks)
            self._ignored_peers[family, address] = ignored
        return ignored

    def cgroup(self, record: Any) -> tuple[int, int, str]:
        """The cgroup's v2 id, its v1 id, each 0 if unknown, and how the first known of them was obtained."""
        own, task, hierarchy = record.socket_cgroup_id, record.socket_task_cgroup_id, record.socket_task_hierarchy
        if own > _ROOT_CGROUP_ID or (own and self._unified):
            return own, task if hierarchy else 0, "socket"
        if not task:
            return 0, 0, "none"
        return (0, task, "task") if hierarchy else (task, 0, "task")

    def service_port(self, record: Any) -> int | None:
        """The remote port if this end connected, the local one if it accepted; None: not known which."""
        if record.socket_side == self._connected:
            port = record.socket_peer_port
        elif record.socket_side == self._accepted:
            port = record.socket_local_port
        else:
            return None
        return int(port)

    def peer_key(self, record: Any) -> Hashable:
        """What groups events by cgroup and peer address."""
        return *self.cgroup(record)[:2], record.socket_peer_address, record.socket_family

    def path_key(self, record: Any) -> Hashable | None:
        """What groups connections by cgroup, peer address and service port; None: which port is not known."""
        port = self.service_port(record)
        return None if port is None else (self.peer_key(record), port, record.socket_side)

    def data(self, record: Any) -> dict[str, Any]:
        """The socket as occurrence data; `src` is the local end. What is not known is left out."""
        family = record.socket_family
        v2, v1, attribution = self.cgroup(record)
        data: dict[str, Any] = {}
        if record.socket_pid:
            data["pid"] = record.socket_pid
            data["comm"] = _comm_text(record.socket_comm)
        data["src_ip"] = _address_text(family, record.socket_local_address)
        if record.socket_local_port:
            data["src_port"] = record.socket_local_port
        data["dst_ip"] = _address_text(family, record.socket_peer_address)
        data["dst_port"] = record.socket_peer_port
        data["family"] = _FAMILIES[family][2]
        data["protocol"] = "tcp"
        if v2:
            data["cgroup_id"] = v2
        if v1:
            data["cgroup_v1_id"] = v1
            data["cgroup_v1_hierarchy"] = record.socket_task_hierarchy
        data["attribution"] = attribution
        return data
