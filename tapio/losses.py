"""Losses become evidence: what the kernel side could not pass on is reported as `tapio.agent.events_lost`.

`data.count` is the number of events, so that over any time what was emitted and what was lost add up to what the
kernel counted. Events that a program filtered out are not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tapio.anomalies import EVENTS_LOST, Anomaly

_EVERY_NS = 1_000_000_000
_REASONS = {
    "ring_full": "its ring buffer was full",
    "program_busy": "the kernel did not run a program that was running already",
    "unseen": "the kernel ran no program for them",
    "not_read": "the agent was stopped and had no time to read them",
}


class Losses:
    """What one observer lost since it was asked last."""

    def __init__(self, observer: str, read: Callable[[], Mapping[str, int]]) -> None:
        """`read` gives the events lost so far, by reason."""
        self._observer = observer
        self._read = read
        self._reported = dict.fromkeys(_REASONS, 0)
        self._due_ns = 0

    def due(self, boot_ns: int, *, last: bool = False) -> list[Anomaly]:
        """One anomaly for each reason of new losses, once a second; at the end of the agent (`last`) at once."""
        if boot_ns < self._due_ns and not last:
            return []
        self._due_ns = boot_ns + _EVERY_NS
        found = []
        for reason, total in self._read().items():
            count = total - self._reported[reason]
            if count > 0:
                self._reported[reason] = total
                found.append(self._anomaly(reason, count, boot_ns))
        return found

    def _anomaly(self, reason: str, count: int, boot_ns: int) -> Anomaly:
        message = f"Events of the observer {self._observer} were lost: {_REASONS[reason]}"
        data = {"observer": self._observer, "reason": reason, "count": count}
        return Anomaly(EVENTS_LOST, boot_ns, message, data, EVENTS_LOST.severity, (self._observer, reason))
