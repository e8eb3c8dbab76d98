"""The first dashboard to open: whether anything is wrong, where, and since when."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as model

from generator import links
from generator.frame import CLUSTER, NAMESPACE, NODE, finish, frame, row
from generator.panels import lines, number, ranking, records, rows
from generator.queries import (
    EACH_NODE,
    IS_NODE,
    OF_THE_KERNEL,
    WORKLOAD,
    Occurrences,
    grown,
    loki,
    nodes_silent,
    observers_off,
    per_minute,
    prometheus,
    series,
    total,
)

OCCURRENCES = Occurrences(('k8s_namespace_name=~"$namespace"',), (IS_NODE,))
_OBSERVED = series("tapio_build_info")
COLUMNS = {
    "Time": "Time",
    "severity_text": "Severity",
    "error_type": "What",
    "host_name": "Node",
    "k8s_namespace_name": "Namespace",
    "k8s_pod_name": "Pod",
    "process_executable_name": "Process",
    "tapio_anomaly_count": "Anomalies",
    "message": "Message",
}


def build() -> model.Dashboard:
    """The dashboard *Fleet overview*."""
    board = frame(
        "Tapio / Fleet overview",
        links.FLEET,
        "Is anything wrong, where, and since when? Anomalies that Tapio's agents found in the kernels of all nodes.",
        (CLUSTER, NODE, NAMESPACE),
        OCCURRENCES,
    )
    row(
        board,
        "Is anything wrong?",
        number(
            "Anomalies",
            "All anomalies within the time range.",
            "short",
            prometheus(total("tapio_anomalies_total", OF_THE_KERNEL), instant=True),
            bad_from=None,
            width=3,
        ),
        number(
            "OOM kills",
            "Processes that the kernel killed for memory, within the time range.",
            "short",
            prometheus(total("tapio_anomalies_total", 'anomaly_type="kernel.container.oom_kill"'), instant=True),
            width=3,
        ),
        number(
            "I/O errors",
            "Block requests that failed, within the time range.",
            "short",
            prometheus(total("tapio_anomalies_total", 'anomaly_type="kernel.storage.io_error"'), instant=True),
            width=3,
        ),
        number(
            "Nodes with anomalies",
            "Nodes on which at least one anomaly was found within the time range.",
            "short",
            prometheus(f"sum(({grown(EACH_NODE, 'tapio_anomalies_total', OF_THE_KERNEL)}) > bool 0)", instant=True),
            bad_from=None,
            width=3,
        ),
        number(
            "Nodes observed",
            "Nodes whose agent answers now.",
            "short",
            prometheus(f"count(count by ({EACH_NODE}) ({_OBSERVED})) or vector(0)", instant=True),
            bad_below=1,
            width=3,
        ),
        number(
            "Nodes silent",
            "Nodes whose agent answered within the time range and does not now: nothing is known of them. "
            "A node that was removed counts too.",
            "short",
            prometheus(nodes_silent(), instant=True),
            bad_from=None,
            warn_from=1,
            width=3,
        ),
        number(
            "Observers off",
            "Observers that see nothing, because a hook is not attached. That they show no anomalies means nothing.",
            "short",
            prometheus(observers_off(), instant=True),
            width=3,
        ),
        number(
            "Events lost",
            "Events that an agent could not read in time: what is shown here is short of so many.",
            "short",
            prometheus(total("tapio_lost_events_total"), instant=True),
            bad_from=None,
            warn_from=1,
            width=3,
        ),
    )
    row(
        board,
        "Since when?",
        lines(
            "Anomalies by type",
            "Anomalies found, per minute. All that the kernels showed, folded ones too.",
            "cpm",
            prometheus(per_minute("anomaly_type", "tapio_anomalies_total", OF_THE_KERNEL), "{{anomaly_type}}"),
            stacked=True,
        ),
        lines(
            "Anomalies by severity",
            "Anomalies that the occurrences stand for, by the severity of the occurrence; FATAL is `critical`.",
            "short",
            loki(OCCURRENCES.sum("severity_text"), "{{severity_text}}"),
            stacked=True,
            bars=True,
        ),
    )
    row(
        board,
        "Where?",
        ranking(
            "Worst nodes",
            "Nodes with most anomalies within the time range. A bar leads to the node.",
            "short",
            prometheus(
                f"sort_desc(topk(10, {grown(EACH_NODE, 'tapio_anomalies_total', OF_THE_KERNEL)}))",
                "{{host_name}} {{k8s_cluster_name}}",
                instant=True,
            ),
            link=links.TO_NODE,
        ),
        ranking(
            "Worst namespaces",
            "Namespaces with most anomalies of their pods within the time range. Empty where no "
            "occurrence is of a pod.",
            "short",
            loki(
                OCCURRENCES.top("k8s_namespace_name", 'k8s_namespace_name!=""'), "{{k8s_namespace_name}}", instant=True
            ),
            link=links.TO_NAMESPACE,
        ),
        ranking(
            "Worst workloads",
            "Deployments, stateful and daemon sets, jobs or bare pods with most anomalies within "
            "the time range. Empty where no occurrence is of a pod.",
            "short",
            loki(
                OCCURRENCES.top("k8s_namespace_name, workload", 'k8s_pod_name!=""', WORKLOAD),
                "{{k8s_namespace_name}}/{{workload}}",
                instant=True,
            ),
            link=links.TO_WORKLOAD,
        ),
    )
    row(
        board,
        "What happened?",
        rows(
            "Occurrences",
            "The latest occurrences. A pod's name leads to its own logs, a node's to the node.",
            loki(OCCURRENCES.messages()),
            COLUMNS,
        ),
        records(
            "Live",
            "Occurrences as they come: the message; a click on a line shows all it knows.",
            loki(OCCURRENCES.messages()),
        ),
    )
    return finish(board)
