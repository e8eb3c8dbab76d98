"""Folding: every anomaly is counted once, bursts become few occurrences, nothing grows without bound."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapio.anomalies import ABNORMAL_EXIT, CATALOGUE, OOM_KILL, Anomaly, AnomalyType
from tapio.clock import WallClock
from tapio.config import EpisodesConfig
from tapio.episodes import Emitted, Episodes
from tapio.ids import IdSource

S = 1_000_000_000
LATENCY = CATALOGUE["kernel.storage.latency_spike"]


def make_episodes(**config: Any) -> Episodes:
    numbers = itertools.count(1)
    return Episodes(EpisodesConfig(**config), lambda: f"episode-{next(numbers)}")


def anomaly(at_ns: int, key: object = "a", kind: AnomalyType = ABNORMAL_EXIT, **data: Any) -> Anomaly:
    return Anomaly(kind, at_ns, "message", {"cgroup_id": 7, **data}, kind.severity, (key,))


def summary(emitted: list[Emitted]) -> list[tuple[int, int, str]]:
    return [(item.count, item.total, item.state) for item in emitted]


def test_five_leave_and_the_rest_is_folded_every_ten_seconds() -> None:
    episodes = make_episodes()
    out = [summary(episodes.admit([anomaly(n * S)], n * S)) + summary(episodes.due(n * S)) for n in range(1, 36)]
    flat = [item for turn in out for item in turn]
    assert flat[:5] == [(1, n, "open") for n in range(1, 6)]
    # Folded from 6 s on; at 16, 27 s one stands for those of the last ten seconds.
    assert flat[5:] == [(11, 16, "ongoing"), (11, 27, "ongoing")]
    assert summary(episodes.due(66 * S)) == [(8, 35, "closed")]
    assert len(episodes) == 0
    assert episodes.folded[ABNORMAL_EXIT.name] == 30


def test_an_episode_that_folded_says_that_it_is_over() -> None:
    episodes = make_episodes()
    episodes.admit([anomaly(1) for _ in range(7)], 1)
    assert summary(episodes.due(10 * S + 1)) == [(2, 7, "ongoing")]
    (end,) = episodes.due(31 * S)
    assert (end.count, end.total, end.state) == (0, 7, "closed")
    assert end.anomaly.message == "message (over after 7)"


def test_an_episode_that_folded_nothing_ends_in_silence() -> None:
    episodes = make_episodes()
    episodes.admit([anomaly(1) for _ in range(5)], 1)
    assert episodes.due(31 * S) == []
    assert len(episodes) == 0


def test_one_folded_anomaly_leaves_unchanged() -> None:
    episodes = make_episodes()
    found = [anomaly(n, pid=n) for n in range(1, 7)]
    episodes.admit(found, 10)
    (emitted,) = episodes.due(11 * S)
    assert emitted.anomaly == found[5]
    assert emitted.count == 1


def test_equal_fields_stay_and_the_worst_figures() -> None:
    episodes = make_episodes(individual=1)
    rows = [(60.0, "warning"), (250.0, "critical"), (70.0, "warning")]
    made = [anomaly(n, kind=LATENCY, latency_ms=ms, device="sda", pid=n) for n, (ms, _) in enumerate(rows, 1)]
    made = [msgspec.structs.replace(item, severity=severity) for item, (_, severity) in zip(made, rows, strict=True)]
    episodes.admit([made[0], *made], 5)
    (emitted,) = episodes.due(20 * S)
    assert emitted.anomaly.data == {"cgroup_id": 7, "device": "sda", "latency_ms": 250.0}
    assert emitted.anomaly.severity == "critical"
    assert emitted.anomaly.boot_ns == 3
    assert emitted.anomaly.message == "message (3 more)"


def test_keys_do_not_mix() -> None:
    episodes = make_episodes()
    emitted = episodes.admit([anomaly(1, key) for key in "abc" * 5], 1)
    assert len(emitted) == 15
    assert len({item.episode_id for item in emitted}) == 3


def test_oom_kills_are_never_folded_nor_limited() -> None:
    episodes = make_episodes(burst=1, max_keys=1)
    emitted = episodes.admit([anomaly(1, "k", OOM_KILL) for _ in range(50)], 1)
    assert [(item.count, item.episode_id) for item in emitted] == [(1, "")] * 50


def test_beyond_the_rate_anomalies_are_folded_by_type() -> None:
    """A flood of ever new keys: the burst leaves, the rest is one story a type, and nothing is missing."""
    episodes = make_episodes(burst=51, rate_per_s=20)
    emitted = episodes.admit([anomaly(1, key) for key in range(1000)], 1)
    assert len(emitted) == 41  # a fifth of the burst is kept for stories and for other types
    assert episodes.overflowed == {"rate": 959, "keys": 0}
    assert summary(episodes.due(11 * S)) == [(959, 959, "ongoing")]
    assert len(episodes) <= 42


def test_beyond_the_keys_anomalies_are_folded_by_type() -> None:
    episodes = make_episodes(burst=10_000, max_keys=100)
    assert len(episodes.admit([anomaly(1, key) for key in range(1000)], 1)) == 100
    assert episodes.overflowed == {"rate": 0, "keys": 900}
    assert len(episodes) == 101
    assert sum(item.count for item in episodes.flush()) == 900


def test_scarce_tokens_are_shared_by_all_keys() -> None:
    """Each of many keys gets its turn, not always the first ones."""
    episodes = make_episodes(burst=1000, rate_per_s=1, individual=1, close_after_s=10_000)
    episodes.admit([anomaly(1, key) for key in range(600)], 1)
    served: Counter[str] = Counter()
    for second in range(2, 2000):
        episodes.admit([anomaly(second * S, key) for key in range(600)], second * S)
        served.update(item.episode_id for item in episodes.due(second * S))
    assert len(served) == 600
    assert max(served.values()) - min(served.values()) <= 1


def test_a_flood_of_new_keys_starves_no_story() -> None:
    """200 new keys a second for two minutes: a story of the others leaves every ten seconds, not after the flood."""
    episodes, keys = make_episodes(), itertools.count()
    stories, alone = [], 0
    for tick in range(120 * 20):
        now = tick * S // 20 + 1
        alone += len(episodes.admit([anomaly(now, next(keys)) for _ in range(10)], now))
        stories += [(now, item.count) for item in episodes.due(now)]
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(stories)]
    assert len(stories) >= 9
    assert max(gaps) <= 11 * S
    assert sum(count for _, count in stories) > 120 * 200 - alone - 11 * 200
    assert alone + len(stories) <= 500 + 20 * 120


def test_a_flood_of_one_type_does_not_silence_another() -> None:
    """Neither its new keys nor its thousands of stories that are due."""
    episodes, keys = make_episodes(individual=1), itertools.count()
    for tick in range(60 * 20):
        now = tick * S // 20 + 1
        found = [anomaly(now, next(keys) % 4000) for _ in range(400)]
        found += [anomaly(now, tick, LATENCY)] if tick % 20 == 7 else []
        emitted = episodes.admit(found, now)
        assert [item.count for item in emitted if item.anomaly.type is LATENCY] == [1] * (tick % 20 == 7)
        episodes.due(now)


def test_a_stop_emits_a_burst_of_stories_and_the_rest_by_type() -> None:
    """4,000 stories cannot be written in the time that a stop may take; no anomaly is missing."""
    episodes = make_episodes(individual=1, rate_per_s=10_000, burst=10_000)
    for _ in range(3):
        episodes.admit([anomaly(1, key, kind) for key in range(2000) for kind in (ABNORMAL_EXIT, LATENCY)], 1)
    episodes.config = EpisodesConfig(burst=100)
    found = episodes.flush()
    assert len(found) == 100 + 2
    counts: Counter[str] = Counter()
    for item in found:
        counts[item.anomaly.type.name] += item.count
        assert item.total >= item.count
    assert counts == {ABNORMAL_EXIT.name: 4000, LATENCY.name: 4000}
    assert len(episodes) == 0


def test_what_is_folded_by_type_does_not_speak_of_one_alone() -> None:
    """'Refused by A (950 more)' would say that A refused 950 more."""
    episodes = make_episodes(burst=1, rate_per_s=0.1, interval_s=1)
    episodes.admit([msgspec.structs.replace(anomaly(1, key), message=f"refused by {key}") for key in "abcd"], 1)
    (story,) = episodes.due(30 * S - 1)
    assert story.anomaly.message == "3 more, among them: refused by b"
    (end,) = episodes.due(60 * S)
    assert end.anomaly.message == "over after 3, among them: refused by b"


_STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 6), st.sampled_from([ABNORMAL_EXIT, LATENCY, OOM_KILL])), max_size=30),
        st.integers(0, 40 * S),
    ),
    max_size=40,
)


@given(
    steps=_STEPS,
    config=st.builds(
        dict,
        individual=st.integers(1, 7),
        max_keys=st.integers(1, 9),
        burst=st.integers(1, 60),
        rate_per_s=st.floats(0.1, 50),
        interval_s=st.integers(1, 20),
        close_after_s=st.integers(1, 60),
    ),
)
def test_the_sum_of_all_counts_is_what_came_in(steps: list[Any], config: dict[str, Any]) -> None:
    episodes = make_episodes(**config)
    came: Counter[str] = Counter()
    left: Counter[str] = Counter()
    now, bound = 1, config["burst"]
    for batch, pause in steps:
        found = [anomaly(now, key, kind) for key, kind in batch]
        came.update(item.type.name for item in found)
        emitted = episodes.admit(found, now) + episodes.due(now)
        for item in emitted:
            left[item.anomaly.type.name] += item.count
            assert item.count >= 0
            assert item.total >= item.count or not item.episode_id
        assert len([item for item in emitted if item.anomaly.type is not OOM_KILL]) <= bound
        assert len(episodes) <= config["max_keys"] + 3
        now += pause
    for item in episodes.flush():
        left[item.anomaly.type.name] += item.count
    assert left == came
    assert len(episodes) == 0


@given(steps=_STEPS, walls=st.lists(st.integers(0, 2**60), min_size=1))
def test_steps_of_the_wall_clock_change_no_sum(steps: list[Any], walls: list[int]) -> None:
    """Episodes live on the boot clock; the wall clock, which jumps at every reading here, makes only ids and times."""
    readings = itertools.cycle(walls)
    ids, wall = IdSource(lambda: next(readings)), WallClock(lambda: next(readings))
    episodes = Episodes(EpisodesConfig(individual=2, interval_s=3, close_after_s=5, max_keys=3), ids.next)
    came: Counter[str] = Counter()
    left: Counter[str] = Counter()
    made: list[str] = []
    now = 1
    for batch, pause in steps:
        found = [anomaly(now, key, kind) for key, kind in batch]
        came.update(item.type.name for item in found)
        for item in episodes.admit(found, now) + episodes.due(now):
            left[item.anomaly.type.name] += item.count
            made.append(ids.next())
        before = wall.unix_ns(now)
        assert wall.unix_ns(now + 1) - before == 1
        wall.sync()
        now += pause
    for item in episodes.flush():
        left[item.anomaly.type.name] += item.count
        made.append(ids.next())
    assert left == came
    assert made == sorted(set(made))


@pytest.mark.parametrize("back", [0, 5 * S])
def test_time_that_stands_still_or_steps_back_is_survived(back: int) -> None:
    episodes = make_episodes()
    episodes.admit([anomaly(100 * S) for _ in range(9)], 100 * S)
    assert episodes.due(100 * S - back) == []
    assert sum(item.count for item in episodes.flush()) == 4
