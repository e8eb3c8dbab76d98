"""The HTTP server: right answers, and a scrape that gets its answer whatever the others do."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from tapio.errors import TapioError
from tapio.web import PLAIN, Answer, WebServer

BODY = b"x" * 300_000


def page() -> Answer:
    return HTTPStatus.OK, PLAIN, BODY


def broken() -> Answer:
    raise RuntimeError("oops")


@pytest.fixture
def server() -> Iterator[WebServer]:
    made = WebServer("127.0.0.1", 0, {"/metrics": page, "/broken": broken})
    yield made
    made.close()


def ask(server: WebServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(request)
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics HTTP/1.1", 200),
        (b"GET /metrics?x=1 HTTP/1.0", 200),
        (b"HEAD /metrics HTTP/1.1", 200),
        (b"GET /other HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1", 405),
        (b"GET /broken HTTP/1.1", 500),
        (b"GET /metrics", 400),
        (b"\x16\x03\x01\x02\x00 garbage", 400),
        (b"GET " + b"/" * 9000 + b" HTTP/1.1", 400),
    ],
)
def test_statuses(server: WebServer, request_line: bytes, status: int) -> None:
    answer = ask(server, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    if status == 200:
        assert answer.endswith(BODY) is request_line.startswith(b"GET")


def test_200_idle_and_slow_clients_do_not_keep_a_scrape_from_its_answer(server: WebServer) -> None:
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(200)]
    try:
        for client in clients[::2]:
            client.sendall(b"GET /met")
        started = time.monotonic()
        assert ask(server, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(BODY)
        assert time.monotonic() - started < 1
    finally:
        for client in clients:
            client.close()


def test_a_client_that_does_not_read_is_dropped_in_time(server: WebServer) -> None:
    """Its answer does not fit into the socket's buffers; others are served meanwhile."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as lazy:
        lazy.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert ask(server, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(BODY)


def test_a_port_that_is_taken(server: WebServer) -> None:
    with pytest.raises(TapioError, match=r"listening on .*address already in use: choose another"):
        WebServer("127.0.0.1", server.port, {})


def test_ipv6() -> None:
    made = WebServer("::1", 0, {"/metrics": page})
    with socket.create_connection(("::1", made.port), timeout=5) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    made.close()


def test_close_frees_the_port() -> None:
    made = WebServer("127.0.0.1", 0, {"/metrics": page})
    ask(made, b"GET /metrics HTTP/1.1\r\n\r\n")
    made.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", made.port), timeout=1)
