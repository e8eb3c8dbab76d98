"""Baselines of paths: what is learned, what is slow, what is forgiven."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterable

import pytest

from tapio.config import NetworkConfig
from tapio.observers.network_rtt import Baselines, Degradation

SECOND = 1_000_000_000


class Path:
    """A path that is sampled once a second."""

    def __init__(self, **config: float) -> None:
        self.baselines = Baselines({})
        self.baselines.configure(NetworkConfig(**config))  # type: ignore[arg-type]
        self.now_s = 1000

    def take(self, samples_ms: Iterable[float], *, ack_delayed: bool = False) -> list[Degradation]:
        found = []
        for sample_ms in samples_ms:
            self.now_s += 1
            degradation = self.baselines.add("a", self.now_s * SECOND, sample_ms, ack_delayed=ack_delayed)
            found += [degradation] if degradation else []
        return found


def test_a_slow_path_is_reported_once_a_window() -> None:
    path = Path()
    assert path.take([5] * 10) == []
    found = path.take([90] * 30)
    assert [item.boot_ns // SECOND for item in found] == [1012, 1022, 1032]
    assert found[0].baseline_ms == pytest.approx(5)
    assert found[0].current_ms == 90


def test_thousands_of_paths_take_little_memory() -> None:
    """They are kept as long as they are used: 2.3 MiB for as many as there can be, with an address in each key."""
    tracemalloc.start()
    try:
        baselines = Baselines({})
        for number in range(2 * 4096):
            for at_s in range(1, 30):
                baselines.add((number, bytes(16)), at_s * SECOND, 1 + at_s / 100, ack_delayed=False)
        assert baselines._evicted == {"rtt_paths": 4096}
        assert tracemalloc.get_traced_memory()[0] < 3 << 20
    finally:
        tracemalloc.stop()


def test_recovery_ends_it() -> None:
    path = Path()
    path.take([5] * 10)
    assert len(path.take([90] * 5)) == 1
    assert path.take([5] * 100) == []


def test_nothing_is_slow_while_the_path_is_learned() -> None:
    assert Path().take([5, 5, 5, 5, 900]) == []


def test_one_slow_first_sample_does_not_spoil_the_baseline() -> None:
    path = Path()
    path.take([300, 5, 5, 5, 5])
    assert len(path.take([90, 90])) == 1


def test_a_single_hiccup_is_silent() -> None:
    path = Path()
    path.take([5] * 10)
    assert path.take([200, 5, 5, 200, 5, 5, 200]) == []


@pytest.mark.parametrize(
    ("baseline_ms", "current_ms", "slow"),
    [
        (0.05, 9, False),  # a hundred times, but less than 10 ms more
        (0.05, 11, True),
        (30, 55, False),  # not twice
        (30, 61, True),
        (300, 480, False),
        (300, 501, True),  # above rtt_spike_abs, with a baseline below it
        (501, 900, False),
        (501, 1100, True),
    ],
)
def test_thresholds(baseline_ms: float, current_ms: float, slow: bool) -> None:
    path = Path()
    path.take([baseline_ms] * 6)
    assert bool(path.take([current_ms] * 3)) == slow


@pytest.mark.parametrize(("current_ms", "slow"), [(30, False), (40, False), (49, False), (52, True)])
def test_an_ack_that_may_have_been_delayed_must_be_slower(current_ms: float, slow: bool) -> None:
    path = Path()
    path.take([0.1] * 6, ack_delayed=True)
    assert bool(path.take([current_ms] * 3, ack_delayed=True)) == slow


def test_jitter_is_silent() -> None:
    lottery = random.Random(7)  # noqa: S311  # the same samples in each run
    assert Path().take([0.2 + 5 * lottery.random() for _ in range(1000)]) == []


def test_a_lasting_change_becomes_normal() -> None:
    path = Path(rtt_relearn_s=60)
    path.take([5] * 10)
    found = path.take([90] * 300)
    assert 6 <= len(found) <= 7
    assert found[-1].boot_ns // SECOND < 1010 + 65
    assert path.take([5] * 20) == []
    assert path.take([90] * 5) != []  # the better times were learned again


def test_a_slow_drift_is_followed() -> None:
    path = Path(rtt_relearn_s=100)
    assert path.take([20 + number / 100 for number in range(4000)]) == []


def test_paths_are_bounded() -> None:
    evicted: dict[str, int] = {}
    baselines = Baselines(evicted, max_paths=100)
    for number in range(1000):
        baselines.add(number, number, 1.0, ack_delayed=False)
    assert len(baselines._paths) == 100
    assert evicted == {"rtt_paths": 900}
