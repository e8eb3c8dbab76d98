"""What can be wrong at the start: one line, the right exit code, nothing attached afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from helpers.refusals import refuse
from helpers.running_agent import AGENT

from tapio.config import CHECKOUT_EBPF_DIR
from tapio.errors import KernelError, LoaderError
from tapio.kernel import attach, loader

pytestmark = pytest.mark.kernel

OBJECT = "container_monitor.o"
EBPF = CHECKOUT_EBPF_DIR.parent


def refuse_agent(tmp_path: Path, *flags: object, code: int = 1) -> str:
    return refuse([AGENT, f"--data-dir={tmp_path / 'data'}", "--metrics-address=", *flags], code)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A copy of the objects, to be damaged: one that is broken ends the start, whatever the others could do."""
    shutil.copytree(CHECKOUT_EBPF_DIR, tmp_path / "objects")
    return tmp_path / "objects"


def test_an_object_that_is_missing(tmp_path: Path, objects: Path) -> None:
    (objects / OBJECT).unlink()
    line = refuse_agent(tmp_path, f"--ebpf-dir={objects}")
    assert OBJECT in line
    assert "no such file or directory: build it with 'make setup' or set --ebpf-dir" in line.lower()


@pytest.mark.parametrize("length", [0, 30, 100, 5_000, 20_000, -100])
def test_an_object_that_is_truncated(tmp_path: Path, objects: Path, length: int) -> None:
    (objects / OBJECT).write_bytes((CHECKOUT_EBPF_DIR / OBJECT).read_bytes()[:length])
    line = refuse_agent(tmp_path, f"--ebpf-dir={objects}")
    assert OBJECT in line
    assert "rebuild it with 'make setup'" in line


