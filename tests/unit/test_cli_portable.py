"""The CLI on systems without Linux's own interfaces, as macOS, without UTF-8; what it loads; its man page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.data_dirs import TAPIO, DataDir

from tapio.cli.parser import make_parser

ROOT = Path(__file__).parents[2]

# What a Mac has not: /proc, inotify, Linux's calls of os. It has fcntl.
MAC = """
import ctypes, os, select, sys
sys.platform = "darwin"
for name in list(vars(os)):
    if name.startswith(("sched_", "pidfd_", "memfd_", "eventfd", "splice", "getrandom", "setns", "unshare")):
        delattr(os, name)
for name in ("epoll", "EPOLLIN"):
    delattr(select, name)
class NoLibrary:
    def __init__(self, *arguments, **options):
        raise OSError("no such library")
ctypes.CDLL = NoLibrary
for name in ("bcc", "mcp"):
    sys.modules[name] = None
def audit(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "no such file", arguments[0])
sys.addaudithook(audit)
from tapio.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.heartbeat(age_s=-5)
    made.add("oom_kill", 5)
    return made


@pytest.mark.parametrize(
    "command",
    [["status"], ["status", "--json"], ["recent"], ["recent", "--json", "--type", "oom_kill"], ["health"],
     ["health", "network"], ["tune", "--set", "storage.warning_ms=99"], ["completion", "bash"],
     ["watch", "--since", "1m", "--limit", "1"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_runs_on_a_mac(data: DataDir, command: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MAC, *command], capture_output=True, text=True, check=False, timeout=60,
        env={"TAPIO_DATA_DIR": str(data.path), "PATH": "/bin"},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    assert ended.stdout


def test_watch_polls_on_a_mac(data: DataDir) -> None:
    """Late files and new ones come, each once."""
    with subprocess.Popen(
        [sys.executable, "-c", MAC, "watch", "--json", "--since", "1m", "--limit", "3", "--data-dir", data.path],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        added = {data.add("io_error"), data.add("io_error", 5000)}
        seen = {json.loads(process.stdout.readline())["id"] for _ in range(2)}
        assert process.wait(20) == 0
    assert first["type"] == "kernel.container.oom_kill"
    assert seen == added


def test_selftest_on_a_mac_is_one_line_about_each_fault(data: DataDir) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MAC, "selftest", "--json", "--timeout", "1s", "--data-dir", data.path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    results = {found["fault"]: found for found in map(json.loads, ended.stdout.splitlines())}
    assert (ended.returncode, ended.stderr) == (1, ""), ended
    assert results["OOM kill"]["reason"] == "no cgroup hierarchy is mounted here"


@pytest.mark.parametrize("locale", [{"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
                                    {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}])  # fmt: skip
@pytest.mark.parametrize("command", [["recent"], ["health", "container"], ["recent", "--json"], ["status"]])
def test_a_terminal_without_utf8(data: DataDir, locale: dict[str, str], command: list[str]) -> None:
    data.add("oom_kill", 5, comm="größe漢\udcff".encode("utf-8", "replace").decode(), pod="shop/größe")
    ended = subprocess.run(
        [TAPIO, *command, "--data-dir", data.path], capture_output=True, check=False, env={"PATH": "/bin", **locale}
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    if "--json" in command:
        assert "größe" in ended.stdout.decode()
    else:
        assert ended.stdout.decode(locale.get("PYTHONIOENCODING", "ascii"))


@pytest.mark.parametrize("command", [["status"], ["recent"], ["health"], ["recent", "--json"]])
def test_the_cli_loads_light(data: DataDir, command: list[str]) -> None:
    """Neither bcc nor anything else that only the agent needs."""
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


def test_the_man_page_is_in_step() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/generate-man", "--check"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_man_page_names_every_command_and_flag() -> None:
    page = (ROOT / "tapio" / "cli" / "tapio.1").read_text()
    (commands,) = [action for action in make_parser()._actions if hasattr(action, "choices") and action.choices]
    for name, command in dict(commands.choices).items():  # type: ignore[arg-type]
        assert f"\n.SS {name}\n" in page
        for action in command._actions:
            for flag in action.option_strings:
                assert flag.replace("-", "\\-") in page
    requests = {line.split()[0] for line in page.splitlines() if line.startswith(".")}
    assert requests <= {'.\\"', ".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".nf", ".fi", ".RS", ".RE"}
