"""A real Grafana's server, without its pages, with the files of dashboards/provisioning."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import boards
from helpers.backends import Backend
from helpers.collector import free_port
from helpers.programs import answers, built, running

_BOARDS = "/var/lib/grafana/dashboards/tapio"  # as dashboards/provisioning/dashboards/tapio.yaml has it


def grafana_home() -> Path:
    """Where it is. Skips unless `make grafana` has built it. TAPIO_REQUIRE_BACKENDS=1 makes that a failure."""
    return built("TAPIO_REQUIRE_BACKENDS", "build-grafana", "--if-built")


class Grafana:
    """Its API, as somebody who may do everything."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: object = None) -> Any:
        """The answer to a GET, or with a body to a POST; an error is an AssertionError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{path}: {error.code} {error.read().decode()[:2000]}") from None

    def query(self, target: dict[str, Any], begin_s: float, end_s: float) -> list[dict[str, Any]]:
        """The frames that answer a panel's query."""
        query = {**target, "intervalMs": 1000, "maxDataPoints": 100}
        window = {"from": str(int(begin_s * 1000)), "to": str(int(end_s * 1000))}
        answer = self.ask("/api/ds/query", {"queries": [query], **window})["results"][target["refId"]]
        assert "error" not in answer, answer["error"]
        return [frame for frame in answer["frames"] if frame["data"]["values"] and frame["data"]["values"][0]]


@contextlib.contextmanager
def running_grafana(home: Path, folder: Path, prometheus: Backend, loki: Backend) -> Iterator[Grafana]:
    """A Grafana whose provisioning files name these two in place of a cluster's."""
    port = free_port()
    where = {_BOARDS: str(folder / "boards"), "http://prometheus:9090": prometheus.url, "http://loki:3100": loki.url}
    (folder / "boards").mkdir(parents=True)
    for name in boards.BOARDS:
        shutil.copy(boards.FOLDER / f"{name}.json", folder / "boards")
    for path in shutil.copytree(boards.FOLDER / "provisioning", folder / "provisioning").glob("*/*.yaml"):
        text = path.read_text()
        for there, here in where.items():
            text = text.replace(there, here)
        path.write_text(text)
    settings = {
        "SERVER_HTTP_ADDR": "127.0.0.1", "SERVER_HTTP_PORT": str(port), "PATHS_DATA": str(folder / "data"),
        "PATHS_LOGS": str(folder / "logs"), "PATHS_PLUGINS": str(folder / "plugins"),
        "PATHS_PROVISIONING": str(folder / "provisioning"), "AUTH_ANONYMOUS_ENABLED": "true", "DATABASE_WAL": "true",
        "AUTH_ANONYMOUS_ORG_ROLE": "Admin", "ANALYTICS_REPORTING_ENABLED": "false",
        "ANALYTICS_CHECK_FOR_UPDATES": "false", "ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    }  # fmt: skip
    environment = {**os.environ, **{f"GF_{name}": value for name, value in settings.items()}}
    command = [home / "grafana", "server", "--homepath", home]
    # It answers before it has read the files, and with 500 while it writes them to its database.
    pages = [answers(f"http://127.0.0.1:{port}/api/dashboards/uid/{name}") for name in boards.BOARDS]
    with running(command, folder / "log", lambda: all(page() for page in pages), environment=environment):
        yield Grafana(port)
