"""The CPU counters as OpenTelemetry instruments. The SDK is not imported here: the caller brings its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tapio.cpus import CpuCounters
from tapio.otel_names import CPU_LOGICAL_NUMBER, METRIC_UNITS

Read = Callable[[], Sequence[CpuCounters]]
Observe = Callable[[int | float, Mapping[str, int]], Any]


class Instrument(NamedTuple):
    """One metric: a counter that only grows, or a gauge."""

    name: str
    description: str
    is_counter: bool
    value: Callable[[CpuCounters], int | float | None]


INSTRUMENTS = (
    Instrument("tapio.cpu.cycles", "CPU cycles.", True, lambda cpu: cpu.cycles),
    Instrument("tapio.cpu.instructions", "Instructions that were completed.", True, lambda cpu: cpu.instructions),
    Instrument("tapio.cpu.stalled_cycles", "Cycles in which a CPU waited.", True, lambda cpu: cpu.stalled_cycles),
    Instrument("tapio.cpu.ipc", "Instructions for each cycle, within the latest interval.", False, lambda cpu: cpu.ipc),
)


def points(instrument: Instrument, read: Read) -> Iterator[tuple[int | float, dict[str, int]]]:
    """Values with their attributes: the CPU's number, or none for all CPUs together. What is not known is left out."""
    for cpu in read():
        value = instrument.value(cpu)
        if value is not None:
            yield value, {} if cpu.cpu is None else {CPU_LOGICAL_NUMBER: cpu.cpu}


def add_instruments(meter: Any, observation: Observe, read: Read) -> None:
    """Register the instruments with an OTel `Meter`; `observation` is `opentelemetry.metrics.Observation`."""
    for instrument in INSTRUMENTS:
        kind = "counter" if instrument.is_counter else "gauge"
        create = getattr(meter, f"create_observable_{kind}")
        callback = _callback(instrument, observation, read)
        create(instrument.name, [callback], METRIC_UNITS[instrument.name], instrument.description)


def _callback(instrument: Instrument, observation: Observe, read: Read) -> Callable[[object], Iterator[Any]]:
    def callback(_options: object) -> Iterator[Any]:
        for value, attributes in points(instrument, read):
            yield observation(value, attributes)

    return callback
