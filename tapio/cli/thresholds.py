"""The thresholds that `tapio tune` knows, and what the stored facts say about each.

An occurrence was stored because it passed the thresholds in force. So the facts can tell what a stricter threshold
would have left out. What a laxer one would have let in was never stored; nobody can replay that.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tapio.cli.filters import count_of
from tapio.errors import UsageError
from tapio.occurrence import Occurrence

Test = Callable[[dict[str, Any], Any], "bool | None"]


class Threshold(msgspec.Struct, frozen=True):
    """One key of the configuration, with its default.

    `passes(data, value)`: whether an anomaly with these facts passes at `value`; None where the facts do not say.
    `is_stricter(value, before)`: whether `value` lets nothing through that `before` held back; only then the stored
    facts are complete. `cannot`: why the stored facts never tell. `severity`: the threshold only decides whether an
    anomaly has this severity. `note`: what a reader of the result should know.
    """

    key: str
    types: tuple[str, ...] = ()
    default: Any = None
    passes: Test = lambda _data, _value: None
    is_stricter: Callable[[Any, Any], bool] = lambda value, before: bool(value >= before)
    cannot: str = ""
    severity: str = ""
    note: str = ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _at_least(name: str) -> Test:
    def passes(data: dict[str, Any], value: Any) -> bool | None:
        return bool(data[name] >= value) if _is_number(data.get(name)) else None

    return passes


def _may_be_sustained(name: str, direction: int) -> Test:
    """The stored value is the mean of many intervals that were all bad: below the threshold, one of them was good."""

    def passes(data: dict[str, Any], value: Any) -> bool | None:
        return False if _is_number(data.get(name)) and direction * data[name] < direction * value else None

    return passes


def _rtt_ratio(data: dict[str, Any], value: Any) -> bool | None:
    """Passes by its ratio, or by the absolute limit, whose value at that time is not known."""
    return _rtt(data, lambda baseline, current: bool(current > value * baseline))


def _rtt_delta(data: dict[str, Any], value: Any) -> bool | None:
    return _rtt(data, lambda baseline, current: bool(current > baseline + value))


def _rtt(data: dict[str, Any], rule: Callable[[float, float], bool]) -> bool | None:
    if not _is_number(data.get("baseline_ms")) or not _is_number(data.get("current_ms")):
        return None
    if rule(data["baseline_ms"], data["current_ms"]):
        return True
    return None if data["current_ms"] > _RTT_ABS_MS > data["baseline_ms"] else False


def _code_kept(data: dict[str, Any], value: Any) -> bool | None:
    return data["exit_code"] not in value if "exit_code" in data else None


def _comm_kept(data: dict[str, Any], value: Any) -> bool | None:
    return not any(fnmatch.fnmatchcase(data["comm"], str(p)) for p in value) if "comm" in data else None


def _more(value: Any, before: Any) -> bool:
    return set(before) <= set(value)


def _fewer(value: Any, before: Any) -> bool:
    return bool(value <= before)


_RTT_ABS_MS = 500
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
    Threshold("storage.warning_ms", _LATENCY, 50, _at_least("latency_ms")),
    Threshold("storage.critical_ms", _LATENCY, 200, _at_least("latency_ms"), lambda _value, _before: True,
              severity="critical"),
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


def parse_setting(text: str) -> tuple[Threshold, Any]:
    """KEY=VALUE; UsageError when there is no such threshold, or the value does not fit."""
    key, equals, written = text.partition("=")
    threshold = THRESHOLDS.get(key)
    if threshold is None or not equals:
        what = "expected KEY=VALUE" if not equals else f"there is no threshold {key}"
        raise UsageError(f"--set {text}: {what}: 'tapio tune' lists them")
    if threshold.cannot:
        return threshold, written
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    if isinstance(threshold.default, list):
        if not isinstance(value, list) or not all(isinstance(item, int | str) for item in value):
            raise UsageError(f'--set {text}: not a list: write it as {key}=[1,143] or {key}=["sh"]')
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise UsageError(f"--set {text}: not a number of at least 0: write it as {key}={threshold.default}")
    return threshold, value


class Replay(msgspec.Struct):
    """Alerts (occurrences) and anomalies before and after. Folded ones keep only their worst value: hence a range."""

    alerts_before: int = 0
    anomalies_before: int = 0
    alerts: int = 0
    least: int = 0
    most: int = 0
    untold: int = 0  # alerts whose facts do not say; counted as staying

    def add(self, occurrence: Occurrence, settings: Iterable[tuple[Threshold, Any]]) -> None:
        """Replay a stored occurrence under settings that all concern its type; it stays if it passes every one."""
        settings, count = list(settings), count_of(occurrence)
        if all(not threshold.severity or threshold.severity == occurrence.severity for threshold, _ in settings):
            self.alerts_before += 1
            self.anomalies_before += count
        verdicts = [threshold.passes(occurrence.data, value) for threshold, value in settings]
        if False in verdicts:
            return
        self.untold += None in verdicts
        self.alerts += 1
        self.most += count
        # The worst of the folded ones passes; of the others nothing is known, unless they are equal in this.
        equal = all(isinstance(threshold.default, list) for threshold, _ in settings)
        self.least += count if equal or count <= 1 else 1
