"""Two network namespaces and a slow, lossy or malicious wire between them, without netem: a pair of TUN devices."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_LIBC = ctypes.CDLL(None, use_errno=True)

Side = Literal["left", "right"]


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread in another network namespace: its new sockets belong there."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:  # noqa: PTH123
        assert _LIBC.setns(there.fileno(), _CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert _LIBC.setns(home.fileno(), _CLONE_NEWNET) == 0


_ADDRESSES: dict[Side, tuple[str, str]] = {"left": ("10.77.0.1", "fd77::1"), "right": ("10.77.0.2", "fd77::2")}


class Tunnel:
    """`left` is 10.77.0.1 and fd77::1, `right` is 10.77.0.2 and fd77::2. The wire's properties may be set any time."""

    def __init__(self) -> None:
        name = f"tapio-{uuid.uuid4().hex[:8]}"
        self.namespaces: dict[Side, str] = {"left": f"{name}-l", "right": f"{name}-r"}
        self.delay_s: Callable[[], float] = lambda: 0.0  # one way
        self.drop: Callable[[Side, bytes], bool] = lambda _sender, _packet: False
        self.answer: Callable[[bytes], bytes | None] = lambda _packet: None  # instead of passing left's packet on
        self.dropped = 0
        self._ends: dict[Side, int] = {}
        self._stop, self._stop_end = os.pipe()
        self._thread = threading.Thread(target=self._relay, daemon=True)

    def open(self) -> None:
        """Make the namespaces and the devices, and start the wire."""
        for side, namespace in self.namespaces.items():
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            with inside(namespace):
                end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._ends[side] = end
                fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN | _IFF_NO_PI))
            for words in (
                ["addr", "add", f"{_ADDRESSES[side][0]}/24", "dev", "wire"],
                ["addr", "add", f"{_ADDRESSES[side][1]}/64", "dev", "wire", "nodad"],
                ["link", "set", "wire", "up"],
                ["link", "set", "lo", "up"],
            ):
                subprocess.run(["ip", "-n", namespace, *words], check=True)
        self._thread.start()

    def close(self) -> None:
        """Remove it all."""
        os.close(self._stop_end)
        if self._thread.ident:
            self._thread.join()
        for end in self._ends.values():
            os.close(end)
        os.close(self._stop)
        for namespace in self.namespaces.values():
            subprocess.run(["ip", "netns", "del", namespace], check=False, stderr=subprocess.DEVNULL)

    def command(self, side: Side, words: Sequence[str]) -> list[str]:
        """A command line that runs in the namespace, with the same pid."""
        return ["nsenter", f"--net=/run/netns/{self.namespaces[side]}", *words]

    def set(self, side: Side, key: str, value: object) -> None:
        """A sysctl of the namespace, as net.ipv4.tcp_syn_retries."""
        subprocess.run(self.command(side, ["sysctl", "-qw", f"{key}={value}"]), check=True)

    def listener(self, side: Side, backlog: int = 128, address: str = "") -> socket.socket:
        """A listening socket in the namespace."""
        address = address or _ADDRESSES[side][0]
        with inside(self.namespaces[side]):
            server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 0))
        server.listen(backlog)
        return server

    def _relay(self) -> None:
        """Pass packets on when their time has come; both directions keep their order."""
        waiting: list[tuple[float, int, Side, bytes]] = []
        last: dict[Side, float] = {"left": 0.0, "right": 0.0}
        other: dict[Side, Side] = {"left": "right", "right": "left"}
        number = 0
        poller = select.poll()  # and not select, which cannot watch a descriptor beyond 1,023
        poller.register(self._stop, select.POLLIN | select.POLLHUP)
        for end in self._ends.values():
            poller.register(end, select.POLLIN)
        while True:
            timeout = max(0.0, waiting[0][0] - time.monotonic()) * 1000 if waiting else None
            ready = {descriptor for descriptor, _ in poller.poll(timeout)}
            if self._stop in ready:
                return
            for side, end in self._ends.items():
                while end in ready:
                    try:
                        packet = os.read(end, 65536)
                    except BlockingIOError:
                        break
                    if self.drop(side, packet):
                        self.dropped += 1
                        continue
                    answer = self.answer(packet) if side == "left" else None
                    receiver = side if answer else other[side]
                    last[side] = max(last[side], time.monotonic() + self.delay_s())
                    number += 1
                    heapq.heappush(waiting, (last[side], number, receiver, answer or packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, receiver, packet = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    os.write(self._ends[receiver], packet)


@contextlib.contextmanager
def tunnel() -> Iterator[Tunnel]:
    """A tunnel of the test's own."""
    made = Tunnel()
    try:
        made.open()
        yield made
    finally:
        made.close()


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def icmp_unreachable(packet: bytes, code: int) -> bytes | None:
    """The answer of a router to an IPv4 packet: destination unreachable (0 net, 1 host, 3 port, 13 prohibited)."""
    if packet[0] >> 4 != 4:
        return None
    quoted = packet[: (packet[0] & 15) * 4 + 8]
    icmp = struct.pack("!BBHI", 3, code, 0, 0) + quoted
    icmp = icmp[:2] + struct.pack("!H", _checksum(icmp)) + icmp[4:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0) + packet[16:20] + packet[12:16]
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + icmp


def is_tcp(packet: bytes, flag: int = 0) -> bool:
    """Whether the packet is TCP, with one of the flags set if any is given (2 SYN, 16 ACK)."""
    if packet[0] >> 4 == 4:
        header, protocol = (packet[0] & 15) * 4, packet[9]
    else:
        header, protocol = 40, packet[6]
    return protocol == socket.IPPROTO_TCP and (not flag or bool(packet[header + 13] & flag))


def carries_data(packet: bytes) -> bool:
    """Whether the packet is IPv4 TCP with payload."""
    header = (packet[0] & 15) * 4
    return (
        packet[0] >> 4 == 4
        and packet[9] == socket.IPPROTO_TCP
        and len(packet) > header + (packet[header + 12] >> 4) * 4
    )
