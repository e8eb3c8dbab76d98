"""The paths for older kernels, run on this one: objects changed so that they use less than the kernel offers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from helpers import victims
from helpers.cgroups import ScratchCgroup
from helpers.changed_object import changed_object
from helpers.running_agent import AGENT, wait_for

from tapio.anomalies import Anomaly
from tapio.config import Config
from tapio.kernel import attach
from tapio.source import Source

pytestmark = pytest.mark.kernel

Drain = Callable[[], list[Anomaly]]


@pytest.fixture(scope="module")
def old_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """Exits without group_dead; marks that carry only a pid, here taken from the task that this kernel passes."""
    path = changed_object(
        tmp_path_factory.mktemp("old"),
        "container_monitor",
        ("if (process_exit_passes_group_dead)", "if (0)"),
        ("if (mark_victim_passes_task)", "if (0)"),
        ("(__u32)ctx[0] ==", "(__u32)BPF_CORE_READ((struct task_struct *)ctx[0], pid) =="),
        ("(trigger, ctx[0])", "(trigger, BPF_CORE_READ((struct task_struct *)ctx[0], pid))"),
    )
    (attachment,) = attach.attach({"container": path}, 1 << 20).attached
    features = {"process_exit_passes_group_dead": False, "mark_victim_passes_task": False}
    attachment.loaded = msgspec.structs.replace(attachment.loaded, features=features)
    source = Source(attachment, Config())
    yield source
    source.close()


@pytest.fixture
def drain(old_source: Source, cgroup: ScratchCgroup) -> Drain:
    """All anomalies of the test's cgroup so far."""
    found: list[Anomaly] = []

    def read() -> list[Anomaly]:
        found.extend(old_source.observer.decode(old_source.ring.read(10_000)))
        return [anomaly for anomaly in found if anomaly.data.get("cgroup_id") == cgroup.id]

    return read


def test_racing_threads_are_one_exit(drain: Drain, cgroup: ScratchCgroup) -> None:
    pids = {cgroup.run(victims.command("exit_from_thread", 3)).pid for _ in range(29)}
    pids |= {cgroup.run(victims.command("leader_first", 3)).pid for _ in range(2)}
    wait_for(lambda: len(drain()) >= 31)
    assert sorted(anomaly.data["pid"] for anomaly in drain()) == sorted(pids)


def test_kills_are_known_from_marks_or_exits(drain: Drain, cgroup: ScratchCgroup) -> None:
    cgroup.limit_memory(32 << 20)
    pids = {cgroup.run(victims.command("eat_memory", threads)).pid for threads in (1, 8, 1, 8, 1, 8, 8)}
    wait_for(lambda: len(drain()) >= 7)
    assert [anomaly.type.code for anomaly in drain()] == ["OOM_KILL"] * 7
    assert {anomaly.data["pid"] for anomaly in drain()} == pids


def test_a_kernel_without_the_function_that_a_program_watches(tmp_path: Path) -> None:
    """The rest of the object works, and the table says what is missing; the observer counts as working."""
    watched = 'SEC("fentry/out_of_memory")'
    path = changed_object(tmp_path, "container_monitor", (watched, 'SEC("fentry/in_no_kernel")'))
    command = [AGENT, "--check", "--observer=container", f"--ebpf-dir={path.parent}"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked
    table = [line.split(maxsplit=3) for line in checked.stdout.splitlines()]
    assert table[0] == ["OBSERVER", "HOOK", "STATE", "REASON"]
    assert sorted(row[1:3] for row in table[1:]) == [
        ["mark_victim", "attached"],
        ["out_of_memory", "off"],
        ["sched_process_exit", "attached"],
    ]
    (reason,) = (row[3] for row in table[1:] if len(row) == 4)
    assert reason.startswith("watching in_no_kernel(): this kernel has no such function: whose memory limit was hit")


def test_ignoring_the_code_does_not_hide_a_kill(old_source: Source, drain: Drain, cgroup: ScratchCgroup) -> None:
    config = Config(container=msgspec.structs.replace(Config().container, ignore_exit_codes=(137,)))
    old_source.configure(config)
    try:
        cgroup.limit_memory(32 << 20)
        for _ in range(5):
            cgroup.run(victims.command("eat_memory", 8))
        cgroup.run(victims.command("die_by", 9))
        wait_for(lambda: len(drain()) >= 5)
        assert [anomaly.type.code for anomaly in drain()] == ["OOM_KILL"] * 5
    finally:
        old_source.configure(Config())
