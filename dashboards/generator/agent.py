"""The dashboard of the agents: whether they are well, and what the other dashboards show can be trusted."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from generator import links
from generator.frame import CLUSTER, NODE, finish, frame, row
from generator.panels import lines, number, records, states
from generator.queries import (
    EACH_NODE,
    IS_NODE,
    Occurrences,
    loki,
    most,
    nodes_silent,
    observers_off,
    observing,
    prometheus,
    rate,
    series,
    total,
)

OCCURRENCES = Occurrences(filters=(IS_NODE,))
_NEEDS_ENRICHMENT = " Empty without enrichment (NODE_NAME)."
_HITS = (
    f"""label_replace(rate({series("tapio_kernel_events_total")}[$__rate_interval]), "program", "$1", "hook", "(.+)")"""
)


def build() -> model.Dashboard:
    """The dashboard *Agent health*."""
    board = frame(
        "Tapio / Agent health",
        links.AGENT,
        "Do the agents see everything, does everything arrive, and what does it cost the nodes?",
        (CLUSTER, NODE),
        OCCURRENCES,
    )
    row(
        board,
        "Can it be trusted?",
        number(
            "Agents",
            "Agents that answer now.",
            "short",
            prometheus(f"count({series('tapio_build_info')}) or vector(0)", instant=True),
            bad_below=1,
            width=3,
        ),
        number(
            "Agents silent",
            "Nodes whose agent answered within the time range and does not now. A node that was removed counts too.",
            "short",
            prometheus(nodes_silent(), instant=True),
            width=3,
        ),
        number(
            "Observers off",
            "Observers of which a hook is not attached. `node` is not counted: it is off where there "
            "are no performance counters.",
            "short",
            prometheus(observers_off(), instant=True),
            width=3,
        ),
        number(
            "Events lost",
            "What the agents could not read in time, within the time range.",
            "short",
            prometheus(total("tapio_lost_events_total"), instant=True),
            width=3,
        ),
        number(
            "Not delivered",
            "Occurrences that a sink rejected or dropped, within the time range.",
            "short",
            prometheus(total("tapio_sink_occurrences_total", 'result=~"dropped|rejected"'), instant=True),
            width=4,
        ),
        number(
            "Canaries missed",
            "Own harmless events of the agents that did not come back, within the time range.",
            "short",
            prometheus(total("tapio_canary_missed_total"), instant=True),
            width=4,
        ),
        number(
            "Defects",
            "Anomalies that made no valid occurrence. Please report any.",
            "short",
            prometheus(total("tapio_invalid_anomalies_total"), instant=True),
            width=4,
        ),
        states(
            "Observers",
            "Whether all hooks of an observer are attached, on all nodes. The observer `node` is grey where it is off "
            "on one: as most virtual machines, it has no performance counters.",
            prometheus(observing("min"), "{{observer}}"),
            good="observing",
            bad="off on a node",
        ),
        lines(
            "Canary round trip",
            "From the agent's own harmless event in the kernel to its detector, the slowest node. "
            "Nothing where `canary_interval_s` is 0.",
            "s",
            prometheus(f"max by (observer) ({series('tapio_canary_round_trip_seconds')})", "{{observer}}"),
            height=6,
        ),
    )
    row(
        board,
        "Events",
        lines(
            "Events read",
            "Records that the agents read, per second.",
            "eps",
            prometheus(rate("observer", "tapio_events_total"), "{{observer}}"),
        ),
        lines(
            "Kernel events",
            "Runs of the hooks' programs, per second: most of them end in the kernel.",
            "eps",
            prometheus(rate("hook", "tapio_kernel_events_total"), "{{hook}}"),
        ),
        lines(
            "Lost",
            "What the kernel side could not pass on or put together, per second.",
            "eps",
            prometheus(rate("observer", "tapio_lost_events_total"), "lost: {{observer}}"),
            prometheus(rate("hook, reason", "tapio_kernel_missed_total"), "{{hook}}: {{reason}}"),
            prometheus(rate("hook", "tapio_kernel_unreadable_total"), "unreadable: {{hook}}"),
            width=8,
        ),
        lines(
            "Suppressed",
            "Records that were no anomaly of their own, per second, with the reason.",
            "eps",
            prometheus(rate("observer, reason", "tapio_suppressed_records_total"), "{{observer}}: {{reason}}"),
            width=8,
        ),
        lines(
            "Unattributed",
            "Anomalies without a known cgroup, per second.",
            "eps",
            prometheus(rate("observer", "tapio_unattributed_total"), "{{observer}}"),
            width=8,
        ),
    )
    row(
        board,
        "Delivery",
        lines(
            "Occurrences by result",
            "What became of them at each sink, per second.",
            "eps",
            prometheus(rate("sink, result", "tapio_sink_occurrences_total"), "{{sink}} {{result}}"),
            width=8,
        ),
        lines(
            "Waiting",
            "Occurrences that wait in a sink, the longest queue of a node. A receiver that is away lets it grow.",
            "short",
            prometheus(f"max by (sink) ({series('tapio_sink_queue')})", "{{sink}}"),
            width=8,
        ),
        lines(
            "Folded",
            "Anomalies that were folded into an episode, and those folded for overload, per second.",
            "eps",
            prometheus(f"sum(rate({series('tapio_folded_total')}[$__rate_interval]))", "into an episode"),
            prometheus(rate("reason", "tapio_overflow_folded_total"), "overload: {{reason}}"),
            width=8,
        ),
    )
    row(
        board,
        "Cost",
        lines(
            "Memory",
            "Resident memory of the agent, the ten nodes with most.",
            "bytes",
            prometheus(most(f"max by ({EACH_NODE}) ({series('process_memory_usage_bytes')})"), "{{host_name}}"),
            width=8,
        ),
        lines(
            "CPU of the agent",
            "Share of one CPU, the ten nodes with most. Without the programs in the kernel.",
            "percentunit",
            prometheus(most(rate(EACH_NODE, "process_cpu_time_seconds_total")), "{{host_name}}"),
            width=8,
        ),
        lines(
            "BPF run time",
            "Mean of a run of each program. 0 unless kernel.bpf_stats_enabled is set on the node.",
            "s",
            prometheus(f"{rate('program', 'tapio_bpf_run_seconds_total')} / sum by (program) ({_HITS})", "{{program}}"),
            width=8,
        ),
    )
    row(
        board,
        "Kubernetes",
        lines(
            "Known pods",
            "Pods of a node that its agent knows, the ten nodes with most." + _NEEDS_ENRICHMENT,
            "short",
            prometheus(most(f"max by ({EACH_NODE}) ({series('tapio_k8s_pods')})"), "{{host_name}}"),
            width=8,
        ),
        lines(
            "Pod not found",
            "Anomalies that left without their pod, because it could not be found in time, per second, the ten nodes "
            "with most." + _NEEDS_ENRICHMENT,
            "eps",
            prometheus(most(rate(EACH_NODE, "tapio_enrichment_misses_total")), "{{host_name}}"),
            width=8,
        ),
        states(
            "Watch on the pods",
            "Whether the agents hear of new pods, ten nodes: those that do not, if there are any. "
            "Known pods stay known without." + _NEEDS_ENRICHMENT,
            prometheus(f"bottomk(10, min by ({EACH_NODE}) ({series('tapio_k8s_watch_up')}))", "{{host_name}}"),
            good="watching",
            bad="interrupted",
            width=8,
            height=8,
        ),
    )
    reported = OCCURRENCES.lines('json kind="type", message="error.message"', 'kind=~"tapio[.]agent[.].+"')
    row(
        board,
        "What the agents say",
        records(
            "Occurrences of the agents themselves",
            "Such as tapio.agent.events_lost. Empty where nothing was lost.",
            loki(reported + ' | line_format "{{.kind}}: {{.message}}"'),
        ),
    )
    return finish(board)
