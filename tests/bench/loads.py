"""What the benches load the machine with, and how they look at a process."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.cgroups import scratch_cgroup
from helpers.loops import MIB, Loop, loop, run, tmpfs
from helpers.ports import closed_port
from helpers.victims import command as victim

BENCH = Path(__file__).resolve().parent
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")


class Loads:
    """Each load returns its speed, in what it does a second."""

    def __init__(self, folder: Path, disk: Loop) -> None:
        """Compile the programs into `folder`; `disk` is to be read."""
        self._folder, self._disk = folder, disk
        for name in ("connect_storm", "spawn_storm", "flood"):
            run("clang", "-O2", "-o", folder / name, BENCH / f"{name}.c")

    def connects(self, times: int = 60_000) -> float:
        """Refused connects, one after the other."""
        with closed_port() as port:
            return times / float(run("taskset", "-c", "0", self._folder / "connect_storm", times, port))

    def spawns(self, times: int = 8_000, code: int = 3) -> float:
        """Processes that end with this code, one after the other."""
        return times / float(run("taskset", "-c", "0", self._folder / "spawn_storm", times, code))

    def reads(self, depth: int, seconds: int = 2) -> float:
        """fio: direct reads of 4 KiB, so many at a time."""
        words = [
            "--name=bench",
            "--rw=randread",
            "--bs=4k",
            "--direct=1",
            "--ioengine=libaio",
            "--time_based",
            "--size=200m",
        ]
        place = (f"--filename={self._disk.path}", f"--iodepth={depth}", f"--runtime={seconds}")
        return float(json.loads(run("fio", *words, *place, "--output-format=json"))["jobs"][0]["read"]["iops"])

    def flood(self, rate: int, seconds: float) -> tuple[int, float]:
        """Records by flood.bpf.c: how many were asked for, and how many that is a second."""
        asked, took_s = run("taskset", "-c", "0", self._folder / "flood", rate, seconds).split()
        return int(asked), int(asked) / float(took_s)


@contextlib.contextmanager
def all_loads() -> Iterator[Loads]:
    """The loads, with a disk in memory, so that no real one hides the cost."""
    with (
        tempfile.TemporaryDirectory(prefix="tapio-bench-") as name,
        tmpfs(Path(name) / "tmpfs", "300m") as folder,
        loop(folder / "image", 256 * MIB) as device,
    ):
        run("dd", "if=/dev/zero", f"of={device.path}", "bs=1M", "count=256", "oflag=direct")
        yield Loads(Path(name), device)


def bulk(seconds: float) -> None:
    """Small messages in bulk over loopback: many segments for tcp_probe."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        receiver, _ = server.accept()

        def receive() -> None:
            while receiver.recv(1 << 16):
                pass

        thread = threading.Thread(target=receive)
        thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client.send(bytes(4096))
        client.shutdown(socket.SHUT_WR)
        thread.join()
        receiver.close()


def out_of_memory(times: int) -> None:
    """So many OOM kills in a scratch cgroup."""
    with scratch_cgroup() as cgroup:
        cgroup.limit_memory(16 * MIB)
        for _ in range(times):
            cgroup.run(victim("eat_memory", 1))


@contextlib.contextmanager
def statistics_of_run_time() -> Iterator[None]:
    """The kernel measures each run of a program meanwhile, which costs some 25 ns itself."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


def resident_mib(pid: int, key: str = "VmRSS") -> float:
    """VmRSS or VmHWM."""
    (line,) = (li for li in Path(f"/proc/{pid}/status").read_text().splitlines() if li.startswith(key))
    return int(line.split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """Processor time of all threads so far, to the nanosecond."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
