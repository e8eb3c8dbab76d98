"""Nanoseconds that each BPF program runs for a hit, and what the agent makes of a flood of records."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.changed_object import changed_object
from helpers.loops import run
from helpers.running_agent import RunningAgent, configured_agent
from loads import BENCH, Loads, bulk, cpu_s, out_of_memory, statistics_of_run_time

# Software events stand in for a PMU; a hardware counter takes some tens of ns more to read.
ALL_OBSERVERS = """
[node]
cycles = "software:cpu-clock"
instructions = "software:page-faults"
stalls = "software:major-faults"
"""
_OFTEN = "interval_ms = 10\n"
_HOOKS = {
    "network": ("inet_sock_set_state", "tcp_receive_reset", "tcp_probe"),
    "container": ("sched_process_exit", "mark_victim"),
    "storage": ("block_rq_issue", "block_rq_complete"),
    "node": ("cpu_sample",),
}
_RATES = (10_000, 30_000, 100_000, 200_000, 300_000)


def run_times(loads: Loads, folder: Path) -> list[str]:
    """A Markdown table of all hooks, with the hits that it rests on; tcp_retransmit_skb needs a network that loses."""
    lines = ["| program | under | ns a hit | hits |", "| --- | --- | ---: | ---: |"]
    with configured_agent(folder, ALL_OBSERVERS + _OFTEN) as agent, statistics_of_run_time():
        for what, load, hooks in (
            ("refused connects", loads.connects, ("inet_sock_set_state", "tcp_receive_reset")),
            ("4 KiB messages in bulk", lambda: bulk(1), ("tcp_probe",)),
            ("processes that succeed", lambda: loads.spawns(code=0), ("sched_process_exit",)),
            ("processes that fail", loads.spawns, ("sched_process_exit",)),
            ("OOM kills", lambda: out_of_memory(7), ("mark_victim",)),
            ("reads, 1 at a time", lambda: loads.reads(1), ("block_rq_issue", "block_rq_complete")),
            ("reads, 32 at a time", lambda: loads.reads(32), ("block_rq_issue", "block_rq_complete", "cpu_sample")),
        ):
            before = _runs(agent)
            load()
            after = _runs(agent)
            for hook in hooks:
                spent_s, hits = (now - then for now, then in zip(after[hook], before[hook], strict=True))
                lines.append(f"| `{hook}` | {what} | {spent_s / hits * 1e9:.0f} | {hits:,.0f} |")
    return lines


def _runs(agent: RunningAgent) -> dict[str, tuple[float, float]]:
    """Seconds and hits of each hook."""
    return {
        hook: (
            agent.metric(f'tapio_bpf_run_seconds_total{{program="{hook}"}}'),
            agent.metric(f'tapio_kernel_events_total{{hook="{hook}",observer="{observer}"}}'),
        )
        for observer, hooks in _HOOKS.items()
        for hook in hooks
    }


@contextlib.contextmanager
def flooded_agent(folder: Path) -> Iterator[RunningAgent]:
    """An agent whose network object has the program of flood.bpf.c too."""
    end = "char LICENSE[]"
    path = changed_object(folder, "network_monitor", (end, (BENCH / "flood.bpf.c").read_text() + end))
    flags = ("--observer=network", f"--ebpf-dir={path.parent}")
    with configured_agent(folder, "", *flags) as agent:
        yield agent


def losses(loads: Loads, folder: Path) -> tuple[list[str], float]:
    """A Markdown table of losses and CPU time by rate; and the ns that statistics themselves show for a program."""
    lines = [
        "| records/s asked for | reached | read | lost | CPU µs a record |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    read = 'tapio_events_total{observer="network"}'
    lost = 'tapio_lost_events_total{observer="network"}'
    with flooded_agent(folder) as agent:
        with statistics_of_run_time():
            own_ns = _empty_ns(agent)
        for rate in _RATES:
            before, used = (agent.metric(read), agent.metric(lost)), cpu_s(agent.pid)
            _, reached = loads.flood(rate, 10 if rate == 100_000 else 4)
            agent.settle(0.5)
            used = cpu_s(agent.pid) - used
            records, missing = (agent.metric(name) - then for name, then in zip((read, lost), before, strict=True))
            lines.append(
                f"| {rate:,} | {reached:,.0f} | {records:,.0f} | {missing:,.0f} | {used / records * 1e6:.2f} |"
            )
    return lines, own_ns


def _empty_ns(agent: RunningAgent) -> float:
    def now() -> tuple[float, float]:
        return (
            agent.metric('tapio_bpf_run_seconds_total{program="sys_enter"}'),
            agent.metric('tapio_kernel_events_total{hook="sys_enter",observer="network"}'),
        )

    before = now()
    run("dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=300000")
    spent_s, hits = (after - then for after, then in zip(now(), before, strict=True))
    return spent_s / hits * 1e9
