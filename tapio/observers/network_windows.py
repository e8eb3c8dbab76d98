"""Counting what is harmless once and a problem in numbers: retransmits and resets of one cgroup and peer."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Any

from tapio.anomalies import Anomaly, AnomalyType
from tapio.observers.network_failures import endpoint

_MAX_KEYS = 4096
_LATE_NS = 250_000_000  # how late a record may come out of the ring and still belong to its window


class _Window:
    """The events of one key. It fires when enough of them lie within the window, and then counts to its end."""

    def __init__(self, data: dict[str, Any], length_ns: int) -> None:
        self.length_ns = length_ns  # as it was when the window began: a reload is for the next one
        self.events: deque[tuple[int, int]] = deque()  # time and amount, until it fires
        self.count = 0
        self.until_ns = 0  # 0: has not fired
        self.last_ns = 0
        self.data = data
        self.latest: dict[str, Any] = {}


class Windows:
    """Windows of one anomaly type. A window that fired is one anomaly, given when the window is over."""

    def __init__(
        self, kind: AnomalyType, count_field: str, words: str, evicted: dict[str, int], max_keys: int = _MAX_KEYS
    ) -> None:
        """`count_field` is the data field that holds the count, `words` describe it in the message.

        Windows that had to make room are counted in `evicted` under `count_field`.
        """
        self._evicted = evicted
        evicted[count_field] = 0
        self._kind, self._field, self._words = kind, count_field, words
        self._max_keys = max_keys
        self._threshold, self._window_ns = 1, 1
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()  # the one unused for longest first
        self._fired: dict[Hashable, _Window] = {}

    def configure(self, threshold: int, window_s: float) -> None:
        """The smallest count that is an anomaly, and the length of the window in seconds."""
        self._threshold, self._window_ns = threshold, round(window_s * 1e9)

    def add(
        self, key: Hashable, boot_ns: int, amount: int, data: dict[str, Any], latest: dict[str, Any]
    ) -> list[Anomaly]:
        """Count `amount` at `boot_ns`. Of `data` stays what is equal in all events, `latest` is of the last one.

        Returns what had to be given early or late: a window that was over, or one that had to make room.
        """
        found: list[Anomaly] = []
        window = self._windows.get(key)
        if window is not None and window.until_ns and boot_ns >= window.until_ns:
            found.append(self._close(key))
            window = None
        if window is None or (not window.until_ns and boot_ns - window.last_ns > window.length_ns):
            window = self._windows[key] = _Window(data, self._window_ns)
        self._windows.move_to_end(key)
        window.data = {name: value for name, value in window.data.items() if data.get(name) == value}
        window.latest, window.last_ns = latest, max(boot_ns, window.last_ns)
        window.count += amount
        if not window.until_ns:
            self._slide(key, window, boot_ns, amount)
        if len(self._windows) > self._max_keys:
            oldest = next(iter(self._windows))
            self._evicted[self._field] += 1
            if oldest in self._fired:
                found.append(self._close(oldest))
            else:
                del self._windows[oldest]
        return found

    def _slide(self, key: Hashable, window: _Window, boot_ns: int, amount: int) -> None:
        window.events.append((boot_ns, amount))
        while window.events[0][0] <= boot_ns - window.length_ns:
            window.count -= window.events.popleft()[1]
        if window.count >= self._threshold:
            window.until_ns = window.events[0][0] + window.length_ns
            window.events.clear()
            self._fired[key] = window

    def due(self, boot_ns: int | None) -> list[Anomaly]:
        """The windows that fired and were over at `boot_ns`; None: all that fired."""
        if boot_ns is not None:
            self._forget(boot_ns - _LATE_NS)
        if not self._fired:
            return []
        over = [key for key, window in self._fired.items() if boot_ns is None or window.until_ns + _LATE_NS <= boot_ns]
        return [self._close(key) for key in over]

    def _forget(self, boot_ns: int) -> None:
        """Let go of windows in which nothing happened any more: the next event would begin a new one."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.until_ns or boot_ns - window.last_ns <= window.length_ns:
                return
            del self._windows[key]

    def _close(self, key: Hashable) -> Anomaly:
        window = self._fired.pop(key)
        del self._windows[key]
        window_ms = window.length_ns // 1_000_000
        data = {**window.data, **window.latest, self._field: window.count, "window_ms": window_ms}
        peer = endpoint(data["dst_ip"], data.get("dst_port"))
        message = f"{window.count} {self._words} {peer} within {window_ms / 1000:g} s"
        return Anomaly(self._kind, window.last_ns, message, data, self._kind.severity, (data["dst_ip"],))
