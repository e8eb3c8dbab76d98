"""The pipelines of otel/collector in a real collector: from the kernel to the gateway's output."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from helpers.cgroups import scratch_cgroup
from helpers.collector import PIPELINES, collector_binary, free_port, running_collector
from helpers.no_folding import no_folding
from helpers.occurrences import occurrences
from helpers.receiver import Request, receiver
from helpers.running_agent import running_agent, wait_for
from helpers.schema import unknown_names
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tapio.sinks.delivery import Backoff
from tapio.sinks.otlp import OtlpSink
from tapio.sinks.otlp_environment import read_settings

OVERLAY = Path(__file__).with_name("gateway-overlay.yaml")


@pytest.fixture(scope="module")
def binary() -> Path:
    return collector_binary()


@pytest.mark.parametrize(
    "variables",
    [{}, {"LOGS_EXPORTERS": "[otlp_http/grafana_cloud]", "METRICS_EXPORTERS": "[otlp_http/grafana_cloud]"},
     {"LOGS_EXPORTERS": "[otlp_http/loki, otlp_http/grafana_cloud]"}],
)  # fmt: skip
@pytest.mark.parametrize("name", ["agent.yaml", "gateway.yaml"])
def test_the_pipelines_are_valid(binary: Path, name: str, variables: dict[str, str]) -> None:
    done = subprocess.run(
        [binary, "validate", f"--config={PIPELINES / name}"], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def records_in(path: Path) -> list[dict[str, Any]]:
    """The log records in the output of a file exporter."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().split("\n")[:-1]:
        if "resourceLogs" in line:
            parsed = json_format.Parse(line, ExportLogsServiceRequest())
            found += Request("/v1/logs", {}, parsed.SerializeToString()).records()
    return found


@pytest.mark.kernel
def test_every_occurrence_comes_out_of_the_gateway(binary: Path, tmp_path: Path) -> None:
    """Agent → agent.yaml → gateway.yaml → file: each once, each field as on stdout.

    Also over an outage of the gateway, and one of the node-local collector.
    """
    local, gateway, output = free_port(), free_port(), tmp_path / "output.json"
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{local}", "NODE_NAME": "worker-3",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=test", "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }  # fmt: skip

    def run_gateway() -> Any:
        configs = (PIPELINES / "gateway.yaml", OVERLAY)
        return running_collector(binary, tmp_path / "gateway", *configs, port=gateway, OUTPUT=str(output))

    def run_local() -> Any:
        endpoint = f"http://127.0.0.1:{gateway}"
        return running_collector(
            binary, tmp_path / "local", PIPELINES / "agent.yaml", port=local, GATEWAY_ENDPOINT=endpoint
        )

    with (
        no_folding("[otlp]\nagent_metrics = true\n") as config,
        running_agent(tmp_path / "data", "--sink=grafana", config, environment=environment) as agent,
        scratch_cgroup() as cgroup,
    ):

        def fail(number: int) -> None:
            for _ in range(number):
                cgroup.run(["/bin/false"])

        with run_local():
            with run_gateway():
                fail(53)
                wait_for(lambda: len(ids_in(output, cgroup.id)) == 53, 30)
            fail(31)  # the gateway is away
            wait_for(lambda: agent.metric('tapio_sink_occurrences_total{result="accepted",sink="otlp"}') >= 84, 15)
        fail(29)  # now both are
        agent.settle()
        with run_gateway(), run_local():
            fail(17)
            wait_for(lambda: len(ids_in(output, cgroup.id)) >= 130, 60)
            time.sleep(0.5)
        assert agent.stop() == 0
        sent = {one["id"]: one for one in agent.of_cgroup(cgroup.id)}

    assert len(sent) == 130
    got = [r for r in records_in(output) if r["body"]["data"].get("cgroup_id") == cgroup.id]
    assert Counter(record["body"]["id"] for record in got) == dict.fromkeys(sent, 1)
    for record in got:
        one = sent[record["body"]["id"]]
        assert record["body"] == one
        assert record["time"] == one["data"]["timestamp_ns"]
        assert record["event_name"] == one["type"]
        assert record["severity"] == (13, "WARN")
        assert record["attributes"]["process.pid"] == one["data"]["pid"]
        assert record["attributes"]["log.record.uid"] == one["id"]
        assert record["resource"]["service.name"] == "tapio"
        assert record["resource"]["k8s.cluster.name"] == "test"
        assert record["resource"]["k8s.node.name"] == "worker-3"
        assert unknown_names(record) == set()
    metrics = {
        metric["name"]
        for line in output.read_text().splitlines() if "resourceMetrics" in line
        for group in json.loads(line)["resourceMetrics"] for scope in group["scopeMetrics"]
        for metric in scope["metrics"]
    }  # fmt: skip
    assert {"tapio.anomalies", "tapio.sink.queue", "tapio.build.info"} <= metrics


def ids_in(path: Path, cgroup_id: int) -> set[str]:
    return {r["body"]["id"] for r in records_in(path) if r["body"]["data"].get("cgroup_id") == cgroup_id}


@pytest.mark.parametrize("name", ["agent.yaml", "gateway.yaml"])
def test_what_does_not_fit_into_a_collectors_queue_stays_with_us(
    binary: Path, tmp_path: Path, directory: int, name: str
) -> None:
    """The next one is away and the queue, made small here, is full: nothing is rejected, and all arrives afterwards."""
    port, next_port, overlay = free_port(), free_port(), tmp_path / "overlay.yaml"
    exporter = {"agent.yaml": "otlp_http/gateway", "gateway.yaml": "otlp_http/loki"}[name]
    small = {"sending_queue": {"queue_size": 300_000, "batch": {"min_size": 1, "max_size": 100}}}
    small["retry_on_failure"] = {"max_interval": "200ms"}
    logs = {"processors": ["memory_limiter"]}  # no API server to ask
    overlay.write_text(json.dumps({"exporters": {exporter: small}, "service": {"pipelines": {"logs": logs}}}))
    away = dict.fromkeys(("GATEWAY_ENDPOINT", "LOKI_ENDPOINT"), f"http://127.0.0.1:{next_port}")
    sent = occurrences(2003)
    with running_collector(binary, tmp_path / "collector", PIPELINES / name, overlay, port=port, **away):
        settings = read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}, "logs")
        sink = OtlpSink(settings, {}, directory, 16 << 20, Backoff(0.1, 0.5))
        for one in sent:
            sink.send(one)
        wait_for(lambda: "answer 503" in sink.last_error or "answer 429" in sink.last_error, 20)
        assert 0 < sink.results["accepted"] < 2003
        with receiver(port=next_port) as following:
            wait_for(lambda: set(following.ids()) >= {one.id for one in sent}, 60)
        sink.close()
    assert sink.results == {"accepted": 2003, "rejected": 0, "dropped": 0}
