"""A TCP server that reads requests of HTTP and answers with whatever bytes it is told."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence


class RawServer:
    """Answers each request, on whatever connection, with the next of `answers`, then with the last one again.

    An answer is bytes, kept open or (`close`) ended after each; or a function of the connection, called instead of
    reading a request.
    """

    def __init__(
        self, answers: Sequence[bytes | Callable[[socket.socket], object]], *, close: bool, address: str = "127.0.0.1"
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []  # heads
        self.connections = 0
        self._answers = list(answers)
        self._close = close
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while True:
                if not isinstance(answer := self._answers[0], bytes):
                    answer(connection)
                    return
                if not self._read(connection):
                    return
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                assert isinstance(answer, bytes)
                connection.sendall(answer)
                if self._close:
                    return

    def _read(self, connection: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        self.requests.append(head)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        left = int(length[1]) - len(body) if length else 0
        while left > 0 and (more := connection.recv(left)):
            left -= len(more)
        return True


def drip(data: bytes, every_s: float) -> Callable[[socket.socket], None]:
    """Byte after byte, without reading anything."""

    def behave(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(every_s)

    return behave


@contextlib.contextmanager
def raw_server(
    *answers: bytes | Callable[[socket.socket], object], close: bool = False, address: str = "127.0.0.1"
) -> Iterator[RawServer]:
    """A server that listens, and is gone afterwards."""
    server = RawServer(answers, close=close, address=address)
    try:
        yield server
    finally:
        server.stop()
