"""The CLI's budgets: 100,000 files, cold starts, memory. Run alone: python tests/bench/cli.py [FILES]."""

from __future__ import annotations

import os
import pty
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.data_dirs import TAPIO, DataDir

RUNS = 9


def fill(data: DataDir, number: int) -> None:
    """Files half a second apart, of all types, with a pod's context."""
    kinds = ("connection_refused", "oom_kill", "abnormal_exit", "latency_spike")
    for index in range(number):
        data.add(kinds[index % 4], index * 0.5, pod=f"shop/api-{index % 200}")


def measure(command: Sequence[str], data: DataDir, *, terminal: bool) -> tuple[float, float, float]:
    """Median and worst milliseconds, and peak resident MiB."""
    times = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    for _ in range(RUNS):
        environment = {**os.environ, "TAPIO_DATA_DIR": str(data.path)}
        start = time.perf_counter()
        if terminal:
            master, slave = pty.openpty()
            with subprocess.Popen(
                [TAPIO, *command], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=environment
            ) as process:
                os.close(slave)
                try:
                    while os.read(master, 65536):
                        pass
                except OSError:
                    pass
                process.wait()
            os.close(master)
        else:
            subprocess.run(
                [TAPIO, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, check=False
            )
        times.append((time.perf_counter() - start) * 1000)
    peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return statistics.median(times), max(times), peak / 1024


def memory(command: Sequence[str], data: DataDir) -> float:
    """Peak resident MiB of one run, by itself."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, TAPIO, *command, "--data-dir", data.path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(ended.stdout) / 1024


def main() -> None:
    """Print a table: what, the budget, what was measured."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as directory:
        small, large = DataDir(Path(directory, "small")), DataDir(Path(directory, "large"))
        fill(small, 100)
        fill(large, number)
        for data in (small, large):
            data.heartbeat(age_s=-8)  # fresh for a while
        print(f"{'command':44} {'files':>7} {'budget':>7} {'median':>7} {'worst':>7}   ms")
        for command, data, files, budget, terminal in (
            (["recent"], large, number, 300, False),
            (["recent", "--since", "5m"], large, number, 300, False),
            (["recent", "--json", "--limit", "100"], large, number, 300, False),
            (["recent"], large, number, 300, True),
            (["--version"], small, 100, 120, False),
            (["status"], small, 100, 120, False),
            (["status", "--json"], small, 100, 120, False),
            (["health", "--json"], small, 100, 120, False),
            (["recent", "--json"], small, 100, 120, False),
            (["tune", "--json", "--set", "storage.warning_ms=99"], small, 100, 120, False),
            (["watch", "--json", "--since", "1m", "--limit", "1"], small, 100, 120, False),
            (["status"], small, 100, 250, True),
            (["health"], small, 100, 250, True),
            (["recent"], small, 100, 250, True),
            (["recent", "--pod", "none"], large, number, 0, False),
            (["health"], large, number, 0, False),
        ):
            median, worst, _ = measure(command, data, terminal=terminal)
            where = " (terminal)" if terminal else ""
            shown = str(budget) if budget else "-"
            print(f"{' '.join(command) + where:44} {files:7} {shown:>7} {median:7.0f} {worst:7.0f}")
        for command in (["recent"], ["recent", "--pod", "none"], ["status"]):
            few, many = memory(command, small), memory(command, large)
            print(f"peak memory of {' '.join(command)}: {few:.1f} MiB with 100 files, {many:.1f} MiB with {number}")


if __name__ == "__main__":
    main()
