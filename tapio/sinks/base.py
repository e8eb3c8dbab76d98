"""The contract of a sink, the queue that most sinks stand on, and the fan-out to several.

No sink blocks its caller: `send` puts the occurrence into a bounded queue, a thread of the sink's own writes.
"""

from __future__ import annotations

import abc
import collections
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from tapio.occurrence import Occurrence

log = logging.getLogger(__name__)

RESULTS = ("accepted", "rejected", "dropped")


class Sink(Protocol):
    """What the agent knows of a sink."""

    name: str
    results: dict[str, int]  # occurrences by RESULTS; only grows
    flush_s: float  # how long a flush at the end of the agent may take
    keeps_backlog: bool  # whether what could not be flushed is there after a restart

    def send(self, occurrence: Occurrence) -> None:
        """Take the occurrence over, or count it as dropped. Never blocks, never raises."""

    def flush(self, deadline: float) -> bool:
        """Wait until everything taken over was written, at most until `deadline` on the monotonic clock."""

    def close(self) -> None:
        """Give up resources. What was not written by then is lost and counted as dropped."""

    @property
    def backlog(self) -> int:
        """Occurrences taken over and not yet written."""

    @property
    def last_error(self) -> str:
        """The latest failure in one line, '' if there was none."""


class QueuedSink(abc.ABC):
    """A sink with a bounded queue and a thread that writes batches."""

    name: str
    flush_s = 1.5
    keeps_backlog = False

    def __init__(self, limit: int, batch: int) -> None:
        self.results = dict.fromkeys(RESULTS, 0)
        self.last_error = ""
        self._limit = limit
        self._batch = batch
        self._queue: collections.deque[Occurrence] = collections.deque()
        self._writing = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{self.name}", daemon=True)
        self._thread.start()

    @abc.abstractmethod
    def write(self, batch: Sequence[Occurrence]) -> int:
        """Write as many of `batch` as possible, in order; returns how many. OSError counts the rest as rejected."""

    def idle(self) -> None:  # noqa: B027  # optional
        """Called about once a second while there is nothing to write."""

    @property
    def backlog(self) -> int:
        """Occurrences taken over and not yet written."""
        return len(self._queue) + self._writing

    def send(self, occurrence: Occurrence) -> None:
        """Queue the occurrence; beyond the limit, for critical ones an eighth more, it is dropped and counted."""
        limit = self._limit + (self._limit // 8 if occurrence.severity == "critical" else 0)
        with self._changed:
            if self._closed or len(self._queue) >= limit:
                self.results["dropped"] += 1
                return
            self._queue.append(occurrence)
            self._changed.notify_all()

    def flush(self, deadline: float) -> bool:
        """Wait for an empty queue."""
        with self._changed:
            while self.backlog and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return not self.backlog

    def close(self) -> None:
        """End the thread; what is still queued is dropped and counted."""
        with self._changed:
            self._closed = True
            self.results["dropped"] += len(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(timeout=0.2)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue and not self._closed:
                    self._changed.wait(1.0)
                if self._closed:
                    return
                batch = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
                self._writing = len(batch)
            if batch:
                self._write(batch)
            else:
                self.idle()

    def _write(self, batch: list[Occurrence]) -> None:
        try:
            written = self.write(batch)
        except OSError as error:
            written = 0
            self.fail(f"writing to {self.name}: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001  # a stage boundary: one bad batch must not end the sink
            written = 0
            self.fail(f"writing to {self.name}: {type(error).__name__}: {error}: please report it")
        with self._changed:
            self.results["accepted"] += written
            self.results["rejected"] += len(batch) - written
            self._writing = 0
            self._changed.notify_all()

    def fail(self, message: str) -> None:
        """Remember an error, and log it unless it is the one that was logged last."""
        if message != self.last_error:
            log.warning(message)
        self.last_error = message


class MultiSink:
    """Hands each occurrence to every sink. A sink that fails, stalls or ends does not touch the others."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = list(sinks)

    def send(self, occurrence: Occurrence) -> None:
        """Hand the occurrence to every sink."""
        for sink in self.sinks:
            sink.send(occurrence)

    def flush(self, deadline: float) -> bool:
        """Flush all sinks, each within its own time and all until `deadline`; whether all could.

        They write in threads of their own: waiting for one takes nothing from the next.
        """
        start = time.monotonic()
        in_order = sorted(self.sinks, key=lambda sink: sink.flush_s)
        flushed = [sink.flush(min(deadline, start + sink.flush_s)) for sink in in_order]
        return all(flushed)

    def close(self) -> None:
        """Close all sinks."""
        for sink in self.sinks:
            sink.close()
