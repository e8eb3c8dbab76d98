"""The agent's knowledge of itself: what /metrics, the probes and the heartbeat tell.

The loop writes plain integers, other threads read them: every value only grows or is replaced as a whole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from tapio.cpus import CpuReport
from tapio.errors import TapioError
from tapio.occurrence import Occurrence

if TYPE_CHECKING:  # the CLI reads `Hook` and must not load what only the agent needs
    from tapio.sinks.base import Sink

STALLED_AFTER_S = 5.0
_HEARTBEAT_LATE_S = 10.0  # it is written every second


class Hook(msgspec.Struct, frozen=True):
    """A tracepoint as the heartbeat shows it. `hits` counts runs of the program, `lost` events it could not pass on.

    hits = submitted + lost + filtered + unreadable, but for runs that the kernel itself missed, which are in `lost`.
    """

    name: str
    attached: bool
    reason: str = ""
    hits: int = 0
    submitted: int = 0
    lost: int = 0
    filtered: int = 0
    unreadable: int = 0
    overwritten: int = 0
    limited: int = 0
    missed: dict[str, int] = {}  # by reason: what could not be put together with an earlier or later event
    run_ns: int = 0


class DiskIo(msgspec.Struct, frozen=True):
    """What one disk did since the start, by operation: `latency` counts requests by `DISK_LATENCY_BOUNDS_S`."""

    device: str
    operation: str
    latency: tuple[int, ...]  # one more than there are bounds: the last counts what is above all
    sum_ns: int
    errors: int


# The upper bounds in seconds: powers of two of a microsecond, as ebpf/headers/disks.h sorts.
DISK_LATENCY_BOUNDS_S = tuple((2 << index) / 1e6 for index in range(24))


class ObserverTelemetry:
    """One observer's figures. `read_hooks` asks the kernel; `reason` says why an observer is off, `off` in a word."""

    def __init__(
        self, name: str, reason: str = "", read_hooks: Callable[[], list[Hook]] = list, off: str = TapioError.reason
    ) -> None:
        self.name = name
        self._reason = reason
        self._off = off
        self.read_hooks = read_hooks
        self.read_disks: Callable[[], list[DiskIo]] = list
        self.read_reason: Callable[[], str] = str
        self.read_cpus: Callable[[], CpuReport | None] = lambda: None
        self.events = 0
        self.anomalies: Counter[str] = Counter()
        self.unattributed = 0
        self.unread = 0  # records that a stop left in the ring
        self.suppressed: dict[str, int] = {}
        self.evicted: dict[str, int] = {}
        self.has_canary = False
        self.canary_round_trip_s: float | None = None  # of the latest one that came back
        self.canary_missed = 0
        self.canary_note = ""  # why none can be sent here
        self.blind = ""  # why the observer is, by its canaries

    @property
    def reason(self) -> str:
        """Why the observer is off, or what does not work although it is on; '' if all is well."""
        return self._reason or self.blind or self.read_reason() or self.canary_note

    def lost(self, hooks: Sequence[Hook]) -> int:
        """Events that nobody has seen."""
        return sum(hook.lost for hook in hooks) + self.unread

    def is_up(self, hooks: Sequence[Hook]) -> bool:
        """Whether every hook of the observer is attached, and its canaries come back."""
        return not self.why_off(hooks)

    def why_off(self, hooks: Sequence[Hook]) -> str:
        """Why the observer is not up, as one of few words; '' if it is."""
        if not hooks:
            return self._off
        return "blind" if self.blind else "" if all(hook.attached for hook in hooks) else "detached"


class EnrichmentFigures(Protocol):
    """What enrichment knows of itself: anomalies by what was found of their pod, and the watch."""

    outcomes: dict[str, int]
    held_full: int

    @property
    def misses(self) -> int:
        """Anomalies that left without a pod although they may be of one."""

    @property
    def pods(self) -> int:
        """Pods of this node that are known to exist."""

    @property
    def watches(self) -> dict[str, bool]:
        """Whether each watch on the API server is open, by what it watches."""


class Telemetry:
    """Everything the agent counts."""

    def __init__(self, observers: Iterable[ObserverTelemetry], sinks: Sequence[Sink]) -> None:
        self.observers = {observer.name: observer for observer in observers}
        self.sinks = sinks
        self.occurrences: Counter[tuple[str, str]] = Counter()
        self.invalid = 0  # anomalies that did not make a valid occurrence: a defect
        self.folded: Counter[str] = Counter()
        self.overflowed: dict[str, int] = {}
        self.enrichment: EnrichmentFigures | None = None
        self.drained_at = time.monotonic()
        self.heartbeat_error = ""
        self.heartbeat_at = time.monotonic()  # when it was written last
        self.sandbox: dict[str, str] = {}  # by mechanism: why it is not in force, "" if it is

    def count_occurrence(self, occurrence: Occurrence) -> None:
        """An occurrence goes out to the sinks."""
        self.occurrences[occurrence.type, occurrence.severity] += 1

    def is_stalled(self) -> bool:
        """Whether the rings were not drained lately."""
        return time.monotonic() - self.drained_at > STALLED_AFTER_S

    def trouble(self, hooks: Mapping[str, list[Hook]] | None = None) -> str:
        """Why the agent does not observe, '' when it does: hooks attached, rings drained, canaries back.

        An observer that is off with a reason since the start (no PMU, say) is shown, but is no trouble. `hooks` are
        those by observer, if the caller has just read them, which is not cheap.
        """
        if self.is_stalled():
            return f"the rings were not drained within the last {STALLED_AFTER_S:.0f} s"
        for observer in self.observers.values():
            found = observer.read_hooks() if hooks is None else hooks[observer.name]
            missing = [hook for hook in found if not hook.attached]
            reasons = [f"{hook.name} is detached {hook.reason}".rstrip() for hook in missing]
            reasons += [observer.blind] if observer.blind else []
            if reasons:
                return f"observer {observer.name} is blind: {'; '.join(reasons)}"
        return ""

    def unready(self) -> str:
        """Why the agent is not ready, '' when it is: it observes, and can say so in its heartbeat."""
        late_s = time.monotonic() - self.heartbeat_at
        late = f"the heartbeat was not written for {late_s:.0f} s" if late_s > _HEARTBEAT_LATE_S else ""
        return self.trouble() or self.heartbeat_error or late
