"""Round-trip times: what is normal for each path, and when it is much slower than that."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import msgspec

from tapio.anomalies import RTT_DEGRADATION, Anomaly
from tapio.config import NetworkConfig
from tapio.observers.network_failures import endpoint

_MAX_PATHS = 4096
_RECENT = 5  # samples that a median of the present is made of
_SLOW_OF_LAST = 2, 3  # so many of the last so many samples must be slow


class Degradation(msgspec.Struct, frozen=True):
    """A path that is slow now."""

    boot_ns: int
    baseline_ms: float
    current_ms: float

    def anomaly(self, data: dict[str, Any], service_port: int | None) -> Anomaly:
        """As an anomaly; `data` describes the connection that was sampled."""
        data["baseline_ms"], data["current_ms"] = round(self.baseline_ms, 3), round(self.current_ms, 3)
        peer = endpoint(data["dst_ip"], data["dst_port"])
        message = f"RTT to {peer} is {self.current_ms:.1f} ms, normally {self.baseline_ms:.1f} ms"
        key = data["dst_ip"], service_port
        return Anomaly(RTT_DEGRADATION, self.boot_ns, message, data, RTT_DEGRADATION.severity, key)


class _Path:
    """What is known of one path. The baseline is None while it is being learned.

    There can be thousands, and they stay: kept in half a kilobyte each.
    """

    __slots__ = ("baseline_ms", "recent", "reported_ns", "sampled_ns", "slow", "slow_since_ns")

    def __init__(self) -> None:
        self.baseline_ms: float | None = None
        self.recent = array("d")  # the latest samples
        self.slow: tuple[bool, ...] = ()  # whether the latest were
        self.sampled_ns = 0
        self.slow_since_ns = 0  # 0: it is not slow
        self.reported_ns = 0

    def present_ms(self) -> float:
        """What the latest samples say."""
        return statistics.median(self.recent[-_RECENT:])


class Baselines:
    """The paths, of which those unused for longest are forgotten."""

    def __init__(self, evicted: dict[str, int], max_paths: int = _MAX_PATHS) -> None:
        """Paths that had to make room are counted in `evicted`."""
        self._evicted = evicted
        evicted["rtt_paths"] = 0
        self._max_paths = max_paths
        self._paths: OrderedDict[Hashable, _Path] = OrderedDict()
        self._config = NetworkConfig()

    def configure(self, config: NetworkConfig) -> None:
        """Thresholds; what was learned stays."""
        self._config = config

    def add(self, key: Hashable, boot_ns: int, rtt_ms: float, *, ack_delayed: bool) -> Degradation | None:
        """Take a sample of the path `key`; says whether the path is slow, at most once a window.

        `ack_delayed`: the peer may have held the ACK back, so that the sample may not be of the path alone.
        """
        path = self._paths.get(key)
        if path is None:
            path = self._paths[key] = _Path()
            if len(self._paths) > self._max_paths:
                self._paths.popitem(last=False)
                self._evicted["rtt_paths"] += 1
        self._paths.move_to_end(key)
        path.recent.append(rtt_ms)
        del path.recent[: -max(_RECENT, self._config.rtt_min_samples)]
        elapsed_s = max(0, boot_ns - path.sampled_ns) / 1e9
        path.sampled_ns = max(boot_ns, path.sampled_ns)
        if path.baseline_ms is None:
            if len(path.recent) >= self._config.rtt_min_samples:
                path.baseline_ms = statistics.median(path.recent)
            return None
        slow = self._is_slow(rtt_ms, path.baseline_ms, ack_delayed=ack_delayed)
        path.slow = (*path.slow, slow)[-_SLOW_OF_LAST[1] :]
        if sum(path.slow) < _SLOW_OF_LAST[0]:
            path.slow_since_ns = 0
            if not slow:
                path.baseline_ms = self._follow(path, path.baseline_ms, rtt_ms, elapsed_s)
            return None
        return self._degraded(path, path.baseline_ms, boot_ns, rtt_ms) if slow else None

    def _is_slow(self, rtt_ms: float, baseline_ms: float, *, ack_delayed: bool) -> bool:
        config = self._config
        least_ms = baseline_ms + config.rtt_min_delta_ms
        if ack_delayed and rtt_ms <= least_ms + config.rtt_delayed_ack_ms:
            return False
        if rtt_ms > config.rtt_spike_abs_ms > baseline_ms:
            return True
        return rtt_ms > baseline_ms * config.rtt_spike_ratio and rtt_ms > least_ms

    def _follow(self, path: _Path, baseline_ms: float, rtt_ms: float, elapsed_s: float) -> float:
        """The baseline drifts with normal samples, and takes a lasting improvement at once."""
        if len(path.recent) >= _RECENT and max(path.recent) < baseline_ms / 2:
            return path.present_ms()
        weight = 1 - math.exp(-elapsed_s / self._config.rtt_relearn_s)
        return baseline_ms + weight * (rtt_ms - baseline_ms)

    def _degraded(self, path: _Path, baseline_ms: float, boot_ns: int, rtt_ms: float) -> Degradation | None:
        path.slow_since_ns = path.slow_since_ns or boot_ns
        if boot_ns - path.slow_since_ns >= self._config.rtt_relearn_s * 1e9:
            path.baseline_ms = path.present_ms()  # it is normal now
            path.slow = ()
            path.slow_since_ns = 0
            return None
        if path.reported_ns and boot_ns - path.reported_ns < self._config.window_s * 1e9:
            return None
        path.reported_ns = boot_ns
        return Degradation(boot_ns, baseline_ms, rtt_ms)
