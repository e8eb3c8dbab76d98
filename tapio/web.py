"""A small HTTP server for /metrics, /healthz and /readyz: one thread, non-blocking, bounded.

prometheus_client's own server gives each connection a thread without a time limit, so that 50 idle connections
hold 50 threads. Here idle, slow and garbage clients cost a descriptor each until their time is up, and beyond
the limit the oldest connection goes: a scrape always gets its answer.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus

from tapio.errors import TapioError, describe_os_error
from tapio.web_access import WebAccess

log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 64
_MAX_HEAD = 8192
_TIME_LIMIT_S = 5.0

_MORE_HEADERS = {
    HTTPStatus.METHOD_NOT_ALLOWED: "Allow: GET, HEAD\r\n",
    HTTPStatus.UNAUTHORIZED: 'WWW-Authenticate: Basic realm="tapio", charset="UTF-8"\r\n',
}

PLAIN = "text/plain; charset=utf-8"
Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body
Route = Callable[[], Answer]


class WebServer:
    """Answers GET and HEAD on a few fixed paths, one request for each connection."""

    def __init__(
        self, host: str, port: int, routes: Mapping[str, Route], access: WebAccess, open_to_all: Collection[str] = ()
    ) -> None:
        """Bind and start; TapioError when the address cannot be had. `open_to_all` are paths without `access` rules."""
        self._routes = routes
        self._access = access
        self._open_to_all = open_to_all
        self._selector = selectors.DefaultSelector()
        self._connections: dict[socket.socket, _Connection] = {}
        try:
            family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=128)
        except (OSError, UnicodeError) as error:
            what = "there is no such address"
            if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
                what = describe_os_error(error)
            raise TapioError(
                f"listening on {host}:{port} for /metrics: {what}: choose another --metrics-address, or '' for none"
            ) from error
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._stop, wake = socket.socketpair()
        self._wake = wake
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._stop.close()
        self._thread.join(timeout=1)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(timeout=1.0 if self._connections else None):
                if key.fileobj is self._wake:
                    for item in (self._listener, self._wake, *self._connections):
                        item.close()
                    self._selector.close()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.data, _Connection) and key.data.socket in self._connections:
                    self._advance(key.data)
            now = time.monotonic()
            for connection in [c for c in self._connections.values() if c.deadline < now]:
                self._drop(connection)

    def _accept(self) -> None:
        try:
            client, (host, *_) = self._listener.accept()
            client.setblocking(False)
            if self._access.tls is not None:
                client = self._access.tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # the client is gone again, or no descriptor is left
            log.debug("accepting a connection: %s", error)
            self._make_room()
            time.sleep(0.01)
            return
        if len(self._connections) >= _MAX_CONNECTIONS:
            self._make_room()
        connection = _Connection(client, host, time.monotonic() + _TIME_LIMIT_S)
        self._connections[client] = connection
        self._selector.register(client, selectors.EVENT_READ, connection)

    def _make_room(self) -> None:
        """Drop the oldest connection of the client that has most of them: a flood pushes out itself, not a scrape."""
        if self._connections:
            hosts = Counter(connection.host for connection in self._connections.values())
            ((most, _),) = hosts.most_common(1)
            self._drop(next(each for each in self._connections.values() if each.host == most))

    def _advance(self, connection: _Connection) -> None:
        """Read more of the request, write more of the answer, or wait for the client to close."""
        try:
            if connection.answer is None:
                self._read(connection)
            elif connection.answer:
                connection.answer = connection.answer[connection.socket.send(connection.answer) :]
                if not connection.answer:
                    # Closing with unread input would reset the connection and cost the client its answer.
                    connection.end_of_answer()
                    self._wait_for(connection, selectors.EVENT_READ)
            elif not connection.socket.recv(_MAX_HEAD):
                self._drop(connection)
        except BlockingIOError:
            return
        except ssl.SSLWantReadError:
            self._wait_for(connection, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(connection, selectors.EVENT_WRITE)
        except OSError:  # the client is gone, or speaks no TLS
            self._drop(connection)

    def _wait_for(self, connection: _Connection, event: int) -> None:
        self._selector.modify(connection.socket, event, connection)

    def _read(self, connection: _Connection) -> None:
        connection.shake_hands()
        # On to where nothing is left: what TLS has decrypted already makes no socket readable.
        while data := connection.socket.recv(_MAX_HEAD):
            if connection.take(data):
                connection.answer = memoryview(self._answer(connection))
                self._wait_for(connection, selectors.EVENT_WRITE)
                return
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.socket, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        connection.socket.close()

    def _answer(self, connection: _Connection) -> bytes:
        head = connection.head
        words = head.split(b"\n", 1)[0].decode("latin-1").split()
        status, content_type, body = self._choose(head, words, connection.socket)
        return _encode(status, content_type, body, with_body=words[:1] != ["HEAD"])

    def _choose(self, head: bytes, words: list[str], client: socket.socket) -> Answer:
        if len(head) >= _MAX_HEAD:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, PLAIN, b"the request is too large\n"
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return HTTPStatus.BAD_REQUEST, PLAIN, b"bad request\n"
        if not words[2].startswith("HTTP/1."):
            return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, PLAIN, b"only HTTP/1\n"
        method, path = words[0], words[1].split("?", 1)[0]
        refusal = None if path in self._open_to_all else self._access.refusal(head, client)
        if refusal is not None:
            return refusal, PLAIN, b"not without a certificate, or name and password, that is known here\n"
        route = self._routes.get(path)
        if route is None:
            known = " ".join(self._routes)
            return HTTPStatus.NOT_FOUND, PLAIN, f"no such page, there are {known}\n".encode()
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, PLAIN, b"only GET and HEAD\n"
        try:
            return route()
        except Exception as error:  # a stage boundary: a defect in one page must not end the server
            log.exception("answering %s", path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, PLAIN, f"{error}\n".encode()


class _Connection:
    """A client's progress."""

    def __init__(self, client: socket.socket, host: str, deadline: float) -> None:
        self.socket = client
        self.host = host
        self.deadline = deadline
        self.head = b""
        self.answer: memoryview | None = None
        self._hands_shaken = not isinstance(client, ssl.SSLSocket)

    def take(self, data: bytes) -> bool:
        """Add to the head; whether it is complete, or too long. What follows it is not kept."""
        self.head += data
        ends = [end for mark in (b"\r\n\r\n", b"\n\n") if (end := self.head.find(mark)) >= 0]
        if ends:
            self.head = self.head[: min(ends)]
        return bool(ends) or len(self.head) >= _MAX_HEAD

    def shake_hands(self) -> None:
        """Go on with the handshake of TLS until it is done."""
        if not self._hands_shaken and isinstance(self.socket, ssl.SSLSocket):
            self.socket.do_handshake()
            self._hands_shaken = True

    def end_of_answer(self) -> None:
        """Tell the client that nothing follows."""
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(ssl.SSLError):  # its own farewell is not waited for, nor what it sent instead
                self.socket.unwrap()
        self.socket.shutdown(socket.SHUT_WR)


def _encode(status: HTTPStatus, content_type: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{_MORE_HEADERS.get(status, '')}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
