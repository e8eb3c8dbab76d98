"""A storm of refused connects from end to end: `.venv/bin/python tests/bench/storm.py [--times 1000000]` as root.

With `--stop SECONDS` the agent is stopped for so long in mid-storm, and counts what it did not see.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.running_agent import RunningAgent, running_agent
from loads import Loads, all_loads, resident_mib

REFUSED, LOST = "kernel.network.connection_refused", "tapio.agent.events_lost"


class Storm(NamedTuple):
    """What became of it. Other processes' refused connects of that time are in `emitted`, `lost` and `kernel`, too."""

    times: int
    speed: float  # connects/s
    own: int  # the sum of data.count of the storm alone
    emitted: int  # the sum of data.count
    lost: int  # as reported
    kernel: int  # records that went into the ring and events that found it full
    files: int  # of the storm and of losses
    grown_mib: float

    def rows(self) -> list[str]:
        """Rows of a Markdown table."""
        return [
            f"| {self.times:,} refused connects: sum of `data.count` | {self.times:,} | {self.own:,} |",
            f"| … reported as lost | 0 | {self.lost:,} |",
            f"| … files | 100 | {self.files} |",
            f"| … growth of VmRSS | 8 MiB | {self.grown_mib:.1f} MiB |",
        ]


def storm_of_connects(agent: RunningAgent, loads: Loads, times: int, stop_s: float = 0) -> Storm:
    """So many beside the agent."""

    def kernel_count() -> int:
        mine = 'hook="inet_sock_set_state",observer="network"'
        kernel = agent.metric(f"tapio_kernel_records_total{{{mine}}}")
        return int(kernel + agent.metric('tapio_lost_events_total{observer="network"}'))

    def stop() -> None:
        time.sleep(0.5)
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(stop_s)
        agent.process.send_signal(signal.SIGCONT)

    before, seen, resident = kernel_count(), len(agent.occurrences()), resident_mib(agent.pid)
    stopper = threading.Thread(target=stop if stop_s else lambda: None)
    stopper.start()
    speed = loads.connects(times)
    stopper.join()
    time.sleep(12)  # the interval of an episode
    grown, kernel = resident_mib(agent.pid) - resident, kernel_count() - before
    found = agent.occurrences()[seen:]
    refused, lost = ([one for one in found if one["type"] == kind] for kind in (REFUSED, LOST))
    own = [one for one in refused if one["data"].get("comm") == "connect_storm"]
    sums = (sum(one["data"]["count"] for one in each) for each in (own, refused, lost))
    return Storm(times, speed, *sums, kernel, len(own) + len(lost), grown)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1_000_000)
    parser.add_argument("--stop", type=float, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, all_loads() as loads:
        Path(name).chmod(0o755)
        alone = loads.connects(arguments.times)
        with running_agent(Path(name) / "data", "--observer=network") as agent:
            storm = storm_of_connects(agent, loads, arguments.times, arguments.stop)
    print(
        f"emitted {storm.emitted} + lost {storm.lost} = {storm.emitted + storm.lost}, the kernel counted {storm.kernel}"
    )
    print(f"{storm.files} files, VmRSS {storm.grown_mib:+.1f} MiB, speed {storm.speed / alone:.2f} of {alone:.0f}/s")


if __name__ == "__main__":
    main()
