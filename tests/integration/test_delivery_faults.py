"""What becomes of occurrences when the receiver misbehaves: delivered, duplicated, rejected, never silently lost."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

import pytest
from helpers.occurrences import occurrences
from helpers.receiver import Receiver
from helpers.running_agent import wait_for

from tapio.sinks.delivery import Backoff
from tapio.sinks.otlp import OtlpSink
from tapio.sinks.otlp_environment import read_settings

QUICK = Backoff(first_s=0.02, most_s=0.1)
NUMBER = 23


@contextlib.contextmanager
def otlp_sink(
    receiver: Receiver, directory: int, timeout_s: float = 1, spool_bytes: int = 4 << 20
) -> Iterator[OtlpSink]:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_TIMEOUT": str(timeout_s)}
    sink = OtlpSink(read_settings(environment, "logs"), {"service.name": "tapio"}, directory, spool_bytes, QUICK)
    try:
        yield sink
    finally:
        sink.close()


@pytest.mark.parametrize(
    ("fault", "delivered", "rejected", "duplicated"),
    [
        ("ok", NUMBER, 0, False),
        ("429", NUMBER, 0, False),
        ("429:1", NUMBER, 0, False),
        ("502", NUMBER, 0, False),
        ("503", NUMBER, 0, False),
        ("503:1", NUMBER, 0, False),
        ("504", NUMBER, 0, False),
        ("reset", NUMBER, 0, False),
        ("garbage", NUMBER, 0, False),
        ("nonsense", NUMBER, 0, False),
        # The answer was lost: whether the receiver has it cannot be known.
        ("cut", NUMBER, 0, True),
        ("hang", NUMBER, 0, True),
        ("drip", NUMBER, 0, True),
        ("drip-head", NUMBER, 0, True),
        ("huge", NUMBER, 0, True),
        # Decided by the receiver, never tried again.
        ("400", 0, NUMBER, False),
        ("401", 0, NUMBER, False),
        ("403", 0, NUMBER, False),
        ("404", 0, NUMBER, False),
        ("408", 0, NUMBER, False),
        ("500", 0, NUMBER, False),
        ("302", 0, NUMBER, False),
        ("partial:7", NUMBER - 7, 7, False),
        (f"partial:{NUMBER}", 0, NUMBER, False),
    ],
)
def test_a_fault_of_the_receiver(
    collector: Receiver, directory: int, fault: str, delivered: int, rejected: int, duplicated: bool
) -> None:
    """One fault, then health: what is delivered, rejected and duplicated is exact, and so are the counters."""
    collector.script += [fault, fault] if duplicated or delivered == NUMBER else [fault]
    sent = occurrences(NUMBER)
    with otlp_sink(collector, directory) as sink:
        for one in sent:
            sink.send(one)
        wait_for(lambda: sink.backlog == 0, 20)
        assert sink.results == {"accepted": delivered, "rejected": rejected, "dropped": 0}
        # Further ones arrive: nothing is stuck.
        extra = occurrences(3)
        for one in extra:
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
    ids = collector.ids()
    assert sum(one.id in ids for one in sent) == delivered
    assert all(ids[one.id] == 1 for one in extra)
    times = {ids[one.id] for one in sent if one.id in ids}
    assert times <= ({1} if not duplicated else {3})
    if fault != "ok":
        assert sink.last_error.startswith("sending to http://127.0.0.1:")


def test_413_halves_until_it_fits(collector: Receiver, directory: int) -> None:
    """Each half is tried once; nothing is delivered twice."""
    collector.otherwise = "413>3"
    sent = occurrences(NUMBER)
    with otlp_sink(collector, directory) as sink:
        for one in sent:
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
        assert sink.results == {"accepted": NUMBER, "rejected": 0, "dropped": 0}
    assert collector.ids() == {one.id: 1 for one in sent}
    assert [document["id"] for document in collector.stored] == [one.id for one in sent]  # in order


def test_a_single_occurrence_that_is_too_large_is_rejected_alone(collector: Receiver, directory: int) -> None:
    collector.otherwise = "413>0"
    with otlp_sink(collector, directory) as sink:
        for one in occurrences(5):
            sink.send(one)
        wait_for(lambda: sink.backlog == 0, 10)
        assert sink.results == {"accepted": 0, "rejected": 5, "dropped": 0}


def test_retry_after_is_honoured(collector: Receiver, directory: int) -> None:
    """No request before the time that the receiver asked for, and one soon after it."""
    collector.script.append("503:2")
    with otlp_sink(collector, directory) as sink:
        sink.send(occurrences(1)[0])
        wait_for(lambda: sink.results["accepted"] == 1, 10)
    first, second = (request.at for request in collector.requests)
    assert 2.0 <= second - first < 6


def test_a_flush_does_not_override_retry_after(collector: Receiver, directory: int) -> None:
    collector.otherwise = "503:60"
    with otlp_sink(collector, directory) as sink:
        sink.send(occurrences(1)[0])
        wait_for(lambda: len(collector.requests) == 1)
        wait_for(lambda: sink._held_off)
        asked = time.monotonic()
        assert not sink.flush(asked + 10)
        assert time.monotonic() - asked < 2
    assert len(collector.requests) == 1


def test_a_retry_after_of_zero_is_no_invitation_to_hammer(collector: Receiver, directory: int) -> None:
    collector.otherwise = "503:0"
    with otlp_sink(collector, directory) as sink:
        sink.send(occurrences(1)[0])
        time.sleep(1.5)
    assert 2 <= len(collector.requests) < 40


def test_a_compressed_bomb_costs_no_memory(collector: Receiver, directory: int) -> None:
    """200 MiB of zeros in 200 KiB of gzip: no answer that makes sense, and not unpacked to find that out."""
    collector.script += ["bomb"] * 3
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with otlp_sink(collector, directory, timeout_s=5) as sink:
        sink.send(occurrences(1)[0])
        wait_for(lambda: sink.results["accepted"] == 1, 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_nonsense_is_not_tried_for_ever(collector: Receiver, directory: int) -> None:
    """After five answers that make no sense the batch counts as rejected: the receiver may have it."""
    collector.otherwise = "nonsense"
    with otlp_sink(collector, directory) as sink:
        for one in occurrences(7):
            sink.send(one)
        wait_for(lambda: sink.backlog == 0, 10)
        assert sink.results == {"accepted": 0, "rejected": 7, "dropped": 0}
    assert len(collector.requests) == 5


def test_an_outage_before_nonsense_does_not_count(collector: Receiver, directory: int) -> None:
    collector.script += ["503"] * 6 + ["nonsense"] * 2
    with otlp_sink(collector, directory) as sink:
        sink.send(occurrences(1)[0])
        wait_for(lambda: sink.results["accepted"] == 1, 10)


def test_one_poison_record_costs_only_itself(collector: Receiver, directory: int) -> None:
    """What cannot be made a record is found by halving; the rest arrives once, in order."""
    sent = occurrences(31)
    with otlp_sink(collector, directory) as sink:
        wait_for(lambda: sink._spool is not None)
        assert sink._spool is not None
        made = sink._records.make

        def make(document: bytes) -> object:
            if sent[13].id.encode() in document:
                raise ValueError("poison")
            return made(document)

        sink._records.make = make  # type: ignore[method-assign, assignment]
        for one in sent:
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
        assert sink.results == {"accepted": 30, "rejected": 1, "dropped": 0}
    assert collector.ids() == {one.id: 1 for one in sent if one is not sent[13]}


@pytest.mark.parametrize(
    "value",
    ["\ud800 lone", 1 << 63, (1 << 64) - 1, -(1 << 64), float("nan"), float("inf"), {"\udfff": 1}, [None, float("nan")],
     b"\xff\x00", {1, 2}, object(), "\x00\x1b[31m"],
    ids=repr,
)  # fmt: skip
def test_a_bad_value_costs_nothing(collector: Receiver, directory: int, value: object) -> None:
    """The occurrence arrives, with its neighbours in the same batch."""
    good = occurrences(2)
    bad = occurrences(1, odd=value)[0]
    with otlp_sink(collector, directory) as sink:
        for one in (good[0], bad, good[1]):
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
        assert sink.results == {"accepted": 3, "rejected": 0, "dropped": 0}
    assert collector.ids() == {one.id: 1 for one in (*good, bad)}


def test_connections_are_kept(collector: Receiver, directory: int) -> None:
    with otlp_sink(collector, directory) as sink:
        for _ in range(5):
            sink.send(occurrences(1)[0])
            assert sink.flush(time.monotonic() + 10)
    assert len(collector.requests) == 5
    assert collector.connections == 1


def test_send_never_waits(collector: Receiver, directory: int) -> None:
    """Taking over 4,000 occurrences is quick also when the receiver hangs; beyond the intake they are counted."""
    collector.otherwise = "hang"
    with otlp_sink(collector, directory, timeout_s=10) as sink:
        sent = occurrences(4000)
        slowest = 0.0
        for one in sent:
            before = time.monotonic()
            sink.send(one)
            slowest = max(slowest, time.monotonic() - before)
        assert slowest < 0.5
        wait_for(lambda: not sink._intake and not sink._spooling, 10)
        assert sink.backlog + sink.results["dropped"] == 4000
