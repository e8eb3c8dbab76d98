"""What the network observer costs: a connect storm beside it and beside others, and time per hook hit.

Run as root from the checkout, on a machine that does nothing else:

    .venv/bin/python tests/bench/network.py [--times 100000] [--rounds 5]

Speeds are compared first, with the kernel's BPF statistics off; run times are measured afterwards in a run of their
own. `cpu` is the storm's own processor time, which a busy machine disturbs less than the wall clock.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.running_agent import AGENT

from tapio.config import CHECKOUT_EBPF_DIR, Config
from tapio.kernel import attach, memory
from tapio.kernel.ringbuf import RingBuffer
from tapio.observers import OBSERVERS

BENCH = Path(__file__).resolve().parent
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
BPFTRACE = (
    'tracepoint:sock:inet_sock_set_state { printf("%d %s %d %d\\n", pid, comm, args->oldstate, args->newstate); }'
)
_EMPTY_PROGRAM = """
DEFINE_COUNTERS(empty_probe);
SEC("tp_btf/tcp_probe")
int empty_probe(__u64 *ctx __attribute__((unused)))
{
	return 0;
}
"""


class Run(NamedTuple):
    """Seconds that a storm took, and what became of its events."""

    wall_s: float
    cpu_s: float
    seen: str


def closed_port() -> int:
    """An odd port, so that no connect finds itself there, that nobody listens on."""
    for port in range(20011, 30000, 2):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit("no free port")


def storm(program: Path, times: int) -> tuple[float, float]:
    """Wall and processor seconds of so many refused connects on the first CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["taskset", "-c", "0", str(program), str(times), str(closed_port())]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(ended.stdout), after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def alone(program: Path, times: int, _folder: Path) -> Run:
    """Nothing beside the storm."""
    return Run(*storm(program, times), "")


def beside_agent(program: Path, times: int, folder: Path) -> Run:
    """The agent with its network observer, the stdout sink and /metrics."""
    log = folder / "agent.log"
    command = [AGENT, "--observer=network", "--sink=stdout", f"--data-dir={folder / 'data'}"]
    with log.open("wb") as errors, (folder / "agent.out").open("wb") as output:
        agent = subprocess.Popen([*command, "--metrics-address=127.0.0.1:0"], stdout=output, stderr=errors)
    try:
        while "observing" not in log.read_text():
            time.sleep(0.05)
        time.sleep(0.5)
        before = metrics(log)
        wall, cpu = storm(program, times)
        for _ in range(600):
            now = metrics(log)
            if now[0] - before[0] + now[1] - before[1] >= times:
                break
            time.sleep(0.1)
        return Run(wall, cpu, f"{now[0] - before[0]:.0f} anomalies, {now[1] - before[1]:.0f} lost")
    finally:
        agent.terminate()
        agent.wait(20)


def metrics(log: Path) -> tuple[float, float]:
    """Refused connects that the agent reported so far, and lost events."""
    port = next(line for line in log.read_text().splitlines() if "serving" in line).rsplit(":", 1)[1]
    page = subprocess.run(["curl", "-s", f"127.0.0.1:{port}/metrics"], stdout=subprocess.PIPE, check=True)
    refused = lost = 0.0
    for line in page.stdout.decode().splitlines():
        if line.startswith("tapio_anomalies_total") and "connection_refused" in line:
            refused = float(line.rsplit(" ", 1)[1])
        if line.startswith("tapio_lost_events_total"):
            lost = float(line.rsplit(" ", 1)[1])
    return refused, lost


def beside(command: Sequence[str], program: Path, times: int, folder: Path) -> Run:
    """Another tool, its output in a file."""
    output, errors = folder / "tool.out", folder / "tool.err"
    with output.open("wb") as lines, errors.open("wb") as words:
        tool = subprocess.Popen(command, stdout=lines, stderr=words)
    try:
        time.sleep(3)
        wall, cpu = storm(program, times)
        time.sleep(1)
    finally:
        tool.terminate()
        tool.wait(20)
    with output.open("rb") as lines:
        number = sum(1 for _ in lines)
    trouble = errors.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return Run(wall, cpu, f"{number} lines" if number >= times else f"not comparable: {number} lines: {trouble[-1]}")


