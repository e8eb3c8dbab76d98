"""CPU counters: which series are an anomaly, and which never."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from helpers.counters import CYCLES, INTERVAL_NS, Cpu, make_observer

from tapio.config import Config, NodeConfig
from tapio.cpus import CpuCounters, CpuReport
from tapio.observers.node import NodeObserver

ALL_COUNTED = {"cycles": 0, "instructions": 0, "stalls": 0}


def kinds(observer: NodeObserver, records: list[bytes]) -> list[str]:
    return [anomaly.type.name.removeprefix("kernel.node.") for anomaly in observer.decode(records)]


def busy(cpu: Cpu, number: int = 40, **sample: Any) -> list[bytes]:
    return [cpu.sample(**sample) for _ in range(number)]


def test_a_busy_cpu_that_works_well_is_no_anomaly() -> None:
    observer, cpu = make_observer(), Cpu()
    assert observer.decode([cpu.record(), *busy(cpu, 500, ipc=2.1, stalled=0.19)]) == []


def test_low_ipc_that_is_normal_for_this_cpu_is_no_anomaly() -> None:
    observer, cpu = make_observer(), Cpu()
    assert observer.decode([cpu.record(), *busy(cpu, 500, ipc=0.3)]) == []


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


def test_ipc_below_what_the_cpu_has_learned() -> None:
    observer, cpu = make_observer(), Cpu()
    assert kinds(observer, [cpu.record(), *busy(cpu, 100, ipc=1.6)]) == []
    assert kinds(observer, busy(cpu, 100, ipc=0.95)) == []  # below 1, but more than half of what it learned
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 100, ipc=1.6)])
    (anomaly,) = observer.decode(busy(cpu, 8, ipc=0.41))
    assert anomaly.type.name == "kernel.node.ipc_degradation"
    assert (anomaly.data["ipc"], anomaly.data["baseline_ipc"]) == (0.41, pytest.approx(1.6, rel=0.15))
    assert anomaly.data["interval_ms"] == 500


def test_half_of_a_high_ipc_is_still_good() -> None:
    observer, cpu = make_observer(), Cpu()
    assert kinds(observer, [cpu.record(), *busy(cpu, 100, ipc=4.0), *busy(cpu, 50, ipc=1.5)]) == []


def test_nothing_is_learned_too_early_nor_from_an_idle_cpu() -> None:
    observer, cpu = make_observer(), Cpu()
    assert kinds(observer, [cpu.record(), *busy(cpu, 4, ipc=2.0), *busy(cpu, 5, ipc=0.2)]) == []
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 500, ipc=3.0, idle=True, cycles=1000)])
    assert kinds(observer, busy(cpu, 50, ipc=0.2)) == []


def test_learning_takes_its_seconds_whatever_the_timer_is() -> None:
    observer, cpu = make_observer(ipc_learning_s=1.05), Cpu()
    assert kinds(observer, [cpu.record(), *busy(cpu, 10, ipc=2.0), *busy(cpu, 5, ipc=0.2)]) == []
    observer, cpu = make_observer(ipc_learning_s=1), Cpu()
    assert kinds(observer, [cpu.record(), *busy(cpu, 10, ipc=2.0), *busy(cpu, 5, ipc=0.2)]) == ["ipc_degradation"]


def test_a_run_does_not_go_on_over_a_time_that_was_not_judged() -> None:
    """While a longer time of learning is asked for, nothing is known of the IPC."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 20, ipc=2.0), *busy(cpu, 4, ipc=0.2)])
    for learning_s in (1000, 1):
        observer.configure(Config(node=NodeConfig(sustained_intervals=5, ipc_learning_s=learning_s)))
        assert kinds(observer, busy(cpu, 4, ipc=0.2)) == []
    assert kinds(observer, busy(cpu, 1, ipc=0.2)) == ["ipc_degradation"]


def test_without_a_stall_event_ipc_still_works() -> None:
    observer, cpu = make_observer(stalls=False), Cpu()
    records = [cpu.record(), *busy(cpu, 100, ipc=2.0, stalled=0.9, stalls_running=0.0)]
    (anomaly,) = observer.decode([*records, *busy(cpu, 8, ipc=0.3, stalled=0.9, stalls_running=0.0)])
    assert anomaly.type.name == "kernel.node.ipc_degradation"
    assert not {"stall_cycles", "stall_pct"} & anomaly.data.keys()
    assert "cpu_stall and memory_pressure are not available" in observer.reason
    (counters,) = observer.cpu_report().counters
    assert counters.stalled_cycles is None


