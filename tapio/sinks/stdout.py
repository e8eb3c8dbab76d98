"""The stdout sink: one JSON line for each occurrence."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Sequence

from tapio.errors import describe_os_error
from tapio.occurrence import Occurrence, encode
from tapio.sinks.base import QueuedSink

_QUEUE_LIMIT = 10_000


class StdoutSink(QueuedSink):
    """Writes to a file descriptor. A closed pipe ends the sink, not the agent; a stalled one fills the queue."""

    name = "stdout"

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._ended = False
        self._torn = False  # a line was cut off by an error
        super().__init__(limit=_QUEUE_LIMIT, batch=256)

    def write(self, batch: Sequence[Occurrence]) -> int:
        """Write whole lines, many at once; a broken pipe rejects this batch and everything after it."""
        if self._ended:
            return 0
        lines = [encode(occurrence) + b"\n" for occurrence in batch]
        document = memoryview(b"\n" + b"".join(lines) if self._torn else b"".join(lines))
        rest = document
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._ended = error.errno in (errno.EPIPE, errno.EBADF)
                what = (
                    "the reader is gone: this sink ends, the agent runs on" if self._ended else describe_os_error(error)
                )
                self.fail(f"writing to stdout: {what}")
                written = bytes(document[: len(document) - len(rest)])
                whole = written.removeprefix(b"\n").count(b"\n")
                self._torn = not written.endswith(b"\n") if written else self._torn
                return whole
        self._torn = False
        return len(batch)
