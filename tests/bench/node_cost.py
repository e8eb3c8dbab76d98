"""What a CPU sample costs: BPF run time per hit, and the agent's CPU time per record.

Run as root: `.venv/bin/python tests/bench/node_cost.py`. Counts with software events, so that it runs without a PMU;
a hardware counter takes some tens of ns more to read.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.counters import Cpu, make_observer

from tapio.config import Config, NodeConfig
from tapio.kernel import memory
from tapio.kernel.programs import Program
from tapio.source import attach_observers

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")


def bpf_ns_per_hit(seconds: float) -> tuple[float, int]:
    """Mean run time of the program while this process keeps its CPU busy."""
    events = {"cycles": "software:cpu-clock", "instructions": "software:page-faults", "stalls": "software:major-faults"}
    outcome = attach_observers(Config(observers=("node",), node=NodeConfig(interval_ms=10, **events)))
    (attachment,) = outcome.attached
    counters = memory.HookCounters(attachment)
    memory.Section(attachment, ".data", writable=True).write("settings", {"counts_stalls": 1})
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        program = Program(attachment.descriptors["program:cpu_sample"])
        hits, run_ns = counters.read()["cpu_sample"]["hits"], program.info().run_ns
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        hits = counters.read()["cpu_sample"]["hits"] - hits
        return (program.info().run_ns - run_ns) / hits, hits
    finally:
        STATS.write_text(before)
        attachment.close()


def agent_us_per_record(records: int) -> float:
    """Decoding, differences, judging and counting of one record."""
    observer, cpu = make_observer(sustained_intervals=50, ipc_learning_s=60), Cpu()
    batch = [cpu.sample(stalled=0.1 + index % 7 / 50) for index in range(records)]
    started = time.process_time()
    observer.decode(batch)
    return (time.process_time() - started) / records * 1e6


if __name__ == "__main__":
    print(f"agent: {agent_us_per_record(50_000):.2f} us per record")
    ns, hits = bpf_ns_per_hit(10)
    print(f"kernel: {ns:.0f} ns per hit ({hits} hits)")
