"""At-least-once delivery over a network: a spool on disk, a thread that fills it, a thread that sends from it.

    send() ──► intake (memory, bounded) ──► spool (disk, bounded) ──► batches ──► `transmit` of the sink
              the spooling thread: milliseconds        the sending thread: as long as the receiver takes

An occurrence is in the spool before it is sent for the first time, and leaves it when its fate is known. While the
disk takes nothing, the sending thread is fed from the intake, so that a full disk costs durability, not delivery.
"""

from __future__ import annotations

import abc
import collections
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from tapio.errors import describe_os_error
from tapio.occurrence import Occurrence, encode
from tapio.sinks.base import RESULTS
from tapio.sinks.frames import MAX_DOCUMENT
from tapio.sinks.spool import Entry, Spool

log = logging.getLogger(__name__)

MAX_BATCH = 100
ALL = sys.maxsize  # rejected documents: all that there were
_MAX_BATCH_BYTES = 512 << 10
_INTAKE_LIMIT = 4096
_DISK_PATIENCE_S = 2.0
_IN_MEMORY = 0  # the number of an entry that is in no spool


class Outcome(msgspec.Struct, frozen=True):
    """What became of one request.

    settled: the receiver has decided; `rejected` of the documents it did not take. retry: nothing is decided;
    after `most_tries` such outcomes they count as rejected. split: not this many at once, or one of them cannot be
    sent at all. `message` says in one line what went wrong.
    """

    verdict: Literal["settled", "retry", "split"]
    rejected: int = 0
    retry_after_s: float | None = None
    most_tries: int | None = None
    message: str = ""


class Backoff(msgspec.Struct, frozen=True):
    """How long to wait before the next try: doubling, with jitter, so that a fleet does not knock in step."""

    first_s: float = 0.5
    most_s: float = 5.0

    def delay_s(self, failures: int) -> float:
        """The wait after so many failures in a row, 1 or more."""
        ceiling = min(self.most_s, self.first_s * 2 ** min(failures - 1, 16))
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311  # not a secret


