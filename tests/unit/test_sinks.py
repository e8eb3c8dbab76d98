"""Sinks: nothing blocks the sender, every occurrence is accounted for, one sink does not touch another."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from helpers.occurrences import make_occurrence
from helpers.running_agent import wait_for

from tapio.config import FileConfig
from tapio.occurrence import Occurrence
from tapio.sinks.base import MultiSink, QueuedSink
from tapio.sinks.file import FileSink
from tapio.sinks.stdout import StdoutSink
from tapio.store import Store


class TestSink(QueuedSink):
    """Hands each batch to a function."""

    __test__ = False
    name = "test"

    def __init__(self, behave: Callable[[Sequence[Occurrence]], int], limit: int = 100) -> None:
        self._behave = behave
        super().__init__(limit=limit, batch=10)

    def write(self, batch: Sequence[Occurrence]) -> int:
        return self._behave(batch)


def soon() -> float:
    return time.monotonic() + 5


def test_a_stalled_sink_drops_and_counts_and_does_not_block() -> None:
    gate = threading.Event()
    stalled = TestSink(lambda batch: len(batch) if gate.wait(10) else 0, limit=20)
    seen: list[Occurrence] = []
    healthy = TestSink(lambda batch: seen.extend(batch) or len(batch), limit=1000)  # type: ignore[func-returns-value]
    sinks = MultiSink([stalled, healthy])
    for _ in range(101):
        sinks.send(make_occurrence())
    assert healthy.flush(soon())
    assert len(seen) == 101
    assert not stalled.flush(time.monotonic() + 0.05)
    gate.set()
    assert stalled.flush(soon())
    assert sum(stalled.results.values()) == 101
    assert stalled.results["dropped"] >= 101 - 20 - 10
    sinks.close()


def test_a_storm_leaves_room_for_what_is_critical() -> None:
    gate = threading.Event()
    sink = TestSink(lambda batch: len(batch) if gate.wait(10) else 0, limit=80)
    for _ in range(200):
        sink.send(make_occurrence())
    dropped = sink.results["dropped"]
    sink.send(msgspec.structs.replace(make_occurrence(), severity="critical"))
    assert sink.results["dropped"] == dropped
    gate.set()
    assert sink.flush(soon())
    sink.close()


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), ValueError("odd")])
def test_a_failing_sink_counts_and_goes_on(error: Exception) -> None:
    tries = iter([True, False])

    def behave(batch: Sequence[Occurrence]) -> int:
        if next(tries):
            raise error
        return len(batch)

    sink = TestSink(behave)
    sink.send(make_occurrence())
    wait_for(lambda: sink.results["rejected"] == 1)
    assert "writing to test" in sink.last_error
    sink.send(make_occurrence())
    assert sink.flush(soon())
    assert sink.results == {"accepted": 1, "rejected": 1, "dropped": 0}
    sink.close()


def test_what_is_left_at_the_end_is_dropped_and_counted() -> None:
    gate = threading.Event()
    sink = TestSink(lambda batch: len(batch) if gate.wait(10) else 0)
    for _ in range(50):
        sink.send(make_occurrence())
    wait_for(lambda: sink._writing)
    sink.close()
    sink.send(make_occurrence())
    gate.set()
    wait_for(lambda: sum(sink.results.values()) == 51)
    assert sink.results["dropped"] >= 41


def test_stdout_writes_lines() -> None:
    reader, writer = os.pipe()
    sink = StdoutSink(writer)
    sent = [make_occurrence(comm=text) for text in ("plain", "new\nline", "\x1b[31m", "ä")]
    for occurrence in sent:
        sink.send(occurrence)
    assert sink.flush(soon())
    lines = os.read(reader, 65536).split(b"\n")
    assert [json.loads(line)["data"]["comm"] for line in lines[:-1]] == ["plain", "new\nline", "\x1b[31m", "ä"]
    assert lines[-1] == b""
    sink.close()
    os.close(reader)
    os.close(writer)


def test_a_pipe_that_is_not_blocking_gets_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sink = StdoutSink(writer)
    for _ in range(1000):
        sink.send(make_occurrence())
    read = b""
    while read.count(b"\n") < 1000:
        read += os.read(reader, 1 << 20)
    assert sink.flush(soon())
    assert sink.results["accepted"] == 1000
    sink.close()
    os.close(reader)
    os.close(writer)


def test_a_broken_pipe_ends_the_sink() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = StdoutSink(writer)
    for _ in range(3):
        sink.send(make_occurrence())
        assert sink.flush(soon())
    assert sink.results == {"accepted": 0, "rejected": 3, "dropped": 0}
    assert "the agent runs on" in sink.last_error
    sink.close()
    os.close(writer)


def test_a_line_torn_by_an_error_is_ended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk behind stdout: the next line starts on a line of its own."""
    reader, writer = os.pipe()
    real, calls = os.write, []

    def write(descriptor: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(descriptor, bytes(data)[:10])
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr("tapio.sinks.stdout.os.write", write)
    sink = StdoutSink(writer)
    sink.send(make_occurrence())
    assert sink.flush(soon())
    sink.send(make_occurrence(pid=2))
    assert sink.flush(soon())
    torn, whole, _ = os.read(reader, 65536).split(b"\n")
    assert len(torn) == 10
    assert json.loads(whole)["data"]["pid"] == 2
    assert sink.results == {"accepted": 1, "rejected": 1, "dropped": 0}
    sink.close()
    os.close(reader)
    os.close(writer)


def test_the_file_sink_retains(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    sink = FileSink(Store(directory), FileConfig(max_files=7))
    sent = [make_occurrence() for _ in range(29)]
    for occurrence in sent:
        sink.send(occurrence)
    assert sink.flush(soon())
    assert sorted(path.stem for path in tmp_path.iterdir()) == [occurrence.id for occurrence in sent[-7:]]
    assert sink.results["accepted"] == 29
    sink.close()
    os.close(directory)
