"""The watch against an API server that is away, refuses, hangs, or answers what cannot be read."""

from __future__ import annotations

import time
from typing import Any

import pytest
from helpers.api_server import ApiServerDouble, make_pod
from helpers.running_agent import wait_for
from helpers.watched import Watched, lists


def test_while_the_server_is_away_pods_stay_known_and_the_watch_is_down(api: ApiServerDouble) -> None:
    pod = api.put("pods", make_pod())
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)
    api.stop()
    watched.wait_for(lambda: not watched.watch.up_since_ns)
    watched.wait_for(lambda: len(watched.waits) >= 9)
    assert watched.knows(pod)
    assert max(watched.waits) <= 30
    assert watched.waits[-1] >= 15, "it waits longer and longer"
    api.start()
    late = api.put("pods", make_pod("late"))
    watched.wait_for(lambda: watched.watch.up_since_ns and watched.knows(late))


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
@pytest.mark.parametrize("at", ["list", "watch"])
def test_refusals_are_tried_again(api: ApiServerDouble, status: int, at: str, caplog: pytest.LogCaptureFixture) -> None:
    pod = api.put("pods", make_pod())
    api.faults.extend([status] * 5 if at == "list" else ["ok", *[status] * 5])
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns and watched.knows(pod))
    assert len(watched.waits) >= 5
    assert lists(api) == (6 if at == "list" else 1)
    lines = [line for line in (record.getMessage() for record in caplog.records) if str(api.port) in line]
    assert len(lines) == 1, "the same failure is logged once"
    assert f"/api/v1/pods: HTTP {status}" in lines[0]
    if status == 403:
        assert lines[0].endswith("grant the service account list and watch")


def test_retry_after_is_honoured(api: ApiServerDouble) -> None:
    api.faults.append("retry-after")
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)
    assert watched.waits[0] >= 3


@pytest.mark.parametrize("fault", ["reset", "garbage"])
def test_broken_answers_are_tried_again(api: ApiServerDouble, fault: str) -> None:
    api.faults.extend([fault, "ok", fault, fault])
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)


@pytest.mark.parametrize("answered", [0, 1])
def test_a_server_that_hangs_is_given_up(api: ApiServerDouble, answered: int, monkeypatch: Any) -> None:
    """No request waits for ever: neither a list nor a watch."""
    monkeypatch.setattr("tapio.enrich.watch._LIST_TIMEOUT_S", 0.5)
    api.faults.extend([*["ok"] * answered, "hang"])
    watched = Watched(api, read_timeout_s=0.5)
    watched.wait_for(lambda: len(api.asked) >= answered + 2 and watched.watch.up_since_ns)


def test_a_silent_watch_is_given_up(api: ApiServerDouble) -> None:
    """A half-open connection says nothing for ever, nor does a server that has lost its memory: a new list."""
    watched = Watched(api, read_timeout_s=0.5)
    watched.wait_for(lambda: sum(asked.is_watch for asked in api.asked) >= 3)
    assert lists(api) >= 2


def test_a_server_that_ends_every_watch_is_not_stormed(api: ApiServerDouble) -> None:
    watched = Watched(api, longest_wait_s=30)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        api.send(None)
        time.sleep(0.01)
    assert sum(asked.is_watch for asked in api.asked) <= 8
    assert watched.pods is not None


def test_events_that_cannot_be_read_are_counted_and_passed_over(api: ApiServerDouble) -> None:
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    for event in (b"\n", b"no json\n", b'{"type": 5}\n', b'{"type": "ADDED", "object": {"metadata": {"name": 7}}}\n'):
        api.send(event)
    pod = api.put("pods", make_pod())
    watched.wait_for(lambda: watched.knows(pod))
    assert watched.watch.unreadable == 3
    assert lists(api) == 1


def test_an_event_without_end_is_given_up(api: ApiServerDouble, monkeypatch: Any) -> None:
    monkeypatch.setattr("tapio.enrich.watch._MAX_OBJECT_BYTES", 1 << 16)
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    api.send(b"x" * (1 << 18))
    watched.wait_for(lambda: sum(asked.is_watch for asked in api.asked) >= 2)
    pod = api.put("pods", make_pod())
    watched.wait_for(lambda: watched.knows(pod))
