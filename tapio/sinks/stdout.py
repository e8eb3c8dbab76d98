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
        """Write whole lines; a broken pipe rejects this batch and everything after it."""
        written = 0
        for occurrence in batch:
            if self._ended or not self._write_line(encode(occurrence) + b"\n"):
                break
            written += 1
        return written

    def _write_line(self, line: bytes) -> bool:
        rest = memoryview(b"\n" + line if self._torn else line)
        whole = len(rest)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._ended = error.errno in (errno.EPIPE, errno.EBADF)
                self._torn = self._torn or len(rest) < whole
                what = (
                    "the reader is gone: this sink ends, the agent runs on" if self._ended else describe_os_error(error)
                )
                self.fail(f"writing to stdout: {what}")
                return False
        self._torn = False
        return True
