"""What the CLI makes of a data directory: none, one of somebody else, damaged and foreign files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from helpers.data_dirs import TAPIO, DataDir, refuse, tapio
from hypothesis import given
from hypothesis import strategies as st

from tapio.cli.directory import first
from tapio.store import emission_ms, name_at


@pytest.mark.parametrize("command", [["recent"], ["watch"], ["selftest"]])
def test_a_directory_that_is_not_there(data: DataDir, command: list[str]) -> None:
    line = refuse(data, *command, "--data-dir", "/nowhere/at/all", code=1)
    assert "reading the data directory /nowhere/at/all: no such file or directory: " in line


@pytest.mark.skipif(os.getuid() != 0, reason="gives up root to be refused")
def test_a_directory_that_may_not_be_read(data: DataDir) -> None:
    data.path.chmod(0o700)
    for parent in list(data.path.parents)[:3]:
        parent.chmod(0o755)
    code = (
        f"import os, sys; os.setuid(65534); sys.path.insert(0, {str(Path(TAPIO).parents[2])!r});"
        f"from tapio.cli.main import main; sys.exit(main(['recent', '--data-dir', {str(data.path)!r}]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended
    assert "permission denied: run as its owner or as root" in ended.stderr


def test_a_file_instead_of_a_directory(data: DataDir) -> None:
    (data.path / "file").write_text("")
    assert "not a directory" in refuse(data, "recent", "--data-dir", str(data.path / "file"), code=1)


def test_a_path_that_is_not_text(data: DataDir) -> None:
    path = data.path / os.fsdecode(b"\xff\x1b[31m")
    path.mkdir()
    for arguments in (["status"], ["status", "--json"], ["recent"], ["health", "--json"]):
        ended = tapio(data.path, *arguments, "--data-dir", str(path))
        assert "internal error" not in ended.stderr
        assert "\x1b" not in ended.stderr + ended.stdout


def test_files_that_hold_no_occurrence_are_skipped_and_counted(data: DataDir) -> None:
    good = data.add("oom_kill", 5)
    name = iter(f"{data.document('oom_kill')['id']}.json" for _ in range(99))
    for content in (b"", b"{", b"null", b"\xff\xfe\xfd", b'{"id": 1}', b"[" * 200_000, b"\0" * 100):
        data.write(next(name), content)
    data.write(next(name), b" " * ((1 << 20) + 1))
    data.write(next(name), msgspec.json.encode(data.document("oom_kill")))  # another id than its name
    os.mkfifo(data.path / next(name))
    (data.path / next(name)).mkdir()
    (data.path / next(name)).symlink_to("/dev/zero")
    for foreign in ("notes.txt", ".01JA1B2C3D4E5F6G7H8J9K0L1M.json.tmp", "01ja1b2c3d4e5f6g7h8j9k0l1m.json"):
        (data.path / foreign).write_text("mine")
    (data.path / os.fsdecode(b"\xff.json")).write_text("")
    ended = tapio(data.path, "recent", "--json")
    assert ended.returncode == 0
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == [good]
    assert ended.stderr == f"tapio: skipped 14 files in {data.path}: 7 damaged, 6 foreign, 1 too large\n"
    data.heartbeat()
    for command in ("status", "health"):
        ended = tapio(data.path, command)
        assert "skipped 14 files" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_odd_facts_break_nothing(data: DataDir) -> None:
    """`data` is open: whatever a foreign writer puts there is shown or left out, never a failure."""
    data.heartbeat()
    odd = {
        "cpu": [1],
        "episode": 7,
        "retransmits": "many",
        "cgroup_id": 2**64 - 1,
        "count": 2**63 - 1,
        "node": {"a": {}},
    }
    for _ in range(3):
        data.add("retransmit_spike", 5, **odd)
    data.add("abnormal_exit", 5, timestamp="0001-01-01T00:00:00.000Z", episode={"state": "closed"})
    data.write(f"7ZZZZZZZZZ{'0' * 16}.json", b"{}")
    for arguments in (["status"], ["health"], ["health", "network"], ["recent"],
                      ["tune", "--set", "network.retransmit_spike_count=8"]):  # fmt: skip
        for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
            for json_flag in ([], ["--json"]):
                ended = tapio(data.path, *arguments, *json_flag, TZ=zone)
                assert ended.returncode == 0, ended
                assert "internal error" not in ended.stderr


@given(st.lists(st.text("abc", min_size=1), unique=True), st.integers(1, 5), st.booleans())
def test_the_first_names(names: list[str], size: int, newest: bool) -> None:
    assert first(iter(names), size, newest=newest) == sorted(names, reverse=newest)[:size]


@given(st.integers(0, 2**48 - 1))
def test_names_hold_their_time(unix_ms: int) -> None:
    assert emission_ms(name_at(unix_ms)) == unix_ms
