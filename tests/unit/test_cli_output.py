"""What commands write to terminals and pipes: snapshots, widths, colour, nothing that steers a terminal."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from helpers.data_dirs import OBSERVERS, TAPIO, DataDir, on_terminal, tapio

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_screens(data: DataDir, columns: int) -> None:
    """Snapshots of the tables. Delete a file to have it written anew, and look at it."""
    noon = f"NOON{time.gmtime().tm_hour - 12:+d}"  # a zone where it is noon: no occurrence is of another day
    data.heartbeat(detached="storage", observers=OBSERVERS[:3])
    data.fill()
    output = []
    screens = [["status"], ["health"], ["health", "network"], ["recent"]]
    if columns > 40:  # else the path is broken into lines
        screens.append(["recent", "--namespace", "none"])
    for arguments in screens:
        code, shown = on_terminal(data.path, columns, *arguments, NO_COLOR="1", TZ=noon)
        assert all(len(line) <= columns for line in shown.splitlines())
        output.append(f"$ tapio {' '.join(arguments)}\n{shown}exit code {code}\n")
    text = _timeless("\n".join(output).replace(str(data.path), "DIR"))
    expected = SNAPSHOTS / f"screens-{columns}.txt"
    if not expected.exists():
        expected.write_text(text)
        pytest.fail(f"{expected} was not there and is written anew: look at it")
    assert text == expected.read_text()


def _timeless(text: str) -> str:
    """Times and ages change from run to run."""
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "hh:mm:ss", text)
    text = re.sub(r"\.\d{3}(?=  )", ".mmm", text)
    text = re.sub(r"(\d\d-\d\d )(?=hh)", "", text)
    return re.sub(r"heartbeat \d+(\.\d)? s ago", "heartbeat N s ago", text)


def test_figures_are_whole_at_every_width(data: DataDir) -> None:
    """Nothing of a status or a verdict is lost in a narrow terminal."""
    sinks = {"file": {"accepted": 123456789012, "rejected": 4567890, "dropped": 3, "queue": 12345,
                      "last_error": "no space left on device"}}  # fmt: skip
    data.heartbeat(sinks=sinks, lacks={"node": "something"})
    data.add("connection_refused", 5, count=987654321)
    words = {"status": ["123 456 789 012", "4 567 890", "12 345", "no space left on device", "987 654 321", "2.5"],
             "health": ["987654321", "degraded"], "health network": ["987654321", "ECONNREFUSED"],
             "recent": ["Connection refused by", "(987654321 of them)"]}  # fmt: skip
    for columns in (20, 30, 40, 50, 60, 70, 80, 100, 120, 200):
        for command, expected in words.items():
            shown = on_terminal(data.path, columns, *command.split(), NO_COLOR="1")[1]
            lines = [line for line in shown.splitlines() if not line.startswith("tapio: ")]
            assert all(len(line) <= columns for line in lines), (columns, shown)
            together = " ".join(shown.split())
            assert not [word for word in expected if word not in together], (columns, shown)


def test_nothing_steers_the_terminal(data: DataDir) -> None:
    data.heartbeat()
    data.add(
        "oom_kill", 5, comm="\x1b]0;pwned\x07\x9b2J\u202e", error={"code": "OOM_KILL", "message": "a\x1b[2Jb\rc\nd"}
    )
    data.add("oom_kill", 5, pod="shop/\x1b[31m")
    for arguments in (["recent"], ["health"], ["health", "container"], ["recent", "--json"], ["status"]):
        output = tapio(data.path, *arguments).stdout
        assert not {"\x1b", "\x07", "\x9b", "\x7f", "\r", "\u202e"} & set(output)
        assert not {"\x9b", "\x07", "\x7f", "\u202e"} & set(on_terminal(data.path, 100, *arguments, NO_COLOR="1")[1])
    assert "a\\x1b[2Jb\\x0dc\\x0ad" in tapio(data.path, "recent").stdout


def test_colour_on_a_terminal_only(data: DataDir) -> None:
    data.add("oom_kill", 5)
    assert "\x1b[1;31mcritical\x1b[0m" in on_terminal(data.path, 100, "recent")[1]
    assert "\x1b" not in on_terminal(data.path, 100, "recent", NO_COLOR="1")[1]
    assert "\x1b" not in on_terminal(data.path, 100, "recent", "--json")[1]
    assert "\x1b" not in tapio(data.path, "recent").stdout


def test_width_and_times_through_a_pipe(data: DataDir) -> None:
    data.add("oom_kill", 5, error={"code": "OOM_KILL", "message": "m" * 500})
    assert "m" * 500 in tapio(data.path, "recent").stdout
    local = tapio(data.path, "recent", TZ="Pacific/Kiritimati").stdout
    assert tapio(data.path, "recent", "--utc", TZ="Pacific/Kiritimati").stdout != local


def test_a_reader_that_leaves_early(data: DataDir) -> None:
    for _ in range(300):
        data.add("oom_kill", 5)
    command = f"{TAPIO} recent --limit 300 --json --data-dir {data.path} | head -1"
    ended = subprocess.run(["/bin/bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_output_that_cannot_be_written(data: DataDir) -> None:
    data.add("oom_kill", 5)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = subprocess.run(
            [TAPIO, "recent", "--data-dir", data.path], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "tapio: writing to stdout: no space left on device\n")
