"""Answers that are odd HTTP, or hardly any: what counts as delivered, and how often it is tried."""

from __future__ import annotations

import random
import time

import pytest
from helpers.occurrences import occurrences
from helpers.raw_server import RawServer, raw_server
from helpers.running_agent import wait_for
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse

from tapio.sinks.delivery import Backoff
from tapio.sinks.one_shot import _retry_after_s
from tapio.sinks.otlp import OtlpSink, read_json_answer, read_logs_answer
from tapio.sinks.otlp_environment import read_settings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"
NUMBER = 5


def make_sink(server: RawServer, directory: int, address: str = "127.0.0.1") -> OtlpSink:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}:{server.port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"
    }  # fmt: skip
    return OtlpSink(read_settings(environment, "logs"), {}, directory, 1 << 20, Backoff(0.01, 0.05))


@pytest.mark.parametrize(
    ("answer", "close"),
    [
        (OK, False),
        (b"HTTP/1.0 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}", True),
        (HEAD + b"Connection: close\r\n\r\n", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
         False),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, False),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + OK, False),
    ],
    ids=repr,
)  # fmt: skip
def test_odd_but_good(directory: int, answer: bytes, close: bool) -> None:
    """Accepted at once, and the next request on the connection gets its own answer."""
    refusal = b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"
    with raw_server(answer, refusal, answer, close=close) as server:
        sink = make_sink(server, directory)
        for _ in range(3):
            for one in occurrences(NUMBER):
                sink.send(one)
            assert sink.flush(time.monotonic() + 5)
        sink.close()
        assert len(server.requests) == 3
        assert sink.results == {"accepted": 2 * NUMBER, "rejected": NUMBER, "dropped": 0}


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
        HEAD + b"Content-Encoding: deflate\r\nContent-Length: 9\r\n\r\nnot zlib!",
        HEAD + b"Content-Encoding: br\r\nContent-Length: 9\r\n\r\nnot known",
        HEAD + b"Content-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
        HEAD + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
        HEAD + b"Content-Type: application/json\r\nContent-Length: 5\r\n\r\n{\xff}\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        HEAD + b"Content-Length: 5, 6\r\n\r\nhello!",
        HEAD + b"Content-Length: 7\r\n\r\nhello",
        HEAD + b"Content-Length: banana\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n",
        HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        HEAD + b"X: y\r\n" * 200 + b"\r\n",
    ],
    ids=lambda answer: repr(answer[17:80]),
)
@pytest.mark.parametrize("close", [True, False])
def test_nonsense_is_tried_five_times(directory: int, answer: bytes, close: bool) -> None:
    """Who answers so may have taken it: five tries, then it counts as rejected, and what comes next is tried anew."""
    with raw_server(*[answer] * 5, OK, close=close) as server:
        sink = make_sink(server, directory)
        for one in occurrences(NUMBER):
            sink.send(one)
        wait_for(lambda: sink.results["rejected"] == NUMBER, 15)
        assert len(server.requests) == 5
        for one in occurrences(NUMBER):
            sink.send(one)
        wait_for(lambda: sink.results["accepted"] == NUMBER, 15)
        sink.close()


@pytest.mark.parametrize(
    "answer",
    [b"", b"\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 banana\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n",
     b"HTTP/1.1 20", b"HTTP/1.1 000 OK\r\n\r\n", b"220 smtp.example ESMTP\r\n", b"\x15\x03\x01\x00\x02\x02\x16"],
    ids=repr,
)  # fmt: skip
def test_what_is_not_http_is_waited_for(directory: int, answer: bytes) -> None:
    """The wrong port, or a port that is about to be the right one: nothing is given up."""
    with raw_server(*[answer] * 7, OK, close=True) as server:
        sink = make_sink(server, directory)
        for one in occurrences(NUMBER):
            sink.send(one)
        wait_for(lambda: sink.results["accepted"] == NUMBER, 15)
        sink.close()
        assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", None), ("0", 0), ("7", 7), ("2.5", 2.5), ("-5", 0), ("1e308", 3600), ("9" * 400, None), ("inf", None),
     ("nan", None), ("banana", None), ("5 minutes", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
     ("Fri, 31 Dec 9999 23:59:59 GMT", 3600), ("Thu, 01 Jan 0001 00:00:00 GMT", 0), ("Thu, 99 Foo 2026 25:61:61", None),
     ("Mon, 01 Jan 2001 00:00:00 +9999", None), ("Thu, 01 Jan 0001 00:00:00 +2359", 0), ("\x00", None)],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    assert _retry_after_s(value) == seconds


def test_no_retry_after_breaks_it() -> None:
    rng = random.Random(11)  # noqa: S311  # reproducible
    parts = [*"-:, ", "Thu, ", "01 ", "Jan ", "99999 ", "00:00:00 ", "-9999", "GMT", "\xff", "1e9", "Feb", "31"]
    for _ in range(5000):
        found = _retry_after_s("".join(rng.choices(parts, k=rng.randrange(8))))
        assert found is None or 0 <= found <= 3600


@pytest.mark.parametrize(
    ("rejected", "expected"), [(0, 0), (3, 3), (-7, 0), (1 << 40, NUMBER), ((1 << 63) - 1, NUMBER), (-(1 << 63), 0)]
)
def test_partial_success_with_a_number_that_cannot_be(directory: int, rejected: int, expected: int) -> None:
    """Neither more than were sent nor fewer than none are rejected."""
    partial = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message="x\n\x1b[2J" * 1000)
    body = ExportLogsServiceResponse(partial_success=partial).SerializeToString()
    assert read_logs_answer("application/x-protobuf", body)[0] == max(0, rejected)
    json = b'{"partialSuccess": {"rejectedLogRecords": "%d"}}' % rejected
    assert read_json_answer(json, "rejectedLogRecords")[0] == max(0, rejected)
    with raw_server(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body) as server:
        sink = make_sink(server, directory)
        for one in occurrences(NUMBER):
            sink.send(one)
        assert sink.flush(time.monotonic() + 5)
        sink.close()
    assert sink.results == {"accepted": NUMBER - expected, "rejected": expected, "dropped": 0}
    assert sink.last_error.isprintable()
    assert len(sink.last_error) < 500


@pytest.mark.parametrize("address", ["[::1]", "[0:0:0:0:0:0:0:1]", "127.0.0.1"])
def test_addresses(directory: int, address: str) -> None:
    with raw_server(OK, address="127.0.0.1" if "." in address else "::1") as server:
        sink = make_sink(server, directory, address)
        sink.send(occurrences(1)[0])
        assert sink.flush(time.monotonic() + 5), sink.last_error
        sink.close()
