"""IPC below what a CPU has learned: when it is an anomaly, and what is learned at all."""

from __future__ import annotations

import pytest
from helpers.counters import Cpu, busy, kinds, make_observer

from tapio.config import Config, NodeConfig


def test_low_ipc_that_is_normal_for_this_cpu_is_no_anomaly() -> None:
    observer, cpu = make_observer(), Cpu()
    assert observer.decode([cpu.record(), *busy(cpu, 500, ipc=0.3)]) == []


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
