"""The series of /metrics. Their number is fixed by observers, hooks, types and sinks: never by pods, peers or pids."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from tapio import __version__
from tapio.anomalies import CATALOGUE, EVENTS_LOST
from tapio.cpus import CpuReport
from tapio.telemetry import DISK_LATENCY_BOUNDS_S, EnrichmentFigures, Hook, ObserverTelemetry, Telemetry

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_DISK_BOUNDS = [*map(str, DISK_LATENCY_BOUNDS_S), "+Inf"]


class AgentCollector(Collector):
    """Reads the agent's telemetry at each scrape."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        """All families."""
        build = GaugeMetricFamily("tapio_build_info", "1, labelled with the agent's version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        sandbox = GaugeMetricFamily("tapio_sandbox_up", "Whether it is in force.", labels=["mechanism"])
        for mechanism, reason in self._telemetry.sandbox.items():
            sandbox.add_metric([mechanism], not reason)
        yield sandbox
        observers = [(observer, observer.read_hooks()) for observer in self._telemetry.observers.values()]
        yield from self._observers(observers)
        yield from self._hooks(observers)
        yield from self._disks()
        for observer, _ in observers:
            report = observer.read_cpus()
            if report is not None:
                yield from self._cpus(report)
        yield from self._occurrences()
        yield from self._enrichment(self._telemetry.enrichment)
        yield from self._process()

    @staticmethod
    def _process() -> Iterator[Metric]:
        """What the agent costs, under the names of the semantic conventions: the same by OTLP and here."""
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        yield GaugeMetricFamily("process_memory_usage_bytes", "Resident memory of the agent.", memory)
        yield CounterMetricFamily("process_cpu_time_seconds", "CPU time of the agent.", time.process_time())

    @staticmethod
    def _observers(observers: list[tuple[ObserverTelemetry, list[Hook]]]) -> Iterator[Metric]:
        labels = ["observer"]
        up = GaugeMetricFamily("tapio_observer_up", "Whether all hooks of the observer are attached.", labels=labels)
        off = GaugeMetricFamily(
            "tapio_observer_off_info", "1 for an observer that is not up, with why.", labels=["observer", "reason"]
        )
        events = CounterMetricFamily("tapio_events", "Records read from the kernel.", labels=labels)
        lost = CounterMetricFamily("tapio_lost_events", "Events that the kernel side could not pass on.", labels=labels)
        unattributed = CounterMetricFamily("tapio_unattributed", "Anomalies without a known cgroup.", labels=labels)
        trip = GaugeMetricFamily(
            "tapio_canary_round_trip_seconds", "From the agent's latest test event to its detector.", labels=labels
        )
        missed = CounterMetricFamily("tapio_canary_missed", "Test events that did not come back.", labels=labels)
        labels = ["observer", "anomaly_type"]
        anomalies = CounterMetricFamily("tapio_anomalies", "Anomalies found.", labels=labels)
        labels = ["observer", "reason"]
        suppressed = CounterMetricFamily("tapio_suppressed_records", "Records that were no anomaly.", labels=labels)
        evicted = CounterMetricFamily(
            "tapio_evicted", "Entries that a table in memory gave up for newer ones.", labels=["observer", "table"]
        )
        for observer, hooks in observers:
            why_off = observer.why_off(hooks)
            up.add_metric([observer.name], not why_off)
            if why_off:
                off.add_metric([observer.name, why_off], 1)
            events.add_metric([observer.name], observer.events)
            lost.add_metric([observer.name], observer.lost(hooks))
            unattributed.add_metric([observer.name], observer.unattributed)
            if observer.has_canary:
                missed.add_metric([observer.name], observer.canary_missed)
            if observer.canary_round_trip_s is not None:
                trip.add_metric([observer.name], observer.canary_round_trip_s)
            for kind in CATALOGUE.values():
                if kind.observer == observer.name or kind is EVENTS_LOST:
                    anomalies.add_metric([observer.name, kind.name], observer.anomalies[kind.name])
            for reason, count in observer.suppressed.items():
                suppressed.add_metric([observer.name, reason], count)
            for table, count in observer.evicted.items():
                evicted.add_metric([observer.name, table], count)
        yield from (up, off, events, lost, unattributed, trip, missed, anomalies, suppressed, evicted)

    @staticmethod
    def _hooks(observers: list[tuple[ObserverTelemetry, list[Hook]]]) -> Iterator[Metric]:
        labels = ["observer", "hook"]
        hits = CounterMetricFamily("tapio_kernel_events", "Runs of a hook's program.", labels=labels)
        submitted = CounterMetricFamily("tapio_kernel_records", "Records that went into the ring.", labels=labels)
        filtered = CounterMetricFamily(
            "tapio_kernel_filtered", "Events that the kernel side filtered out.", labels=labels
        )
        unreadable = CounterMetricFamily(
            "tapio_kernel_unreadable", "Events that the kernel did not show.", labels=labels
        )
        overwritten = CounterMetricFamily(
            "tapio_kernel_overwritten", "What a hook had remembered and gave up for something newer.", labels=labels
        )
        limited = CounterMetricFamily(
            "tapio_kernel_limited", "Samples left out to keep within the node's rate.", labels=labels
        )
        labels = [*labels, "reason"]
        missed = CounterMetricFamily(
            "tapio_kernel_missed",
            "Events that the kernel side could not put together with an earlier or a later one.",
            labels=labels,
        )
        runtime = CounterMetricFamily(
            "tapio_bpf_run_seconds",
            "Run time of a program; 0 unless kernel.bpf_stats_enabled is set.",
            labels=["program"],
        )
        for observer, hooks in observers:
            for hook in hooks:
                hits.add_metric([observer.name, hook.name], hook.hits)
                submitted.add_metric([observer.name, hook.name], hook.submitted)
                filtered.add_metric([observer.name, hook.name], hook.filtered)
                unreadable.add_metric([observer.name, hook.name], hook.unreadable)
                overwritten.add_metric([observer.name, hook.name], hook.overwritten)
                limited.add_metric([observer.name, hook.name], hook.limited)
                for reason, count in hook.missed.items():
                    missed.add_metric([observer.name, hook.name, reason], count)
                runtime.add_metric([hook.name], hook.run_ns / 1e9)
        yield from (hits, submitted, filtered, unreadable, overwritten, limited, missed, runtime)

    def _disks(self) -> Iterator[Metric]:
        labels = ["device", "operation"]
        latency = HistogramMetricFamily(
            "tapio_disk_latency_seconds", "Block requests by their time from issue to completion.", labels=labels
        )
        errors = CounterMetricFamily("tapio_disk_errors", "Block requests that failed.", labels=labels)
        for observer in self._telemetry.observers.values():
            for disk in observer.read_disks():
                counts = itertools.accumulate(disk.latency)
                buckets = list(zip(_DISK_BOUNDS, counts, strict=True))
                latency.add_metric([disk.device, disk.operation], buckets, disk.sum_ns / 1e9)
                errors.add_metric([disk.device, disk.operation], disk.errors)
        yield from (latency, errors)

    @staticmethod
    def _cpus(report: CpuReport) -> Iterator[Metric]:
        labels = ["cpu"] if all(cpu.cpu is not None for cpu in report.counters) else []
        cycles = CounterMetricFamily("tapio_cpu_cycles", "CPU cycles.", labels=labels)
        instructions = CounterMetricFamily("tapio_cpu_instructions", "Instructions that were completed.", labels=labels)
        stalled = CounterMetricFamily("tapio_cpu_stalled_cycles", "Cycles in which a CPU waited.", labels=labels)
        ipc = GaugeMetricFamily("tapio_cpu_ipc", "Instructions for each cycle, latest interval.", labels=labels)
        uncounted = GaugeMetricFamily(
            "tapio_uncounted_cpus", "CPUs that are online and on which this is not counted.", labels=["counter"]
        )
        for cpu in report.counters:
            number = [str(cpu.cpu)] if labels else []
            cycles.add_metric(number, cpu.cycles)
            instructions.add_metric(number, cpu.instructions)
            if cpu.stalled_cycles is not None:
                stalled.add_metric(number, cpu.stalled_cycles)
            if cpu.ipc is not None:
                ipc.add_metric(number, cpu.ipc)
        for counter, missing in report.uncounted.items():
            uncounted.add_metric([counter], missing)
        yield from (family for family in (cycles, instructions, stalled, ipc, uncounted) if family.samples)

    def _occurrences(self) -> Iterator[Metric]:
        labels = ["anomaly_type", "severity"]
        occurrences = CounterMetricFamily("tapio_occurrences", "Occurrences handed to the sinks.", labels=labels)
        for (kind, severity), count in sorted(self._telemetry.occurrences.copy().items()):
            occurrences.add_metric([kind, severity], count)
        folded = CounterMetricFamily("tapio_folded", "Anomalies that were folded.", labels=["anomaly_type"])
        for kind, count in sorted(self._telemetry.folded.copy().items()):
            folded.add_metric([kind], count)
        overflowed = CounterMetricFamily(
            "tapio_overflow_folded",
            "Anomalies folded because of the node's rate or the number of keys.",
            labels=["reason"],
        )
        for reason, count in self._telemetry.overflowed.items():
            overflowed.add_metric([reason], count)
        invalid = CounterMetricFamily("tapio_invalid_anomalies", "Anomalies that made no valid occurrence: a defect.")
        invalid.add_metric([], self._telemetry.invalid)
        yield from (folded, overflowed, invalid)
        results = CounterMetricFamily("tapio_sink_occurrences", "What became of them.", labels=["sink", "result"])
        queue = GaugeMetricFamily("tapio_sink_queue", "Occurrences that wait in the sink.", labels=["sink"])
        for sink in self._telemetry.sinks:
            queue.add_metric([sink.name], sink.backlog)
            for result, count in sink.results.items():
                results.add_metric([sink.name, result], count)
        yield from (occurrences, results, queue)

    @staticmethod
    def _enrichment(figures: EnrichmentFigures | None) -> Iterator[Metric]:
        """Outside a cluster the names alone: a 0 would be a measurement."""
        outcomes = CounterMetricFamily("tapio_enriched", "Anomalies by what was found of their pod.", labels=["result"])
        misses = CounterMetricFamily(
            "tapio_enrichment_misses", "Anomalies without the pod that they may be of.", labels=[]
        )
        not_held = CounterMetricFamily(
            "tapio_enrichment_not_held", "Anomalies that could not wait for their pod: too many did.", labels=[]
        )
        pods = GaugeMetricFamily("tapio_k8s_pods", "Pods of this node that are known.", labels=[])
        watches = GaugeMetricFamily(
            "tapio_k8s_watch_up", "Whether a watch on the API server is open.", labels=["resource"]
        )
        if figures is not None:
            for result, count in figures.outcomes.items():
                outcomes.add_metric([result], count)
            misses.add_metric([], figures.misses)
            not_held.add_metric([], figures.held_full)
            pods.add_metric([], figures.pods)
            for resource, is_up in figures.watches.items():
                watches.add_metric([resource], is_up)
        yield from (outcomes, misses, not_held, pods, watches)


def exposition(telemetry: Telemetry) -> bytes:
    """The text of one scrape, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(AgentCollector(telemetry))
    return generate_latest(registry)
