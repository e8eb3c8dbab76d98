"""`tapio watch`: what comes is shown once, filters, its end, the agent that goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import msgspec
from helpers.data_dirs import TAPIO, DataDir, Terminal
from helpers.running_agent import wait_for


class Watcher:
    """A running `tapio watch --json`."""

    def __init__(self, data: DataDir, *arguments: str) -> None:
        self.output = data.path.parent / "watch.out"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [TAPIO, "watch", "--json", "--data-dir", data.path, *arguments], stdout=output, stderr=subprocess.PIPE
            )
        assert self.process.stderr is not None
        self.process.stderr.readline()  # the remark about the missing heartbeat: it is watching

    def ids(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.output.read_bytes().split(b"\n")[:-1]]

    def end(self) -> str:
        """Ctrl-C; what was said on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=10)
        assert self.process.returncode == 0
        return said.decode()


def test_watch_shows_what_comes_each_once(data: DataDir) -> None:
    """Also what is older than the newest, and what is put there by hand in two steps."""
    data.add("oom_kill", 100)
    watcher = Watcher(data)
    expected = [data.add("oom_kill"), data.add("io_error"), data.add("oom_kill", 5000)]
    by_hand = data.document("abnormal_exit")
    half = msgspec.json.encode(by_hand)
    path = data.path / f"{by_hand['id']}.json"
    path.write_bytes(half[:50])
    time.sleep(0.5)
    path.write_bytes(half)
    os.utime(path)
    expected.append(by_hand["id"])
    wait_for(lambda: len(watcher.ids()) >= 4, 10)
    data.write("01JA1B2C3D4E5F6G7H8J9K0L1M.json", b"garbage")
    time.sleep(0.3)
    assert sorted(watcher.ids()) == sorted(expected)
    assert watcher.end() == f"tapio: skipped 1 file in {data.path}: 1 damaged\n"


def test_watch_filters_begins_earlier_and_ends_by_itself(data: DataDir) -> None:
    old = data.add("oom_kill", 60)
    data.add("oom_kill", 600)
    watcher = Watcher(data, "--since", "5m", "--limit", "2", "--type", "oom_kill")
    data.add("io_error")
    new = data.add("oom_kill")
    watcher.process.communicate(timeout=10)
    assert watcher.process.returncode == 0
    assert watcher.ids() == [old, new]


def test_watch_notices_a_directory_that_goes(data: DataDir) -> None:
    watcher = Watcher(data)
    data.path.rename(data.path.with_name("elsewhere"))
    _, said = watcher.process.communicate(timeout=10)
    assert watcher.process.returncode == 1
    assert b"the directory is gone or was replaced" in said


def test_watch_says_when_the_agent_goes(data: DataDir) -> None:
    data.heartbeat()
    with subprocess.Popen(
        [TAPIO, "watch", "--data-dir", data.path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        time.sleep(1)
        data.heartbeat(state="stopped")
        assert process.stderr is not None
        assert b"the agent was stopped" in process.stderr.readline()
        data.heartbeat()
        assert b"the agent is there again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)


def test_watch_on_a_terminal_ends_clean(data: DataDir) -> None:
    data.heartbeat()
    terminal = Terminal([TAPIO, "watch"], 100, {"TAPIO_DATA_DIR": str(data.path)})
    terminal.read("MESSAGE")
    time.sleep(0.3)
    data.add("oom_kill")
    terminal.read("limit=512MB")
    terminal.interrupt()
    assert terminal.end() == 0
    assert "Traceback" not in terminal.output
