"""Ways from one dashboard to another, and from an occurrence to its pod's own logs."""

from __future__ import annotations

import json
import re
import urllib.parse

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model

FLEET, NODE, WORKLOAD, AGENT = "tapio-fleet", "tapio-node", "tapio-workload", "tapio-agent"
TAG = "tapio"
_KEPT = "${prometheus:queryparam}&${loki:queryparam}&${cluster:queryparam}&${__url_time_range}"


def _to(uid: str, **variables: str) -> str:
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{uid}?{_KEPT}{chosen}"


def _explore(expression: str) -> str:
    """A page that shows the log lines of a query; what is written ${…} in it is filled in by Grafana."""
    source = {"type": "loki", "uid": "${loki}"}
    pane = {
        "datasource": "${loki}",
        "queries": [{"refId": "A", "expr": expression, "datasource": source}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    encoded = urllib.parse.quote(json.dumps({"logs": pane}, separators=(",", ":")), safe="")
    encoded = re.sub(r"%24%7B(\w+|__\w+(?:\.\w+)*)%7D", r"${\1}", encoded)
    return f"/explore?schemaVersion=1&panes={encoded}"


def own_logs(namespace: str, pod: str, *stream: str) -> str:
    """What pods themselves wrote, whether k8s_pod_name is an index label in this Loki or not."""
    matchers = ('service_name!="tapio"', f'k8s_namespace_name=~"{namespace}"', *stream, f'k8s_pod_name=~"{pod}|"')
    return f'{{{", ".join(matchers)}}} | k8s_pod_name!="" | k8s_pod_name=~"{pod}"'


TO_NODE = dashboard.DashboardLink("Node").url(_to(NODE, node="${__field.labels.host_name}"))
TO_NAMESPACE = dashboard.DashboardLink("Workloads of the namespace").url(
    _to(WORKLOAD, namespace="${__field.labels.k8s_namespace_name}")
)
TO_POD = dashboard.DashboardLink("Pod").url(
    _to(WORKLOAD, namespace="${__field.labels.k8s_namespace_name}", pod="${__field.labels.k8s_pod_name}")
)
TO_WORKLOAD = dashboard.DashboardLink("Workload").url(
    _to(WORKLOAD, namespace="${__field.labels.k8s_namespace_name}", workload="${__field.labels.workload}")
)

# The links of a table's columns, by the label in the column. Headings of the columns: see `rows`.
_NAMESPACE = "${__data.fields.Namespace}"
OF_COLUMNS = {
    "host_name": [{"title": "Node", "url": _to(NODE, node="${__value.raw}")}],
    "k8s_namespace_name": [{"title": "Workloads of the namespace", "url": _to(WORKLOAD, namespace="${__value.raw}")}],
    "k8s_pod_name": [
        {"title": "Logs of the pod itself", "url": _explore(own_logs(_NAMESPACE, "${__value.raw}"))},
        {"title": "What happened to the pod", "url": _to(WORKLOAD, namespace=_NAMESPACE, pod="${__value.raw}")},
    ],
}


def between_dashboards() -> list[Builder[model.DashboardLink]]:
    """The links at the top of each: to all others, with the chosen time, data sources and cluster."""
    link = dashboard.DashboardLink("Tapio").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
    return [link.keep_time(True).include_vars(True).as_dropdown(False)]
