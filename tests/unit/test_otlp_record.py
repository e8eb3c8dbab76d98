"""The log record of an occurrence: DESIGN section 9."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.occurrences import POD, occurrence
from helpers.receiver import Request
from helpers.schema import unknown_names
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

from tapio.anomalies import CATALOGUE
from tapio.occurrence import Context, Occurrence, encode
from tapio.sinks.otlp_record import RecordMaker, make_resource
from tapio.store import emission_ms

OWN = make_resource({"k8s.cluster.name": "prod"}, "worker-3", "pod-hostname")


def record_of(one: Occurrence, own: dict[str, str] = OWN) -> dict[str, Any]:
    """The record as a receiver sees it."""
    sent = encode_logs([RecordMaker(own).make(encode(one))]).SerializeToString()
    return Request("/v1/logs", {}, sent).records()[0]


def test_the_body_is_the_occurrence() -> None:
    one = occurrence(context=POD, exit_code=137, victims=[{"pid": 1}, {"pid": 2}], latency_ms=1.5, expected=True)
    record = record_of(one)
    assert record["body"] == msgspec.json.decode(encode(one))
    assert record["event_name"] == "kernel.container.oom_kill"
    assert record["time"] == one.data["timestamp_ns"]
    assert record["observed"] == emission_ms(one.id) * 1_000_000
    assert (record["scope"], record["schema_url"]) == ("tapio", "https://opentelemetry.io/schemas/1.44.0")


@pytest.mark.parametrize(
    ("severity", "number", "text"),
    [
        ("debug", 5, "DEBUG"),
        ("info", 9, "INFO"),
        ("warning", 13, "WARN"),
        ("error", 17, "ERROR"),
        ("critical", 21, "FATAL"),
    ],
)
def test_severities(severity: str, number: int, text: str) -> None:
    one = msgspec.structs.replace(occurrence(), severity=severity)
    assert record_of(one)["severity"] == (number, text)


@pytest.mark.parametrize("type_name", CATALOGUE)
def test_attributes(type_name: str) -> None:
    """Semantic conventions where there are some; nothing that the schema does not know."""
    one = occurrence(
        type_name, context=POD, ppid=7, exit_code=137, signal=9, dst_ip="10.1.2.3", dst_port=5432, src_ip="10.0.0.1",
        src_port=40123, protocol="tcp", family="ipv4", phase="connect", errno="ECONNREFUSED", device="sda",
        operation="write", oom_scope="container", cpu=3, cgroup_id=8429, observer="network", reason="ring_full",
    )  # fmt: skip
    record = record_of(one)
    assert record["attributes"] == {
        "log.record.uid": one.id, "error.type": CATALOGUE[type_name].code, "tapio.outcome": one.outcome,
        "process.pid": 1234, "process.parent_pid": 7, "process.executable.name": "victim", "process.exit.code": 137,
        "network.peer.address": "10.1.2.3", "network.peer.port": 5432, "network.local.address": "10.0.0.1",
        "network.local.port": 40123, "network.transport": "tcp", "network.type": "ipv4", "system.device": "sda",
        "disk.io.direction": "write", "cpu.logical_number": 3, "tapio.anomaly.count": 1, "tapio.cgroup.id": 8429,
        "tapio.attribution": "victim", "tapio.errno": "ECONNREFUSED", "tapio.signal": 9,
        "tapio.oom.scope": "container", "tapio.connection.phase": "connect", "tapio.disk.operation": "write",
        "tapio.observer": "network", "tapio.loss.reason": "ring_full",
    }  # fmt: skip
    assert unknown_names(record) == set()


def test_what_is_not_known_is_left_out() -> None:
    record = record_of(
        msgspec.structs.replace(occurrence(), data={"count": 1, "timestamp_ns": 5, "operation": "flush"})
    )
    assert set(record["attributes"]) == {
        "log.record.uid", "error.type", "tapio.outcome", "tapio.anomaly.count", "tapio.disk.operation"
    }  # fmt: skip
    assert record["time"] == 5


def test_the_resource_of_the_agent() -> None:
    own = record_of(occurrence(), OWN)["resource"]
    assert own["service.name"] == "tapio"
    assert own["host.name"] == own["k8s.node.name"] == "worker-3"
    assert own["k8s.cluster.name"] == "prod"
    assert (
        own["service.instance.id"]
        == make_resource({"k8s.cluster.name": "prod"}, "worker-3", "x")["service.instance.id"]
    )
    assert (
        own["service.instance.id"] != make_resource({"k8s.cluster.name": "dev"}, "worker-3", "x")["service.instance.id"]
    )
    assert own["service.instance.id"][14] == "5"
    assert make_resource({}, "", "host")["host.name"] == "host"
    assert make_resource({"service.name": "kernel", "service.instance.id": "7"}, "n", "h")["service.name"] == "kernel"
    assert make_resource({"service.instance.id": "7"}, "n", "h")["service.instance.id"] == "7"


def test_the_resource_of_a_pod() -> None:
    """The pod's attributes come in; service, host, node and cluster stay Tapio's."""
    record = record_of(occurrence(context=POD, pod_uid="275ecb36", container_id="a3bf"))
    assert {name: record["resource"][name] for name in record["resource"] if name.startswith(("k8s", "container"))} == {
        "k8s.cluster.name": "prod", "k8s.node.name": "worker-3", "k8s.namespace.name": "default",
        "k8s.pod.name": "checkout-api-7f8b9", "k8s.deployment.name": "checkout-api", "k8s.pod.uid": "275ecb36",
        "container.id": "a3bf",
    }  # fmt: skip
    assert record["resource"]["service.name"] == "tapio"
    without = record_of(occurrence(context=Context(node="worker-3", namespace="default")))["resource"]
    assert "k8s.namespace.name" not in without  # not of a pod


def test_records_of_one_pod_share_a_resource_and_pods_are_bounded() -> None:
    maker = RecordMaker(OWN)
    one, two, other = (maker.make(encode(occurrence(context=c))) for c in (POD, POD, None))
    assert one.resource is two.resource is not other.resource
    for number in range(2000):
        entity = msgspec.structs.replace(POD.entities[0], name=f"pod-{number}")
        maker.make(encode(occurrence(context=msgspec.structs.replace(POD, entities=(entity,)))))
    assert len(maker._resources) <= 512


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"data":1}', b"\xff", b'{"severity":"loud","data":{}}'])
def test_what_is_no_occurrence_is_refused(document: bytes) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        RecordMaker(OWN).make(document)
