"""One namespace, workload or pod: all of it from the occurrences, for metrics do not know pods."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from generator import links
from generator.fleet import COLUMNS
from generator.frame import LOG_CLUSTER, NAMESPACE, finish, frame, log_choice, row
from generator.panels import lines, number, ranking, records, rows
from generator.queries import (
    IS_NETWORK,
    IS_OOM_KILL,
    IS_PROCESS_END,
    IS_STORAGE,
    WORKLOAD,
    Occurrences,
    Query,
    loki,
)

_IN_NAMESPACE = ('k8s_cluster_name=~"$cluster"', 'k8s_namespace_name=~"$namespace"')
# Not a list: Loki lists the values of one label, and workloads are of six kinds. What is not in a list, Grafana drops.
_WORKLOAD = (
    dashboard.TextBoxVariable("workload")
    .label("Workload")
    .description("Name of a deployment, stateful set, daemon set, job or bare pod, or a regular expression; .* is all.")
    .default_value(".*")
)
_POD = log_choice("pod", "Pod", "Pods with an occurrence in the time range.", "k8s_pod_name", *_IN_NAMESPACE)
# The pod is a filter, because not every Loki makes an index label of it.
_OF_PODS = ('k8s_pod_name!=""', 'k8s_pod_name=~"$pod"')
OCCURRENCES = Occurrences(('k8s_namespace_name=~"$namespace"',), (*_OF_PODS, WORKLOAD, 'workload=~"$workload"'))


def _count(*stages: str) -> Query:
    return loki(OCCURRENCES.sum("", *stages, over="$__range") + " or vector(0)", instant=True)


def _quiet(text: str) -> str:
    return f"{text} Empty where there was none."


def build() -> model.Dashboard:
    """The dashboard *Workload*."""
    board = frame(
        "Tapio / Workload",
        links.WORKLOAD,
        "What happened to the pods of a namespace or workload: killed, crashed, refused, slow. Needs enrichment. "
        "That nothing is shown means something only where *Agent health* is green.",
        (LOG_CLUSTER, NAMESPACE, _WORKLOAD, _POD),
        OCCURRENCES,
    )
    row(
        board,
        "What happened?",
        number("OOM kills", "Processes killed for memory, within the time range.", "short", _count(IS_OOM_KILL)),
        number(
            "Abnormal exits",
            "Processes that ended with a code or by a signal, not counting ends that were expected, "
            "within the time range.",
            "short",
            _count('error_type="ABNORMAL_EXIT"', 'severity_text!="INFO"'),
            bad_from=None,
        ),
        number(
            "Network failures",
            "Refused and lost connections, resets, retransmits, slow paths, within the time range.",
            "short",
            _count(IS_NETWORK),
            bad_from=None,
        ),
        number(
            "I/O problems",
            "Failed and slow block requests, within the time range.",
            "short",
            _count(IS_STORAGE),
            bad_from=None,
            warn_from=1,
        ),
        lines(
            "Anomalies",
            "What happened, over time.",
            "short",
            loki(OCCURRENCES.sum("error_type"), "{{error_type}}"),
            stacked=True,
            bars=True,
            width=8,
            height=4,
        ),
        ranking(
            "Workloads",
            _quiet("Those chosen, with most anomalies within the time range. A bar leads to the workload alone."),
            "short",
            loki(OCCURRENCES.top("k8s_namespace_name, workload"), "{{k8s_namespace_name}}/{{workload}}", instant=True),
            link=links.TO_WORKLOAD,
            width=12,
        ),
        ranking(
            "Pods",
            _quiet("Likewise. A bar leads to the pod alone."),
            "short",
            loki(
                OCCURRENCES.top("k8s_namespace_name, k8s_pod_name"),
                "{{k8s_namespace_name}}/{{k8s_pod_name}}",
                instant=True,
            ),
            link=links.TO_POD,
            width=12,
        ),
    )
    usage, limit = (
        OCCURRENCES.worst("k8s_pod_name", f"memory_{what}_bytes", IS_OOM_KILL) for what in ("usage", "limit")
    )
    row(
        board,
        "Memory and exits",
        lines(
            "OOM kills: usage against limit",
            _quiet(
                "Resident memory of the victim, and the limit that was hit: 0 where "
                "there is none or the kernel did not show it."
            ),
            "bytes",
            loki(usage, "{{k8s_pod_name}} usage"),
            loki(limit, "{{k8s_pod_name}} limit"),
        ),
        ranking(
            "Exits",
            _quiet("Programs and exit codes; 128 + N is signal N."),
            "short",
            loki(
                OCCURRENCES.top("process_executable_name, process_exit_code", 'error_type="ABNORMAL_EXIT"'),
                "{{process_executable_name}} {{process_exit_code}}",
                instant=True,
            ),
            width=12,
        ),
        rows(
            "Killed and crashed",
            "Each OOM kill and abnormal exit: usage and limit, whose limit it was, who asked.",
            loki(
                OCCURRENCES.lines(
                    IS_PROCESS_END,
                    'json usage="data.memory_usage_bytes", limit="data.memory_limit_bytes"',
                    'json trigger="data.trigger_comm"',
                )
            ),
            {
                "Time": "Time",
                "severity_text": "Severity",
                "error_type": "What",
                "k8s_namespace_name": "Namespace",
                "k8s_pod_name": "Pod",
                "k8s_container_name": "Container",
                "process_executable_name": "Process",
                "process_exit_code": "Exit code",
                "usage": "Usage",
                "limit": "Limit",
                "tapio_oom_scope": "Whose limit",
                "trigger": "Asked for memory",
            },
            units={"usage": "bytes", "limit": "bytes"},
        ),
    )
    row(
        board,
        "Network",
        lines(
            "Network failures",
            _quiet("By type, over time."),
            "short",
            loki(OCCURRENCES.sum("error_type", IS_NETWORK), "{{error_type}}"),
            stacked=True,
            bars=True,
        ),
        ranking(
            "Failures by peer",
            _quiet("Remote addresses that refused, reset or did not answer. The ports are in the occurrences."),
            "short",
            loki(
                OCCURRENCES.top("network_peer_address, error_type", IS_NETWORK),
                "{{network_peer_address}} {{error_type}}",
                instant=True,
            ),
            width=12,
        ),
    )
    row(
        board,
        "Disks",
        lines(
            "I/O problems",
            _quiet("By disk, operation and type, over time."),
            "short",
            loki(
                OCCURRENCES.sum("system_device, tapio_disk_operation, error_type", IS_STORAGE),
                "{{system_device}} {{tapio_disk_operation}} {{error_type}}",
            ),
            stacked=True,
            bars=True,
        ),
        lines(
            "Slowest I/O",
            _quiet("The longest time from issue to completion."),
            "ms",
            loki(
                OCCURRENCES.worst("system_device, tapio_disk_operation", "latency_ms", IS_STORAGE),
                "{{system_device}} {{tapio_disk_operation}}",
            ),
        ),
    )
    row(
        board,
        "All of it",
        rows(
            "Occurrences",
            "The latest occurrences. A pod's name leads to its own logs.",
            loki(OCCURRENCES.messages()),
            COLUMNS,
        ),
        records(
            "The pods' own logs",
            "What the pods themselves wrote. Empty unless their logs are in the same Loki, with "
            "the labels k8s_namespace_name and k8s_pod_name.",
            loki(links.own_logs(".+", "$pod", *_IN_NAMESPACE)),
        ),
    )
    return finish(board)