def test_a_counter_that_wraps() -> None:
    observer, cpu = make_observer(), Cpu(cycles_value=(1 << 64) - 5, instructions_value=(1 << 64) - 7)
    observer.decode([cpu.record(), cpu.sample(ipc=2.0)])
    assert observer.cpu_report().counters == [CpuCounters(0, CYCLES, 2 * CYCLES, 0, 2.0)]


def test_a_multiplexed_counter_is_scaled() -> None:
    """It had a counter for half, or a tenth, of the time."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), cpu.sample(running=0.5, stalled=0.1), cpu.sample(running=0.5, stalls_running=0.1)])
    assert observer.cpu_report().counters == [CpuCounters(0, 2 * CYCLES, 4 * CYCLES, CYCLES // 10, 2.0)]
    assert kinds(observer, busy(cpu, running=0.5, stalled=0.5)) == ["cpu_stall"]


def test_an_event_without_a_counter_is_no_data() -> None:
    """Nothing is counted or judged, and it is told; what was seen before does not count as sustained."""
    observer, cpu = make_observer(), Cpu()
    records = [cpu.record(), *busy(cpu, 4, stalled=0.5), *busy(cpu, 7, running=0.0, stalled=0.5)]
    assert kinds(observer, [*records, *busy(cpu, 4, stalled=0.5)]) == []
    assert observer.suppressed["not_counted"] == 7
    assert observer.cpu_report().counters[0].cycles == 8 * CYCLES
    stalls_only = [*busy(cpu, 1), *busy(cpu, 4, stalled=0.5), *busy(cpu, 1, stalls_running=0.0)]
    assert kinds(observer, [*stalls_only, *busy(cpu, 4, stalled=0.5)]) == []


@pytest.mark.parametrize("first", [True, False])
def test_the_interval_after_one_without_a_counter_is_right(first: bool) -> None:
    """It holds what was counted in it, scaled to all of it, and nothing of the time in which nobody counted."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 0 if first else 3, stalled=0.1)])
    before = sum(cpu.cycles for cpu in observer.cpu_report().counters)
    observer.decode([*busy(cpu, 7, running=0.0), cpu.sample(ipc=1.5, running=0.5, stalled=0.3)])
    (counters,) = observer.cpu_report().counters
    assert (counters.cycles - before, counters.ipc) == (CYCLES, 1.5)
    assert counters.stalled_cycles == pytest.approx((0 if first else 0.3 * CYCLES) + 0.3 * CYCLES)
    assert observer.suppressed["not_counted"] == 7


def test_what_is_not_known_for_long_is_not_in_trouble() -> None:
    """After a time without counters the same trouble is told anew; after a moment it is not."""
    for pause, told in ((4, []), (6, ["cpu_stall"])):
        observer, cpu = make_observer(), Cpu()
        assert kinds(observer, [cpu.record(), *busy(cpu, 5, stalled=0.5)]) == ["cpu_stall"]
        assert kinds(observer, [*busy(cpu, pause, running=0.0), *busy(cpu, 20, stalled=0.5)]) == told


def pass_time(observer: NodeObserver, cpus: list[Cpu], seconds: int, **sample: Any) -> None:
    for _ in range(10 * seconds):
        observer.decode([cpu.sample(**sample) for cpu in cpus])
        observer.due(cpus[0].totals["boot_ns"])


def test_counters_that_never_run_are_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Something else, as the NMI watchdog, holds them: no cycles are shown, not 0, until they run."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record()])
    with caplog.at_level(logging.WARNING):
        pass_time(observer, [cpu], 20, running=0.0)
        assert observer.cpu_report() == CpuReport([], {"cycles": 1, "instructions": 1, "stalls": 1})
        assert "cycles are not counted on CPU 0: others hold the counters (the NMI watchdog, perf)" in observer.reason
        assert len(caplog.records) == 1
        pass_time(observer, [cpu], 5)
    assert observer.reason == ""
    assert observer.cpu_report().uncounted == ALL_COUNTED
    assert observer.cpu_report().counters[0].cycles > 0
    pass_time(observer, [cpu], 20, running=0.0)  # taken away later: the total stays, and would look like no cycles
    assert observer.cpu_report().counters == []
    assert observer.cpu_report().uncounted["cycles"] == 1


