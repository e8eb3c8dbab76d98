"""Canaries: what came back, what did not, and when that makes an observer blind."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from tapio.canary import CanaryWatch, ChildExit, NextSample, RefusedConnect
from tapio.observers.base import Canary, own_process
from tapio.telemetry import ObserverTelemetry

S = 1_000_000_000


class MadeUpBird:
    """A bird whose fate the test decides."""

    def __init__(self) -> None:
        self.released = self.cleaned = 0
        self.error: OSError | None = None
        self.doubts: str | None = None

    def release(self) -> int:
        if self.error is not None:
            raise self.error
        self.released += 1
        return self.released

    def doubt(self) -> str | None:
        return self.doubts

    def clean_up(self) -> None:
        self.cleaned += 1


class Scene:
    """A watch with made-up time."""

    def __init__(self, interval_s: float = 30) -> None:
        self.now, self.lost = 1, 0
        self.bird, self.canary, self.telemetry = MadeUpBird(), Canary(), ObserverTelemetry("network")
        self.watch = CanaryWatch(
            self.bird, self.canary, self.telemetry, lambda: self.lost, interval_s, lambda: self.now
        )

    def turn(self, after_s: float = 0.05, *, comes_back: bool = False, caught_up: bool = True) -> None:
        self.now += round(after_s * S)
        if comes_back:
            self.canary.notice(self.bird.released)
            self.canary.returned_ns = self.now
        self.watch.turn(caught_up=caught_up)


def test_one_in_each_interval_and_its_round_trip() -> None:
    scene = Scene()
    for _ in range(1201):  # a minute
        scene.turn(comes_back=True)
    assert scene.bird.released == 3  # at 0, 30 and 60 s
    assert scene.telemetry.canary_round_trip_s == 0.05
    assert (scene.telemetry.canary_missed, scene.telemetry.blind, scene.telemetry.reason) == (0, "", "")


def test_one_missing_is_counted_and_two_are_blindness() -> None:
    scene = Scene()
    scene.turn()
    scene.turn(4.9)
    assert scene.telemetry.canary_missed == 0
    scene.turn(0.2)
    assert (scene.telemetry.canary_missed, scene.telemetry.blind) == (1, "")
    scene.turn()  # the second follows at once
    assert scene.bird.released == 2
    scene.turn(5.1)
    assert scene.telemetry.canary_missed == 2
    assert "2 canaries in a row did not come back within 5 s" in scene.telemetry.blind
    assert not scene.telemetry.is_up([])
    scene.turn(30)
    scene.turn(comes_back=True)
    assert (scene.telemetry.canary_missed, scene.telemetry.blind) == (2, "")


def test_one_that_comes_late_is_forgotten() -> None:
    scene = Scene()
    scene.turn()
    scene.turn(5.1)
    scene.canary.notice(1)
    assert scene.canary.returned_ns == 0
    scene.turn()
    scene.turn(comes_back=True)
    scene.turn(30)
    assert scene.telemetry.blind == ""


def test_overload_is_no_blindness() -> None:
    """One that was lost with others, and one behind a ring that is not yet read to its end."""
    scene = Scene()
    for _ in range(20):
        scene.turn()
        scene.lost += 1
        scene.turn(5.1)
    assert scene.telemetry.canary_missed == 20
    assert scene.telemetry.blind == ""
    scene = Scene()
    scene.turn()
    for _ in range(20):
        scene.turn(5.1, caught_up=False)
    assert scene.telemetry.canary_missed == 0


def test_what_cannot_be_sent_is_a_reason_and_no_blindness() -> None:
    scene = Scene()
    scene.bird.error = OSError(99, "Cannot assign requested address")
    scene.turn()
    assert "sends no canary: cannot assign requested address" in scene.telemetry.reason
    assert (scene.telemetry.blind, scene.telemetry.canary_missed) == ("", 0)
    scene.bird.error = None
    scene.turn(30)
    scene.turn(comes_back=True)
    assert scene.telemetry.reason == ""


def test_what_did_not_happen_was_not_missed() -> None:
    scene = Scene()
    scene.bird.doubts = "a connect to a closed port of loopback is not refused"
    for _ in range(5):
        scene.turn()
        scene.turn(30)
    assert "is not refused" in scene.telemetry.reason
    assert (scene.telemetry.blind, scene.telemetry.canary_missed) == ("", 0)
    scene.bird.doubts = ""  # too early to tell
    scene.turn()
    for _ in range(5):
        scene.turn(30)
    assert scene.telemetry.canary_missed == 0


def test_none_is_sent_when_it_is_off() -> None:
    scene = Scene(interval_s=0)
    for _ in range(100):
        scene.turn(30)
    assert scene.bird.released == 0
    scene.watch.interval_s = 1
    scene.turn()
    assert scene.bird.released == 1


def test_a_step_of_the_clock_after_suspend_is_read_first() -> None:
    """The record waited in the ring while the machine slept: it came back, late."""
    scene = Scene()
    scene.turn()
    scene.turn(3600, comes_back=True)
    assert scene.telemetry.canary_missed == 0
    assert scene.telemetry.canary_round_trip_s == 3600


def test_a_connect_is_refused_on_ports_of_its_own() -> None:
    bird = RefusedConnect()
    ours, theirs = bird.release()
    assert ours != theirs
    assert bird.doubt() is None
    for port in (ours, theirs):  # still bound, so nobody else can have them
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.1", port)) != 0
    bird.clean_up()
    bird.clean_up()


def test_children_end_with_their_code_and_leave_nothing() -> None:
    bird, before = ChildExit(), len(os.listdir("/proc/self/fd"))
    for _ in range(7):
        pid, status = bird.release()
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_status == status >> 8  # type: ignore[union-attr]
        assert Path(f"/proc/{pid}").exists()
        bird.clean_up()
        assert not Path(f"/proc/{pid}").exists()
    assert len(os.listdir("/proc/self/fd")) == before
    assert bird.doubt() is None


def test_a_sample_is_missed_only_when_this_process_must_have_been_sampled() -> None:
    bird = NextSample(0.001)
    bird.release()
    assert bird.doubt() == ""
    until = time.process_time() + 0.021
    while time.process_time() < until:
        pass
    assert bird.doubt() is None


def test_only_these_facts_are_the_canary() -> None:
    canary = Canary()
    canary.notice((7, 8))
    assert canary.returned_ns == 0
    canary.expected = (7, 8)
    canary.notice((8, 7))
    assert canary.expected == (7, 8)
    canary.notice((7, 8))
    assert canary.expected is None


def test_who_the_agent_is(tmp_path: Path) -> None:
    assert own_process()["own_tgid"] == os.getpid()
    assert own_process(tmp_path)["own_pidns_inode"] == tmp_path.stat().st_ino
