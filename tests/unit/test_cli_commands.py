"""`tapio` as a user runs it: through pipes and through a terminal, with good and with bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from helpers.data_dirs import FACTS, OBSERVERS, TAPIO, DataDir, Terminal, on_terminal, tapio
from helpers.running_agent import wait_for

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")


def refuse(data: DataDir, *arguments: str, code: int = 2, **environment: str) -> str:
    """Run what must fail with one line."""
    ended = tapio(data.path, *arguments, **environment)
    assert ended.returncode == code, ended
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("tapio: ")
    return line.removeprefix("tapio: ")


def fill(data: DataDir, now_s: float | None = None) -> None:
    """One occurrence of each type, a minute apart, the newest first in FACTS."""
    for index, what in enumerate(FACTS):
        pod = "" if what.startswith(("io", "lat", "cpu", "mem", "ipc")) else "shop/checkout-api-7f8b9c6d5-x2x4v"
        data.add(what, 30 + 60 * index, pod=pod, now_s=now_s)
    data.add("connection_refused", 15, now_s=now_s, count=23, comm="\x1b[31mevil\x1b]0;x\x07",
             episode={"id": "e", "total": 46, "first_seen": "", "last_seen": "", "state": "ongoing"})  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["recent", "--since", "banana"], "--since 'banana': not a duration: write it as 30s, 5m, 1h30m or 2d"),
        (["recent", "--since", "-5m"], "--since '-5m': not a duration"),
        (["recent", "--since=0"], "--since '0': not a duration"),
        (["watch", "--since", "0s"], "--since '0s': a duration must be more than nothing"),
        (["health", "--since", "x"], "--since 'x'"),
        (["recent", "--limit", "-3"], "--limit '-3': not a number of at least 1"),
        (["recent", "--severity", "bad"], "choose from debug, info, warning, error, critical"),
        (["recent", "--type", "oom"], "there is no such type"),
        (["health", "disk"], "observer disk: there is no such observer: choose from network, container, storage, node"),
        (["recent", "--gpu"], "unrecognized arguments: --gpu: see tapio --help"),
        (["recent", "--sinc", "5m"], "unrecognized arguments"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "the following arguments are required: COMMAND"),
        (["status", "--data-dir", ""], "--data-dir: it is empty"),
        (["selftest", "--timeout", "soon"], "--timeout 'soon': not a duration"),
    ],
)
def test_wrong_usage_is_one_line(data: DataDir, arguments: list[str], text: str) -> None:
    assert text in refuse(data, *arguments)


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


def test_quiet_is_healthy_and_blind_is_not(data: DataDir) -> None:
    data.heartbeat()
    assert tapio(data.path, "status").returncode == 0
    assert tapio(data.path, "health", "--exit-code").stdout.startswith("node is healthy")
    data.heartbeat(detached="storage")
    status = tapio(data.path, "status")
    assert status.returncode == 1
    assert "storage is blind: storage_one is detached" in status.stdout
    assert tapio(data.path, "health", "--exit-code").returncode == 10
    assert tapio(data.path, "health", "network", "--exit-code").returncode == 0


def test_enrichment_is_no_observer_but_its_troubles_are_told(data: DataDir) -> None:
    """No row of its own among the observers; a detached hook and what it lost are said."""
    data.heartbeat(observers=(*OBSERVERS, "enrichment"))
    status, health = tapio(data.path, "status"), tapio(data.path, "health")
    assert status.returncode == 0
    assert "enrichment" not in status.stdout + health.stdout
    document = json.loads(tapio(data.path, "status", "--json").stdout)
    assert [view["name"] for view in document["observers"]] == list(OBSERVERS)
    assert (document["enrichment"]["state"], len(document["enrichment"]["hooks"])) == ("up", 2)
    data.heartbeat(observers=(*OBSERVERS, "enrichment"), detached="enrichment", lost={"enrichment": 4711})
    status, health = tapio(data.path, "status"), tapio(data.path, "health")
    assert status.returncode == 1
    for output in (status.stdout, health.stdout):
        assert "enrichment is blind: enrichment_one is detached" in output
    assert "enrichment lost 4 711 events of cgroups that came or went" in status.stdout
    assert "enrichment lost 4711 events since the agent's start" in health.stderr


def test_an_observer_that_is_attached_and_sees_nothing_is_blind(data: DataDir) -> None:
    """Its canaries do not come back: only the reason tells, every hook is attached."""
    why = "its canary did not come back 3 times"
    data.heartbeat(blind={"network": why})
    status = tapio(data.path, "status")
    assert status.returncode == 1
    assert status.stdout.startswith("agent running")
    assert f"network is blind: {why}" in status.stdout
    assert tapio(data.path, "health", "network", "--exit-code").returncode == 10
    assert tapio(data.path, "health", "storage", "--exit-code").returncode == 0
    (found, *_) = json.loads(tapio(data.path, "status", "--json").stdout)["observers"]
    assert (found["state"], found["reason"]) == ("blind", why)


def test_what_an_observer_lacks_does_not_make_it_look_off(data: DataDir) -> None:
    """A node without stall events still counts IPC."""
    lacks = "no event for stalled cycles on this CPU: cpu_stall is not available"
    data.heartbeat(lacks={"node": lacks})
    status = tapio(data.path, "status")
    assert status.returncode == 0
    (row,) = [line for line in status.stdout.splitlines() if line.startswith("node  ")]
    assert row.split()[1] == "up"
    remark = f"node lacks something: {lacks}"
    assert status.stdout.count(lacks) == status.stdout.count(remark) == 1
    health = tapio(data.path, "health", "--exit-code")
    assert health.returncode == 0
    assert remark in health.stdout
    (found,) = [o for o in json.loads(tapio(data.path, "status", "--json").stdout)["observers"] if o["name"] == "node"]
    assert (found["state"], found["reason"]) == ("up", lacks)


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


def test_exit_codes_of_health(data: DataDir) -> None:
    data.heartbeat()
    data.add("abnormal_exit", 30)
    assert tapio(data.path, "health", "--exit-code").returncode == 10
    data.add("oom_kill", 30)
    assert tapio(data.path, "health", "--exit-code").returncode == 11
    assert tapio(data.path, "health", "storage", "--exit-code").returncode == 0
    assert tapio(data.path, "health").returncode == 0
    assert tapio(data.path, "health", "--since", "10s", "--exit-code").returncode == 0


def test_an_agent_without_files_tells_nothing(data: DataDir) -> None:
    data.heartbeat(sinks={"stdout": {"accepted": 5, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    assert tapio(data.path, "health").returncode == 1
    status = tapio(data.path, "status")
    assert status.returncode == 0
    assert "the agent writes no files" in status.stdout


def test_health_says_why_it_cannot_judge_without_files(data: DataDir) -> None:
    data.heartbeat(sinks={"stdout": {"accepted": 5, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    ended = tapio(data.path, "health")
    assert ended.stdout.startswith("node is unknown")
    assert ended.stderr == "tapio: the agent writes no files, so nothing can be judged: start it with --sink=file\n"
    (note,) = json.loads(tapio(data.path, "health", "--json").stdout)["notes"]
    assert note in ended.stderr


@pytest.mark.parametrize("command", ["status", "health"])
def test_occurrences_from_the_future_are_pointed_out(data: DataDir, command: str) -> None:
    """The clock stepped back: they count, because the agent's next ones have such ids too."""
    data.heartbeat()
    data.add("oom_kill", -30)
    assert tapio(data.path, command).stderr == ""
    data.add("oom_kill", -7259)
    ended = tapio(data.path, command)
    assert ended.stderr.startswith("tapio: the newest occurrence is 2 h in the future: the clock stepped back")
    assert json.loads(tapio(data.path, "status", "--json").stdout)["observers"][1]["anomalies"]["5m"] == 2


