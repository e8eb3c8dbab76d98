"""Loads on one CPU. Run as a program: `python cpu_load.py HOW CPU [ARGUMENT...]`; `faults` prints what it did."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def load(how: str, cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    """A load in the background, ended on leaving."""
    process = subprocess.Popen([sys.executable, "-S", "-E", Path(__file__), how, str(cpu)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def fault(cpu: int, number: int) -> int:
    """Make `number` page faults on `cpu`; returns how many the kernel has counted for it."""
    command = [sys.executable, "-S", "-E", Path(__file__), "faults", str(cpu), str(number)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _fault_pages(pages: int) -> None:
    with mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1


def _main(how: str, cpu: str, number: str = "") -> None:
    os.sched_setaffinity(0, {int(cpu)})
    os.nice(-20)
    if how == "spin":
        while True:
            pass
    if how == "fault":
        while True:
            _fault_pages(4096)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _fault_pages(int(number))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
