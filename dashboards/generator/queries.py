"""What the panels ask. Names of series, labels and attributes are those of otel/schema, with dots as underscores."""

from __future__ import annotations

from dataclasses import dataclass

PROMETHEUS, LOKI = "prometheus", "loki"
IS_PROCESS_END = 'error_type=~"OOM_KILL|ABNORMAL_EXIT"'
IS_NETWORK = 'error_type=~"CONNECTION_REFUSED|CONNECTION_TIMEOUT|RETRANSMIT_SPIKE|RTT_DEGRADATION|RST_STORM"'
IS_STORAGE = 'error_type=~"IO_ERROR|LATENCY_SPIKE"'
IS_OOM_KILL = 'error_type="OOM_KILL"'

# The name of what runs a pod, whatever its kind: the pod itself where nothing does.
_KINDS = ("deployment", "statefulset", "daemonset", "cronjob", "job", "replicaset", "pod")
WORKLOAD = f"label_format workload=`{{{{or {' '.join(f'.k8s_{kind}_name' for kind in _KINDS)}}}}}`"
# Anomalies of the kernel: what an agent says of itself (tapio.agent.*) is counted beside them, and is none.
OF_THE_KERNEL = 'anomaly_type=~"kernel.+"'
NOT_OF_AN_AGENT = 'error_type!="EVENTS_LOST"'
# Which nodes: `host_name` is the node, as the resource attribute host.name is. `:pipe`, because a link from a dashboard
# where several nodes were chosen gives them all to the one that shows a single node: Grafana would write "a,b".
IS_NODE = 'host_name=~"${node:pipe}"'
NODES = f'k8s_cluster_name=~"$cluster", {IS_NODE}'
EACH_NODE = "k8s_cluster_name, host_name"  # two clusters may have nodes of the same name


@dataclass(frozen=True)
class Query:
    """One query of a panel. `instant` asks for one value at the end of the time range, else for a line over it."""

    source: str
    expression: str
    legend: str = ""
    instant: bool = False


def series(name: str, *matchers: str) -> str:
    """The series of a metric, on the chosen nodes."""
    return f"{name}{{{', '.join((NODES, *matchers))}}}"


def rate(by: str, name: str, *matchers: str) -> str:
    """How fast a counter grows, per second."""
    return f"sum by ({by}) (rate({series(name, *matchers)}[$__rate_interval]))"


def per_minute(by: str, name: str, *matchers: str) -> str:
    """The same per minute: anomalies are rare, and 0.0033 a second tells nobody anything."""
    return f"{rate(by, name, *matchers)} * 60"


def grown(by: str, name: str, *matchers: str) -> str:
    """By how much a counter grew within the dashboard's time range."""
    return f"sum by ({by}) (increase({series(name, *matchers)}[$__range]))"


def total(name: str, *matchers: str) -> str:
    """The same, of all together. Without any such series there is no number: not seen is not 0."""
    return f"sum(increase({series(name, *matchers)}[$__range]))"


def observers_off() -> str:
    """How many observers have a hook that is not attached; `node` is off wherever there are no counters."""
    hooked = series("tapio_observer_up", 'observer!="node"')
    return f"sum({hooked} == bool 0)"


def observing(aggregation: str) -> str:
    """1 for each observer that sees, 0 for one that does not, 2 for a `node` that does not: many cannot."""
    others, node = (
        f"{aggregation} by (observer) ({series('tapio_observer_up', matcher)})"
        for matcher in ('observer!="node"', 'observer="node"')
    )
    return f"{others} or 2 - {node}"


def nodes_silent() -> str:
    """How many nodes had an agent within the time range and have none at its end."""
    agents = series("tapio_build_info")
    seen, there = (f"count by ({EACH_NODE}) ({one})" for one in (f"last_over_time({agents}[$__range])", agents))
    return f"count({seen} unless {there}) or vector(0)"


def most(expression: str) -> str:
    """The ten highest at each time: a line for each of a thousand nodes is none."""
    return f"topk(10, {expression})"


@dataclass(frozen=True)
class Occurrences:
    """The occurrences in Loki that a dashboard is about.

    `stream` are matchers of index labels, `filters` of structured metadata: of resource attributes Loki indexes few.
    """

    stream: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()

    def lines(self, *stages: str) -> str:
        """The records, passed through `stages`."""
        matchers = ", ".join(('service_name="tapio"', 'k8s_cluster_name=~"$cluster"', *self.stream))
        return " | ".join((f"{{{matchers}}}", *self.filters, *stages))

    def messages(self, *stages: str) -> str:
        """The records, each shown as its message."""
        return self.lines(*stages, 'json message="error.message"', 'line_format "{{.message}}"')

    def sum(self, by: str, *stages: str, over: str = "$__auto") -> str:
        """How many anomalies the records stand for."""
        aggregation = f"sum by ({by})" if by else "sum"
        counted = self.lines(NOT_OF_AN_AGENT, *stages, "unwrap tapio_anomaly_count")
        return f"{aggregation} (sum_over_time({counted} [{over}]))"

    def top(self, by: str, *stages: str) -> str:
        """The same over the dashboard's time range, the ten that had most."""
        return f"sort_desc(topk(10, {self.sum(by, *stages, over='$__range')}))"

    def worst(self, by: str, field: str, *stages: str) -> str:
        """The highest value of a field of `data`."""
        extracted = self.lines(*stages, f'json value="data.{field}"', "unwrap value", '__error__=""')
        # Grouped inside: `max by (…) (max_over_time(…))` first makes a series of every record, and Loki takes 500.
        return f"max_over_time({extracted} [$__auto]) by ({by})"


def prometheus(expression: str, legend: str = "", *, instant: bool = False) -> Query:
    """A query in PromQL."""
    return Query(PROMETHEUS, expression, legend, instant)


def loki(expression: str, legend: str = "", *, instant: bool = False) -> Query:
    """A query in LogQL."""
    return Query(LOKI, expression, legend, instant)