def test_an_object_of_another_architecture(tmp_path: Path, objects: Path) -> None:
    other = "x86" if os.uname().machine == "aarch64" else "arm64"
    assert "built for" in refuse_agent(tmp_path, f"--ebpf-dir={CHECKOUT_EBPF_DIR / other}")
    shutil.copy("/bin/true", objects / OBJECT)
    assert "built for another architecture" in refuse_agent(tmp_path, f"--ebpf-dir={objects}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("status", "stat", "no field status"),
        ("struct exit_record", "struct departure_record", "no record exit_record"),
        ("RECORD_OOM", "RECORD_KILLED", "no enumerator RECORD_OOM"),
        ("hits", "runs", "lacks hits"),
        ("cgroup_id", "cgroup_ids[2]", "cgroup_id"),
    ],
)
def test_an_object_with_a_changed_record(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The decoders cannot read it: the agent does not start, and `--check` says so too."""
    sources = tmp_path / "ebpf"
    shutil.copytree(EBPF, sources, ignore=shutil.ignore_patterns("build"))
    for other in set(sources.glob("*_monitor.c")) - {sources / "container_monitor.c"}:
        other.unlink()
    for path in (sources / "headers" / "events.h", sources / "headers" / "task.h", sources / "headers" / "memcg.h",
                 sources / "headers" / "ring.h", sources / "container_monitor.c"):  # fmt: skip
        text = path.read_text()
        if new == "cgroup_ids[2]":
            text = text.replace("__u64 cgroup_id;", "__u64 cgroup_ids[2];").replace("->cgroup_id", "->cgroup_ids[0]")
        elif old == "status":
            text = text.replace("__u32 status; /* as", "__u32 stat; /* as").replace(
                "record->status = status", "record->stat = status"
            )
        else:
            text = text.replace(old, new)
        path.write_text(text)
    subprocess.run(["make", "-s", "-C", sources, "SOURCES=container_monitor.c"], check=True, capture_output=True)
    assert message in refuse_agent(tmp_path, "--observer=container", f"--ebpf-dir={sources / 'build'}")
    checked = subprocess.run(
        [AGENT, "--check", "--observer=container", f"--ebpf-dir={sources / 'build'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert message in checked.stdout


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    assert "opening the data directory /proc/tapio" in refuse([AGENT, "--data-dir=/proc/tapio"], 1)
    assert "belongs to somebody else" in refuse([AGENT, "--data-dir=/etc"], 1)
    (tmp_path / "file").write_text("")
    assert "choose another with --data-dir" in refuse([AGENT, f"--data-dir={tmp_path / 'file'}"], 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sink=paper"], "--sink paper: there is no such sink: choose from stdout, file"),
        (["--observer=weather"], "--observer weather: there is no such observer"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["--config=/nonexistent"], "reading /nonexistent: no such file or directory"),
        (["--metrics-address=nowhere"], "expected HOST:PORT"),
        (["--metrics-address=..:1"], "expected HOST:PORT"),
        ([b"--ebpf-dir=\xff"], "is not UTF-8"),
    ],
)
def test_wrong_flags(tmp_path: Path, flags: list[str | bytes], message: str) -> None:
    assert message in refuse_agent(tmp_path, *flags, code=2)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refuse([AGENT, f"--data-dir={tmp_path / 'data'}", f"--metrics-address={address}"], 1)
    assert f"listening on {address} for /metrics: address already in use: choose another" in line


def test_stdout_that_is_closed(tmp_path: Path) -> None:
    line = refuse(["/bin/sh", "-c", 'exec "$@" >&-', "sh", AGENT, f"--data-dir={tmp_path / 'data'}"], 2)
    assert "opening the stdout sink: stdout is closed" in line


def test_a_configuration_that_the_new_user_cannot_read(tmp_path: Path) -> None:
    config = tmp_path / "tapio.toml"
    config.write_text("")
    config.chmod(0o600)
    line = refuse_agent(tmp_path, f"--config={config}", code=2)
    assert f"reading {config} as uid 65534: permission denied" in line


def test_a_loader_that_crashes() -> None:
    with pytest.raises(LoaderError, match="ended without an answer"):
        attach.attach({"container": CHECKOUT_EBPF_DIR / OBJECT}, 65536, "/bin/false")


class Libbpf:
    """A kernel without ring buffers."""

    def has_ring_buffer(self) -> bool:
        return False


def test_a_kernel_without_btf_or_ring_buffers(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="this kernel has no BTF"):
        loader.check_kernel(Libbpf(), tmp_path / "vmlinux")  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="this kernel has none"):
        loader.check_kernel(Libbpf())  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["root", "0", "nosuchuser", "4294967295", "9" * 30, "a\\u0000b"])
def test_users_that_cannot_be(tmp_path: Path, user: str) -> None:
    config = tmp_path / "tapio.toml"
    config.write_text(f'user = "{user}"\n')
    assert "looking up user" in refuse_agent(tmp_path, f"--config={config}", code=2)


def test_a_node_name_that_is_not_text() -> None:
    environment = {**os.environb, b"NODE_NAME": b"n\xff"}
    assert "reading NODE_NAME" in refuse([AGENT], 2, env=environment)


def test_a_key_with_control_characters_is_one_harmless_line(tmp_path: Path) -> None:
    config = tmp_path / "tapio.toml"
    config.write_text('"a\\nb\\u001b[31m" = 1\n')
    assert r"a\nb\x1b[31m: there is no such key" in refuse_agent(tmp_path, f"--config={config}", code=2)


@pytest.mark.parametrize("limit", ["-n 12", "-n 16"])
def test_too_few_descriptors(tmp_path: Path, limit: str) -> None:
    command = ["/bin/sh", "-c", f'ulimit {limit}; exec "$@"', "sh", AGENT, f"--data-dir={tmp_path / 'data'}"]
    line = refuse([*command, "--metrics-address=127.0.0.1:0"], 1)
    assert "ulimit" in line


@pytest.mark.parametrize("flag", ["--check", "--help"])
def test_a_reader_that_had_enough(flag: str) -> None:
    ended = subprocess.run(["/bin/sh", "-c", f"{AGENT} {flag} | true"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
