"""`tapio status` and `tapio health` without a heartbeat that can be used: nothing looks healthy."""

from __future__ import annotations

import json

import pytest
from helpers.data_dirs import OBSERVERS, DataDir, tapio


@pytest.mark.parametrize("command", ["status", "health"])
def test_without_a_heartbeat_the_observers_are_unknown(data: DataDir, command: str) -> None:
    for directory in (data.path, data.path / "missing"):
        ended = tapio(data.path, command, "--data-dir", str(directory))
        assert ended.returncode == 1
        for observer in OBSERVERS:
            (line,) = [line for line in ended.stdout.splitlines()[1:] if line.startswith(observer + " ")]
            assert line.split()[1] == "unknown"
        (line,) = ended.stderr.splitlines()
        assert line.startswith("tapio: ")
        document = json.loads(tapio(data.path, command, "--json", "--data-dir", str(directory)).stdout)
        states = {found["name"]: found.get("state") or found["health"] for found in document["observers"]}
        assert states == dict.fromkeys(OBSERVERS, "unknown")


@pytest.mark.parametrize(
    ("heartbeat", "text"),
    [
        (b"{", "it is damaged or not Tapio's"),
        (b'{"schema_version": 2}', "it has schema version 2, this tapio reads 1"),
        (b'{"schema_version": 1}', "it is damaged or not Tapio's"),
        (b"\xff\xfe", "it is damaged or not Tapio's"),
        (b"[" * 100_000, "it is damaged or not Tapio's"),
        (b" " * (2 << 20), "it is damaged or not Tapio's"),
    ],
)
@pytest.mark.parametrize("command", ["status", "health"])
def test_a_heartbeat_that_cannot_be_used(data: DataDir, command: str, heartbeat: bytes, text: str) -> None:
    data.write(".agent.json", heartbeat)
    ended = tapio(data.path, command)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert text in line
    assert ended.stdout.count("unknown") >= len(OBSERVERS)
    assert "no heartbeat" not in ended.stdout
    if command == "status":
        assert ended.stdout.startswith("agent unknown: the heartbeat cannot be read\n")


@pytest.mark.parametrize("command", ["status", "health"])
def test_a_stale_heartbeat_is_not_quiet(data: DataDir, command: str) -> None:
    data.heartbeat(age_s=125)
    ended = tapio(data.path, command)
    assert ended.returncode == 1
    assert "the last heartbeat is 2 m 5 s old: the agent (pid 4711) is dead, stuck or frozen" in ended.stderr
    assert "healthy" not in ended.stdout
    assert " up " not in ended.stdout


@pytest.mark.parametrize("changes", [{"updated_at": "banana"}, {"started_at": "2026-13-01T00:00:00Z"}])
def test_a_heartbeat_with_damaged_times(data: DataDir, changes: dict[str, str]) -> None:
    data.heartbeat(**changes)
    for command in ("status", "health"):
        ended = tapio(data.path, command)
        assert ended.returncode == 1
        assert "its times are damaged" in ended.stderr
