"""Stalls and memory pressure: which series of samples are an anomaly, and which never."""

from __future__ import annotations

import pytest
from helpers.counters import CYCLES, INTERVAL_NS, Cpu, busy, kinds, make_observer


def test_a_busy_cpu_that_works_well_is_no_anomaly() -> None:
    observer, cpu = make_observer(), Cpu()
    assert observer.decode([cpu.record(), *busy(cpu, 500, ipc=2.1, stalled=0.19)]) == []


def test_an_idle_cpu_is_no_anomaly_whatever_its_counters_say() -> None:
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 20)])
    junk = busy(cpu, 50, ipc=0.05, stalled=0.9, cycles=100_000, idle=True)
    junk += busy(cpu, 50, ipc=0.05, stalled=0.9, cycles=100_000, idle=True, samples=10)
    assert observer.decode(junk) == []


def test_a_cpu_that_is_busy_now_and_then_is_no_anomaly() -> None:
    """Two samples of five found it busy, less than half of the time."""
    observer, cpu = make_observer(), Cpu()
    records = [cpu.sample(ipc=0.2, stalled=0.8, idle=index % 5 not in (0, 2)) for index in range(200)]
    assert observer.decode(records) == []


@pytest.mark.parametrize("length", [1, 4])
def test_a_blip_is_no_anomaly(length: int) -> None:
    """One sample, or one less than sustained, again and again."""
    observer, cpu = make_observer(), Cpu()
    records = [cpu.record(), *busy(cpu, 20)]
    for _ in range(20):
        records += busy(cpu, length, ipc=0.1, stalled=0.95)
        records += busy(cpu, 1)
    assert observer.decode(records) == []


def test_a_stall_is_one_anomaly_with_the_values_of_its_window() -> None:
    observer, cpu = make_observer(), Cpu(3)
    observer.decode([cpu.record(), *busy(cpu, 20)])
    (anomaly,) = observer.decode(busy(cpu, 400, ipc=1.34, stalled=0.571))
    assert anomaly.type.name == "kernel.node.cpu_stall"
    assert (anomaly.severity, anomaly.type.outcome) == ("critical", "in_progress")
    assert anomaly.boot_ns == 25 * INTERVAL_NS
    assert anomaly.data == {
        "cpu": 3,
        "cycles": 5 * CYCLES,
        "instructions": 5 * round(CYCLES * 1.34),
        "stall_cycles": 5 * round(CYCLES * 0.571),
        "stall_pct": 57.1,
        "ipc": 1.34,
        "busy_pct": 100.0,
        "interval_ms": 500.0,
    }
    assert anomaly.message == "CPU 3 is stalled in 57.1 % of its cycles for 0.5 s"


def test_memory_pressure_then_a_stall_then_better_again() -> None:
    """A stall covers memory pressure; each is reported when it begins and not again until it was over."""
    observer, cpu = make_observer(), Cpu()
    assert kinds(observer, [cpu.record(), *busy(cpu, stalled=0.3)]) == ["memory_pressure"]
    assert kinds(observer, busy(cpu, stalled=0.5)) == ["cpu_stall"]
    assert kinds(observer, busy(cpu, stalled=0.3)) == []
    assert kinds(observer, busy(cpu, stalled=0.0)) == []
    assert kinds(observer, busy(cpu, stalled=0.5)) == ["cpu_stall"]
    assert kinds(observer, busy(cpu, stalled=0.25)) == []


def test_hysteresis() -> None:
    """Just below the threshold, or better for a moment only, an anomaly goes on; a busy pause does not end it."""
    observer, cpu = make_observer(), Cpu()
    assert kinds(observer, [cpu.record(), *busy(cpu, stalled=0.41)]) == ["cpu_stall"]
    assert kinds(observer, busy(cpu, stalled=0.37) + busy(cpu, stalled=0.41)) == []
    assert kinds(observer, busy(cpu, 4, stalled=0.1) + busy(cpu, stalled=0.41)) == []
    assert kinds(observer, busy(cpu, 4, idle=True, cycles=1000, stalled=0.5) + busy(cpu, stalled=0.41)) == []
    assert kinds(observer, busy(cpu, 5, idle=True, cycles=1000, stalled=0.5) + busy(cpu, stalled=0.41)) == ["cpu_stall"]


