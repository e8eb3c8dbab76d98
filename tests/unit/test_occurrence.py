"""The occurrence: strict both ways, open in `data`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapio.errors import OccurrenceError
from tapio.occurrence import decode, encode

EXAMPLE: dict[str, Any] = {
    "id": "01JA1B2C3D4E5F6G7H8J9K0L1M",
    "timestamp": "2026-04-03T14:23:01.042Z",
    "source": "tapio",
    "type": "kernel.container.oom_kill",
    "protocol_version": "1.0",
    "severity": "critical",
    "outcome": "failure",
    "error": {"code": "OOM_KILL", "message": "OOM kill pid=1234 (usage=512MB, limit=0MB)"},
    "context": {
        "node": "worker-3",
        "namespace": "default",
        "entities": [
            {"kind": "pod", "id": "default/checkout-api-7f8b9", "name": "checkout-api-7f8b9"},
            {"kind": "deployment", "id": "default/checkout-api", "name": "checkout-api"},
        ],
    },
    "data": {
        "pid": 1234,
        "tid": 1234,
        "exit_code": 137,
        "signal": 9,
        "memory_usage_bytes": 536870912,
        "memory_limit_bytes": 0,
        "cgroup_id": 8429,
        "timestamp_ns": 1743691381042000000,
    },
}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def altered(**changes: Any) -> bytes:
    """The example with blocks replaced; None removes one."""
    document = {**EXAMPLE, **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def test_the_example_of_the_design_survives_unchanged() -> None:
    assert json.loads(encode(decode(altered()))) == EXAMPLE


def test_absent_context_stays_absent() -> None:
    assert "context" not in json.loads(encode(decode(altered(context=None))))


@given(st.dictionaries(st.text().map(lambda name: f"x_{name}"), JSON, max_size=5))
def test_unknown_fields_of_data_survive(extra: dict[str, Any]) -> None:
    data = EXAMPLE["data"] | extra
    once = encode(decode(altered(data=data)))
    assert json.loads(once)["data"] == data
    assert encode(decode(once)) == once


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "not-a-ulid"},
        {"id": "81JA1B2C3D4E5F6G7H8J9K0L1M"},
        {"id": None},
        {"timestamp": "2026-04-03 14:23:01"},
        {"timestamp": "2026-13-03T14:23:01.042Z"},
        {"type": "oom"},
        {"protocol_version": "2.0"},
        {"protocol_version": None},
        {"severity": "fatal"},
        {"outcome": "inprogress"},
        {"error": {"code": "OOM_KILL"}},
        {"error": {"code": "oom", "message": "x"}},
        {"error": {"code": "OOM_KILL", "message": "x", "why_it_matters": "y"}},
        {"context": {"namespace": "default"}},
        {"context": {"node": "n", "entities": [{"kind": "pod"}]}},
        {"data": None},
        {"data": []},
        {"data": {"pid": "1234"}},
        {"data": {"pid": True}},
        {"data": {"pid": -1}},
        {"data": {"cgroup_id": 0}},
        {"data": {"exit_code": 256}},
        {"data": {"attribution": "guessed"}},
        {"data": {"count": 1.5}},
        {"reasoning": "because"},
    ],
)
def test_what_is_wrong_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OccurrenceError):
        decode(altered(**changes))


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_refused_and_nothing_else(document: bytes) -> None:
    with pytest.raises(OccurrenceError):
        decode(document)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(OccurrenceError):
        decode(altered(data={}).replace(b'"data": {}', b'"data": {"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
