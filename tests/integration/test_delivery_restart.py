"""Outages that outlive the sender: restarts, SIGKILL, full and frozen disks, many occurrences to catch up on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.occurrences import occurrences
from helpers.receiver import Receiver
from helpers.running_agent import wait_for

from tapio.sinks.delivery import Backoff
from tapio.sinks.otlp import OtlpSink
from tapio.sinks.otlp_environment import read_settings
from tapio.sinks.spool import Spool

# Sends occurrences for ever, and prints the id of each that the spool or the receiver has.
SENDER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from helpers.occurrences import occurrence
from tapio.sinks.delivery import Backoff
from tapio.sinks.otlp import OtlpSink
from tapio.sinks.otlp_environment import read_settings
settings = read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": sys.argv[2], "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}, "logs")
sink = OtlpSink(settings, {}, os.open(sys.argv[3], os.O_RDONLY), 8 << 20, Backoff(0.02, 0.1))
while True:
    one = occurrence()
    sink.send(one)
    while sink._intake or sink._spooling:
        time.sleep(0.0005)
    print(one.id, flush=True)
"""


def make_sink(url: str, directory: int, spool_bytes: int = 32 << 20) -> OtlpSink:
    settings = read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}, "logs")
    return OtlpSink(settings, {}, directory, spool_bytes, Backoff(0.02, 0.5))


def test_killed_senders_lose_nothing(tmp_path: Path, directory: int, collector: Receiver) -> None:
    """Twenty senders, each killed at some moment, while the receiver comes, goes and loses answers.

    Every other one as it starts, recovers the spool and begins to send what it found there.

    All that was taken over arrives in the end, twice only where an answer was lost or a sender died waiting for it.
    """
    rng = random.Random(5)  # noqa: S311  # reproducible
    tests = Path(__file__).parent.parent
    taken_over: list[str] = []
    rounds = 20
    for number in range(rounds):
        command = [sys.executable, "-c", SENDER, str(tests), collector.url, str(tmp_path / "data")]
        collector.otherwise = ["ok", "503", "cut", "ok"][number % 4]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdout is not None
            first = "" if number % 2 else sender.stdout.readline()
            if number % 3 == 2:
                collector.stop()
            timer = threading.Timer(rng.uniform(0.3, 1.2) if number % 2 else rng.uniform(0, 0.5), sender.kill)
            timer.start()
            taken_over += [line[:-1] for line in (first, *sender.stdout) if line.endswith("\n")]
        assert sender.returncode == -signal.SIGKILL
        if collector._server is None:
            collector.start()
    collector.otherwise = "ok"
    last = make_sink(collector.url, directory)
    wait_for(lambda: last._spool is not None)
    assert last.flush(time.monotonic() + 30)
    last.close()
    ids = collector.ids()
    assert len(taken_over) > 100
    assert [one for one in taken_over if one not in ids] == []
    cuts = collector.faults().count("cut")
    assert cuts > 0
    # Without a cut answer, only the batch in flight when a sender was killed can come twice.
    assert sum(count > 1 for count in ids.values()) <= 100 * (cuts + rounds)


def test_a_restart_after_a_good_answer_sends_nothing_again(directory: int, collector: Receiver) -> None:
    for _ in range(3):
        sink = make_sink(collector.url, directory)
        for one in occurrences(7):
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
        sink.close()
    assert sorted(collector.ids().values()) == [1] * 21


def test_an_outage_over_a_restart(directory: int, collector: Receiver) -> None:
    """The receiver is away while two senders run; the third delivers everything once and in order."""
    collector.stop()
    sent = []
    for _ in range(2):
        sink = make_sink(collector.url, directory)
        sent += (batch := occurrences(150))
        for one in batch:
            sink.send(one)
        asked = time.monotonic()
        assert not sink.flush(asked + 10)
        assert time.monotonic() - asked < 3  # refused at once: nothing to wait for
        sink.close()
        assert sink.results == {"accepted": 0, "rejected": 0, "dropped": 0}
        assert "connection refused" in sink.last_error
    collector.start()
    sink = make_sink(collector.url, directory)
    wait_for(lambda: sink.results["accepted"] == 300, 10)
    sink.close()
    assert [document["id"] for document in collector.stored] == [one.id for one in sent]


def test_20_000_occurrences_are_drained_within_15_s(directory: int, collector: Receiver) -> None:
    """After an outage. A quiet machine takes 3 s."""
    collector.stop()
    sink = make_sink(collector.url, directory, spool_bytes=64 << 20)
    for one in occurrences(20_000, exit_code=137, signal=9, memory_usage_bytes=1 << 29, memory_limit_bytes=0):
        while len(sink._intake) > 2000:
            time.sleep(0.002)
        sink.send(one)
    wait_for(lambda: not sink._intake and not sink._spooling, 20)
    assert sink.backlog == 20_000
    collector.start()
    started = time.monotonic()
    wait_for(lambda: sink.results["accepted"] == 20_000, 60)
    took_s = time.monotonic() - started
    sink.close()
    ids = collector.ids()
    assert len(ids) == 20_000
    assert set(ids.values()) == {1}
    assert took_s < 15
    print(f"20,000 occurrences drained in {took_s:.1f} s")