def test_stalls_that_one_cpu_does_not_count_are_left_out_there() -> None:
    """The event has no counter there, or (a core of another kind) does not exist; all together: nothing is said."""
    whole, without, absent = Cpu(0), Cpu(1), Cpu(2)
    for per_cpu in (True, False):
        observer = make_observer(online=[0, 1, 2], per_cpu=per_cpu)
        for _ in range(200):
            records = [whole.sample(stalled=0.1), without.sample(stalls_running=0.0)]
            absent.sample()
            observer.decode([*records, absent.record("stalls")])
            observer.due(whole.totals["boot_ns"])
        stalls = [cpu.stalled_cycles for cpu in observer.cpu_report().counters]
        assert stalls == ([199 * CYCLES // 10, None, None] if per_cpu else [None])
        assert observer.cpu_report().uncounted == {"cycles": 0, "instructions": 0, "stalls": 2}
        assert observer.suppressed["stalls_not_counted"] == 2 * 199
        assert observer.reason.startswith("stalls are not counted on CPU 1, 2: ")


def test_the_ipc_of_a_cpu_without_samples_goes_away() -> None:
    """Some kernels give no sample of an idle CPU: what it did last is not what it does now. Its totals stay."""
    for per_cpu in (True, False):
        observer, cpu = make_observer(per_cpu=per_cpu), Cpu()
        observer.decode([cpu.record(), *busy(cpu, 3)])
        end_ns = cpu.totals["boot_ns"]
        for later_ns, ipc in ((0, 2.0), (19 * INTERVAL_NS, 2.0), (20 * INTERVAL_NS, None), (10**12, None)):
            observer.due(end_ns + later_ns)
            (counters,) = observer.cpu_report().counters
            assert (counters.ipc, counters.cycles) == (ipc, 3 * CYCLES)


@pytest.mark.parametrize("unread", ["cycles", "instructions", "stalls"])
def test_a_total_that_could_not_be_read_starts_no_interval(unread: str) -> None:
    """Else the next one would hold all that was counted since the start."""
    observer, cpu = make_observer(), Cpu()
    for _ in range(1000):
        cpu.sample(stalled=0.1)
    cpu.sample(stalled=0.1)
    observer.decode([cpu.record(unread), cpu.sample(stalled=0.1), cpu.sample(stalled=0.1)])
    (counters,) = observer.cpu_report().counters
    seen = 2 if unread == "stalls" else 1
    assert (counters.cycles, counters.instructions) == (seen * CYCLES, 2 * seen * CYCLES)
    assert counters.stalled_cycles == CYCLES // 10
    cpu.sample()
    observer.decode([cpu.record(unread), cpu.sample(stalled=0.1)])
    assert observer.suppressed["not_counted"] == (0 if unread == "stalls" else 3)


def test_what_cannot_be_is_left_out() -> None:
    """More cycles than a CPU can run, times that go back, records that are cut off or of another kind."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), cpu.sample(cycles=10**12)])
    observer.decode([Cpu().record(), Cpu().record()])
    observer.decode([b"", cpu.record()[:40], bytes(200)])
    back = Cpu(1, cycles_enabled_ns=10**12)
    observer.decode([back.record(), Cpu(1, boot_ns=INTERVAL_NS).record()])
    assert observer.suppressed == {"not_counted": 0, "stalls_not_counted": 0, "implausible": 4, "undecodable": 3}
    assert observer.cpu_report().counters == []


def test_a_lost_sample_makes_the_interval_longer() -> None:
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record()])
    cpu.sample(stalled=0.5)
    cpu.sample(stalled=0.5)
    (anomaly,) = observer.decode([cpu.sample(stalled=0.5), *busy(cpu, 2, stalled=0.5)])
    assert anomaly.data["interval_ms"] == 500
    assert anomaly.data["cycles"] == 5 * CYCLES


def test_each_cpu_is_judged_for_itself() -> None:
    observer, good, bad = make_observer(), Cpu(0), Cpu(1)
    observer.decode([good.record(), bad.record()])
    records = [record for _ in range(50) for record in (good.sample(), bad.sample(stalled=0.6))]
    (anomaly,) = observer.decode(records)
    assert anomaly.data["cpu"] == 1


def test_a_cpu_that_goes_offline_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """Offline is no trouble; online again, without its counters, it is reported once."""
    online = [0, 1]
    observer, first, second = make_observer(online=online), Cpu(0), Cpu(1)
    observer.decode([first.record(), second.record(), first.sample(), second.sample()])

    def pass_time(intervals: int) -> None:
        for _ in range(intervals):
            observer.decode([first.sample()])
            assert observer.due(first.totals["boot_ns"]) == []

    with caplog.at_level(logging.WARNING):
        pass_time(20)
        online.remove(1)
        pass_time(100)
        assert observer.reason == ""
        assert [cpu.ipc for cpu in observer.cpu_report().counters] == [2.0, None]
        assert observer.cpu_report().counters[1].cycles == CYCLES
        online.append(1)
        pass_time(100)
    assert observer.reason == "not counted although online: CPU 1: restart the agent to count them"
    assert observer.cpu_report().uncounted == {"cycles": 1, "instructions": 1, "stalls": 1}
    assert [cpu.cpu for cpu in observer.cpu_report().counters] == [0]  # what it does now is not known
    assert len(caplog.records) == 1
    assert observer.due(None) == []


def test_a_cpu_that_could_not_be_opened_is_reported_and_a_silent_one_is_not() -> None:
    """A CPU that sleeps may give no sample for long."""
    observer, first = make_observer(online=[0, 1]), Cpu(0)
    observer.decode([first.record(), first.sample()])
    observer.due(10**12)
    assert observer.reason == ""
    observer = make_observer(online=[0, 1, 7], counted=[0, 1])
    observer.due(1)
    assert observer.reason == "not counted although online: CPU 7: restart the agent to count them"


def test_a_cpu_whose_idle_samples_are_left_out_counts_as_idle() -> None:
    """Some kernels give no sample of an idle CPU: one busy sample in ten intervals is ten percent."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record()])
    for _ in range(200):
        cpu.sample(samples=9, idle=True, cycles=1_000, stalled=0.9)
        assert observer.decode([cpu.sample(cycles=100_000, stalled=0.9)]) == []


def test_counters_that_stand_still_are_told() -> None:
    """Some virtual machines let events be opened and never count."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 300, cycles=0, idle=True)])
    observer.due(cpu.totals["boot_ns"])
    assert observer.reason == ""
    assert observer.decode(busy(cpu, 100, cycles=0)) == []
    observer.due(cpu.totals["boot_ns"] + 2 * 10**9)
    assert "the CPU counters stand still though CPUs are busy" in observer.reason


def test_all_cpus_together() -> None:
    """On request, and by default above 64 CPUs."""
    for observer in (make_observer(per_cpu=False), make_observer(online=list(range(65)))):
        cpus = [Cpu(0), Cpu(1)]
        observer.decode([cpu.record() for cpu in cpus])
        observer.decode([cpus[0].sample(ipc=1.0, stalled=0.5), cpus[1].sample(ipc=2.0, stalled=0.1)])
        together = CpuCounters(None, 2 * CYCLES, 3 * CYCLES, round(0.6 * CYCLES), 1.5)
        assert observer.cpu_report() == CpuReport([together], ALL_COUNTED)
    assert make_observer(per_cpu=False).cpu_report() == CpuReport([], ALL_COUNTED)


def test_an_episode_ends_on_a_cpu_that_is_hardly_busy() -> None:
    """A busy sample after an hour without any, or one in ten, does not keep it open: the next trouble is a new one."""
    observer, cpu = make_observer(), Cpu()
    assert "cpu_stall" in kinds(observer, [cpu.record(), *busy(cpu, 60, stalled=0.6)])
    for _ in range(20):
        observer.decode([*busy(cpu, 9, idle=True), *busy(cpu, 1, stalled=0.6)])
    assert "cpu_stall" in kinds(observer, busy(cpu, 60, stalled=0.6))
