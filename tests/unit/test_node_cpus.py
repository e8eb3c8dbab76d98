"""CPUs that are not counted, or no longer: what is told of them, and which figures are left out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from helpers.counters import ALL_COUNTED, CYCLES, INTERVAL_NS, Cpu, busy, make_observer

from tapio.cpus import CpuReport
from tapio.observers.node import NodeObserver


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


def test_counters_that_stand_still_are_told() -> None:
    """Some virtual machines let events be opened and never count."""
    observer, cpu = make_observer(), Cpu()
    observer.decode([cpu.record(), *busy(cpu, 300, cycles=0, idle=True)])
    observer.due(cpu.totals["boot_ns"])
    assert observer.reason == ""
    assert observer.decode(busy(cpu, 100, cycles=0)) == []
    observer.due(cpu.totals["boot_ns"] + 2 * 10**9)
    assert "the CPU counters stand still though CPUs are busy" in observer.reason
