"""The sinks that were chosen: checked and imported while the agent is root, made once it is not.

Only what was chosen is imported, because the network sinks' libraries take memory. Nothing may be imported later:
after the drop of privileges the interpreter's files may be out of reach.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tapio.config import Config
from tapio.errors import UsageError
from tapio.sinks.base import Sink
from tapio.sinks.file import FileSink
from tapio.sinks.stdout import StdoutSink
from tapio.store import Store

if TYPE_CHECKING:
    from tapio.sinks.otlp_metrics import MetricExport

_ALIASES = {"grafana": "otlp"}


def sink_names(config: Config) -> list[str]:
    """The names of the chosen sinks, each once, aliases resolved."""
    return list(dict.fromkeys(_ALIASES.get(name, name) for name in config.sinks))


class ChosenSinks:
    """What makes the sinks of a configuration. UsageError when it, or the environment, makes no sense."""

    def __init__(self, config: Config, environment: Mapping[str, str], node: str) -> None:
        self._config = config
        self._make: dict[str, Callable[[Store, int], Sink]] = {}
        self._export: Callable[[], MetricExport] | None = None
        self._prepare_export: Callable[[], None] = lambda: None
        for name in sink_names(config):
            if name == "stdout":
                self._make[name] = lambda _store, _directory: StdoutSink()
            elif name == "file":
                self._make[name] = lambda store, _directory: FileSink(store, config.file)
            elif name == "otlp":
                self._prepare_otlp(environment, node)
            else:
                self._prepare_polku()

    def make(self, store: Store, directory: int) -> list[Sink]:
        """The sinks, at work. `directory` is the descriptor of the data directory."""
        return [make(store, directory) for make in self._make.values()]

    def need_metric_export(self) -> None:
        """There are metrics besides the agent's own: import what it takes, while the files can be read."""
        self._prepare_export()

    def make_metric_export(self) -> MetricExport | None:
        """The way of OTel metrics, None when nothing has to be exported."""
        return self._export() if self._export is not None else None

    def _prepare_otlp(self, environment: Mapping[str, str], node: str) -> None:
        from tapio.sinks.one_shot import silence_libraries

        silence_libraries()  # the SDK logs tracebacks about variables of its own while it is imported
        from tapio.sinks import otlp_environment as variables
        from tapio.sinks.otlp import OtlpSink
        from tapio.sinks.otlp_record import make_resource

        config = self._config.otlp
        logs = variables.read_settings(environment, "logs", config.endpoint)
        metrics = variables.read_settings(environment, "metrics", config.endpoint)
        interval_s = variables.read_metric_interval_s(environment)
        cluster = self._config.kubernetes.cluster_name
        resource = make_resource(variables.read_resource(environment), node, socket.gethostname(), cluster)
        self._make["otlp"] = lambda _store, directory: OtlpSink(
            logs, resource, directory, config.spool_mib << 20, flush_s=config.flush_s
        )

        def prepare() -> None:
            from tapio.sinks.otlp_metrics import MetricExport

            self._export = lambda: MetricExport(metrics, resource, interval_s)

        self._prepare_export = prepare
        if config.agent_metrics:
            prepare()

    def _prepare_polku(self) -> None:
        from tapio.sinks.otlp_environment import check_url
        from tapio.sinks.polku import PolkuSink
        from tapio.sinks.tls import TlsFiles

        config = self._config.polku
        if not config.endpoint:
            raise UsageError("choosing the sink polku: it has no endpoint: set --polku-endpoint or [polku] endpoint")
        check_url("the endpoint of polku", config.endpoint)
        self._make["polku"] = lambda _store, directory: PolkuSink(
            config.endpoint, TlsFiles(), directory, config.spool_mib << 20, flush_s=config.flush_s
        )
