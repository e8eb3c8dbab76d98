"""Windows of retransmits and resets: what counts as many, and that nothing is counted twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tapio.anomalies import RETRANSMIT_SPIKE, Anomaly
from tapio.observers.network_windows import Windows

SECOND = 1_000_000_000
DATA = {"dst_ip": "10.0.0.2", "dst_port": 80, "src_port": 4001, "cgroup_id": 77}


def make_windows(threshold: int = 5, max_keys: int = 4096) -> Windows:
    windows = Windows(RETRANSMIT_SPIKE, "retransmits", "segments sent again to", {}, max_keys)
    windows.configure(threshold, 10)
    return windows


def add(windows: Windows, at_s: float, amount: int = 1, key: object = "a", **data: Any) -> list[Anomaly]:
    return windows.add(key, round(at_s * SECOND), amount, {**DATA, **data}, {"snd_cwnd": round(at_s)})


def counts(anomalies: list[Anomaly]) -> list[int]:
    return [anomaly.data["retransmits"] for anomaly in anomalies]


def test_a_window_that_fired_is_one_anomaly_at_its_end() -> None:
    windows = make_windows()
    for at_s in (100, 101, 102, 103, 104, 109.9):
        assert add(windows, at_s) == []
    assert windows.due(110 * SECOND) == []  # a record may still be under way
    (anomaly,) = windows.due(111 * SECOND)
    assert anomaly.type is RETRANSMIT_SPIKE
    assert anomaly.boot_ns == round(109.9 * SECOND)
    assert anomaly.data == {**DATA, "retransmits": 6, "snd_cwnd": 110, "window_ms": 10_000}
    assert anomaly.message == "6 segments sent again to 10.0.0.2:80 within 10 s"
    assert windows.due(None) == []


def test_too_few_are_silent() -> None:
    windows = make_windows()
    for at_s in (100, 102, 104, 106, 111, 113, 115, 117, 122):  # never five in ten seconds
        assert add(windows, at_s) == []
    assert windows.due(None) == []


def test_the_window_slides() -> None:
    """Five within ten seconds are found wherever they begin."""
    windows = make_windows()
    for at_s in (100, 108, 109, 111, 112, 113):
        assert add(windows, at_s) == []
    assert counts(windows.due(200 * SECOND)) == [5]


def test_a_long_storm_gives_a_window_after_the_other() -> None:
    windows = make_windows()
    found = [anomaly for at_s in range(100, 125) for anomaly in add(windows, at_s)]
    assert counts(found) == [10, 10]
    assert counts(windows.due(None)) == [5]


def test_segments_count_not_events() -> None:
    windows = make_windows()
    add(windows, 100, amount=7)
    assert counts(windows.due(None)) == [7]


def test_only_what_all_events_share_is_told() -> None:
    windows = make_windows(2)
    add(windows, 100, src_port=1, pid=10)
    add(windows, 101, src_port=2, pid=10)
    (anomaly,) = windows.due(None)
    assert "src_port" not in anomaly.data
    assert (anomaly.data["pid"], anomaly.data["dst_port"], anomaly.data["snd_cwnd"]) == (10, 80, 101)


def test_keys_are_apart() -> None:
    windows = make_windows(3)
    for at_s in (100, 101, 102):
        add(windows, at_s, key="a")
        add(windows, at_s, key="b") if at_s < 102 else None
    assert counts(windows.due(None)) == [3]


def test_memory_is_bounded_and_what_fired_is_not_lost() -> None:
    windows = make_windows(2, max_keys=3)
    add(windows, 100, amount=2, key="fired")
    found = [anomaly for number in range(50) for anomaly in add(windows, 101, key=number)]
    assert counts(found) == [2]
    assert len(windows._windows) == 3
    assert windows._evicted == {"retransmits": 48}
    assert windows.due(None) == []


def test_what_fell_silent_is_forgotten() -> None:
    """And a window that fired is given first."""
    windows = make_windows(2)
    add(windows, 100, key="quiet")
    add(windows, 105, amount=2, key="fired")
    add(windows, 110, key="later")
    assert windows.due(110_200_000_000) == []
    assert list(windows._windows) == ["quiet", "fired", "later"]
    assert counts(windows.due(115_300_000_000)) == [2]
    windows.due(115_400_000_000)
    assert list(windows._windows) == ["later"]
    windows.due(121_000_000_000)
    assert not windows._windows
    assert windows._evicted == {"retransmits": 0}


def test_thresholds_can_change() -> None:
    windows = make_windows(5)
    add(windows, 100)
    windows.configure(2, 1)
    add(windows, 100.5)
    assert counts(windows.due(None)) == [2]


@given(st.lists(st.floats(0, 100, allow_nan=False), max_size=80))
def test_nothing_is_counted_twice_and_dense_storms_are_always_found(times: list[float]) -> None:
    windows = make_windows()
    times.sort()
    found = [anomaly for at_s in times for anomaly in add(windows, 1000 + at_s)] + windows.due(None)
    assert sum(counts(found)) <= len(times)
    assert all(count >= 5 for count in counts(found))
    if any(times[i + 4] - times[i] < 9.99 for i in range(len(times) - 4)):
        assert found
