"""What the node observer counts: intervals, multiplexed and missing counters, values that cannot be."""

from __future__ import annotations

import pytest
from helpers.counters import ALL_COUNTED, CYCLES, INTERVAL_NS, Cpu, busy, kinds, make_observer

from tapio.cpus import CpuCounters, CpuReport


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


def test_all_cpus_together() -> None:
    """On request, and by default above 64 CPUs."""
    for observer in (make_observer(per_cpu=False), make_observer(online=list(range(65)))):
        cpus = [Cpu(0), Cpu(1)]
        observer.decode([cpu.record() for cpu in cpus])
        observer.decode([cpus[0].sample(ipc=1.0, stalled=0.5), cpus[1].sample(ipc=2.0, stalled=0.1)])
        together = CpuCounters(None, 2 * CYCLES, 3 * CYCLES, round(0.6 * CYCLES), 1.5)
        assert observer.cpu_report() == CpuReport([together], ALL_COUNTED)
    assert make_observer(per_cpu=False).cpu_report() == CpuReport([], ALL_COUNTED)