def test_status_says_how_far_the_files_reach(data: DataDir) -> None:
    """Retention removed what the agent wrote since its start: the sums are lower bounds."""
    for ago_s in (30, 90):
        data.add("oom_kill", ago_s)
    data.heartbeat(sinks={"file": {"accepted": 5, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    status = tapio(data.path, "status").stdout
    assert "≥2" in status
    assert "the files reach back only 1 m 30 s" in status
    data.heartbeat(sinks={"file": {"accepted": 2, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}})
    assert "≥" not in tapio(data.path, "status").stdout


def test_counts_are_sums_of_what_occurrences_stand_for(data: DataDir) -> None:
    data.heartbeat()
    data.add("connection_refused", 30, count=23)
    data.add("connection_refused", 40, count=0)
    data.add("rst_storm", 600)
    data.add("rst_storm", 6000)
    document = json.loads(tapio(data.path, "status", "--json").stdout)
    assert document["observers"][0]["anomalies"] == {"5m": 23, "1h": 24}


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


@pytest.mark.parametrize("changes", [{"updated_at": "banana"}, {"started_at": "2026-13-01T00:00:00Z"}])
def test_a_heartbeat_with_damaged_times(data: DataDir, changes: dict[str, str]) -> None:
    data.heartbeat(**changes)
    for command in ("status", "health"):
        ended = tapio(data.path, command)
        assert ended.returncode == 1
        assert "its times are damaged" in ended.stderr


def test_a_path_that_is_not_text(data: DataDir) -> None:
    path = data.path / os.fsdecode(b"\xff\x1b[31m")
    path.mkdir()
    for arguments in (["status"], ["status", "--json"], ["recent"], ["health", "--json"]):
        ended = tapio(data.path, *arguments, "--data-dir", str(path))
        assert "internal error" not in ended.stderr
        assert "\x1b" not in ended.stderr + ended.stdout


def test_a_file_instead_of_a_directory(data: DataDir) -> None:
    (data.path / "file").write_text("")
    assert "not a directory" in refuse(data, "recent", "--data-dir", str(data.path / "file"), code=1)


def test_losses_are_said_beside_the_verdict(data: DataDir) -> None:
    data.heartbeat(sinks={"file": {"accepted": 1, "rejected": 2, "dropped": 3, "queue": 0, "last_error": "disk full"}})
    data.add("oom_kill", 5)
    assert "5 occurrences did not become files since the agent's start: disk full" in tapio(data.path, "health").stderr


def test_recent_is_newest_first_and_filtered(data: DataDir) -> None:
    fill(data)

    def types(*arguments: str) -> list[str]:
        found = tapio(data.path, "recent", "--json", *arguments).stdout.splitlines()
        return [json.loads(line)["type"].rsplit(".")[-1] for line in found]

    everything = types()
    assert everything == ["connection_refused", *FACTS]
    assert types("--limit", "2") == everything[:2]
    assert types("--since", "100s") == everything[:3]
    assert types("--container") == ["oom_kill", "abnormal_exit"]
    assert types("--storage", "--node") == list(FACTS)[7:12]
    assert types("--network", "--type", "agent.events_lost") == ["events_lost"]  # the network observer's
    assert types("--severity", "critical") == ["oom_kill", "io_error", "cpu_stall"]
    assert types("--type", "oom_kill", "--type", "io_error") == ["oom_kill", "io_error"]
    assert types("--namespace", "shop", "--pod", "checkout-*", "--container") == ["oom_kill", "abnormal_exit"]
    assert types("--namespace", "other") == []
    assert "nothing of that kind" in tapio(data.path, "recent", "--namespace", "other").stdout


def test_json_is_the_occurrence_with_fields_that_nobody_knows(data: DataDir) -> None:
    document = data.document("oom_kill", pod="shop/api", something_new={"a": [1, "ü"]})
    data.write(f"{document['id']}.json", msgspec.json.encode(document))
    assert json.loads(tapio(data.path, "recent", "--json").stdout) == document


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


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_screens(data: DataDir, columns: int) -> None:
    """Snapshots of the tables. Delete a file to have it written anew, and look at it."""
    noon = f"NOON{time.gmtime().tm_hour - 12:+d}"  # a zone where it is noon: no occurrence is of another day
    data.heartbeat(detached="storage", observers=OBSERVERS[:3])
    fill(data)
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
    import re

    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "hh:mm:ss", text)
    text = re.sub(r"\.\d{3}(?=  )", ".mmm", text)
    text = re.sub(r"(\d\d-\d\d )(?=hh)", "", text)
    return re.sub(r"heartbeat \d+(\.\d)? s ago", "heartbeat N s ago", text)


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


def test_flags_may_stand_before_the_command(data: DataDir) -> None:
    identity = data.add("oom_kill", 5)
    ended = tapio(data.path, "--data-dir", str(data.path), "--json", "recent", TAPIO_DATA_DIR="/nowhere")
    assert json.loads(ended.stdout)["id"] == identity


def test_help_and_version(data: DataDir) -> None:
    assert tapio(data.path, "--version").stdout == "tapio 0.1.0\n"
    for command in ("status", "recent", "watch", "health", "selftest", "tune", "mcp", "completion"):
        ended = tapio(data.path, command, "--help")
        assert ended.returncode == 0
        assert "examples:" in ended.stdout


@pytest.mark.parametrize("command", [["status"], ["recent"], ["health"], ["recent", "--json"]])
def test_the_cli_loads_light(data: DataDir, command: list[str]) -> None:
    """Neither bcc nor anything else that only the agent needs."""
    data.heartbeat()
    data.add("oom_kill", 5)
    code = (
        "import sys; from tapio.cli.main import main; main(sys.argv[1:]);"
        "print(*{name.split('.')[0] for name in sys.modules}, *(n for n in sys.modules if n.startswith('tapio.')),"
        "file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *command, "--data-dir", data.path], capture_output=True, text=True, check=True
    )
    loaded = set(ended.stderr.split())
    assert {"msgspec", "tapio.cli.main"} <= loaded
    assert not [name for name in loaded if name.startswith(("tapio.kernel", "tapio.sinks", "tapio.agent"))]
    assert not loaded & {"bcc", "prometheus_client", "opentelemetry", "ulid", "rich", "mcp", "kubernetes", "logging",
                         "threading_", "asyncio", "requests", "http"}  # fmt: skip


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


@pytest.mark.parametrize("polling", [False, True])
def test_a_file_that_is_written_in_two_steps_is_shown_when_it_is_whole(data: DataDir, polling: bool) -> None:
    from tapio.cli.directory import DataDirectory
    from tapio.cli.follow import Follower

    directory = DataDirectory(data.path)
    follower = Follower(directory, polling=polling)
    assert list(follower.next(0)) == []
    document = data.document("oom_kill")
    path, whole = data.path / f"{document['id']}.json", msgspec.json.encode(document)
    path.write_bytes(whole[:50])
    for _ in range(2):
        assert list(follower.next(0.1)) == []
    assert directory.skipped["damaged"] == 1
    path.write_bytes(whole)
    assert [found.id for found in [*follower.next(0.3), *follower.next(0.3)]] == [document["id"]]
    assert directory.skipped["damaged"] == 0
    path.write_bytes(whole)
    assert [*follower.next(0.1), *follower.next(0.1)] == []
    follower.close()


@pytest.mark.parametrize("polling", [False, True])
def test_a_storm_with_retention_deleting_files(data: DataDir, polling: bool) -> None:
    """Every file is shown once, or counted as gone."""
    import threading

    from tapio.cli.directory import DataDirectory
    from tapio.cli.follow import Follower

    total = 5003
    directory = DataDirectory(data.path)
    follower = Follower(directory, polling=polling)
    assert follower.polls is polling
    list(follower.next(0))
    written = [0]

    def storm() -> None:
        kept: list[str] = []
        for _ in range(total):
            kept.append(data.add("connection_refused"))
            written[0] += 1
            if len(kept) > 200:
                (data.path / f"{kept.pop(0)}.json").unlink()

    thread = threading.Thread(target=storm)
    thread.start()
    ids: list[str] = []
    while thread.is_alive():
        ids += [found.id for found in follower.next(0.05)]
    for _ in range(20):
        ids += [found.id for found in follower.next(0.05)]
    thread.join()
    follower.close()
    assert len(ids) == len(set(ids))
    assert not directory.skipped
    if polling:
        assert 200 <= len(ids) <= total
    else:
        assert len(ids) + directory.gone == total
