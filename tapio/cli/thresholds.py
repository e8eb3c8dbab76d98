"""The thresholds that `tapio tune` knows, and what the stored facts say about each.

An occurrence was stored because it passed the thresholds in force. So the facts can tell what a stricter threshold
would have left out. What a laxer one would have let in was never stored; nobody can replay that.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:  # completion wants only the names
    from tapio.config import Config

Test = Callable[[dict[str, Any], Any, "Config"], "bool | None"]


class Threshold(msgspec.Struct, frozen=True):
    """One key of the configuration, with its default.

    `passes(data, value, config)`: whether an anomaly with these facts passes at `value`, all else being as in `config`;
    None where the facts do not say. `is_stricter(value, before)`: whether `value` lets nothing through that `before`
    held back; only then the stored facts are complete. `cannot`: why the stored facts never tell. `severity`: the
    threshold only decides whether an anomaly has this severity. `note`: what a reader of the result should know.
    """

    key: str
    types: tuple[str, ...] = ()
    default: Any = None
    passes: Test = lambda _data, _value, _config: None
    is_stricter: Callable[[Any, Any], bool] = lambda value, before: bool(value >= before)
    cannot: str = ""
    severity: str = ""
    note: str = ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _at_least(name: str) -> Test:
    def passes(data: dict[str, Any], value: Any, _config: Config) -> bool | None:
        return bool(data[name] >= value) if _is_number(data.get(name)) else None

    return passes


def _latency(name: str) -> Test:
    """A disk may have a threshold of its own, which the common one does not change."""

    def passes(data: dict[str, Any], value: Any, config: Config) -> bool | None:
        if not _is_number(data.get("latency_ms")) or not isinstance(data.get("device"), str):
            return None
        devices = config.storage.devices
        pattern = next((p for p in devices if fnmatch.fnmatchcase(data["device"], p)), None)
        own = None if pattern is None else getattr(devices[pattern], name)
        return bool(data["latency_ms"] >= (value if own is None else own))

    return passes


def _may_be_sustained(name: str, direction: int) -> Test:
    """The stored value is the mean of many intervals that were all bad: below the threshold, one of them was good."""

    def passes(data: dict[str, Any], value: Any, _config: Config) -> bool | None:
        return False if _is_number(data.get(name)) and direction * data[name] < direction * value else None

    return passes


def _rtt_ratio(data: dict[str, Any], value: Any, config: Config) -> bool | None:
    return _rtt(data, lambda baseline, current: bool(current > value * baseline), config)


def _rtt_delta(data: dict[str, Any], value: Any, config: Config) -> bool | None:
    """Whether a peer may have held the ACK back, so that more was asked of the sample, is not stored."""
    found = _rtt(data, lambda baseline, current: bool(current > baseline + value), config)
    if found and data["current_ms"] <= data["baseline_ms"] + value + config.network.rtt_delayed_ack_ms:
        return None
    return found


def _rtt(data: dict[str, Any], rule: Callable[[float, float], bool], config: Config) -> bool | None:
    """Passes by the rule, or by the absolute limit: by which of them is not stored."""
    if not _is_number(data.get("baseline_ms")) or not _is_number(data.get("current_ms")):
        return None
    if rule(data["baseline_ms"], data["current_ms"]):
        return True
    return None if data["current_ms"] > config.network.rtt_spike_abs_ms > data["baseline_ms"] else False


def _code_kept(data: dict[str, Any], value: Any, _config: Config) -> bool | None:
    return data["exit_code"] not in value if "exit_code" in data else None


def _comm_kept(data: dict[str, Any], value: Any, _config: Config) -> bool | None:
    return not any(fnmatch.fnmatchcase(data["comm"], p) for p in value) if "comm" in data else None


def _more(value: Any, before: Any) -> bool:
    return set(before) <= set(value)


def _fewer(value: Any, before: Any) -> bool:
    return bool(value <= before)


_EDGE = "windows are replayed as they were stored; a burst across the edge of two may differ"
_MEAN = "only the mean of the bad intervals is stored"
_RETRANSMITS, _RESETS, _RTT = (
    ("kernel.network." + name,) for name in ("retransmit_spike", "rst_storm", "rtt_degradation")
)
_EXITS, _LATENCY = ("kernel.container.abnormal_exit",), ("kernel.storage.latency_spike",)
_STALL, _PRESSURE, _IPC = (("kernel.node." + name,) for name in ("cpu_stall", "memory_pressure", "ipc_degradation"))

_ALL = (
    Threshold("network.retransmit_spike_count", _RETRANSMITS, 5, _at_least("retransmits"), note=_EDGE),
    Threshold("network.rst_storm_count", _RESETS, 10, _at_least("rst_count"), note=_EDGE),
    Threshold("network.rtt_spike_ratio", _RTT, 2, _rtt_ratio),
    Threshold("network.rtt_min_delta_ms", _RTT, 10, _rtt_delta),
    Threshold("network.rtt_spike_abs_ms", cannot="whether an anomaly passed by this or by the ratio is not stored"),
    Threshold("network.window_s", cannot="the times of a window's single events are not stored"),
    Threshold("container.ignore_exit_codes", _EXITS, [], _code_kept, _more),
    Threshold("container.ignore_comm", _EXITS, [], _comm_kept, _more),
    Threshold("container.exit_scope", cannot="whether a process was its container's first is not stored"),
    Threshold("storage.warning_ms", _LATENCY, 50, _latency("warning_ms")),
    Threshold("storage.critical_ms", _LATENCY, 200, _latency("critical_ms"), severity="critical"),
    Threshold("node.cpu_stall_percent", _STALL, 40, _may_be_sustained("stall_pct", 1),
              note=f"{_MEAN}; what is left out here may be a memory_pressure"),
    Threshold("node.memory_pressure_percent", _PRESSURE, 20, _may_be_sustained("stall_pct", 1), note=_MEAN),
    Threshold("node.ipc_floor", _IPC, 1.0, _may_be_sustained("ipc", -1), _fewer, note=_MEAN),
    Threshold("node.ipc_drop_ratio", cannot="each interval's distance from the learned IPC is not stored"),
    Threshold("node.sustained_intervals", cannot="how the single intervals were is not stored"),
)  # fmt: skip
THRESHOLDS = {threshold.key: threshold for threshold in _ALL}


def in_force(threshold: Threshold, config: object) -> Any:
    """The value of the agent's configuration, or the default."""
    section, _, name = threshold.key.partition(".")
    value = getattr(getattr(config, section, None), name, threshold.default)
    return list(value) if isinstance(value, tuple) else value
