"""What each capability is for, shown by taking it away."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cgroups import ScratchCgroup
from helpers.refusals import refuse
from helpers.running_agent import AGENT, wait_for

pytestmark = pytest.mark.kernel

DOCUMENTED = ["bpf", "perfmon", "setuid", "setgid", "setpcap", "chown"]
CHARGES_LOCKED_MEMORY = tuple(map(int, os.uname().release.split(".")[:2])) < (5, 11)
if CHARGES_LOCKED_MEMORY:
    DOCUMENTED.append("sys_resource")

# The agent itself, but for the check with which its start begins.
UNCHECKED = """
import sys
from tapio.kernel import privileges
privileges.check = lambda **_: None
from tapio.agent_main import main
sys.exit(main())
"""
# Only the last step; the lock of the data directory, which comes before it, takes these capabilities, too.
DROP = """
import sys
from tapio.errors import PrivilegeError
from tapio.kernel import privileges
try:
    privileges.drop(65534, 65534)
except PrivilegeError as error:
    sys.exit(f"tapio-agent: {error}")
"""


def without(*names: str) -> list[str]:
    """The beginning of a command line: what follows has the documented capabilities but these."""
    return ["setpriv", "--bounding-set=-all" + "".join(f",+{name}" for name in DOCUMENTED if name not in names)]


def test_no_rights() -> None:
    line = refuse(["setpriv", "--bounding-set=-all", AGENT, "--check"], 1)
    assert "missing CAP_BPF, CAP_PERFMON: run as root or grant them" in line


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name != "sys_resource"])
def test_a_missing_capability_is_named(tmp_path: Path, name: str) -> None:
    """Before anything is touched: the data directory is not made."""
    doing = "attaching to the kernel" if name in ("bpf", "perfmon") else "giving up all rights"
    line = refuse([*without(name), AGENT, f"--data-dir={tmp_path / 'data'}"], 1)
    assert line == f"tapio-agent: {doing}: missing CAP_{name.upper()}: run as root or grant them"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "program", "message"),
    [
        ("bpf", UNCHECKED, "creating a BPF map: operation not permitted: run as root or grant CAP_BPF and"),
        ("perfmon", UNCHECKED, r"loading \S+_monitor.o: operation not permitted .* grant CAP_BPF and CAP_PERFMON"),
        ("chown", UNCHECKED, "opening the data directory .*: operation not permitted"),
        ("setuid", UNCHECKED, "locking the data directory .*: operation not permitted"),
        ("setgid", UNCHECKED, "locking the data directory .*: operation not permitted"),
        ("setpcap", UNCHECKED, "emptying the bounding set: operation not permitted: run as root or grant CAP_SETPCAP"),
        ("setuid", DROP, "becoming uid 65534: operation not permitted: run as root or grant CAP_SETUID and CAP_SETGID"),
        ("setgid", DROP, "becoming uid 65534: operation not permitted: run as root or grant CAP_SETUID and CAP_SETGID"),
    ],
)
def test_the_step_that_takes_a_capability_fails_without_it(
    tmp_path: Path, name: str, program: str, message: str
) -> None:
    """The capability is no more than needed: without the agent's own check it is the kernel that refuses."""
    flags = [f"--data-dir={tmp_path / 'data'}", "--metrics-address=", "--observer=container"]
    line = refuse([*without(name), sys.executable, "-c", program, *flags], 1)
    assert re.match(f"tapio-agent: {message}", line), line


def test_locked_memory(tmp_path: Path) -> None:
    """Only kernels before 5.11 charge maps to it, and there only CAP_SYS_RESOURCE raises the limit."""
    command = ["/bin/sh", "-c", 'ulimit -H -l 64; exec "$@"', "sh", *without("sys_resource"), AGENT]
    if CHARGES_LOCKED_MEMORY:
        line = refuse([*command, f"--data-dir={tmp_path / 'data'}", "--observer=container"], 1)
        assert "operation not permitted" in line
        assert "(before Linux 5.11 CAP_SYS_RESOURCE, too)" in line
    else:
        checked = subprocess.run(
            [*command, "--check", "--observer=container"], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked


def test_the_documented_capabilities_are_enough(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """Two starts, so that the second one finds what belongs to the agent's user."""
    tmp_path.chmod(0o755)
    for _ in range(2):
        _sees_an_exit([*without(), AGENT], tmp_path / "data", cgroup)
    wait_for(lambda: sum(str(cgroup.id) in path.read_text() for path in (tmp_path / "data").glob("0*.json")) == 2)


def test_they_are_enough_for_a_user_who_is_not_root(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """As ambient capabilities, the way systemd grants them."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    os.chown(tmp_path, 4711, 4711)
    names = "-all" + "".join(f",+{name}" for name in DOCUMENTED)
    user = ["--reuid=4711", "--regid=4711", "--clear-groups", f"--inh-caps={names}", f"--ambient-caps={names}"]
    _sees_an_exit([*without(), *user, AGENT], tmp_path / "data", cgroup)
    wait_for(lambda: any(str(cgroup.id) in path.read_text() for path in (tmp_path / "data").glob("0*.json")))


def _sees_an_exit(agent: list[object], data_dir: Path, cgroup: ScratchCgroup) -> None:
    """Start the agent, let a process fail, end the agent."""
    command = [*map(str, agent), f"--data-dir={data_dir}", "--metrics-address=", "--sink=file"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("observing" in line for line in process.stderr)
        cgroup.run(["/bin/false"])
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stderr.close()
