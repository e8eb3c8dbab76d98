"""Runs inside the machines of `pmu.py`: prints what it finds as lines of `FOUND {json}`."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from guest import prepare, tell

# subs x0, x0, #1; b.ne .-4; ret: two instructions a turn
CODE = b"".join(word.to_bytes(4, "little") for word in (0xF1000400, 0x54FFFFE1, 0xD65F03C0))
HOTPLUG = """[node]
instructions = "software:page-faults"
stalls = "hardware:cpu-cycles"
sustained_intervals = 10
"""

memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(CODE)
turn = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))


def count_loops() -> None:
    """Instructions and cycles of loops of a known length, between two samples around them."""
    from tapio.config import Config
    from tapio.kernel import memory as kernel_memory
    from tapio.kernel.layout import make_decoder
    from tapio.kernel.ringbuf import RingBuffer
    from tapio.observers.node_deltas import FIELDS
    from tapio.source import attach_observers

    (attachment,) = attach_observers(Config(observers=("node",))).attached
    loaded = attachment.loaded
    ring = RingBuffer(attachment.descriptors["events"], loaded.sizes["events"], kernel_memory.fence())
    decode = make_decoder(loaded.record("cpu_record"), FIELDS)

    def next_sample() -> Any:
        ring.read(1 << 16)
        while not (records := ring.read(1)):
            pass
        return decode(records[0])

    loops = []
    for turns in (100_000_000, 300_000_000, 500_000_000):
        before = next_sample()
        turn(turns)
        after = next_sample()
        instructions, cycles = (after.instructions_value - before.instructions_value,
                                after.cycles_value - before.cycles_value)  # fmt: skip
        loops.append((2 * turns, instructions, cycles))
    tell(events=loaded.events, loops=loops)
    ring.close()
    attachment.close()


def run_agent(work: Any, *flags: str) -> None:
    """The agent while `work` is done."""
    out, log = Path("/tmp/out"), Path("/tmp/log")
    command = ["tapio-agent", "--observer=node", "--sink=stdout", "--data-dir=/tmp/data"]
    command.append("--metrics-address=127.0.0.1:9464")
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen([*command, *flags], stdout=stdout, stderr=stderr)
    while "observing" not in log.read_text() and process.poll() is None:
        time.sleep(0.2)
    work()
    with urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=30) as answer:
        lines = [line for line in answer.read().decode().splitlines() if "_cpu" in line and line[0] != "#"]
    with urllib.request.urlopen("http://127.0.0.1:9464/readyz", timeout=30) as answer:
        ready = answer.status
    process.send_signal(signal.SIGTERM)
    tell(
        exit=process.wait(60),
        ready=ready,
        metrics={name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)},
        log=log.read_text(),
        occurrences=[json.loads(line) for line in out.read_text().splitlines()],
    )


def loop_for_a_while() -> None:
    until = time.monotonic() + 4
    while time.monotonic() < until:
        turn(20_000_000)


def unplug_and_plug() -> None:
    """CPU 0 is busy; CPU 1 goes and comes back, without its counters."""
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {0})
        while True:
            turn(1_000_000)
    time.sleep(6)
    for state in "01":
        Path("/sys/devices/system/cpu/cpu1/online").write_text(state)
        time.sleep(4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    prepare()
    if "what=count" in Path("/proc/cmdline").read_text().split():
        count_loops()
        run_agent(loop_for_a_while)
    else:
        Path("/tmp/tapio.toml").write_text(HOTPLUG)
        run_agent(unplug_and_plug, "--config=/tmp/tapio.toml")
