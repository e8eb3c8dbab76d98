"""The DaemonSet's container as deploy/tapio.yaml describes it, run by a real OCI runtime, with real faults."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import victims
from helpers.cgroups import ScratchCgroup
from helpers.pod import Pod, running_pod, seccomp_profile
from helpers.running_agent import wait_for

pytestmark = pytest.mark.kernel

# Individual occurrences, so that each fault can be counted; the file sink alone.
CONFIG = 'sinks = ["file", "stdout"]\nebpf_dir = "/opt/tapio/ebpf"\n'
UNFOLDED = "[episodes]\nindividual = 100000\nrate_per_s = 100000\nburst = 100000\n"


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    made = Pod(tmp_path_factory.mktemp("pod") / "bundle", config=CONFIG + UNFOLDED)
    with running_pod(made):
        yield made


def refused_connects(cgroup: ScratchCgroup, number: int) -> None:
    """Connects from the cgroup to a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = (
        "import socket,sys\n"
        f"for _ in range({number}):\n"
        "    with socket.socket() as s: s.connect_ex(('127.0.0.1', int(sys.argv[1])))"
    )
    assert cgroup.run(["/usr/bin/python3", "-c", script, str(port)]).returncode == 0


def test_faults_on_the_node_are_seen_from_the_pod(pod: Pod, cgroup: ScratchCgroup) -> None:
    """They happen in other pid, network and mount namespaces than the agent's."""
    cgroup.limit_memory(32 << 20)
    for _ in range(23):
        cgroup.run(["sh", "-c", "exit 3"])
    refused_connects(cgroup, 19)
    kills = [cgroup.run(victims.command("eat_memory", 1)).pid for _ in range(3)]
    wait_for(lambda: len(pod.occurrences(cgroup.id)) >= 45, 15, lambda: str(len(pod.occurrences(cgroup.id))))
    found = pod.occurrences(cgroup.id)
    assert Counter(one["type"] for one in found) == {
        "kernel.container.abnormal_exit": 23,
        "kernel.network.connection_refused": 19,
        "kernel.container.oom_kill": 3,
    }
    killed = [one["data"] for one in found if one["type"] == "kernel.container.oom_kill"]
    assert {one["pid"] for one in killed} == set(kills)  # pids of the node, not of the pod
    assert {one["memory_limit_bytes"] for one in killed} == {32 << 20}
    assert {one["context"]["node"] for one in found} == {"worker-3"}


def test_everything_is_attached_but_what_this_machine_lacks(pod: Pod) -> None:
    metrics = pod.page("/metrics")[1]
    up = {line.partition(" ")[0]: line.endswith(" 1.0") for line in metrics.splitlines() if "_observer_up{" in line}
    assert all(up[f'tapio_observer_up{{observer="{name}"}}'] for name in ("network", "container", "storage")), up
    assert pod.page("/healthz")[0] == 200


def test_the_running_agent_has_no_rights_left(pod: Pod) -> None:
    """Checked in the kernel, from outside."""
    state = subprocess.run(["runc", "state", pod.name], capture_output=True, text=True, check=True).stdout
    pid = int(state.split('"pid"')[1].split(":")[1].split(",")[0])
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert status["Groups"].strip() == ""
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_only_the_data_directory_was_written(pod: Pod) -> None:
    for path in ("/x", "/opt/tapio/x", "/etc/tapio/x", "/host/proc/1/comm", "/host/sys/fs/cgroup/x"):
        done = pod.execute("/bin/sh", "-c", f"echo x > {path}")
        assert "Read-only file system" in done.stderr, (path, done.stderr)
    assert {path.name for path in pod.data.iterdir()} == {"occurrences"}
    assert (pod.data / "occurrences").stat().st_uid == 65534


def test_the_command_line_works_in_the_pod(pod: Pod) -> None:
    assert "agent running" in pod.execute("/opt/tapio/venv/bin/tapio", "status").stdout
    recent = pod.execute("/opt/tapio/venv/bin/tapio", "recent", "--limit=1", "--json")
    assert recent.returncode == 0, recent.stderr
    checked = pod.execute("/opt/tapio/venv/bin/tapio-agent", "--check")
    assert checked.stdout.count(" attached") == 8, checked.stdout + checked.stderr


def check(pod: Pod) -> subprocess.CompletedProcess[str]:
    """`tapio-agent --check` in the container."""
    pod.args.append("--check")
    pod.bundle()
    try:
        return subprocess.run(pod.command(), capture_output=True, text=True, check=False)
    finally:
        pod.delete()


def start(pod: Pod) -> subprocess.CompletedProcess[str]:
    """The agent, which is expected to refuse."""
    pod.bundle()
    try:
        return subprocess.run(pod.command(), capture_output=True, text=True, check=False, timeout=30)
    finally:
        pod.delete()


@pytest.mark.parametrize("missing", ["BPF", "PERFMON", "CHOWN", "SETUID", "SETGID", "SETPCAP"])
def test_no_capability_could_be_left_out(missing: str, tmp_path: Path) -> None:
    pod = Pod(tmp_path / "bundle", config=CONFIG)
    pod.capabilities.remove(f"CAP_{missing}")
    done = start(pod)
    assert done.returncode == 1
    assert f"missing CAP_{missing}" in done.stderr, done.stderr


def test_a_seccomp_profile_that_does_not_know_cap_bpf_is_named(tmp_path: Path) -> None:
    """CRI-O's default profile: bpf() takes CAP_SYS_ADMIN there."""
    pod = Pod(tmp_path / "bundle", config=CONFIG)
    pod.seccomp = seccomp_profile(pod.capabilities, as_containerd=False)
    done = check(pod)
    assert done.returncode == 1
    assert "seccomp" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_it_runs_as_an_unprivileged_start_does_not(tmp_path: Path) -> None:
    """Without any capability the agent says what it needs."""
    pod = Pod(tmp_path / "bundle", config=CONFIG)
    pod.capabilities.clear()
    pod.seccomp = None
    assert "missing CAP_BPF, CAP_PERFMON" in start(pod).stderr
    assert not os.listdir(pod.data)
