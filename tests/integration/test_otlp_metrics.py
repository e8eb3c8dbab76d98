"""OTel metrics as a receiver gets them: those of the agent, of disks, of CPUs; every name and label in the schema."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from helpers import schema
from helpers.receiver import Receiver, plain_map
from helpers.running_agent import wait_for
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from tapio.cpus import CpuCounters, CpuReport
from tapio.prometheus import AgentCollector
from tapio.sinks.base import RESULTS
from tapio.sinks.otlp_environment import read_settings
from tapio.sinks.otlp_metrics import MetricExport
from tapio.telemetry import DiskIo, Hook, ObserverTelemetry, Telemetry

SLOW = (0,) * 15 + (7, 0, 3) + (0,) * 6 + (2,)  # of 25 buckets
DISKS = [DiskIo("sda", "read", SLOW, 1_500_000_000, 5), DiskIo("nvme0n1", "flush", (1, *(0,) * 24), 1000, 0)]
CPUS = [CpuCounters(0, 300, 600, 30, 2.0), CpuCounters(3, 100, 50, None, None)]


class Sunk:
    """What the telemetry asks a sink."""

    name, backlog = "otlp", 4
    results = dict.fromkeys(RESULTS, 3)


class Enriched:
    """What the telemetry asks enrichment."""

    outcomes: ClassVar = {"pod": 2, "host": 1}
    held_full, misses, pods = 0, 1, 250
    watches: ClassVar = {"pods": True, "jobs": False}


def whole_telemetry() -> Telemetry:
    """An agent in which every series has something to show."""
    observer = ObserverTelemetry("storage", read_hooks=lambda: [Hook("block_rq_complete", True, missed={"start": 2})])
    observer.read_disks = lambda: DISKS
    observer.suppressed = {"duplicate": 1}
    observer.evicted = {"devices": 1}
    observer.has_canary, observer.canary_round_trip_s = True, 0.125
    node = ObserverTelemetry("node")
    node.read_cpus = lambda: CpuReport(CPUS, {"stalls": 1})
    telemetry = Telemetry([observer, node], [Sunk()])  # type: ignore[list-item]
    telemetry.occurrences["kernel.storage.io_error", "critical"] = 3
    telemetry.folded["kernel.storage.io_error"] = 5
    telemetry.overflowed = {"rate": 1}
    telemetry.sandbox = {"seccomp": ""}
    telemetry.enrichment = Enriched()
    return telemetry


def exported(collector: Receiver, telemetry: Telemetry | None) -> dict[str, Metric]:
    """The metrics of the last export, by name."""
    settings = read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, "metrics")
    export = MetricExport(settings, {"service.name": "tapio"}, interval_s=60)
    if telemetry is not None:
        export.add_agent_metrics(AgentCollector(telemetry).collect)
    export.add_cpu_metrics(lambda: CPUS)
    export.close(5)
    wait_for(lambda: collector.requests)
    (request,) = collector.requests
    (group,) = request.metrics().resource_metrics
    assert plain_map(group.resource.attributes) == {"service.name": "tapio"}
    (scope,) = group.scope_metrics
    return {metric.name: metric for metric in scope.metrics}


def points(metric: Metric) -> list[Any]:
    return list(getattr(metric, metric.WhichOneof("data")).data_points)


def test_every_metric_leaves_as_the_schema_says(collector: Receiver) -> None:
    """Name, kind, unit, labels: of /metrics nothing is missing, and there is nothing that the schema has not."""
    telemetry = whole_telemetry()
    found = exported(collector, telemetry)
    shown = {f"{one.name}_total" if one.type == "counter" else one.name for one in AgentCollector(telemetry).collect()}
    assert {schema.PROMETHEUS[name]["metric_name"] for name in shown} == set(found)
    for name, metric in found.items():
        group = schema.METRICS[name]
        kind = {"sum": "counter"}.get(metric.WhichOneof("data"), metric.WhichOneof("data"))
        assert (kind, metric.unit) == (group["instrument"], group["unit"]), name
        labels = {a["ref"] for a in group.get("attributes", ())}
        for point in points(metric):
            assert set(plain_map(point.attributes)) <= labels, name
        if kind != "gauge":
            assert getattr(metric, metric.WhichOneof("data")).aggregation_temporality == 2, name  # cumulative


def test_the_latency_of_disks(collector: Receiver) -> None:
    """Each bucket alone, as OTel counts, and the same bounds as /metrics."""
    found = exported(collector, whole_telemetry())
    first, second = points(found["tapio.disk.latency"])
    assert plain_map(first.attributes) == {"device": "sda", "operation": "read"}
    assert tuple(first.bucket_counts) == SLOW
    assert (first.count, first.sum) == (12, 1.5)
    assert first.explicit_bounds[:3] == [2e-6, 4e-6, 8e-6]
    assert len(first.explicit_bounds) == 24
    assert not first.HasField("min")
    assert 0 < first.start_time_unix_nano <= first.time_unix_nano
    assert tuple(second.bucket_counts) == DISKS[1].latency
    assert [point.as_int for point in points(found["tapio.disk.errors"])] == [5, 0]


@pytest.mark.parametrize("agent_metrics", [True, False])
def test_the_counters_of_cpus_leave_once_also_without_the_agents(collector: Receiver, agent_metrics: bool) -> None:
    found = exported(collector, whole_telemetry() if agent_metrics else None)
    cycles = points(found["tapio.cpu.cycles"])
    assert [(plain_map(p.attributes), p.as_int) for p in cycles] == [
        ({"cpu.logical_number": 0}, 300), ({"cpu.logical_number": 3}, 100)
    ]  # fmt: skip
    assert len(points(found["tapio.cpu.stalled_cycles"])) == 1
    assert agent_metrics or {name for name in found if not name.startswith("tapio.cpu.")} == set()
