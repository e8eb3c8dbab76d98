"""Runs inside the machine, as its only program: the tests that every kernel must pass, and what `--check` says there.

What it finds is printed as lines of `FOUND {json}`. Tests mostly wait, so they run in three processes side by side.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OBJECTS = {"x86_64": "x86", "aarch64": "arm64"}[os.uname().machine]
LANES: dict[str, Sequence[str]] = {
    "container": (
        "test_exits.py::test_23_exit_codes_among_61_clean_exits",
        "test_exits.py::test_signals",
        "test_exits.py::test_processes_of_many_threads_are_one_occurrence",
        "test_exits.py::test_clean_exits_of_many_threads_are_silent",
        "test_oom.py::test_five_kills_of_processes_with_eight_threads",
        "test_oom.py::test_the_limit_of_an_ancestor",
        "test_oom.py::test_the_victim_is_not_the_one_that_asked_for_memory",
        "test_oom.py::test_sigkill_by_hand_at_the_limit_is_no_oom_kill",
        "test_oom.py::test_a_limit_far_above",
        "test_oom_groups.py",
        "test_oom_node.py",
        "test_capabilities.py::test_the_documented_capabilities_are_enough",
        "test_capabilities.py::test_locked_memory",
    ),
    "storage": (
        "test_storage.py::test_23_writes_without_space",
        "test_storage.py::test_eio_of_reads_and_writes",
        "test_storage.py::test_a_frozen_filesystem_is_a_latency_spike",
        "test_storage.py::test_500_healthy_writes_are_silent",
        "test_storage.py::test_a_discard_that_the_disk_lacks_is_silent",
        "test_storage_blame.py::test_writeback_is_blamed_on_the_writer_or_nobody",
        "test_storage_stacks.py::test_a_slow_disk_below_is_one_story",
        "test_sandbox.py::test_every_thread_of_the_agent_is_confined",
        "test_sandbox.py::test_no_forbidden_call_gets_through[seccomp]",  # Landlock came with 5.13
        "test_sandbox.py::test_no_right_is_regained[drop]",
        "test_rtt.py::test_a_quiet_connection_from_before_the_agents_start",  # here, as this lane is the shortest
    ),
    "network": (
        "test_connect.py::test_47_refused_connects",
        "test_connect.py::test_connects_that_a_router_answers",
        "test_connect.py::test_13_timeouts_by_dropped_syns[10.77.0.2]",
        "test_connect.py::test_an_established_connection_dies",
        "test_connect.py::test_aborted_connects_are_silent",
        "test_connect.py::test_400_healthy_connections_are_silent[127.0.0.1]",
        "test_connect.py::test_a_port_scan_against_our_listener_is_silent",
        "test_resets_and_losses.py::test_31_resets_are_one_storm[127.0.0.1]",
        "test_resets_and_losses.py::test_7_resets_are_silent",
        "test_resets_and_losses.py::test_loss_of_30_percent_is_a_spike",
        "test_resets_and_losses.py::test_one_lost_segment_is_silent",
    ),
}


def tell(**found: Any) -> None:
    """In one write and on a line of its own: others write too."""
    os.write(1, b"\nFOUND " + json.dumps(found).encode() + b"\n")


class Reporter:
    """Tells of each test as it ends."""

    def __init__(self, console: int) -> None:
        self._console = console

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        found: dict[str, Any] = {"test": report.nodeid, "outcome": report.outcome}
        found["seconds"] = round(report.duration, 1)
        if report.outcome != "passed":
            found["why"] = str(report.longrepr)[-3000:]
        os.write(self._console, b"\nFOUND " + json.dumps(found).encode() + b"\n")


def prepare() -> None:
    """Controllers for all cgroups, a name for loopback, and this architecture's objects where the tests expect them."""
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n")
    Path("/etc/nsswitch.conf").write_text("hosts: files\n")
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory +io +pids")
    for item in (ROOT / "ebpf/build" / OBJECTS).iterdir():
        shutil.copy(item, ROOT / "ebpf/build")
    os.chdir(ROOT)


def check() -> None:
    """What the agent says about this kernel."""
    done = subprocess.run(["tapio-agent", "--check"], capture_output=True, text=True, check=False)
    tell(check=done.stdout.splitlines(), error=done.stderr, exit=done.returncode)


def in_child(work: Callable[[], None]) -> int:
    """The pid of a process that does this and ends, with 1 when it could not."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  # in a copy of this process nothing else may go on
            os.write(1, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    return child


def run_lane(name: str, tests: Sequence[str], folder: Path) -> None:
    """Some tests in this process; what pytest prints is shown when one failed."""
    import pytest

    console, log = os.dup(1), folder / "log"
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        arguments = ["--tb=short", "--color=no", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}"]
        code = int(pytest.main([*arguments, *(f"tests/kernel/{test}" for test in tests)], [Reporter(console)]))
    os.dup2(console, 1)
    if code:
        os.write(1, log.read_bytes()[-20_000:])
    counts = count_occurrences(folder)
    # The agents of one lane see what the other lanes do, too.
    tell(lane=name, exit=code, counts={kind: number for kind, number in counts.items() if f".{name}." in kind})


def count_occurrences(folder: Path) -> dict[str, int]:
    """What the agents of the tests have reported, by type."""
    counts: dict[str, int] = {}
    for output in folder.rglob("*.out"):
        for line in output.read_text().splitlines():
            item = json.loads(line)
            counts[item["type"]] = counts.get(item["type"], 0) + item["data"]["count"]
    return counts


def run_tests() -> bool:
    """All lanes and `--check`, side by side; whether all came to their end."""
    only = [word.removeprefix("tests=") for word in Path("/proc/cmdline").read_text().split() if word[:6] == "tests="]
    lanes = {"chosen": only[0].split(",")} if only else LANES
    children = [in_child(check)]
    for number, (name, tests) in enumerate(lanes.items()):
        folder = Path(f"/tmp/lane-{number}")
        folder.mkdir(mode=0o755)
        children.append(in_child(functools.partial(run_lane, name, tests, folder)))
    endings = [os.waitpid(child, 0)[1] for child in children]  # of all, before any is judged
    return not any(endings)


if __name__ == "__main__":
    tell(kernel=os.uname().release, python=sys.version.split()[0], seconds=round(time.monotonic(), 1))
    os.environ |= {"TAPIO_PATIENCE": "5", "TAPIO_VM": "1"}
    prepare()
    if run_tests():
        tell(end=round(time.monotonic(), 1))
