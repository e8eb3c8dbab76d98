"""TCP clients that the tests need. Run as a program: `python clients.py WHAT ADDRESS PORT [ARGUMENT...]`."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from pathlib import Path

_LINGER_0 = struct.pack("ii", 1, 0)


def command(what: str, address: str, port: int, *arguments: object) -> list[str]:
    """The command line that runs the client `what`."""
    return ["/usr/bin/python3", "-S", "-E", str(Path(__file__)), what, address, str(port), *map(str, arguments)]


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


def _try(client: socket.socket, address: str, port: int) -> int:
    """Connect; the errno, 0 for success."""
    return client.connect_ex((address, port))


def connect(address: str, port: int, times: int, expected: int, timeout_s: int = 0) -> None:
    """Connect so many times; fails unless each ends with the errno `expected`."""
    for _ in range(times):
        with _socket(address) as client:
            if timeout_s:
                client.settimeout(timeout_s)
            outcome = _try(client, address, port)
            assert outcome == expected, outcome


def connect_many(address: str, port: int, peers: int, block: int) -> None:
    """Connect to so many addresses 127.1.`block`.x, where nobody listens."""
    for host in range(1, peers + 1):
        with _socket(address) as client:
            assert _try(client, f"127.1.{block}.{host}", port) != 0


def connect_at_once(address: str, port: int, times: int, expected: int) -> None:
    """Begin so many connects together, and wait for all."""
    clients = [_socket(address) for _ in range(times)]
    for client in clients:
        client.setblocking(False)
        _try(client, address, port)
    for client in clients:
        while not (error := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            time.sleep(0.05)
        assert error == expected, error


def abort(address: str, port: int, times: int) -> None:
    """Begin to connect and think better of it: by close(), after a timeout, by connecting to nowhere."""
    for number in range(times):
        client = _socket(address)
        client.setblocking(False)
        _try(client, address, port)
        time.sleep(0.05)
        if number % 3 == 1:
            client.settimeout(0.1)
            _try(client, address, port)
        if number % 3 == 2:
            with contextlib.suppress(OSError):
                client.connect_ex((address, 0))
        client.close()


def exchange(address: str, port: int, times: int) -> None:
    """So many healthy connections: a request, an answer, closed by us or by the peer in turn."""
    for number in range(times):
        with _socket(address) as client:
            client.connect((address, port))
            client.sendall(b"%d\n" % number)
            assert client.recv(64) == b"%d\n" % number
            if number % 2:
                client.shutdown(socket.SHUT_WR)
            while number % 2 and client.recv(64):
                pass


def await_reset(address: str, port: int, times: int) -> None:
    """So many connections that the peer resets."""
    for _ in range(times):
        with _socket(address) as client:
            try:
                client.connect((address, port))  # a reset may be here before it returns
                client.recv(1)
            except ConnectionResetError:
                continue
            raise AssertionError("no reset")


def scan(address: str, port: int, times: int) -> None:
    """Connect and reset at once, as a port scanner does."""
    for _ in range(times):
        with _socket(address) as client:
            client.connect((address, port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)


def listen(address: str, port: int, times: int, forms: int = 0) -> None:
    """Accept so many connections and read each to its end; with `forms` 1 never accept, with 2 also answer."""
    with _socket(address) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen(1024)
        print("listening", flush=True)
        if forms == 1:
            time.sleep(60)
        for _ in range(times):
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(4096):
                    if forms == 2:
                        connection.sendall(data)


def call(address: str, port: int, duration_s: int, pause_ms: int, size: int = 64) -> None:
    """One long-lived connection with small requests and answers."""
    with _socket(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect((address, port))
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            client.sendall(b"x" * size)
            missing = size
            while missing:
                missing -= len(client.recv(missing))
            time.sleep(pause_ms / 1000)


def send(address: str, port: int, kibibytes: int, user_timeout_ms: int = 0) -> None:
    """Send in bulk, then wait for the peer to close; with a user timeout the connection may die of it."""
    with _socket(address) as client:
        if user_timeout_ms:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
        client.connect((address, port))
        print("connected", flush=True)
        if user_timeout_ms:
            sys.stdin.readline()
        with contextlib.suppress(TimeoutError):
            client.sendall(bytes(1024 * kibibytes))
            if not user_timeout_ms:
                client.shutdown(socket.SHUT_WR)
            client.recv(1)


def close_and_leave(address: str, port: int, user_timeout_ms: int) -> None:
    """Close a connection with data under way to a peer that is gone: the kernel gives it up later."""
    with _socket(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
        client.connect((address, port))
        print("connected", flush=True)
        sys.stdin.readline()
        client.sendall(b"goodbye")


def keep_alive(address: str, port: int) -> None:
    """An idle connection that probes its peer after a second, twice."""
    with _socket(address) as client:
        client.connect((address, port))
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
            client.setsockopt(socket.IPPROTO_TCP, option, value)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        print("connected", flush=True)
        with contextlib.suppress(TimeoutError):
            client.recv(1)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
