"""What the agent itself needs: start, idle time, memory, CPU and time of an occurrence."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.cgroups import scratch_cgroup
from helpers.running_agent import UNFOLDED, RunningAgent, configured_agent, wait_for
from hooks import ALL_OBSERVERS
from loads import Loads, cpu_s, resident_mib
from storm import storm_of_connects

_IDLE_S = 10
_STARTS = 3
DISCARD = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Discard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Discard)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def discarding_receiver() -> Iterator[str]:
    """An OTLP/HTTP receiver in a process of its own that takes everything and keeps nothing; its URL."""
    with subprocess.Popen([sys.executable, "-c", DISCARD], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


@contextlib.contextmanager
def whole_agent(folder: Path, config: str = "") -> Iterator[RunningAgent]:
    """All observers, the sinks stdout, file and otlp."""
    folder.mkdir(mode=0o755)
    with discarding_receiver() as url:
        flags = ("--sink=otlp",)
        with configured_agent(
            folder, config + ALL_OBSERVERS, *flags, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        ) as agent:
            yield agent


def measure(loads: Loads, folder: Path) -> list[str]:
    """Rows of a Markdown table: what, the budget, what was measured."""
    rows = ["| what | budget | measured |", "| --- | ---: | ---: |"]
    starts = []
    for number in range(_STARTS):
        began = time.monotonic()
        with whole_agent(folder / f"start{number}") as agent:
            starts.append(time.monotonic() - began)
    rows.append(f"| start until all hooks are attached, by `/readyz` | 2 s | {statistics.median(starts):.2f} s |")
    with whole_agent(folder / "idle") as agent:
        time.sleep(3)
        started_mib, used = resident_mib(agent.pid), cpu_s(agent.pid)
        time.sleep(_IDLE_S)
        idle = (cpu_s(agent.pid) - used) / _IDLE_S
        rows.append(f"| idle, of one CPU | 0.5 % | {idle:.2%} |")
        rows.append(f"| VmRSS after start, all observers, file and OTLP | 50 MiB | {started_mib:.1f} MiB |")
        rows += storm_of_connects(agent, loads, 1_000_000).rows()
    with whole_agent(folder / "each", UNFOLDED) as agent:
        rows.append(_latency(agent))
        rows.append(
            f"| CPU of an occurrence to file and OTLP | 500 µs | {_cpu_of_an_occurrence(agent, loads):.0f} µs |"
        )
    return rows


def _cpu_of_an_occurrence(agent: RunningAgent, loads: Loads, number: int = 3_000) -> float:
    """Microseconds."""
    accepted = 'tapio_sink_occurrences_total{result="accepted",sink="otlp"}'
    before, used = agent.metric(accepted), cpu_s(agent.pid)
    loads.spawns(number)
    wait_for(lambda: agent.metric(accepted) - before >= number, 30)
    return (cpu_s(agent.pid) - used) / (agent.metric(accepted) - before) * 1e6


def _latency(agent: RunningAgent, number: int = 200) -> str:
    """From the kernel's time of an exit until its file has its name, by the file's ctime (a tick exact: 1 to 4 ms)."""
    with scratch_cgroup() as cgroup:
        for _ in range(number):
            cgroup.run(["/bin/false"])
            time.sleep(0.037)
        agent.settle(1)
        found = agent.of_cgroup(cgroup.id)
    took = [(agent.data_dir / f"{one['id']}.json").stat().st_ctime_ns - one["data"]["timestamp_ns"] for one in found]
    took_ms = sorted(value / 1e6 for value in took)
    p50, p99 = took_ms[len(took_ms) // 2], took_ms[len(took_ms) * 99 // 100]
    return f"| kernel event to file, p50 and p99 of {len(took)} | p99 200 ms | {p50:.0f} and {p99:.0f} ms |"
