"""Disks of a test's own: access past the page cache, and what the agent said of them."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers.cgroups import ScratchCgroup
from helpers.loops import Loop
from helpers.running_agent import RunningAgent, wait_for

KIB = 1024
WITHIN_S = 40  # what was folded leaves after 10 s
UNSEEN = 'tapio_kernel_missed_total{hook="block_rq_complete",observer="storage",reason="unseen"}'


def of_device(agent: RunningAgent, device: Loop) -> list[dict[str, Any]]:
    """The occurrences of one disk: other tests use disks too, and earlier ones had the same name."""
    return [
        found
        for found in agent.occurrences()
        if found["data"].get("device") == device.name and found["data"]["timestamp_ns"] >= device.made_at_ns
    ]


def counted(found: list[dict[str, Any]], what: str) -> int:
    """How many anomalies of a type the occurrences stand for."""
    return sum(item["data"]["count"] for item in found if item["type"] == f"kernel.storage.{what}")


def describe(found: list[dict[str, Any]]) -> str:
    """What was found instead, in few words."""
    return "; ".join(f"{item['error']['message']} x{item['data']['count']}" for item in found) or "nothing"


def expect(agent: RunningAgent, device: Loop, **expected: int) -> list[dict[str, Any]]:
    """The occurrences of the disk once they stand for what is expected, after time for one too many."""

    def reached() -> bool:
        found = of_device(agent, device)
        return all(counted(found, what) >= number for what, number in expected.items())

    wait_for(reached, WITHIN_S, lambda: describe(of_device(agent, device)))
    agent.settle()
    found = of_device(agent, device)
    assert {what: counted(found, what) for what in expected} == expected, describe(found)
    return [item for item in found if item["type"].rsplit(".", 1)[1] in expected]


class DirectFile:
    """A disk that is read and written past the page cache: each call is one request."""

    def __init__(self, device: Loop, size: int) -> None:
        self._descriptor = os.open(device.path, os.O_RDWR | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, size)

    def write(self, offset: int) -> None:
        os.pwritev(self._descriptor, [self._buffer], offset)

    def read(self, offset: int) -> None:
        os.preadv(self._descriptor, [self._buffer], offset)

    def close(self) -> None:
        os.close(self._descriptor)
        self._buffer.close()


@contextlib.contextmanager
def direct(device: Loop, size: int) -> Iterator[DirectFile]:
    file = DirectFile(device, size)
    try:
        yield file
    finally:
        file.close()


def fails(access: Callable[[int], None], place: int) -> bool:
    """Whether an access fails."""
    try:
        access(place)
    except OSError:
        return True
    return False


def in_threads(number: int, device: Loop, work: Callable[[DirectFile], int]) -> int:
    """The sum of what `work` returns in so many threads."""
    found: list[int] = []

    def run_one() -> None:
        with direct(device, 64 * KIB) as file:
            found.append(work(file))

    threads = [threading.Thread(target=run_one) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found)


def fill(folder: Path) -> None:
    """Leave no room on a filesystem."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(64 * KIB)) == 64 * KIB:
            pass


def charged_by(cgroup: ScratchCgroup) -> str:
    """How the cgroup of a request is known: where cgroup v2 controls I/O, the kernel charges it to the bio."""
    return "bio" if (cgroup._directories[0] / "io.stat").exists() else "task"
