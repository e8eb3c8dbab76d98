"""The heartbeat `.agent.json`: once a second the agent writes what it is doing, for `tapio status` and `health`.

A reader tells *quiet* from *blind* by it: `updated_at` is recent and every hook attached, or not.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Literal

import msgspec

from tapio import __version__
from tapio.clock import rfc3339_ms
from tapio.errors import describe_os_error
from tapio.heartbeat_document import SCHEMA_VERSION, Heartbeat, ObserverState, SinkState
from tapio.store import HEARTBEAT, Store
from tapio.telemetry import Hook, Telemetry

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0


class HeartbeatWriter:
    """Writes the heartbeat from a thread of its own: a frozen disk must not stop the ring loop."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._started_at = rfc3339_ms(time.time_ns())
        self._last: dict[str, tuple[float, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self, deadline: float) -> None:
        """Write a last heartbeat that says `stopped`, if the disk lets it until `deadline` (monotonic)."""
        self._stop.set()
        self._thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            self._write("running")
            if self._stop.wait(_INTERVAL_S):
                break
        self._write("stopped")

    def _write(self, state: Literal["running", "stopped"]) -> None:
        try:
            self._store.write(HEARTBEAT, msgspec.json.encode(self.snapshot(state)))
        except OSError as error:
            self._fail(f"writing the heartbeat: {describe_os_error(error)}: free space or check the data directory")
        except Exception as error:  # noqa: BLE001  # a stage boundary: without heartbeat the agent looks dead
            self._fail(f"writing the heartbeat: {type(error).__name__}: {error}: please report it")
        else:
            self._telemetry.heartbeat_error = ""
            self._telemetry.heartbeat_at = time.monotonic()

    def _fail(self, message: str) -> None:
        if message != self._telemetry.heartbeat_error:
            log.warning(message)
        self._telemetry.heartbeat_error = message

    def snapshot(self, state: Literal["running", "stopped"]) -> Heartbeat:
        """The heartbeat as of now."""
        hooks = {name: observer.read_hooks() for name, observer in self._telemetry.observers.items()}
        return Heartbeat(
            schema_version=SCHEMA_VERSION,
            agent_version=__version__,
            pid=os.getpid(),
            state=state,
            started_at=self._started_at,
            updated_at=rfc3339_ms(time.time_ns()),
            trouble=self._telemetry.trouble(hooks),
            observers={name: self._observer(name, found) for name, found in hooks.items()},
            sinks={
                sink.name: SinkState(**sink.results, queue=sink.backlog, last_error=sink.last_error)
                for sink in self._telemetry.sinks
            },
        )

    def _observer(self, name: str, hooks: list[Hook]) -> ObserverState:
        observer = self._telemetry.observers[name]
        now = time.monotonic()
        then, events = self._last.get(name, (now, observer.events))
        self._last[name] = now, observer.events
        return ObserverState(
            up=observer.is_up(hooks),
            reason=observer.reason,
            canary_round_trip_s=observer.canary_round_trip_s,
            canary_missed=observer.canary_missed,
            hooks=hooks,
            events=observer.events,
            events_per_s=round((observer.events - events) / (now - then), 1) if now > then else 0.0,
            anomalies=dict(observer.anomalies),
            lost=observer.lost(hooks),
            unattributed=observer.unattributed,
            suppressed=dict(observer.suppressed),
        )
