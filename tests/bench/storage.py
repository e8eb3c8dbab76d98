"""What watching block requests costs: random reads of fio on a loop device, without and with the agent.

    sudo .venv/bin/python tests/bench/storage.py [--seconds 2] [--rounds 9] [--depth 1] [--biosnoop]

The loop device stands on memory, so that nothing hides the cost: with one read at a time a request takes some
25 us, which is a very fast disk; with 32 at a time 4 us, which no disk does.

Prints IOPS of interleaved rounds, the median of the rounds' ratios (budget: at least 0.97) and the mean run time of the
programs for each pair of issue and completion (budget: at most 600 ns). `--biosnoop` measures libbpf-tools'
biosnoop beside it. Statistics of run time (kernel.bpf_stats_enabled) cost some 25 ns a run themselves: they are on
only in rounds of their own, that count for the nanoseconds and not for the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.loops import MIB, Loop, loop, run, tmpfs
from helpers.running_agent import RunningAgent, running_agent

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
_HOOKS = ("block_rq_issue", "block_rq_complete")


def read_randomly(device: Loop, seconds: int, depth: int) -> float:
    """IOPS of fio: 4 KiB direct reads, `depth` at a time."""
    words = f"--name=bench --filename={device.path} --rw=randread --bs=4k --direct=1 --ioengine=libaio"
    output = run(
        "fio",
        *words.split(),
        f"--iodepth={depth}",
        "--time_based",
        f"--runtime={seconds}",
        "--output-format=json",
        "--size=200m",
    )
    return float(json.loads(output)["jobs"][0]["read"]["iops"])


@contextlib.contextmanager
def statistics_of_run_time() -> Iterator[None]:
    """The kernel measures each run of a program meanwhile."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def cost_of_a_pair(agent: RunningAgent, device: Loop, seconds: int, depth: int) -> dict[str, float]:
    """Mean nanoseconds a run of each program."""

    def read() -> dict[str, tuple[float, float]]:
        return {
            hook: (
                agent.metric(f'tapio_bpf_run_seconds_total{{program="{hook}"}}'),
                agent.metric(f'tapio_kernel_events_total{{hook="{hook}",observer="storage"}}'),
            )
            for hook in _HOOKS
        }

    with statistics_of_run_time():
        before = read()
        read_randomly(device, seconds, depth)
        after = read()
    return {hook: (after[hook][0] - before[hook][0]) * 1e9 / (after[hook][1] - before[hook][1]) for hook in _HOOKS}


@contextlib.contextmanager
def biosnoop() -> Iterator[None]:
    """libbpf-tools' biosnoop, its output thrown away."""
    with subprocess.Popen(["/usr/sbin/biosnoop"], stdout=subprocess.DEVNULL) as tool:
        time.sleep(2)
        if tool.poll() is not None:
            raise SystemExit("biosnoop does not run on this kernel (it needs kprobes or fentry)")
        try:
            yield
        finally:
            tool.terminate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=2, help="of each round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--depth", type=int, default=1, help="reads at a time")
    parser.add_argument("--biosnoop", action="store_true", help="measure libbpf-tools' biosnoop too")
    arguments = parser.parse_args()
    iops: dict[str, list[float]] = {"nothing": [], "tapio": []} | ({"biosnoop": []} if arguments.biosnoop else {})
    with (
        tempfile.TemporaryDirectory() as name,
        tmpfs(Path(name) / "tmpfs", "300m") as folder,
        loop(folder / "image", 256 * MIB) as device,
    ):
        run("dd", "if=/dev/zero", f"of={device.path}", "bs=1M", "count=256", "oflag=direct")
        read_randomly(device, 1, arguments.depth)
        for number in range(arguments.rounds):
            iops["nothing"].append(read_randomly(device, arguments.seconds, arguments.depth))
            with running_agent(Path(name) / f"data{number}", "--observer=storage") as agent:
                iops["tapio"].append(read_randomly(device, arguments.seconds, arguments.depth))
            if arguments.biosnoop:
                with biosnoop():
                    iops["biosnoop"].append(read_randomly(device, arguments.seconds, arguments.depth))
        with running_agent(Path(name) / "data", "--observer=storage") as agent:
            costs = cost_of_a_pair(agent, device, arguments.seconds, arguments.depth)
    for what, values in iops.items():
        rounds = " ".join(f"{value:.0f}" for value in values)
        ratio = statistics.median(value / alone for value, alone in zip(values, iops["nothing"], strict=True))
        print(f"{what:9}  {statistics.median(values):8.0f} IOPS  ratio {ratio:.3f}   ({rounds})")
    print(", ".join(f"{hook} {cost:.0f} ns" for hook, cost in costs.items()), f"= {sum(costs.values()):.0f} ns a pair")


if __name__ == "__main__":
    main()
