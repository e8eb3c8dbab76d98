"""CPU counters as OpenTelemetry instruments and as Prometheus series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tapio.cpus import CpuCounters, CpuReport
from tapio.pmc_metrics import add_instruments
from tapio.prometheus import exposition
from tapio.telemetry import ObserverTelemetry, Telemetry

COUNTED, ONE_WITHOUT_STALLS = {"cycles": 0, "stalls": 0}, {"cycles": 0, "stalls": 2}

ONE_BY_ONE = [CpuCounters(0, 300, 600, 30, 2.0), CpuCounters(3, 100, 50, None, None)]
TOGETHER = [CpuCounters(None, 400, 650, 30, 1.5)]


class Meter:
    """What the SDK's meter does with instruments, as far as it matters here."""

    def __init__(self) -> None:
        self.instruments: dict[str, tuple[str, str, list[Callable[[object], Any]]]] = {}

    def create_observable_counter(self, name: str, callbacks: Any, unit: str, description: str) -> None:
        assert description
        self.instruments[name] = "counter", unit, callbacks

    def create_observable_gauge(self, name: str, callbacks: Any, unit: str, description: str) -> None:
        assert description
        self.instruments[name] = "gauge", unit, callbacks

    def collect(self) -> dict[str, list[Any]]:
        return {name: list(callback(None)) for name, (_, _, (callback,)) in self.instruments.items()}


def observation(value: float, attributes: Any) -> tuple[float, Any]:
    return value, attributes


def test_instruments() -> None:
    meter = Meter()
    add_instruments(meter, observation, lambda: ONE_BY_ONE)
    assert {name: (kind, unit) for name, (kind, unit, _) in meter.instruments.items()} == {
        "tapio.cpu.cycles": ("counter", "{cycle}"),
        "tapio.cpu.instructions": ("counter", "{instruction}"),
        "tapio.cpu.stalled_cycles": ("counter", "{cycle}"),
        "tapio.cpu.ipc": ("gauge", "1"),
    }
    first, second = {"cpu.logical_number": 0}, {"cpu.logical_number": 3}
    assert meter.collect() == {
        "tapio.cpu.cycles": [(300, first), (100, second)],
        "tapio.cpu.instructions": [(600, first), (50, second)],
        "tapio.cpu.stalled_cycles": [(30, first)],
        "tapio.cpu.ipc": [(2.0, first)],
    }


def test_all_cpus_together_have_no_number() -> None:
    meter = Meter()
    add_instruments(meter, observation, lambda: TOGETHER)
    assert meter.collect()["tapio.cpu.cycles"] == [(400, {})]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            CpuReport(ONE_BY_ONE, COUNTED),
            {
                ("tapio_cpu_cycles_total", "0"): 300,
                ("tapio_cpu_cycles_total", "3"): 100,
                ("tapio_cpu_instructions_total", "0"): 600,
                ("tapio_cpu_instructions_total", "3"): 50,
                ("tapio_cpu_stalled_cycles_total", "0"): 30,
                ("tapio_cpu_ipc", "0"): 2,
                ("tapio_uncounted_cpus", "cycles"): 0,
                ("tapio_uncounted_cpus", "stalls"): 0,
            },
        ),
        (
            CpuReport(TOGETHER, ONE_WITHOUT_STALLS),
            {
                ("tapio_cpu_cycles_total", None): 400,
                ("tapio_cpu_instructions_total", None): 650,
                ("tapio_cpu_stalled_cycles_total", None): 30,
                ("tapio_cpu_ipc", None): 1.5,
                ("tapio_uncounted_cpus", "cycles"): 0,
                ("tapio_uncounted_cpus", "stalls"): 2,
            },
        ),
        (CpuReport([], COUNTED), {("tapio_uncounted_cpus", "cycles"): 0, ("tapio_uncounted_cpus", "stalls"): 0}),
        (None, {}),
    ],
)
def test_series(report: CpuReport | None, expected: dict[tuple[str, str | None], float]) -> None:
    observer = ObserverTelemetry("node")
    observer.read_cpus = lambda: report
    text = exposition(Telemetry([observer], [])).decode()
    found = {
        (sample.name, sample.labels.get("cpu", sample.labels.get("counter"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("tapio_") and "_cpu" in sample.name
    }
    assert found == expected
