"""What the four dashboards share: variables, links, annotations, numbering."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from generator import links
from generator.panels import Panel, source
from generator.queries import IS_OOM_KILL, LOKI, PROMETHEUS, Occurrences

Variable = dashboard.QueryVariable
AnyVariable = dashboard.QueryVariable | dashboard.TextBoxVariable
_ALL = model.VariableOption(selected=True, text="All", value="$__all")


def choice(name: str, label: str, description: str, kind: str, query: str | dict[str, object]) -> Variable:
    """A variable of the values of a label; any number of them may be chosen, and all are at first."""
    variable = Variable(name).label(label).description(description).datasource(source(kind)).query(query)
    variable.multi(True).include_all(True).all_value(".*").current(_ALL)  # also where there is no such label
    return _once(variable)


def _once(variable: Variable) -> Variable:
    """Values asked for when the dashboard is opened.

    Were they asked for with every refresh, a chosen namespace, pod or node that has nothing in the time range any more
    would silently become another one, or all.
    """
    return variable.refresh(model.VariableRefresh.ON_DASHBOARD_LOAD).sort(model.VariableSort.ALPHABETICAL_ASC)


def metric_choice(name: str, label: str, description: str, of: str) -> Variable:
    """A variable of the values of a label in Prometheus."""
    return choice(name, label, description, PROMETHEUS, _metric_query(name, of))


def _metric_query(name: str, of: str) -> dict[str, object]:
    return {"query": of, "refId": name, "qryType": 1}


def log_choice(name: str, label: str, description: str, of: str, *stream: str) -> Variable:
    """A variable of the values of an index label of the occurrences in Loki."""
    matchers = ", ".join(('service_name="tapio"', *stream))
    query: dict[str, object] = {"type": 1, "label": of, "stream": f"{{{matchers}}}", "refId": name}
    return choice(name, label, description, LOKI, query)


CLUSTER = metric_choice(
    "cluster", "Cluster", "The label k8s_cluster_name.", "label_values(tapio_build_info, k8s_cluster_name)"
)
LOG_CLUSTER = log_choice("cluster", "Cluster", "The resource attribute k8s.cluster.name.", "k8s_cluster_name")
_NODES_OF_CLUSTER = 'label_values(tapio_build_info{k8s_cluster_name=~"$cluster"}, host_name)'
NODE = metric_choice("node", "Node", "The label host_name.", _NODES_OF_CLUSTER)
# One node at a time, the first to begin with.
ONE_NODE = _once(
    Variable("node")
    .label("Node")
    .description("The label host_name.")
    .datasource(source(PROMETHEUS))
    .query(_metric_query("node", _NODES_OF_CLUSTER))
)
NAMESPACE = log_choice(
    "namespace",
    "Namespace",
    "Namespaces with an occurrence in the time range. Narrows what comes from logs: metrics know nodes alone.",
    "k8s_namespace_name",
    'k8s_cluster_name=~"$cluster"',
)


def frame(
    title: str, uid: str, description: str, variables: Sequence[AnyVariable], occurrences: Occurrences
) -> dashboard.Dashboard:
    """A dashboard without panels."""
    board = dashboard.Dashboard(title).uid(uid).description(description).tags([links.TAG]).editable()
    board.time("now-3h", "now").refresh("1m").tooltip(model.DashboardCursorSync.CROSSHAIR).links(
        links.between_dashboards()
    )
    for kind, label in ((PROMETHEUS, "Metrics"), (LOKI, "Logs")):
        board.with_variable(dashboard.DatasourceVariable(kind).label(label).type(kind))
    for variable in variables:
        board.with_variable(variable)
    kills = occurrences.messages(IS_OOM_KILL, "keep host_name, k8s_namespace_name, k8s_pod_name, message")
    annotation = dashboard.AnnotationQuery().name("OOM kills").datasource(source(LOKI)).enable(True)
    return board.annotation(annotation.icon_color("red").expr(kills))


def row(board: dashboard.Dashboard, title: str, *panels: Panel) -> None:
    """A headed row of panels at the end of the dashboard."""
    board.with_row(dashboard.Row(title))
    for panel in panels:
        board.with_panel(panel)


def finish(board: dashboard.Dashboard) -> model.Dashboard:
    """The dashboard, its panels numbered."""
    built = board.build()
    for number, panel in enumerate(built.panels or (), start=1):
        panel.id_val = number
    return built