def test_values_about_the_threshold_count_by_their_mean() -> None:
    observer, cpu = make_observer(), Cpu()
    below = [cpu.sample(stalled=(0.37, 0.42, 0.38)[index % 3]) for index in range(100)]
    assert kinds(observer, [cpu.record(), *below]) == ["memory_pressure"]
    above = [cpu.sample(stalled=(0.38, 0.47)[index % 2]) for index in range(100)]
    assert kinds(observer, above) == ["cpu_stall"]


def test_trouble_is_sustained_wherever_it_begins() -> None:
    """Not in windows that follow each other: of the two here neither is in trouble as a whole."""
    observer, cpu = make_observer(sustained_intervals=50, memory_pressure_percent=40), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 24, stalled=0.37)])
    assert observer.decode(busy(cpu, 49, stalled=0.41)) == []
    (anomaly,) = observer.decode(busy(cpu, 21, stalled=0.41))
    assert anomaly.type.name == "kernel.node.cpu_stall"
    assert (anomaly.data["stall_pct"], anomaly.data["interval_ms"]) == (41.0, 5000.0)
    assert anomaly.boot_ns == (24 + 50) * INTERVAL_NS


def test_many_samples_of_a_short_time_are_not_sustained() -> None:
    """A timer that was late catches up: what counts is the time."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 20)])
    burst = [cpu.sample(stalled=0.9, cycles=CYCLES // 100, after_ns=INTERVAL_NS // 100) for _ in range(400)]
    assert observer.decode([*burst, *busy(cpu, 20)]) == []
    late = [cpu.sample(stalled=0.9, after_ns=INTERVAL_NS * share // 100) for share in (190, 10, 103, 97)]
    assert observer.decode(late) == []
    (anomaly,) = observer.decode(busy(cpu, 1, stalled=0.9))
    assert (anomaly.data["interval_ms"], anomaly.data["busy_pct"]) == (500.0, 81.0)


def test_a_run_is_of_one_cpu_that_was_busy_all_along() -> None:
    """A busy sample long before does not make the idle time after it part of a run."""
    observer, cpu = make_observer(sustained_intervals=10), Cpu()
    records = [cpu.record(), *busy(cpu, 1, stalled=0.9), *busy(cpu, 5, stalled=0.9, idle=True)]
    (anomaly,) = observer.decode([*records, *busy(cpu, 20, stalled=0.9)])
    assert (anomaly.data["busy_pct"], anomaly.data["interval_ms"]) == (100.0, 1000.0)


def test_a_cpu_whose_idle_samples_are_left_out_counts_as_idle() -> None:
    """Some kernels give no sample of an idle CPU: one busy sample in ten intervals is ten percent."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record()])
    for _ in range(200):
        cpu.sample(samples=9, idle=True, cycles=1_000, stalled=0.9)
        assert observer.decode([cpu.sample(cycles=100_000, stalled=0.9)]) == []


def test_what_is_not_known_for_long_is_not_in_trouble() -> None:
    """After a time without counters the same trouble is told anew; after a moment it is not."""
    for pause, told in ((4, []), (6, ["cpu_stall"])):
        observer, cpu = make_observer(), Cpu()
        assert kinds(observer, [cpu.record(), *busy(cpu, 5, stalled=0.5)]) == ["cpu_stall"]
        assert kinds(observer, [*busy(cpu, pause, running=0.0), *busy(cpu, 20, stalled=0.5)]) == told


def test_an_episode_ends_on_a_cpu_that_is_hardly_busy() -> None:
    """A busy sample after an hour without any, or one in ten, does not keep it open: the next trouble is a new one."""
    observer, cpu = make_observer(), Cpu()
    assert "cpu_stall" in kinds(observer, [cpu.record(), *busy(cpu, 60, stalled=0.6)])
    for _ in range(20):
        observer.decode([*busy(cpu, 9, idle=True), *busy(cpu, 1, stalled=0.6)])
    assert "cpu_stall" in kinds(observer, busy(cpu, 60, stalled=0.6))


def test_each_cpu_is_judged_for_itself() -> None:
    observer, good, bad = make_observer(), Cpu(0), Cpu(1)
    observer.decode([good.record(), bad.record()])
    records = [record for _ in range(50) for record in (good.sample(), bad.sample(stalled=0.6))]
    (anomaly,) = observer.decode(records)
    assert anomaly.data["cpu"] == 1
