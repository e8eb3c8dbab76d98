"""Losses as occurrences: every lost event once, in the right observer's name."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tapio.losses import Losses

S = 1_000_000_000


def test_nothing_lost_is_nothing_said() -> None:
    assert Losses("network", lambda: {"ring_full": 0, "program_busy": 0}).due(5) == []


def test_new_losses_once_a_second_by_reason() -> None:
    totals = {"ring_full": 7, "program_busy": 2}
    losses = Losses("storage", lambda: totals)
    first = losses.due(1)
    assert [one.data for one in first] == [
        {"observer": "storage", "reason": "ring_full", "count": 7},
        {"observer": "storage", "reason": "program_busy", "count": 2},
    ]
    assert {(one.type.name, one.severity, one.type.code) for one in first} == {
        ("tapio.agent.events_lost", "warning", "EVENTS_LOST")
    }
    totals["ring_full"] = 30
    assert losses.due(S) == []
    assert [one.count for one in losses.due(S + 1)] == [23]
    assert losses.due(3 * S) == []


def test_the_last_look_does_not_wait() -> None:
    totals = {"ring_full": 0, "program_busy": 0}
    losses = Losses("node", lambda: totals)
    losses.due(1)
    totals["ring_full"] = 11
    assert [one.count for one in losses.due(2, last=True)] == [11]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3 * S)), max_size=40))
def test_the_sum_of_all_counts_is_what_was_lost(steps: list[tuple[int, int]]) -> None:
    totals: dict[str, Any] = {"ring_full": 0, "program_busy": 0}
    losses, said, now = Losses("network", lambda: totals), 0, 0
    for lost, pause in steps:
        totals["ring_full"] += lost
        now += pause
        said += sum(one.count for one in losses.due(now))
    assert said + sum(one.count for one in losses.due(now, last=True)) == totals["ring_full"]
