"""What an intruder in the agent's process could do: nothing of what it tries, each thing prevented by its own wall."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.certificates import Authority
from helpers.running_agent import RunningAgent, configured_agent, wait_for

pytestmark = pytest.mark.kernel

KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
TESTS = Path(__file__).parent.parent
LATER = (
    "open_tree",
    "fsopen",
    "openat2",
    "pidfd_getfd",
    "process_madvise",
    "mount_setattr",
    "io_uring_setup",
    "pidfd_open",
    "clone3",
    "landlock_create_ruleset",
    "a call that does not exist yet",
)


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """A data directory, and a folder in which every user may do everything."""
    with tempfile.TemporaryDirectory(prefix="tapio-test-") as path:
        data, outside = Path(path) / "data", Path(path) / "outside"
        for folder in (data, outside):
            folder.mkdir()
            folder.chmod(0o777)
        Path(path).chmod(0o755)
        for name in ("open for all", "removable"):
            (outside / name).touch()
            (outside / name).chmod(0o666)
        (outside / "root's").touch(0o600)
        shutil.copy("/usr/bin/id", outside / "set-user-ID")
        (outside / "set-user-ID").chmod(0o4755)
        yield data, outside


def confined(folders: tuple[Path, Path], *steps: str) -> dict[str, dict[str, str]]:
    """The results of all attempts, by the mechanism that has to prevent them; '' stands for what has to work."""
    name = f"@tapio-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(name.replace("@", "\0"))
        outside.listen()
        done = subprocess.run(
            [sys.executable, "-m", "helpers.confined", *map(str, folders), *steps],
            cwd=TESTS,
            env={**os.environ, "ABSTRACT": name},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("steps", [("seccomp",), ("drop", "landlock", "seccomp")], ids="-".join)
def test_no_forbidden_call_gets_through(folders: tuple[Path, Path], steps: tuple[str, ...]) -> None:
    """As root too, so that it is the filter that refuses. What the agent needs works."""
    results = confined(folders, *steps)
    expected = {name: "ENOSYS" if name in LATER else "EPERM" for name in results["seccomp"]}
    assert results["seccomp"] == expected
    assert set(results[""].values()) == {""}, results[""]


@pytest.mark.parametrize("steps", [("drop",), ("drop", "landlock", "seccomp")], ids="-".join)
def test_no_right_is_regained(folders: tuple[Path, Path], steps: tuple[str, ...]) -> None:
    """By the drop alone, so also where filter or Landlock are missing."""
    results = confined(folders, *steps)
    assert set(results["drop"].values()) <= {"EPERM", "EACCES"}, results["drop"]
    assert set(results[""].values()) == {""}, results[""]


@pytest.mark.parametrize("steps", [("landlock",), ("drop", "landlock", "seccomp")], ids="-".join)
def test_nothing_is_written_outside_the_data_directory(folders: tuple[Path, Path], steps: tuple[str, ...]) -> None:
    """As root too, so that it is Landlock that refuses."""
    results = confined(folders, *steps)
    assert set(results["landlock"].values()) <= {"EACCES", "EPERM"}, results["landlock"]  # EPERM: seccomp comes first
    assert set(results[""].values()) == {""}, results[""]
    assert sorted(path.name for path in folders[1].iterdir()) == ["open for all", "removable", "root's", "set-user-ID"]


def test_no_way_to_sockets_outside_where_the_kernel_has_scopes(folders: tuple[Path, Path]) -> None:
    if KERNEL < (6, 12):
        pytest.skip("Landlock's scopes came with 6.12")
    results = confined(folders, "drop", "landlock")["landlock scopes"]
    assert results == {"connect to an abstract socket outside": "EPERM"}


def test_without_the_steps_these_attempts_succeed_or_fail_otherwise(folders: tuple[Path, Path]) -> None:
    """The attempts themselves are sound: unconfined, an unprivileged user does all that Landlock forbids."""
    probe = "import os, pathlib, sys; os.setuid(65534); p = pathlib.Path(sys.argv[1]);"
    probe += "(p / 'open for all').write_text('x'); (p / 'new').write_text('x'); (p / 'removable').unlink()"
    assert subprocess.run([sys.executable, "-c", probe, folders[1]], check=False).returncode == 0
    command = [folders[1] / "set-user-ID", "-u"]
    as_nobody = subprocess.run(command, user=65534, capture_output=True, text=True, check=True)
    assert as_nobody.stdout == ("65534\n" if os.statvfs(folders[1]).f_flag & os.ST_NOSUID else "0\n")


def test_every_thread_of_the_agent_is_confined(agent: RunningAgent) -> None:
    for thread in Path(f"/proc/{agent.pid}/task").iterdir():
        assert "Seccomp:\t2\n" in (thread / "status").read_text()
    assert agent.metric('tapio_sandbox_up{mechanism="seccomp"}') == 1
    is_old = "running without landlock: the kernel has none" in agent.log.read_text()
    assert agent.metric('tapio_sandbox_up{mechanism="landlock"}') == (not is_old)
    assert not is_old or KERNEL < (5, 13)
    assert agent.log.read_text().count("running without") == is_old


def test_the_filter_can_be_switched_off_and_says_so(tmp_path: Path) -> None:
    with configured_agent(tmp_path, '[agent]\nseccomp = "off"\n') as running:
        assert "Seccomp:\t0\n" in Path(f"/proc/{running.pid}/status").read_text()
        assert running.metric('tapio_sandbox_up{mechanism="seccomp"}') == 0
        assert "WARNING: running without seccomp: switched off by [agent] seccomp" in running.log.read_text()


def test_a_key_that_only_root_can_read(tmp_path: Path) -> None:
    """It is read before the drop; renewing it then takes a restart, and the log says why."""
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server")
    key.chmod(0o600)
    config = f'[metrics]\ntls_cert = "{certificate}"\ntls_key = "{key}"\n'
    file = tmp_path / "tapio.toml"
    file.write_text(config)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    agent = RunningAgent(tmp_path / "data", f"--config={file}")
    try:
        wait_for(lambda: "serving" in agent.log.read_text(), 15)
        context = ssl.create_default_context(cafile=authority.ca)
        url = f"https://127.0.0.1:{agent.port()}/metrics"
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            assert b"tapio_sandbox_up" in answer.read()
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the certificates and passwords in force stay" in agent.log.read_text())
        assert "permission denied" in agent.log.read_text()
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            assert answer.status == 200
    finally:
        assert agent.stop() == 0
