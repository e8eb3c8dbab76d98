"""OTel metrics: a MeterProvider that exports by OTLP/HTTP, and the agent's own counters as instruments.

Cumulative, so that a lost export costs nothing but a point in time: no spool. `MetricExport.meter` is where others
(the CPU counters) add their instruments; their callbacks run in the export thread.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import Metric as OtelMetric
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client.core import Metric

from tapio import __version__, otel_names, pmc_metrics
from tapio.cpus import CpuCounters
from tapio.sinks.one_shot import OneShotSession
from tapio.sinks.otlp import COMPRESSIONS, read_json_answer
from tapio.sinks.otlp_environment import OtlpSettings
from tapio.sinks.otlp_histogram import histograms, put_beside

log = logging.getLogger(__name__)

_MAX_POINTS = 1000  # a request
_SAME_EXPORT_S = 0.05


class MetricExport:
    """The way of metrics to the receiver, every `interval_s` seconds, in a thread of the SDK's."""

    def __init__(self, settings: OtlpSettings, resource: Mapping[str, str], interval_s: float) -> None:
        """UsageError when TLS files cannot be used."""
        # A collection must be over before the next one.
        timeout_s = min(settings.timeout_s, interval_s)
        self.exporter = _Exporter(settings, timeout_s)
        reader = PeriodicExportingMetricReader(self.exporter, export_interval_millis=interval_s * 1000)
        self._provider = MeterProvider(
            [reader],
            resource=Resource(dict(resource)),
            shutdown_on_exit=False,
            exemplar_filter=AlwaysOffExemplarFilter(),
        )
        self.meter: Meter = self._provider.get_meter("tapio", __version__, schema_url=otel_names.SCHEMA_URL)

    @property
    def last_error(self) -> str:
        """The latest failure in one line, '' if there was none."""
        return self.exporter.last_error

    def add_agent_metrics(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Export what /metrics shows, `collect()`, under its OTel names. Called before the first export."""
        latest: tuple[float, list[Metric]] = (0.0, [])

        def families() -> list[Metric]:
            """One collection for all instruments of an export."""
            nonlocal latest
            if time.monotonic() - latest[0] > _SAME_EXPORT_S:
                latest = time.monotonic(), list(collect())
            return latest[1]

        def observe(prometheus_name: str) -> Callable[[CallbackOptions], Iterator[Observation]]:
            def callback(_options: CallbackOptions) -> Iterator[Observation]:
                for family in families():
                    for sample in family.samples:
                        if sample.name == prometheus_name:
                            yield Observation(sample.value + 0, sample.labels)  # a bool cannot be encoded

            return callback

        for family in families():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if family.type not in ("counter", "gauge"):
                continue
            known = otel_names.PROMETHEUS_NAMES.get(name)
            if known is None or known.startswith("tapio.cpu."):
                continue
            create = (
                self.meter.create_observable_counter if family.type == "counter" else self.meter.create_observable_gauge
            )
            create(known, [observe(name)], otel_names.METRIC_UNITS[known], family.documentation)
        started_ns = time.time_ns()
        self.exporter.histograms = lambda: histograms(families(), started_ns, time.time_ns())

    def add_cpu_metrics(self, read: Callable[[], Sequence[CpuCounters]]) -> None:
        """Export what the CPUs have counted. Called before the first export."""
        pmc_metrics.add_instruments(self.meter, Observation, read)

    def close(self, timeout_s: float) -> None:
        """Export once more and end, within about `timeout_s` seconds."""
        self.exporter.limit(timeout_s)
        with contextlib.suppress(Exception):  # the SDK raises what its parts raised, and here it is too late
            self._provider.shutdown(timeout_millis=timeout_s * 1000)


class _Exporter(OTLPMetricExporter):
    """The SDK's exporter, on a session that says what became of a request."""

    def __init__(self, settings: OtlpSettings, timeout_s: float) -> None:
        self.last_error = ""
        self.histograms: Callable[[], list[OtelMetric]] = list
        self._logged = ""
        self._one_shot = OneShotSession(settings.endpoint, settings.tls, timeout_s, _read_answer)
        super().__init__(
            endpoint=settings.endpoint,
            headers=settings.headers,
            timeout=timeout_s,
            compression=COMPRESSIONS[settings.compression],
            session=self._one_shot,
            max_export_batch_size=_MAX_POINTS,
        )

    def limit(self, timeout_s: float) -> None:
        """From now on no request may take longer."""
        self._one_shot.timeout_s = min(self._one_shot.timeout_s, timeout_s)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: object
    ) -> MetricExportResult:
        """Export, and log the first failure of an outage."""
        self._one_shot.outcome = None
        result = super().export(put_beside(metrics_data, self.histograms()), timeout_millis, **kwargs)
        outcome = self._one_shot.outcome
        if outcome is not None:
            message = outcome.message
        else:
            message = "" if result is MetricExportResult.SUCCESS else "a point cannot be encoded: please report it"
        if message:
            self.last_error = message
            if message != self._logged:
                log.warning("metrics: %s", message)
        self._logged = message
        return result


def _read_answer(content_type: str, body: bytes) -> tuple[int, str]:
    """How many data points the receiver rejected, and why; ValueError for what is no answer of OTLP/HTTP."""
    if not body:
        return 0, ""
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return read_json_answer(body, "rejectedDataPoints")
    try:
        success = ExportMetricsServiceResponse.FromString(body).partial_success
    except DecodeError:
        raise ValueError("neither protobuf nor JSON") from None
    return max(0, success.rejected_data_points), success.error_message