class DeliverySink(abc.ABC):
    """A sink with a receiver at the other end of a network. A subclass sends documents: `transmit`."""

    name: str
    keeps_backlog = True

    def __init__(
        self,
        open_spool: Callable[[Callable[[int], None]], Spool],
        backoff: Backoff | None = None,
        flush_s: float = 3.0,
        linger_s: float = 0.2,
    ) -> None:
        """`open_spool` is called in the sink's own thread, with what is to be told of dropped documents.

        `linger_s` is how long the first occurrence of a batch waits for others.
        """
        self.results = dict.fromkeys(RESULTS, 0)
        self.last_error = ""
        self.flush_s = flush_s
        self._open_spool = open_spool
        self._backoff = backoff or Backoff()
        self._linger_s = linger_s
        self._spool: Spool | None = None
        self._spool_fails = False
        self._at_disk_since: float | None = None  # None: the spooling thread is not waiting for the disk
        self._changed = threading.Condition()
        self._intake: collections.deque[Occurrence] = collections.deque()
        self._spooling = 0  # occurrences on their way from the intake to the spool
        self._sending: list[Entry] = []
        self._failures = 0  # tries in a row that decided nothing
        self._held_off = False  # the receiver has said for how long
        self._flushing = self._closed = False
        self._over = False  # closed, and what was in memory counted
        self._logged = ""
        self._threads = [
            threading.Thread(target=self._fill, name=f"{self.name}-spool", daemon=True),
            threading.Thread(target=self._drain, name=f"{self.name}-send", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @abc.abstractmethod
    def transmit(self, documents: Sequence[bytes]) -> Outcome:
        """Send occurrences, JSON documents, in one request. Must come back within a bounded time."""

    @property
    def backlog(self) -> int:
        """Occurrences whose fate is not known."""
        spool = self._spool
        held = len(self._intake) + self._spooling
        return held + (spool.unread if spool is not None else 0) + len(self._sending)

    def send(self, occurrence: Occurrence) -> None:
        """Take the occurrence over; beyond the limit of the intake it is dropped and counted."""
        with self._changed:
            if self._closed or len(self._intake) >= _INTAKE_LIMIT:
                self.results["dropped"] += 1
                return
            self._intake.append(occurrence)
            if len(self._intake) == 1:
                self._changed.notify_all()

    def flush(self, deadline: float) -> bool:
        """Send what there is, now. Gives up early when the receiver does not answer: the rest is safe in the spool."""
        with self._changed:
            self._flushing = True
            self._failures = self._failures if self._held_off else 0
            self._changed.notify_all()
            while self.backlog and not self._closed:
                left = deadline - time.monotonic()
                spooled = not self._intake and not self._spooling
                if left <= 0 or (spooled and self._failures):
                    break
                self._changed.wait(left)
            self._flushing = False
            return not self.backlog

    def close(self) -> None:
        """End the threads. What is in the spool stays there for the next run, the rest is dropped and counted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=0.3)
        with self._changed:
            in_memory = sum(entry.number == _IN_MEMORY for entry in self._sending)
            # On a frozen disk the spooling thread still holds some, and nobody will know what became of them.
            self.results["dropped"] += len(self._intake) + self._spooling + in_memory
            self._intake.clear()
            self._over = True
        if self._spool is not None and not any(thread.is_alive() for thread in self._threads):
            self._spool.close()

    def _fill(self) -> None:
        """The spooling thread."""
        synced = time.monotonic()
        while True:
            with self._changed:
                if not self._intake and not self._closed:
                    self._changed.wait(1.0)
                if self._spool_fails and not self._closed:
                    self._changed.wait_for(lambda: self._closed or self._flushing, 1.0)
                batch = [self._intake.popleft() for _ in range(min(256, len(self._intake)))]
                self._spooling = len(batch)
                closed = self._closed and len(batch) < 256
            encoded = self._encode(batch)
            self._at_disk_since = time.monotonic()
            try:
                if self._spool is None:
                    self._spool = self._open_spool(self._drop)
                self._spool.append([document for _, document in encoded])
                if time.monotonic() - synced > 1:
                    self._spool.sync()
                    synced = time.monotonic()
                self._spool_fails = False
            except Exception as error:  # noqa: BLE001  # a stage boundary: a defect must not end the thread
                self._spool_fails = True
                self._fail(f"spooling for {self.name}: {_reason(error)}: occurrences wait in memory")
                with self._changed:
                    self._intake.extendleft(occurrence for occurrence, _ in reversed(encoded) if not self._over)
            self._at_disk_since = None
            with self._changed:
                self._spooling = 0
                if batch:
                    self._changed.notify_all()
            if closed:
                return

    def _drain(self) -> None:
        """The sending thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting(), 1.0)
                if 0 < self._waiting() < MAX_BATCH:
                    self._changed.wait_for(
                        lambda: self._closed or self._flushing or self._waiting() >= MAX_BATCH, self._linger_s
                    )
                if self._closed:
                    return
            try:
                self._take()
                if self._sending:
                    self._deliver()
            except Exception as error:  # noqa: BLE001  # a stage boundary: a defect must not end the thread
                self._fail(f"reading the spool of {self.name}: {_reason(error)}: check the data directory")
                with self._changed:
                    self.results["dropped"] += len(self._sending)
                    self._sending = []
                    self._changed.wait_for(lambda: self._closed, 1.0)

    def _waiting(self) -> int:
        """Occurrences that could be sent now."""
        spooled = self._spool.unread if self._spool is not None else 0
        return spooled or (len(self._intake) if self._disk_is_away() else 0)

    def _disk_is_away(self) -> bool:
        """Whether the spool takes nothing, or has been busy for so long that it may never."""
        since = self._at_disk_since
        return self._spool_fails or (since is not None and time.monotonic() - since > _DISK_PATIENCE_S)

    def _take(self) -> None:
        """Fill `_sending`, from the spool, or from the intake while the spool takes nothing."""
        entries = self._spool.take(MAX_BATCH, _MAX_BATCH_BYTES) if self._spool is not None else []
        with self._changed:
            if not entries and self._disk_is_away():
                batch = [self._intake.popleft() for _ in range(min(MAX_BATCH, len(self._intake)))]
                entries = [Entry(document, _IN_MEMORY) for _, document in self._encode(batch)]
            self._sending = entries

    def _deliver(self) -> None:
        """Send `_sending` until the fate of every entry is known, or the sink is closed."""
        parts, tries = [self._sending], 0
        while parts and not self._closed:
            part = parts[-1]
            outcome = self._try([entry.document for entry in part])
            tries += outcome.most_tries is not None
            given_up = outcome.most_tries is not None and tries >= outcome.most_tries
            if outcome.verdict == "retry" and not given_up:
                self._fail(outcome.message)
                self._wait_to_retry(outcome.retry_after_s)
                continue
            parts.pop()
            tries = 0
            if outcome.verdict == "split" and len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            rejected = min(outcome.rejected, len(part)) if outcome.verdict == "settled" else len(part)
            if rejected or outcome.message:
                self._fail(outcome.message)
            elif self._logged:
                log.info("the sink %s delivers again", self.name)
                self._logged = ""
            self._settle(part, rejected)

    def _try(self, documents: Sequence[bytes]) -> Outcome:
        try:
            return self.transmit(documents)
        except Exception as error:  # a stage boundary: a defect in one sink must not end its delivery
            log.debug("sending to %s", self.name, exc_info=True)
            return Outcome("split", message=f"sending to {self.name}: {type(error).__name__}: please report it")

    def _settle(self, part: Sequence[Entry], rejected: int) -> None:
        try:
            if self._spool is not None and part[-1].number != _IN_MEMORY:
                self._spool.acknowledge(part[-1])
        except OSError as error:
            self._fail(
                f"noting what {self.name} has accepted: {describe_os_error(error)}: a restart will send it again"
            )
        with self._changed:
            if self._over and part[-1].number == _IN_MEMORY:
                return
            self.results["accepted"] += len(part) - rejected
            self.results["rejected"] += rejected
            self._sending = self._sending[len(part) :]
            self._failures = 0
            self._changed.notify_all()

    def _wait_to_retry(self, retry_after_s: float | None) -> None:
        """Wait; a flush cuts a backoff short for one more try, but not what the receiver asked for."""
        with self._changed:
            self._failures += 1
            self._changed.notify_all()
            if retry_after_s is not None and retry_after_s >= self._backoff.first_s:
                self._held_off = True
                self._changed.wait_for(lambda: self._closed, retry_after_s)
                self._held_off = False
            else:
                # `flush` sets the failures back to 0.
                self._changed.wait_for(
                    lambda: self._closed or not self._failures, self._backoff.delay_s(self._failures)
                )

    def _encode(self, batch: Sequence[Occurrence]) -> list[tuple[Occurrence, bytes]]:
        """Occurrences with their documents. One that has none, or too large a one, is rejected."""
        encoded = []
        for occurrence in batch:
            try:
                document = encode(occurrence)
                if len(document) > MAX_DOCUMENT:
                    raise ValueError(f"{len(document)} bytes are too many")
                encoded.append((occurrence, document))
            except Exception as error:  # noqa: BLE001  # a stage boundary: a defect must not end the thread
                self._fail(f"encoding a {occurrence.type}: {_reason(error)}")
                with self._changed:
                    self.results["rejected"] += 1
        return encoded

    def _drop(self, count: int) -> None:
        with self._changed:
            self.results["dropped"] += count

    def _fail(self, message: str) -> None:
        """Remember an error, and log it once for each outage."""
        if message != self._logged:
            log.warning(message)
        self._logged = self.last_error = message


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return describe_os_error(error)
    return f"{type(error).__name__}: {error}: please report it"
