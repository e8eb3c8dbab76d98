"""The polku sink against a model of POLKU's types: strict where its decoder is strict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import pytest
from helpers.occurrences import POD, occurrence, occurrences
from helpers.receiver import Receiver
from helpers.running_agent import wait_for

from tapio.anomalies import CATALOGUE
from tapio.occurrence import encode
from tapio.sinks.delivery import Backoff
from tapio.sinks.polku import PolkuSink
from tapio.sinks.tls import TlsFiles


class PolkuError(msgspec.Struct):
    """Required: code, what_failed."""

    code: str
    what_failed: str
    why_it_matters: str | None = None
    possible_causes: list[str] = []
    suggested_fix: str | None = None


class PolkuEntity(msgspec.Struct):
    """Required: type, id."""

    type: str
    id: str
    name: str | None = None
    namespace: str | None = None


class PolkuContext(msgspec.Struct):
    """All optional."""

    cluster: str | None = None
    namespace: str | None = None
    correlation_keys: list[str] = []
    entities: list[PolkuEntity] = []


class PolkuOccurrence(msgspec.Struct):
    """What its ingestor decodes; fields that it does not know are carried along."""

    id: str
    timestamp: str
    source: str
    type: str
    severity: Literal["debug", "info", "warning", "error", "critical"]
    outcome: Literal["success", "failure", "timeout", "inprogress", "unknown"]
    context: PolkuContext | None = None
    error: PolkuError | None = None
    data: Any = None


@contextlib.contextmanager
def polku_sink(receiver: Receiver, directory: int) -> Iterator[PolkuSink]:
    sink = PolkuSink(f"{receiver.url}/ingest/occurrence", TlsFiles(), directory, 1 << 20, Backoff(0.02, 0.1))
    try:
        yield sink
    finally:
        sink.close()


def test_every_type_is_accepted_by_its_types(directory: int, collector: Receiver) -> None:
    """An array; only what has to differ differs."""
    sent = [occurrence(name, context=POD if number % 2 else None) for number, name in enumerate(CATALOGUE)]
    with polku_sink(collector, directory) as sink:
        for one in sent:
            sink.send(one)
        assert sink.flush(time.monotonic() + 10)
    request = collector.requests[0]
    assert request.path == "/ingest/occurrence"
    assert request.headers["content-type"] == "application/json"
    decoded = msgspec.json.decode(request.body, type=list[PolkuOccurrence])
    assert [one.id for one in decoded] == [one.id for one in sent]
    assert {one.outcome for one in decoded} == {"failure", "timeout", "inprogress"}
    for raw, one in zip(request.documents(), sent, strict=True):
        assert raw["error"].pop("what_failed") == one.error.message
        raw["outcome"] = raw["outcome"].replace("inprogress", "in_progress")
        for entity in raw.get("context", {}).get("entities", ()):
            assert entity.pop("type") == entity["kind"]
        assert raw == msgspec.json.decode(encode(one))


@pytest.mark.parametrize(
    ("status", "accepted"), [("503", 7), ("429:1", 7), ("400", 0), ("302", 0), ("202", 7), ("204", 7)]
)
def test_the_delivery_rules_are_the_same(directory: int, collector: Receiver, status: str, accepted: int) -> None:
    collector.script.append(status)
    with polku_sink(collector, directory) as sink:
        for one in occurrences(7):
            sink.send(one)
        wait_for(lambda: sink.backlog == 0, 10)
        assert sink.results == {"accepted": accepted, "rejected": 7 - accepted, "dropped": 0}


def test_a_page_to_log_in_is_no_delivery(directory: int, collector: Receiver) -> None:
    collector.script += ["nonsense", "nonsense"]
    sent = occurrences(7)
    with polku_sink(collector, directory) as sink:
        for one in sent:
            sink.send(one)
        wait_for(lambda: sink.backlog == 0, 10)
        assert sink.results["accepted"] == 7
    assert collector.ids() == {one.id: 1 for one in sent}
