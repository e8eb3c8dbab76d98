"""A storm of refused connects from end to end: `.venv/bin/python tests/bench/storm.py [--times 1000000]` as root.

Prints the sum of data.count, lost events, files, resident memory before and after, and the storm's speed against the
same storm alone. With `--stop SECONDS` the agent is stopped for so long in mid-storm.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.cgroups import scratch_cgroup
from helpers.ports import closed_port
from helpers.running_agent import RunningAgent, running_agent

BENCH = Path(__file__).resolve().parent
REFUSED, LOST = "kernel.network.connection_refused", "tapio.agent.events_lost"


def resident_kib(pid: int) -> int:
    """VmRSS."""
    (line,) = (li for li in Path(f"/proc/{pid}/status").read_text().splitlines() if li.startswith("VmRSS"))
    return int(line.split()[1])


def storm(program: Path, times: int, agent: RunningAgent | None = None, stop_s: float = 0) -> tuple[int, float]:
    """So many refused connects in a cgroup of their own; its id and the seconds they took."""
    with scratch_cgroup() as cgroup, closed_port() as port:
        process = cgroup.start([str(program), str(times), str(port)], stdout=subprocess.PIPE)
        if agent is not None and stop_s:
            time.sleep(0.5)
            agent.process.send_signal(signal.SIGSTOP)
            time.sleep(stop_s)
            agent.process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        seconds = float(process.stdout.read())
        process.wait()
        process.stdout.close()
        return cgroup.id, seconds


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1_000_000)
    parser.add_argument("--stop", type=float, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, program = Path(name), Path(name) / "connect_storm"
        folder.chmod(0o755)
        subprocess.run(["clang", "-O2", "-o", program, BENCH / "connect_storm.c"], check=True)
        _, alone_s = storm(program, arguments.times)
        with running_agent(folder / "data", "--observer=network") as agent:
            time.sleep(1)
            before = resident_kib(agent.pid)
            cgroup_id, beside_s = storm(program, arguments.times, agent, arguments.stop)
            time.sleep(1.5)
            after = resident_kib(agent.pid)
            agent.stop()
            files = [json.loads(path.read_text()) for path in agent.data_dir.glob("0*.json")]
        ours = [one for one in files if one["type"] == REFUSED and one["data"].get("cgroup_id") == cgroup_id]
        emitted = sum(one["data"]["count"] for one in ours)
        lost = sum(one["data"]["count"] for one in files if one["type"] == LOST)
        print(f"connects {arguments.times}, emitted {emitted}, lost {lost}, together {emitted + lost}")
        print(f"files {len(ours)} of the storm, {len(files)} in all")
        print(f"RSS {before} → {after} KiB, {(after - before) / 1024:+.1f} MiB")
        print(f"speed {alone_s / beside_s:.2f} of {arguments.times / alone_s:.0f}/s")


if __name__ == "__main__":
    main()
