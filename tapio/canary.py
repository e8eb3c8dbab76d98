"""Canaries: harmless events of the agent's own that must come back through BPF program, ring and detector.

A quiet node and a blind agent look alike from the outside. So every 30 s (`agent.canary_interval_s`) the agent makes an
event that each observer must see: a refused connect for network, a child that ends with a code for container. The
detectors know it by exact facts (the kernel side's mark of the agent's own process, with ports or pid), so that it is
never an anomaly. Node needs none, its timer samples all the time: there the next sample stands in. For storage there
is nothing harmless that an unprivileged process could let fail.

An observer is blind when two canaries in a row did not come back within 5 s each; the second follows the first at
once. One that got lost with others in a full ring does not count: that is overload, and reported as such.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Hashable
from typing import Protocol

from tapio.clock import boot_ns
from tapio.errors import describe_os_error
from tapio.kernel.child import ExitingChild
from tapio.observers.base import Canary
from tapio.observers.container import CANARY_STATUS
from tapio.telemetry import ObserverTelemetry

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
_MISSES = 2  # in a row
_LOOPBACK = "127.0.0.1"
_OWN_INTERVALS = 20  # of processor time: some kernels sample no idle CPU, and this process is not always busy


class Bird(Protocol):
    """How an observer's own event is made."""

    def release(self) -> Hashable:
        """Make the event; the facts by which the detector knows it. OSError when it cannot be made here."""

    def doubt(self) -> str | None:
        """Why the event may not have happened, asked when it did not come back; '': too early to tell, None: it has."""

    def clean_up(self) -> None:
        """Give up what the event left."""


class RefusedConnect:
    """A connect to a port of loopback that is bound and does not listen. It is refused before connect() returns."""

    def __init__(self) -> None:
        self._sockets = contextlib.ExitStack()
        self._client: socket.socket | None = None
        self._refused = False

    def release(self) -> tuple[int, int]:
        """Both ports: the agent's own alone, as long as the sockets are open."""
        self.clean_up()
        target, client = (self._sockets.enter_context(socket.socket()) for _ in range(2))
        client.setblocking(False)
        for end in (target, client):
            end.bind((_LOOPBACK, 0))
        outcome = client.connect_ex(target.getsockname())
        if outcome not in (errno.ECONNREFUSED, errno.EINPROGRESS):
            raise OSError(outcome, os.strerror(outcome))
        self._client, self._refused = client, outcome == errno.ECONNREFUSED
        return client.getsockname()[1], target.getsockname()[1]

    def doubt(self) -> str | None:
        """A firewall may have swallowed it."""
        if self._client is not None and not self._refused:
            self._refused = self._client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        return None if self._refused else "a connect to a closed port of loopback is not refused"

    def clean_up(self) -> None:
        """Close the sockets."""
        self._client = None
        self._sockets.close()


class ChildExit:
    """A child that ends with a code at once. It stays a zombie until it was seen, so its pid means no other process."""

    def __init__(self) -> None:
        self._child = ExitingChild()
        self._pid = 0

    def release(self) -> tuple[int, int]:
        """Its pid, in the agent's pid namespace, and how it ends."""
        self.clean_up()
        if self._pid:
            raise OSError(errno.EBUSY, "the last child has not ended")
        self._pid = self._child.end(CANARY_STATUS >> 8)
        return self._pid, CANARY_STATUS

    def doubt(self) -> str | None:
        """None: it can do nothing else."""
        return None

    def clean_up(self) -> None:
        """Wait for it; it has ended, or is about to."""
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored here: the kernel waits for it
            if not self._pid or os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                return
        self._pid = 0


class NextSample:
    """Stands in for node: the timer samples by itself."""

    FACTS = "sample"

    def __init__(self, interval_s: float) -> None:
        self._needs_s = _OWN_INTERVALS * interval_s
        self._since_s = 0.0

    def release(self) -> str:
        """Any sample will do."""
        self._since_s = time.process_time()
        return self.FACTS

    def doubt(self) -> str | None:
        """Too early as long as this process itself did not run for so long that it must have been sampled."""
        return None if time.process_time() - self._since_s >= self._needs_s else ""

    def clean_up(self) -> None:
        """Nothing is left."""


def make_bird(observer: str, sample_interval_s: float) -> Bird | None:
    """The bird of an observer, None for one that has none."""
    if observer == "network":
        return RefusedConnect()
    if observer == "container":
        return ChildExit()
    return NextSample(sample_interval_s) if observer == "node" else None


class CanaryWatch:
    """Sends the canaries of one observer, and says in its telemetry what became of them."""

    def __init__(
        self,
        bird: Bird,
        canary: Canary,
        telemetry: ObserverTelemetry,
        lost: Callable[[], int],
        interval_s: float,
        clock: Callable[[], int] = boot_ns,
    ) -> None:
        """`lost`: events that the observer lost so far. An interval of 0 sends none. `clock`: the boot clock."""
        self._clock = clock
        self.interval_s = interval_s  # may change while the agent runs
        self._bird = bird
        self._canary = canary
        self._telemetry = telemetry
        self._lost = lost
        self._is_away = False
        self._misses = 0
        self._released_ns = self._next_ns = self._given_up_ns = 0
        self._lost_before = 0

    def turn(self, *, caught_up: bool) -> None:
        """Once for each turn of the loop, after the ring was read; `caught_up`: to its end."""
        now = self._clock()
        if self._is_away and self._canary.expected is None:
            self._came_back()
        elif self._is_away and now >= self._given_up_ns and caught_up:
            self._stayed_away(now)
        elif not self._is_away and self.interval_s > 0 and now >= self._next_ns:
            self._release(now)
        elif not self._is_away and self.interval_s <= 0:
            self._say("", "")

    def _release(self, now: int) -> None:
        self._lost_before = self._lost()
        self._next_ns = now + round(self.interval_s * 1e9)
        self._released_ns = self._clock()
        try:
            self._canary.expected = self._bird.release()
        except OSError as error:
            self._misses = 0
            self._bird.clean_up()
            self._say("", f"it sends no canary: {describe_os_error(error)}")
            return
        self._is_away = True
        self._given_up_ns = now + round(_PATIENCE_S * 1e9)

    def _came_back(self) -> None:
        self._telemetry.canary_round_trip_s = (self._canary.returned_ns - self._released_ns) / 1e9
        self._misses = 0
        self._end("", "")

    def _stayed_away(self, now: int) -> None:
        doubt = self._bird.doubt()
        if doubt == "":
            return
        self._canary.expected = None
        if doubt:
            self._misses = 0
            self._end("", f"it sends no canary: {doubt}")
            return
        self._telemetry.canary_missed += 1
        self._misses += self._lost() == self._lost_before
        if self._misses >= _MISSES:
            trip = f"{_MISSES} canaries in a row did not come back within {_PATIENCE_S:.0f} s"
            self._end(f"{trip}: what happens does not reach the agent: restart it", "")
        else:
            self._next_ns = now
            self._end(self._telemetry.blind, "")

    def _end(self, blind: str, note: str) -> None:
        self._is_away = False
        self._bird.clean_up()
        self._say(blind, note)

    def _say(self, blind: str, note: str) -> None:
        telemetry = self._telemetry
        if blind and not telemetry.blind:
            log.error("the observer %s is blind: %s", telemetry.name, blind)
        elif telemetry.blind and not blind:
            log.warning("the observer %s is blind no longer", telemetry.name)
        if note and note != telemetry.canary_note:
            log.warning("the observer %s: %s", telemetry.name, note)
        telemetry.blind, telemetry.canary_note = blind, note
