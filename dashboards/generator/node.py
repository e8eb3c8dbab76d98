"""All observers of one node."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from generator import links
from generator.fleet import COLUMNS
from generator.frame import CLUSTER, ONE_NODE, finish, frame, row
from generator.panels import lines, number, ranking, rows, states
from generator.queries import (
    IS_NETWORK,
    IS_NODE,
    IS_STORAGE,
    OF_THE_KERNEL,
    Occurrences,
    Query,
    loki,
    observing,
    per_minute,
    prometheus,
    rate,
    total,
)

OCCURRENCES = Occurrences(filters=(IS_NODE,))
_CPU = "cpu, cpu_logical_number"  # /metrics says cpu, OTLP cpu.logical_number: one of the two is absent
_CPU_LEGEND = "CPU {{cpu}}{{cpu_logical_number}}"
_NO_PMU = " Empty without performance counters, as in most virtual machines."


def _found(observer: str) -> Query:
    """Of one observer."""
    matchers = (f'observer="{observer}"', OF_THE_KERNEL)
    return prometheus(per_minute("anomaly_type", "tapio_anomalies_total", *matchers), "{{anomaly_type}}")


def _count(what: str) -> Query:
    return prometheus(total("tapio_anomalies_total", f'anomaly_type="kernel.{what}"'), instant=True)


def _disk_quantile(quantile: str) -> Query:
    buckets = rate("le, device, operation", "tapio_disk_latency_seconds_bucket")
    return prometheus(f"histogram_quantile({quantile}, {buckets})", "{{device}} {{operation}}")


def build() -> model.Dashboard:
    """The dashboard *Node*."""
    board = frame(
        "Tapio / Node",
        links.NODE,
        "What Tapio's four observers found on a node: network, containers, disks, CPUs.",
        (CLUSTER, ONE_NODE),
        OCCURRENCES,
    )
    row(
        board,
        "Now",
        number(
            "OOM kills",
            "Processes that the kernel killed for memory, within the time range.",
            "short",
            _count("container.oom_kill"),
        ),
        number(
            "Abnormal exits",
            "Processes that ended with a code or by a signal, within the time range.",
            "short",
            _count("container.abnormal_exit"),
            bad_from=None,
        ),
        number(
            "Connections refused",
            "Within the time range.",
            "short",
            _count("network.connection_refused"),
            bad_from=None,
        ),
        number(
            "Connections timed out",
            "Within the time range.",
            "short",
            _count("network.connection_timeout"),
            bad_from=None,
            warn_from=1,
        ),
        number("I/O errors", "Block requests that failed, within the time range.", "short", _count("storage.io_error")),
        number(
            "Slow I/O",
            "Block requests that took 50 ms or longer, within the time range.",
            "short",
            _count("storage.latency_spike"),
            bad_from=None,
            warn_from=1,
        ),
        states(
            "Observers",
            "Whether all hooks of an observer are attached. Off is red: what is not observed is not "
            "healthy, it is unknown. The observer `node` is grey where it is off: there are no performance counters, "
            "as in most virtual machines.",
            prometheus(observing("max"), "{{observer}}"),
            good="observing",
            bad="off",
            width=24,
            height=5,
        ),
    )
    row(
        board,
        "Network",
        lines("Network anomalies", "Found per minute.", "cpm", _found("network"), stacked=True),
        ranking(
            "Worst peers",
            # Without the port: that of a client is another each time, and Loki takes 500 series in a query.
            "Remote addresses with most anomalies within the time range.",
            "short",
            loki(OCCURRENCES.top("network_peer_address", IS_NETWORK), "{{network_peer_address}}", instant=True),
            width=6,
        ),
        ranking(
            "Who suffers",
            "Processes with most network anomalies within the time range, where the process is known.",
            "short",
            loki(
                OCCURRENCES.top("process_executable_name", IS_NETWORK, 'process_executable_name!=""'),
                "{{process_executable_name}}",
                instant=True,
            ),
            width=6,
        ),
    )
    row(
        board,
        "Containers and processes",
        lines("OOM kills and abnormal exits", "Found per minute.", "cpm", _found("container"), stacked=True),
        ranking(
            "Exits",
            "Programs and exit codes with most abnormal exits within the time range; 128 + N is signal N.",
            "short",
            loki(
                OCCURRENCES.top("process_executable_name, process_exit_code", 'error_type="ABNORMAL_EXIT"'),
                "{{process_executable_name}} {{process_exit_code}}",
                instant=True,
            ),
            width=6,
        ),
        ranking(
            "OOM victims",
            "Programs that were killed for memory within the time range, and whose limit it was.",
            "short",
            loki(
                OCCURRENCES.top("process_executable_name, tapio_oom_scope", 'error_type="OOM_KILL"'),
                "{{process_executable_name}} {{tapio_oom_scope}}",
                instant=True,
            ),
            width=6,
        ),
    )
    row(
        board,
        "Disks",
        lines("Storage anomalies", "Found per minute.", "cpm", _found("storage"), stacked=True, width=8),
        lines(
            "I/O latency, 99th percentile",
            "Time from issue to completion of a block request.",
            "s",
            _disk_quantile("0.99"),
            width=8,
        ),
        lines(
            "Block requests",
            "Completed per second.",
            "iops",
            prometheus(rate("device, operation", "tapio_disk_latency_seconds_count"), "{{device}} {{operation}}"),
            width=8,
        ),
        lines(
            "Failed requests",
            "Block requests that failed, per second.",
            "iops",
            prometheus(rate("device, operation", "tapio_disk_errors_total"), "{{device}} {{operation}}"),
            width=12,
        ),
        ranking(
            "Storage anomalies by disk",
            "Disks and operations with most anomalies within the time range.",
            "short",
            loki(
                OCCURRENCES.top("system_device, tapio_disk_operation, error_type", IS_STORAGE),
                "{{system_device}} {{tapio_disk_operation}} {{error_type}}",
                instant=True,
            ),
            width=12,
        ),
    )
    cycles = rate(_CPU, "tapio_cpu_cycles_total")
    row(
        board,
        "CPUs",
        lines(
            "Node anomalies",
            "CPU stalls, memory pressure, low IPC: found per minute.",
            "cpm",
            _found("node"),
            stacked=True,
            width=6,
        ),
        lines(
            "Instructions per cycle",
            "What a CPU completes in a cycle." + _NO_PMU,
            "short",
            prometheus(f"{rate(_CPU, 'tapio_cpu_instructions_total')} / {cycles}", _CPU_LEGEND),
            width=6,
        ),
        lines(
            "Stalled cycles",
            "Share of the cycles in which a CPU waited, mostly for memory."
            + _NO_PMU
            + " Also without an event for stalls on this CPU model.",
            "percentunit",
            prometheus(f"{rate(_CPU, 'tapio_cpu_stalled_cycles_total')} / {cycles}", _CPU_LEGEND),
            width=6,
            top=1,
        ),
        lines(
            "Utilisation",
            "Cycles that a CPU ran, per second: from 0 when idle up to its clock rate." + _NO_PMU,
            "hertz",
            prometheus(cycles, _CPU_LEGEND),
            width=6,
        ),
    )
    row(
        board,
        "What happened?",
        rows(
            "Occurrences",
            "The latest occurrences of the node. A pod's name leads to its own logs.",
            loki(OCCURRENCES.messages()),
            COLUMNS,
        ),
    )
    return finish(board)