def compare(program: Path, times: int, rounds: int) -> None:
    """Print the table of speeds."""
    contenders = {"alone": alone, "tapio-agent": beside_agent}
    others = {"tcpstates": ["tcpstates"], "bpftrace one-liner": ["bpftrace", "-e", BPFTRACE]}
    runs: dict[str, list[Run]] = {name: [] for name in (*contenders, *others)}
    for _ in range(rounds):
        for name in runs:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder).chmod(0o755)
                if name in contenders:
                    runs[name].append(contenders[name](program, times, Path(folder)))
                elif shutil.which(others[name][0]):
                    runs[name].append(beside(others[name], program, times, Path(folder)))
    print(f"{times} refused connects, median of {rounds} rounds; speed against the storm alone in the same round")
    print(f"{'beside':20} {'connects/s':>10} {'speed':>6} {'cpu us':>7} {'speed by cpu':>12}  events of the last round")
    for name, found in runs.items():
        if not found:
            print(f"{name:20} not installed")
            continue
        wall = statistics.median(run.wall_s for run in found)
        cpu = statistics.median(run.cpu_s for run in found)
        speed = statistics.median(base.wall_s / run.wall_s for base, run in zip(runs["alone"], found, strict=True))
        by_cpu = statistics.median(base.cpu_s / run.cpu_s for base, run in zip(runs["alone"], found, strict=True))
        print(f"{name:20} {times / wall:10.0f} {speed:6.2f} {cpu / times * 1e6:7.2f} {by_cpu:12.2f}  {found[-1].seen}")


class Attached:
    """The network object with an empty program beside it, its ring drained and thrown away."""

    def __init__(self, folder: Path) -> None:
        source = folder / "ebpf"
        shutil.copytree(CHECKOUT_EBPF_DIR.parent, source, ignore=shutil.ignore_patterns("build"))
        with (source / "network_monitor.c").open("a") as program:
            program.write(_EMPTY_PROGRAM)
        subprocess.run(["make", "-s", "-C", source, "SOURCES=network_monitor.c"], check=True)
        outcome = attach.attach({"network": source / "build" / "network_monitor.o"}, Config().kernel.ring_kib * 1024)
        if outcome.failed:
            raise SystemExit(str(outcome.failed))
        (self.attachment,) = outcome.attached
        observer = OBSERVERS["network"](self.attachment.loaded)
        memory.Section(self.attachment, ".data", writable=True).write("settings", observer.configure(Config()))
        self._ring = RingBuffer(
            self.attachment.descriptors["events"], self.attachment.loaded.sizes["events"], memory.fence()
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        while not self._stop.wait(0.02):
            self._ring.read(1 << 20)

    def runs(self) -> dict[str, tuple[int, int]]:
        """Run time in nanoseconds and number of runs of each program, counted while statistics are on."""
        found = {}
        for hook in self.attachment.hooks:
            text = Path(f"/proc/self/fdinfo/{self.attachment.descriptors[f'program:{hook.name}']}").read_text()
            values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            found[hook.name] = int(values["run_time_ns"]), int(values["run_cnt"])
        return found

    def close(self) -> None:
        """Detach."""
        self._stop.set()
        self._thread.join()
        self.attachment.close()


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


@contextlib.contextmanager
def statistics_on() -> Iterator[None]:
    """The kernel counts the run time of BPF programs."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


def measure_hooks(program: Path, times: int, rounds: int) -> None:
    """Print nanoseconds per hit, the statistics' own share included: it is what the empty program shows."""
    with tempfile.TemporaryDirectory() as folder:
        attached = Attached(Path(folder))
        try:
            with statistics_on():
                loads = {"storm": lambda: storm(program, times), "bulk": lambda: bulk(3)}
                hooks = {"storm": ("inet_sock_set_state", "tcp_receive_reset"), "bulk": ("tcp_probe", "empty_probe")}
                for load, make in loads.items():
                    means: dict[str, list[float]] = {name: [] for name in hooks[load]}
                    for _ in range(rounds):
                        before = attached.runs()
                        make()
                        after = attached.runs()
                        for name, found in means.items():
                            spent, runs = (now - then for now, then in zip(after[name], before[name], strict=True))
                            found.append(spent / max(1, runs))
                    for name, found in means.items():
                        print(f"{name:20} {statistics.median(found):6.0f} ns per hit ({load})")
        finally:
            attached.close()


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "connect_storm"
        subprocess.run(["clang", "-O2", "-o", program, BENCH / "connect_storm.c"], check=True)
        measure_hooks(program, arguments.times, arguments.rounds)
        compare(program, arguments.times, arguments.rounds)


if __name__ == "__main__":
    main()
