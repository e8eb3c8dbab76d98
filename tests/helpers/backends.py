"""A real Prometheus and a real Loki on free ports, for tests that ask them."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.collector import free_port
from helpers.programs import answers, built, missing, running

MAX_SERIES = (
    2000  # of a query of Loki's, 500 where nothing is set; tests that run beside this one have hundreds of peers
)
_LOKI = """
auth_enabled: false
analytics: {{reporting_enabled: false}}
server: {{http_listen_address: 127.0.0.1, http_listen_port: {port}, grpc_listen_address: 127.0.0.1,
         grpc_listen_port: {grpc_port}, log_level: warn}}
common:
  instance_addr: 127.0.0.1
  path_prefix: {folder}
  storage: {{filesystem: {{chunks_directory: {folder}/chunks, rules_directory: {folder}/unused}}}}
  replication_factor: 1
  ring: {{kvstore: {{store: inmemory}}}}
ingester: {{lifecycler: {{min_ready_duration: 0s}}}}
schema_config:
  configs:
    - {{from: 2024-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {{prefix: index_, period: 24h}}}}
limits_config: {{max_query_series: {max_series}}}
ruler:
  storage: {{type: local, local: {{directory: {folder}/rules}}}}
  rule_path: {folder}/scratch
  enable_api: true
  evaluation_interval: 1s
  poll_interval: 5s
  ring: {{kvstore: {{store: inmemory}}}}
"""


class Backend:
    """A server that answers queries. `answer` gives the list of results, with an error as an AssertionError."""

    def __init__(self, port: int, api: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._api = api

    def get(self, path: str, **parameters: object) -> Any:
        """The JSON document at a path."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters.get('query', path)}: {error.read().decode()}") from None

    def instant(self, expression: str, at_s: float) -> list[dict[str, Any]]:
        """The results at one time."""
        return self.get(f"{self._api}/query", query=expression, time=at_s)["data"]["result"]  # type: ignore[no-any-return]

    def over(self, expression: str, begin_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The results over a time."""
        window = {"start": begin_s, "end": end_s, "step": step_s}
        if self._api.startswith("/loki"):
            window["limit"] = 1000
        return self.get(f"{self._api}/query_range", query=expression, **window)["data"]["result"]  # type: ignore[no-any-return]


def require_prometheus() -> None:
    """Skips without Prometheus and promtool. TAPIO_REQUIRE_BACKENDS=1 makes that a failure."""
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        missing("the package prometheus is not installed: run `make backends`", "TAPIO_REQUIRE_BACKENDS")


def loki_binary() -> Path:
    """Where Loki is. Skips unless `make loki` has built it. TAPIO_REQUIRE_BACKENDS=1 makes that a failure."""
    return built("TAPIO_REQUIRE_BACKENDS", "build-loki", "--if-built")


@contextlib.contextmanager
def running_prometheus(folder: Path, targets: dict[str, dict[str, str]], *rules: Path) -> Iterator[Backend]:
    """A Prometheus that scrapes `targets` (address to labels) each second and evaluates rules as often."""
    folder.mkdir()
    port = free_port()
    scraped = [{"targets": [address], "labels": labels} for address, labels in targets.items()]
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "tapio", "static_configs": scraped}],
    }
    config = folder / "prometheus.yml"
    config.write_text(json.dumps(document))  # JSON is YAML
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with running(command, folder / "log", answers(f"http://127.0.0.1:{port}/-/ready")):
        yield Backend(port, "/api/v1")


@contextlib.contextmanager
def running_loki(binary: Path, folder: Path, *rules: Path) -> Iterator[Backend]:
    """A Loki that takes OTLP at `url`/otlp, with these files of rules."""
    port = free_port()
    tenant = folder / "rules" / "fake"  # what Loki calls the tenant where there are none
    tenant.mkdir(parents=True)
    for path in rules:
        shutil.copy(path, tenant)
    config = folder / "loki.yaml"
    config.write_text(_LOKI.format(max_series=MAX_SERIES, port=port, grpc_port=free_port(), folder=folder))
    with running([binary, f"-config.file={config}"], folder / "log", answers(f"http://127.0.0.1:{port}/ready")):
        yield Backend(port, "/loki/api/v1")
