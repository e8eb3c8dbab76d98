"""An occurrence as an OTel log record: the body is the occurrence, the attributes are what one searches for.

otel/schema describes every name. What an occurrence does not say is left out here too.
"""

from __future__ import annotations

import datetime
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from tapio import __version__, otel_names
from tapio.store import emission_ms

_SEVERITIES = {
    "debug": (SeverityNumber.DEBUG, "DEBUG"),
    "info": (SeverityNumber.INFO, "INFO"),
    "warning": (SeverityNumber.WARN, "WARN"),
    "error": (SeverityNumber.ERROR, "ERROR"),
    "critical": (SeverityNumber.FATAL, "FATAL"),
}
_NO_SPAN = Context()
_MAX_PODS = 512
_MAX_DEPTH = 16
_INT64 = range(-(1 << 63), 1 << 63)
# What stays Tapio's in the resource of an occurrence of a pod.
_OURS = ("service.", "host.", "k8s.node.", "k8s.cluster.")


def make_resource(user: Mapping[str, str], node: str, host: str, cluster: str = "") -> dict[str, str]:
    """Tapio's own resource attributes. `user` are those of the environment, which win; `node`, `cluster` may be ''."""
    attributes = {"service.name": "tapio", "service.version": __version__, "host.name": node or host}
    if node:
        attributes["k8s.node.name"] = node
    if cluster:
        attributes["k8s.cluster.name"] = cluster
    attributes |= user
    cluster = attributes.get("k8s.cluster.name", "")
    place = f"{cluster}/{attributes.get('k8s.node.name') or attributes['host.name']}"
    attributes.setdefault("service.instance.id", str(uuid.uuid5(uuid.NAMESPACE_URL, f"tapio://{place}")))
    return attributes


class RecordMaker:
    """Makes log records of JSON documents, with one resource for each pod."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._own = dict(resource)
        self._scope = InstrumentationScope("tapio", __version__, schema_url=otel_names.SCHEMA_URL)
        self._resources: OrderedDict[tuple[tuple[str, str], ...], Resource] = OrderedDict()

    def make(self, document: bytes) -> ReadableLogRecord:
        """The record of one occurrence; ValueError for what is none."""
        occurrence: dict[str, Any] = msgspec.json.decode(document, type=dict)
        data = occurrence["data"]
        number, text = _SEVERITIES[occurrence["severity"]]
        record = LogRecord(
            timestamp=int(data.get("timestamp_ns") or _unix_ns(occurrence["timestamp"])),
            observed_timestamp=emission_ms(occurrence["id"]) * 1_000_000,
            context=_NO_SPAN,
            severity_number=number,
            severity_text=text,
            event_name=occurrence["type"],
            body=_plain(occurrence),
            attributes=_attributes(occurrence, data),
        )
        return ReadableLogRecord(record, self._resource(occurrence), self._scope)

    def _resource(self, occurrence: Mapping[str, Any]) -> Resource:
        pod = tuple(_pod(occurrence).items())
        found = self._resources.get(pod)
        if found is None:
            merged = dict(self._own)
            merged |= {name: value for name, value in pod if not name.startswith(_OURS)}
            found = self._resources[pod] = _HashedResource(merged)
            if len(self._resources) > _MAX_PODS:
                self._resources.popitem(last=False)
        return found


class _HashedResource(Resource):
    """The exporter groups by resource: the SDK's own hash is a JSON document, made anew for every record."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def _unix_ns(timestamp: str) -> int:
    return int(datetime.datetime.fromisoformat(timestamp).timestamp() * 1000) * 1_000_000


def _pod(occurrence: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of the pod that an occurrence is about; {} when it is about none."""
    context = occurrence.get("context") or {}
    entities = {entity["kind"]: entity["name"] for entity in context.get("entities", ())}
    if "pod" not in entities:
        return {}
    data = occurrence["data"]
    found = {otel_names.K8S_NAMESPACE_NAME: context.get("namespace", "")}
    found |= {name: entities.get(kind, "") for kind, name in otel_names.ENTITY_NAMES.items()}
    found |= {name: data[key] for name, key in otel_names.POD_DATA.items() if isinstance(data.get(key), str)}
    return {name: value for name, value in found.items() if value}


def _attributes(occurrence: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    error = occurrence["error"]
    attributes: dict[str, Any] = {
        otel_names.LOG_RECORD_UID: occurrence["id"],
        otel_names.ERROR_TYPE: error["code"],
        otel_names.TAPIO_OUTCOME: occurrence["outcome"],
    }
    for name, key in otel_names.DATA_ATTRIBUTES.items():
        if key in data and data[key] is not None:
            convert = _CONVERSIONS.get(name)
            value = convert(data[key]) if convert else data[key]
            if value is not None:
                attributes[name] = _plain(value)
    return attributes


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    otel_names.DISK_IO_DIRECTION: lambda operation: operation if operation in ("read", "write") else None,
}


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` as a record can carry it: unknown is left out, a number beyond 64 bits becomes its digits."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value in _INT64 else str(value)
    if isinstance(value, Mapping):
        if depth > _MAX_DEPTH:
            return str(value)
        return {key: _plain(item, depth + 1) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence):
        if depth > _MAX_DEPTH:
            return str(value)
        return [_plain(item, depth + 1) for item in value if item is not None]
    return value
