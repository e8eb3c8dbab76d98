"""The delivery queue without a network: what its threads survive, and that each occurrence has one fate."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from helpers.occurrences import occurrences
from helpers.running_agent import wait_for

from tapio.sinks.delivery import Backoff, DeliverySink, Outcome
from tapio.sinks.frames import MAX_DOCUMENT
from tapio.sinks.spool import Spool


class ListSink(DeliverySink):
    """Delivers into a list."""

    name = "list"

    def __init__(self, directory: int) -> None:
        self.outcome = Outcome("settled")
        self.arrived: list[str] = []
        super().__init__(functools.partial(Spool, directory, self.name, 1 << 20), Backoff(0.02, 0.1))

    def transmit(self, documents: Sequence[bytes]) -> Outcome:
        if self.outcome.verdict == "settled":
            self.arrived += [msgspec.json.decode(document)["id"] for document in documents]
        return self.outcome


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_a_disk_that_is_frozen_at_the_end(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the spooling thread holds by then is counted as dropped: 256 that were on their way and those behind."""
    thawed = threading.Event()
    monkeypatch.setattr(Spool, "append", lambda _self, documents: thawed.wait(30 * bool(documents)))
    sink = ListSink(directory)
    sink.outcome = Outcome("retry", message="away")
    for one in occurrences(601):
        sink.send(one)
    wait_for(lambda: sink._spooling)
    sink.close()
    assert sink.results == {"accepted": 0, "rejected": 0, "dropped": 601}
    thawed.set()
    for thread in sink._threads:
        thread.join(5)
    assert sink.results["dropped"] == 601


def test_what_no_spool_can_hold_is_rejected_alone(directory: int) -> None:
    sink = ListSink(directory)
    sent = occurrences(7)
    sent[3].data["padding"] = "x" * MAX_DOCUMENT
    for one in sent:
        sink.send(one)
    assert sink.flush(time.monotonic() + 10)
    sink.close()
    assert sink.results == {"accepted": 6, "rejected": 1, "dropped": 0}
    assert sink.arrived == [one.id for one in sent if one is not sent[3]]
    assert "bytes are too many" in sink.last_error


@pytest.mark.parametrize(("method", "dropped"), [("append", 0), ("sync", 0), ("take", 0), ("acknowledge", 3)])
def test_the_threads_survive_a_defect(
    directory: int, monkeypatch: pytest.MonkeyPatch, method: str, dropped: int
) -> None:
    """Whatever the spool raises once: it is told, what came of it is counted, and what comes later is delivered."""
    real, broken = getattr(Spool, method), threading.Event()

    def defective(self: Spool, *arguments: object) -> object:
        if method == "append" and not arguments[0]:
            return None
        if not broken.is_set():
            broken.set()
            raise RuntimeError("odd")
        return real(self, *arguments)

    monkeypatch.setattr(Spool, method, defective)
    sink = ListSink(directory)
    sent = occurrences(3)
    for one in sent:
        sink.send(one)
    wait_for(broken.is_set)
    wait_for(lambda: "RuntimeError: odd" in sink.last_error)
    wait_for(lambda: not sink.backlog)
    for one in occurrences(5):
        sink.send(one)
    wait_for(lambda: sink.results["accepted"] == 8 - dropped, 10)
    sink.close()
    assert sink.results == {"accepted": 8 - dropped, "rejected": 0, "dropped": dropped}
