"""Figures of the otlp sink: `.venv/bin/python tests/bench/delivery.py` as root, on a quiet machine.

Of each fault: delivered, duplicated, lost; records a second and CPU a record; kernel event to a collector's file;
resident memory through a storm while nobody listens.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from agent_cost import discarding_receiver
from helpers.cgroups import scratch_cgroup
from helpers.collector import PIPELINES, collector_binary, free_port, running_collector
from helpers.no_folding import no_folding
from helpers.occurrences import POD, occurrences
from helpers.receiver import receiver
from helpers.running_agent import running_agent, wait_for
from loads import resident_mib

from tapio.sinks.delivery import Backoff
from tapio.sinks.otlp import OtlpSink
from tapio.sinks.otlp_environment import read_settings

FAULTS = ["ok", "429:1", "502", "503", "503:1", "504", "reset", "garbage", "nonsense", "cut", "hang", "drip",
          "drip-head", "huge", "413>3", "400", "401", "302", "partial:7"]  # fmt: skip
OVERLAY = """
exporters: {file: {path: "${env:OUTPUT}", flush_interval: 10ms}}
service: {pipelines: {logs: {exporters: [file]}, metrics: {exporters: [file]}}}
"""


def make_sink(url: str, folder: Path, backoff: Backoff | None = None) -> OtlpSink:
    """A sink with a spool of its own."""
    settings = read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}, "logs")
    return OtlpSink(settings, {"service.name": "tapio"}, os.open(folder, os.O_RDONLY), 64 << 20, backoff)


def fault_table() -> None:
    """Each fault twice in a row, then health."""
    print(f"{'fault':<12}{'sent':>6}{'delivered':>11}{'duplicated':>12}{'rejected':>10}{'lost':>6}")
    for fault in FAULTS:
        with receiver() as collector, tempfile.TemporaryDirectory() as folder:
            if fault.startswith("413"):
                collector.otherwise = fault
            else:
                collector.script += [fault] * 2
            sink = make_sink(collector.url, Path(folder), Backoff(0.02, 0.1))
            sent = occurrences(23)
            for one in sent:
                sink.send(one)
            wait_for(lambda sink=sink: sink.backlog == 0, 30)
            sink.close()
            ids = collector.ids()
            delivered, rejected = len(ids), sink.results["rejected"]
            duplicated = sum(count > 1 for count in ids.values())
            lost = len(sent) - delivered - rejected
            print(f"{fault:<12}{len(sent):>6}{delivered:>11}{duplicated:>12}{rejected:>10}{lost:>6}")


def throughput(number: int = 20_000) -> None:
    """A backlog, drained into a receiver in another process that only discards."""
    with discarding_receiver() as url, tempfile.TemporaryDirectory() as folder:
        sink = make_sink(url, Path(folder))
        batch = occurrences(number, context=POD, exit_code=137, signal=9, ppid=1, uid=0, memory_usage_bytes=1 << 29)
        cpu, started = time.process_time(), time.monotonic()
        for one in batch:
            while len(sink._intake) > 4000:
                time.sleep(0.001)
            sink.send(one)
        sink.flush(time.monotonic() + 60)
        took_s, cpu_s = time.monotonic() - started, time.process_time() - cpu
        print(
            f"{sink.results['accepted']} records: {number / took_s:.0f}/s, {cpu_s / number * 1e6:.0f} µs CPU a record"
        )
        sink.close()


def latency(folder: Path, number: int = 200) -> None:
    """From the kernel's time of an exit to the line in the file of a collector, 20 a second."""
    port, output, overlay = free_port(), folder / "output", folder / "overlay.yaml"
    overlay.write_text(OVERLAY)
    configs = (PIPELINES / "agent.yaml", overlay)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    with (
        no_folding() as config,
        running_collector(collector_binary(), folder / "collector", *configs, port=port, OUTPUT=str(output)),
        running_agent(folder / "latency", "--sink=otlp", config, environment=environment) as agent,
        scratch_cgroup() as cgroup,
    ):
        seen, arrived = 0, {}
        for turn in range(number * 50 // 10 + 200):  # every 10 ms
            if turn % 5 == 0 and turn < number * 5:
                cgroup.run(["/bin/false"])
            text = output.read_bytes() if output.exists() else b""
            now = time.time_ns()
            for one in agent.of_cgroup(cgroup.id) if len(text) > seen else ():
                if one["id"].encode() in text:
                    arrived.setdefault(one["id"], (now - one["data"]["timestamp_ns"]) / 1e6)
            seen = len(text)
            time.sleep(0.01)
        values = sorted(arrived.values())
        print(f"kernel event to a collector's file: {len(values)} of {number} arrived, "
              f"p50 {statistics.median(values):.0f} ms, p99 {values[int(len(values) * 0.99)]:.0f} ms")  # fmt: skip


def outage(folder: Path, seconds: float = 60) -> None:
    """The receiver is away for so long, with five exits a second; half-way one agent is killed and the next starts."""
    with receiver() as collector, scratch_cgroup() as cgroup, no_folding() as config:
        collector.stop()
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        sent: set[str] = set()
        for _ in range(2):
            with running_agent(folder / "outage", "--sink=otlp", config, environment=environment) as agent:
                until = time.monotonic() + seconds / 2
                while time.monotonic() < until:
                    cgroup.run(["/bin/false"])
                    time.sleep(0.2)
                agent.settle(1.0)
                sent |= {one["id"] for one in agent.of_cgroup(cgroup.id)}
                agent.process.kill()
        collector.start()
        with running_agent(folder / "outage", "--sink=otlp", config, environment=environment):
            started = time.monotonic()
            wait_for(lambda: sent <= set(collector.ids()), 60)
            took_s = time.monotonic() - started
            time.sleep(1)
        ids = collector.ids()
        twice = sum(ids[one] > 1 for one in sent)
        print(f"{seconds:.0f} s without a receiver, the agent killed twice: {len(sent)} sent, "
              f"{sum(one in ids for one in sent)} delivered within {took_s:.1f} s, {twice} of them twice")  # fmt: skip


def memory(folder: Path, number: int = 10_000) -> None:
    """Real exits with nobody listening, then the receiver comes."""
    with receiver() as collector, scratch_cgroup() as cgroup, no_folding() as config:
        collector.stop()
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with running_agent(folder / "memory", "--sink=otlp", config, environment=environment) as agent:
            agent.get("/metrics")
            before = resident_mib(agent.pid)
            cgroup.run(["/bin/sh", "-c", f"for i in $(seq {number}); do /bin/false; done"])
            agent.settle(1.0)
            during = resident_mib(agent.pid)
            collector.start()
            wait_for(lambda: agent.metric('tapio_sink_queue{sink="otlp"}') == 0, 60)
            after, peak = resident_mib(agent.pid), resident_mib(agent.pid, "VmHWM")
            print(f"VmRSS {before:.1f} MiB before, {during:.1f} after {number} exits with nobody listening, "
                  f"{after:.1f} after delivering, peak {peak:.1f}")  # fmt: skip


if __name__ == "__main__":
    fault_table()
    throughput()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        outage(Path(name))
        latency(Path(name))
        memory(Path(name))
