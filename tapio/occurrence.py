"""The FALSE Protocol occurrence: what every sink sends and every reader reads.

Validation is strict in both directions: `decode` refuses what `encode` would not write. Only `data` is open:
fields that a reader does not know survive a round trip, those that it knows must have their type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from tapio.anomalies import Outcome, Severity
from tapio.errors import OccurrenceError

PROTOCOL_VERSION: Literal["1.0"] = "1.0"
_MAX_INT = (1 << 63) - 1
_MAX_DEPTH = 16

# 48 bits of time, 80 of chance. In the latter I, L and O are read as Crockford's alphabet wants, as 1, 1 and 0.
ULID = "[0-7][0-9A-HJKMNP-TV-Z]{9}[0-9A-TV-Z]{16}"

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Ulid = Annotated[str, msgspec.Meta(pattern=f"^{ULID}$")]
_Timestamp = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
_Type = Annotated[str, msgspec.Meta(pattern=r"^(kernel|tapio)\.[a-z]+\.[a-z_]+$")]
_Code = Annotated[str, msgspec.Meta(pattern="^[A-Z][A-Z0-9_]*$")]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Common rules of every block."""


class Error(_Strict, frozen=True):
    """What failed: a stable code and one readable line."""

    code: _Code
    message: _Text


class Entity(_Strict, frozen=True):
    """Something of the cluster that the occurrence is about."""

    kind: _Text
    id: _Text
    name: _Text


class Context(_Strict, frozen=True):
    """Where it happened. Present when enrichment is on."""

    node: _Text
    namespace: str = ""
    entities: tuple[Entity, ...] = ()


class Occurrence(_Strict, frozen=True, kw_only=True):
    """One thing that happened. `data` is documented in otel/schema; its known fields are in `_DATA`."""

    id: _Ulid
    timestamp: _Timestamp
    source: _Text
    type: _Type
    # Required on the wire, so without default: omit_defaults would leave it out.
    protocol_version: Literal["1.0"]
    severity: Severity
    outcome: Outcome
    error: Error
    context: Context | None = None
    data: dict[str, Any]

    def __post_init__(self) -> None:
        for name, value in self.data.items():
            check = _DATA.get(name)
            if check is not None and not check(value):
                raise ValueError(f"data.{name}: {value!r} is not allowed")
        try:
            datetime.fromisoformat(self.timestamp)
        except ValueError:
            raise ValueError(f"timestamp: {self.timestamp!r} is not a time") from None


_Check = Callable[[Any], bool]


def _integer(low: int, high: int = _MAX_INT) -> _Check:
    return lambda value: type(value) is int and low <= value <= high


def _text(pattern: str = ".+") -> _Check:
    matches = re.compile(pattern, re.DOTALL).fullmatch
    return lambda value: isinstance(value, str) and matches(value) is not None


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1e308


_ID = _integer(1, (1 << 64) - 1)
_COUNT = _integer(0)
_PORT = _integer(0, 65535)
_PID = _integer(0, 1 << 31)

_DATA: dict[str, _Check] = {
    "timestamp_ns": _integer(1),
    "count": _COUNT,
    "attribution": _text("socket|task|victim|bio|none"),
    "observer": _text("[a-z]+"),
    "reason": _text("[a-z_]+"),
    "cgroup_id": _ID,
    "cgroup_v1_id": _ID,
    "pid": _PID,
    "tid": _PID,
    "ppid": _PID,
    "uid": _integer(0, (1 << 32) - 1),
    "comm": _text(".*"),
    "exit_code": _integer(0, 255),
    "signal": _integer(0, 127),
    "memory_usage_bytes": _COUNT,
    "memory_limit_bytes": _COUNT,
    "pod_uid": _text(),
    "container_id": _text(),
    "expected": lambda value: type(value) is bool,
    "peer": lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value.values()),
    "oom_scope": _text("container|pod|ancestor|node"),
    "src_ip": _text(),
    "dst_ip": _text(),
    "src_port": _PORT,
    "dst_port": _PORT,
    "family": _text("ipv4|ipv6"),
    "protocol": _text(),
    "phase": _text("connect|established"),
    "errno": _text("E[A-Z0-9]+"),
    "old_state": _text("[A-Z0-9_]+"),
    "new_state": _text("[A-Z0-9_]+"),
    "retransmits": _COUNT,
    "total_retrans": _COUNT,
    "segs_out": _COUNT,
    "snd_cwnd": _COUNT,
    "srtt_ms": _number,
    "rst_count": _COUNT,
    "baseline_ms": _number,
    "current_ms": _number,
    "window_ms": _COUNT,
    "device": _text(),
    "dev_major": _COUNT,
    "dev_minor": _COUNT,
    "operation": _text(),
    "sector": _COUNT,
    "bytes": _COUNT,
    "latency_ms": _number,
    "cpu": _COUNT,
    "cycles": _COUNT,
    "instructions": _COUNT,
    "stall_cycles": _COUNT,
    "ipc": _number,
    "baseline_ipc": _number,
    "stall_pct": _number,
    "busy_pct": _number,
    "interval_ms": _number,
}

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Occurrence)


def encode(occurrence: Occurrence) -> bytes:
    """The occurrence as one line of JSON, without the newline. Never fails: what JSON cannot hold becomes text."""
    try:
        return _ENCODER.encode(occurrence)
    except (TypeError, ValueError, RecursionError):  # a lone surrogate, an object
        return _ENCODER.encode(_encodable({name: getattr(occurrence, name) for name in occurrence.__struct_fields__}))


def _encodable(value: Any, depth: int = 0) -> Any:
    """`value` with harmless text in place of what JSON cannot hold."""
    if isinstance(value, msgspec.Struct):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        return {
            _encodable(str(key)): _encodable(item, depth + 1)
            for key, item in value.items()
            if item not in ("", None, ())
        }
    if isinstance(value, list | tuple) and depth < _MAX_DEPTH:
        return [_encodable(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value).encode("utf-8", "replace").decode()


def decode(document: bytes) -> Occurrence:
    """The occurrence in `document`; OccurrenceError says what is wrong with it and where."""
    try:
        return _DECODER.decode(document)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OccurrenceError(f"reading an occurrence: {error}") from error
