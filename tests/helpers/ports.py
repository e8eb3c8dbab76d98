"""A port on which nobody listens, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def closed_port(address: str = "127.0.0.1") -> Iterator[int]:
    """Bound, so that nobody else gets it, and below the ephemeral ones, so that no connect finds itself there."""
    for port in range(20011, 30000, 2):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as holder:
            try:
                holder.bind((address, port))
            except OSError:
                continue
            yield port
            return
    raise AssertionError("no free port")