def test_a_bounded_spool_drops_the_oldest_and_counts(directory: int, collector: Receiver) -> None:
    collector.stop()
    sink = make_sink(collector.url, directory, spool_bytes=1 << 20)
    sent = occurrences(5000)
    for one in sent:
        while len(sink._intake) > 2000:
            time.sleep(0.002)
        sink.send(one)
    wait_for(lambda: not sink._intake and not sink._spooling, 20)
    dropped = sink.results["dropped"]
    assert dropped > 0
    assert dropped + sink.backlog == 5000
    collector.start()
    assert sink.flush(time.monotonic() + 20)
    sink.close()
    ids = collector.ids()
    assert len(ids) == 5000 - dropped
    assert all(one.id in ids for one in sent[-1000:])


def test_the_books_balance_while_the_oldest_is_dropped(directory: int, collector: Receiver) -> None:
    """A receiver that is too slow and often away, a small spool: each occurrence has exactly one fate."""
    rng = random.Random(3)  # noqa: S311  # reproducible
    collector.script += rng.choices(["ok", "503", "429", "reset", "413>30", "partial:3", "400"], k=400)
    sink = make_sink(collector.url, directory, spool_bytes=1 << 20)
    sent = occurrences(12_000, padding="x" * 300)
    for number, one in enumerate(sent):
        while len(sink._intake) > 2000:
            time.sleep(0.001)
        sink.send(one)
        if number % 10 == 0:
            time.sleep(0.002)
        if number % 6000 == 1000:
            collector.stop()
        if number % 6000 == 5500:
            collector.start()
    wait_for(lambda: sink.backlog == 0, 60)
    sink.close()
    assert sum(sink.results.values()) == 12_000
    ids = collector.ids()
    assert set(ids.values()) == {1}
    assert len(ids) == sink.results["accepted"]
    assert sink.results["dropped"] > 0
    assert sink.results["rejected"] > 0


def test_a_spool_that_cannot_be_written_costs_durability_not_delivery(
    directory: int, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: occurrences go to the receiver from memory; and once it can, they are spooled again."""
    broken = True
    append = Spool.append

    def full(self: Spool, documents: list[bytes]) -> None:
        if broken:
            raise OSError(28, "No space left on device")
        append(self, documents)

    monkeypatch.setattr(Spool, "append", full)
    sink = make_sink(collector.url, directory)
    sent = occurrences(31)
    for one in sent:
        sink.send(one)
    wait_for(lambda: sink.results["accepted"] == 31, 10)
    assert "no space left on device" in sink.last_error
    collector.stop()
    sent += (more := occurrences(17))
    for one in more:
        sink.send(one)
    time.sleep(1.5)
    assert sink.backlog == 17
    broken = False
    wait_for(lambda: not sink._intake and not sink._spooling, 10)
    collector.start()
    wait_for(lambda: sink.results["accepted"] == 48, 10)
    sink.close()
    assert sink.results["dropped"] == 0
    ids = collector.ids()
    assert {ids[one.id] for one in sent} == {1}


def test_a_full_disk(tmp_path: Path, collector: Receiver) -> None:
    """A real one: a filesystem of 1 MiB that something else fills up."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tapio-test", mount], check=True)
    try:
        directory = os.open(mount, os.O_RDONLY)
        sink = make_sink(collector.url, directory)
        sent = occurrences(13)
        for one in sent:
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
        fill_up(mount / "filler")
        sent += (more := occurrences(501))
        for one in more:
            sink.send(one)
        wait_for(lambda: sink.results["accepted"] == len(sent), 20)
        (mount / "filler").unlink()
        sent += (more := occurrences(19))
        for one in more:
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
        sink.close()
        os.close(directory)
        assert collector.ids() == {one.id: 1 for one in sent}
        assert sink.results["dropped"] == 0
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def fill_up(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                continue


@pytest.mark.parametrize("method", ["append", "sync"])
def test_a_disk_that_hangs_stops_neither_the_caller_nor_delivery(
    directory: int, collector: Receiver, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The spooling thread is stuck, with a batch or without; what comes then is delivered from memory."""
    thawed = threading.Event()
    real = getattr(Spool, method)

    def frozen(self: Spool, *arguments: object) -> None:
        thawed.wait(30)
        real(self, *arguments)

    monkeypatch.setattr(Spool, method, frozen)
    sink = make_sink(collector.url, directory)
    if method == "sync":
        time.sleep(1.5)  # it is called once a second
    sent = occurrences(50)
    for one in sent[:10]:
        sink.send(one)
        time.sleep(0.01)
    for one in sent[10:]:
        sink.send(one)
    wait_for(lambda: sink.results["accepted"] >= 40, 10)
    thawed.set()
    wait_for(lambda: sink.results["accepted"] == 50, 10)
    sink.close()
    assert collector.ids() == {one.id: 1 for one in sent}
