"""The HTTP server: right answers, and a scrape that gets its answer whatever the others do."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapio.config import MetricsConfig
from tapio.errors import TapioError
from tapio.web import PLAIN, Answer, WebServer
from tapio.web_access import WebAccess

BODY = b"x" * 300_000


OPEN = WebAccess(MetricsConfig())


def page() -> Answer:
    return HTTPStatus.OK, PLAIN, BODY


def broken() -> Answer:
    raise RuntimeError("oops")


@pytest.fixture
def server() -> Iterator[WebServer]:
    made = WebServer("127.0.0.1", 0, {"/metrics": page, "/broken": broken}, OPEN)
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
        (b"GET " + b"/" * 9000 + b" HTTP/1.1", 431),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000, 431),
        (b"DELETE /metrics HTTP/1.1", 405),
        (b"PRI * HTTP/2.0", 505),
        (b"\0" * 100, 400),
        (b"HEAD /other HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000, 405),
        (b"GET /metrics HTTP/1.1\r\n\r\nGET /other HTTP/1.1", 200),
    ],
)
def test_statuses(server: WebServer, request_line: bytes, status: int) -> None:
    answer = ask(server, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    if status == 200:
        assert answer.endswith(BODY) is request_line.startswith(b"GET")
    assert answer.endswith(b"\r\n\r\n") is request_line.startswith(b"HEAD")


def test_200_idle_slow_and_garbage_clients_do_not_keep_a_scrape_from_its_answer(server: WebServer) -> None:
    """Nor do they cost a thread each."""
    threads = threading.active_count()
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(200)]
    try:
        for client, said in zip(
            clients, itertools.cycle((b"", b"GET /met", b"\xff\0\x16\x03", b"GET / HTTP/1.1\r\nA: ")), strict=False
        ):
            with contextlib.suppress(OSError):  # the oldest are gone already
                client.sendall(said)
        for _ in range(10):
            started = time.monotonic()
            assert ask(server, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(BODY)
            assert time.monotonic() - started < 1
        assert threading.active_count() == threads
        assert len(server._connections) <= 64
    finally:
        for client in clients:
            client.close()


def test_a_flood_from_elsewhere_pushes_out_itself(server: WebServer) -> None:
    """A scrape that takes its time is not the oldest connection that goes."""
    with contextlib.ExitStack() as stack:
        scrape = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        for _ in range(300):
            source = ("127.0.0.2", 0)
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5, source_address=source))
        scrape.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert scrape.recv(12) == b"HTTP/1.1 200"


def test_a_client_that_does_not_read_is_dropped_in_time(server: WebServer) -> None:
    """Its answer does not fit into the socket's buffers; others are served meanwhile."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as lazy:
        lazy.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert ask(server, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(BODY)


def test_a_port_that_is_taken(server: WebServer) -> None:
    with pytest.raises(TapioError, match=r"listening on .*address already in use: choose another"):
        WebServer("127.0.0.1", server.port, {}, OPEN)


def test_ipv6() -> None:
    made = WebServer("::1", 0, {"/metrics": page}, OPEN)
    with socket.create_connection(("::1", made.port), timeout=5) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    made.close()


def test_close_frees_the_port() -> None:
    made = WebServer("127.0.0.1", 0, {"/metrics": page}, OPEN)
    ask(made, b"GET /metrics HTTP/1.1\r\n\r\n")
    made.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", made.port), timeout=1)


def test_idle_connections_end_in_time(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that sends a byte now and then."""
    monkeypatch.setattr("tapio.web._TIME_LIMIT_S", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while client.send(b"x") and time.monotonic() < started + 10:
                time.sleep(0.1)
        assert time.monotonic() - started < 5


@given(st.binary(max_size=300))
def test_whatever_is_sent_the_answer_is_http_or_nothing(garbage: bytes) -> None:
    """And the server goes on."""
    server = _shared()
    with contextlib.suppress(ConnectionError):
        answer = ask(server, garbage + b"\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 (200|400|404|405|431|505) ", answer)
    assert ask(server, b"HEAD /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


@functools.cache
def _shared() -> WebServer:
    return WebServer("127.0.0.1", 0, {"/metrics": page}, OPEN)
