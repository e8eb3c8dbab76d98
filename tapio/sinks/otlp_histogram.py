"""Histograms that are counted elsewhere (in the kernel) as OTel metrics: the API has no observable histogram.

The points are made by hand, cumulative, and put beside what the SDK has collected.
"""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ScopeMetrics,
)
from prometheus_client.core import Metric as Family

from tapio import otel_names


def histograms(families: Iterable[Family], started_ns: int, now_ns: int) -> list[Metric]:
    """The histograms among the families of /metrics, counted since `started_ns`; both times are Unix nanoseconds."""
    return [
        Metric(
            name=otel_names.PROMETHEUS_NAMES[family.name],
            description=family.documentation,
            unit=otel_names.METRIC_UNITS[otel_names.PROMETHEUS_NAMES[family.name]],
            data=Histogram(_points(family, started_ns, now_ns), AggregationTemporality.CUMULATIVE),
        )
        for family in families
        if family.type == "histogram" and family.samples
    ]


def put_beside(collected: MetricsData, metrics: list[Metric]) -> MetricsData:
    """What the SDK has collected with further metrics, in the same resource and scope."""
    if not metrics:
        return collected
    groups = list(collected.resource_metrics)
    scopes = list(groups[0].scope_metrics)
    scope = scopes[0]
    scopes[0] = ScopeMetrics(scope.scope, [*scope.metrics, *metrics], scope.schema_url)
    groups[0] = type(groups[0])(groups[0].resource, scopes, groups[0].schema_url)
    return MetricsData(groups)


def _points(family: Family, started_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    """Prometheus counts a bucket with all below it, OTel each alone."""
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, int]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", "")
        series = tuple(labels.items())
        if sample.name.endswith("_bucket"):
            buckets.setdefault(series, []).append((float(bound), int(sample.value)))
        elif sample.name.endswith("_sum"):
            sums[series] = sample.value
    return [
        HistogramDataPoint(
            attributes=dict(series),
            start_time_unix_nano=started_ns,
            time_unix_nano=now_ns,
            count=found[-1][1],
            sum=sums[series],
            bucket_counts=[count - below for (_, count), (_, below) in zip(found, [(0.0, 0), *found], strict=False)],
            explicit_bounds=[bound for bound, _ in found[:-1]],
            min=None,  # type: ignore[arg-type]  # optional in OTLP, and not known
            max=None,  # type: ignore[arg-type]
        )
        for series, found in buckets.items()
    ]
