"""Disks on files of other disks: one incident is told once, on the lowest floor, and nobody else is silenced by it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.disks import KIB, WITHIN_S, DirectFile, counted, direct, expect, fails, fill, in_threads, of_device
from helpers.loops import MIB, Loop, ext4, frozen, ground_floor, loop, run, shut_down
from helpers.running_agent import RunningAgent, wait_for

pytestmark = pytest.mark.kernel

STACKED = 'tapio_suppressed_records_total{observer="storage",reason="stacked"}'

# A loop disk's backing file is known by loop's own type. A kernel without BTF of modules (5.10) does not show it.
needs_loops_type = pytest.mark.skipif(
    Path("/sys/module/loop/initstate").exists() and not Path("/sys/kernel/btf/loop").exists(),
    reason="loop is a module here and the kernel has no BTF of it: what a loop disk stands on is unknown",
)


def stalled(agent: RunningAgent, device: Loop) -> list[dict[str, Any]]:
    """The spikes of a disk that somebody held up: under emulation every disk takes more than 50 ms now and then."""
    spikes = [item for item in of_device(agent, device) if item["type"] == "kernel.storage.latency_spike"]
    return [item for item in spikes if item["data"].get("latency_ms", 0) >= 500]


@contextlib.contextmanager
def two_floors(tmp_path: Path, lower_size: int, upper_size: int) -> Iterator[tuple[Loop, Loop]]:
    """A disk that has no room any more, and one whose file is on it and which passes every request on."""
    with (
        ground_floor(tmp_path, "48m", lower_size) as (lower, mount),
        loop(mount / "1", upper_size, "--direct-io=on") as upper,
    ):
        run("sync", "-f", mount)
        fill(tmp_path / "ground")
        yield lower, upper


@needs_loops_type
def test_a_slow_disk_below_is_one_story(agent: RunningAgent, tmp_path: Path) -> None:
    """Three floors: only the lowest disk that was slow is named."""
    with (
        ground_floor(tmp_path, "512m", 256 * MIB) as (ground, mount),
        loop(mount / "1", 128 * MIB) as lower,
        ext4(lower, tmp_path / "mount1") as lower_mount,
        loop(lower_mount / "2", 32 * MIB, "--direct-io=on") as upper,
        direct(upper, 64 * KIB) as file,
    ):
        for index in range(4):  # lay the file out, so that nothing but the write itself waits
            file.write(index * 64 * KIB)
        run("sync", "-f", lower_mount)
        before = agent.metric(STACKED)
        with frozen(mount):
            writer = threading.Thread(target=file.write, args=(64 * KIB,))
            writer.start()
            time.sleep(1.0)
        writer.join()
        wait_for(lambda: stalled(agent, lower), WITHIN_S)
        expect(agent, upper, io_error=0)
        expect(agent, ground, io_error=0)
        (spike,) = stalled(agent, lower)
        assert spike["data"]["latency_ms"] >= 800
        assert stalled(agent, upper) == []
        assert agent.metric(STACKED) - before >= 1


@needs_loops_type
def test_an_error_below_is_one_story(agent: RunningAgent, tmp_path: Path) -> None:
    """The lower disk has no room; the upper one fails because of it, and only the lower one is named."""
    with (
        two_floors(tmp_path, 128 * MIB, 64 * MIB) as (lower, upper),
        direct(upper, 64 * KIB) as file,
    ):
        failed = 0
        for index in range(512):
            try:
                file.write(index * 64 * KIB)
            except OSError:
                failed += 1
            if failed == 7:
                break
        assert failed == 7
        wait_for(lambda: counted(of_device(agent, lower), "io_error") >= failed, WITHIN_S)
        expect(agent, upper, io_error=0)


@needs_loops_type
def test_errors_below_of_eight_at_a_time_are_one_story(agent: RunningAgent, tmp_path: Path) -> None:
    """Each of the 97 that failed above is explained by its own error below, however they overlap."""
    with two_floors(tmp_path, 512 * MIB, 256 * MIB) as (lower, upper):
        before = agent.metric(STACKED)
        places = iter(range(0, 64 * KIB * 97, 64 * KIB))
        failed = in_threads(8, upper, lambda file: [fails(file.write, place) for place in places].count(True))
        assert failed == 97
        wait_for(lambda: counted(of_device(agent, lower), "io_error") >= failed, WITHIN_S)
        expect(agent, upper, io_error=0)
        assert agent.metric(STACKED) - before == 97


@needs_loops_type
@pytest.mark.parametrize("other", ["of another errno", "of another direction", "of a process"])
def test_an_upper_disks_own_errors_are_told_beside_errors_below(
    agent: RunningAgent, tmp_path: Path, other: str
) -> None:
    """The filesystem between the two was shut down, so nothing goes down; below, others fail all the time."""
    with (
        ground_floor(tmp_path, "80m", 256 * MIB) as (lower, mount),
        loop(mount / "upper", 32 * MIB) as upper,
    ):
        run("sync", "-f", mount)
        fill(tmp_path / "ground")
        if other != "of another errno":
            os.truncate(tmp_path / "ground" / "image", 128 * MIB)  # what lies behind cannot be read
        shut_down(mount)
        before, done = agent.metric(STACKED), threading.Event()

        def fail_below(file: DirectFile) -> int:
            access = file.write if other == "of another errno" else file.read
            return [fails(access, 192 * MIB) for _ in iter(done.is_set, True)].count(True)

        below: list[int] = []
        neighbour = threading.Thread(target=lambda: below.append(in_threads(1, lower, fail_below)))
        neighbour.start()
        try:
            with direct(upper, 64 * KIB) as file:
                access = file.read if other == "of a process" else file.write
                assert all(fails(access, index * 64 * KIB) for index in range(293))
        finally:
            done.set()
            neighbour.join()
        assert below[0] >= 10
        expect(agent, upper, io_error=293)
        assert agent.metric(STACKED) == before
