"""Data directories made up for tests of the CLI: occurrences of all types, and heartbeats."""

from __future__ import annotations

import codecs
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Any

import msgspec

from tapio.anomalies import CATALOGUE
from tapio.clock import rfc3339_ms
from tapio.heartbeat_document import SCHEMA_VERSION
from tapio.occurrence import Occurrence, decode
from tapio.store import name_at

TAPIO = Path(sys.executable).parent / "tapio"
OBSERVERS = ("network", "container", "storage", "node")

_NETWORK = {"pid": 4242, "comm": "curl", "src_ip": "10.0.0.7", "src_port": 40001,
            "dst_ip": "10.0.0.9", "dst_port": 5432, "family": "ipv4", "protocol": "tcp",
            "cgroup_id": 8429, "attribution": "socket"}  # fmt: skip
_STORAGE = {"device": "sda", "dev_major": 8, "dev_minor": 0, "operation": "write", "sector": 2048, "bytes": 4096,
            "pid": 77, "comm": "postgres", "cgroup_id": 8431, "attribution": "bio"}  # fmt: skip
_NODE = {"cpu": 3, "cycles": 1000, "instructions": 500, "stall_cycles": 450, "ipc": 0.5, "stall_pct": 45.0,
         "interval_ms": 1000}  # fmt: skip
_PROCESS = {"pid": 1234, "tid": 1234, "comm": "api", "cgroup_id": 8430}

# Facts and message of a typical occurrence of each type.
FACTS: dict[str, tuple[str, dict[str, Any]]] = {
    "connection_refused": ("Connection refused by 10.0.0.9:5432", {**_NETWORK, "errno": "ECONNREFUSED"}),
    "connection_timeout": ("Connection to 10.0.0.9:5432 timed out", {**_NETWORK, "errno": "ETIMEDOUT",
                                                                     "phase": "connect"}),
    "retransmit_spike": ("7 segments sent again to 10.0.0.9:5432 within 10 s", {**_NETWORK, "retransmits": 7}),
    "rtt_degradation": ("RTT to 10.0.0.9:5432 is 120.0 ms, normally 4.0 ms",
                        {**_NETWORK, "baseline_ms": 4.0, "current_ms": 120.0}),
    "rst_storm": ("13 resets from 10.0.0.9:5432 within 10 s", {**_NETWORK, "rst_count": 13}),
    "oom_kill": ("OOM kill pid=1234 (usage=512MB, limit=512MB)",
                 {**_PROCESS, "exit_code": 137, "signal": 9, "memory_usage_bytes": 536870912,
                  "memory_limit_bytes": 536870912, "attribution": "victim"}),
    "abnormal_exit": ("Abnormal exit pid=1234 (exit_code=3)",
                      {**_PROCESS, "exit_code": 3, "signal": 0, "attribution": "task"}),
    "io_error": ("I/O error on sda: write of 4096 bytes at sector 2048 failed (EIO)", {**_STORAGE, "errno": "EIO"}),
    "latency_spike": ("I/O latency spike on sda: write took 87.5 ms", {**_STORAGE, "latency_ms": 87.5}),
    "cpu_stall": ("CPU 3 stalled for 45 % of its cycles", _NODE),
    "memory_pressure": ("CPU 3 waited for memory for 25 % of its cycles", {**_NODE, "stall_pct": 25.0}),
    "ipc_degradation": ("IPC of CPU 3 is 0.50, normally 1.90", _NODE),
    "events_lost": ("Events of the observer network were lost: its ring buffer was full",
                    {"observer": "network", "reason": "ring_full", "count": 4711}),
}  # fmt: skip


class DataDir:
    """A data directory that is filled by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._made = 0

    def document(self, what: str, ago_s: float = 0, *, pod: str = "", now_s: float | None = None,
                 **changes: Any) -> dict[str, Any]:  # fmt: skip
        """An occurrence of the type `what`, emitted `ago_s` before now. `changes` go to `data`, or replace a field."""
        kind = next(kind for kind in CATALOGUE.values() if kind.name.endswith(f".{what}"))
        unix_ns = int(((now_s if now_s is not None else time.time()) - ago_s) * 1e9)
        self._made += 1
        message, facts = FACTS[what]
        document: dict[str, Any] = {
            "id": f"{name_at(unix_ns // 1_000_000)}{self._made:016d}",
            "timestamp": rfc3339_ms(unix_ns),
            "source": "tapio",
            "type": kind.name,
            "protocol_version": "1.0",
            "severity": kind.severity,
            "outcome": kind.outcome,
            "error": {"code": kind.code, "message": message},
            "data": {"count": 1, **facts, "timestamp_ns": unix_ns},
        }
        if pod:
            namespace, _, name = pod.partition("/")
            document["context"] = {
                "node": "worker-3",
                "namespace": namespace,
                "entities": [{"kind": "pod", "id": pod, "name": name}],
            }
        for name, value in changes.items():
            (document if name in document else document["data"])[name] = value
        return document

    def add(self, what: str, ago_s: float = 0, **changes: Any) -> str:
        """Write an occurrence; its id."""
        document = self.document(what, ago_s, **changes)
        self.write(f"{document['id']}.json", msgspec.json.encode(document))
        return str(document["id"])

    def fill(self) -> None:
        """One occurrence of each type, a minute apart, the newest first in FACTS, and a folded one that is newer."""
        for index, what in enumerate(FACTS):
            pod = "" if what.startswith(("io", "lat", "cpu", "mem", "ipc")) else "shop/checkout-api-7f8b9c6d5-x2x4v"
            self.add(what, 30 + 60 * index, pod=pod)
        self.add("connection_refused", 15, count=23, comm="\x1b[31mevil\x1b]0;x\x07",
                 episode={"id": "e", "total": 46, "first_seen": "", "last_seen": "", "state": "ongoing"})  # fmt: skip

    def write(self, name: str, content: bytes) -> None:
        """Write a file as the agent does: whole or not at all."""
        temporary = self.path / f".{name}.tmp"
        temporary.write_bytes(content)
        temporary.rename(self.path / name)

    def heartbeat(self, age_s: float = 0.3, observers: Sequence[str] = OBSERVERS, *, now_s: float | None = None,
                  detached: str = "", lacks: Mapping[str, str] | None = None,
                  blind: Mapping[str, str] | None = None, lost: Mapping[str, int] | None = None,
                  **changes: Any) -> None:  # fmt: skip
        """A heartbeat of an agent that is well, but for `detached` (an observer) and `changes`.

        `lacks` and `blind`: the reasons of observers that are up, and of those whose hooks are attached in vain.
        `lost`: events that they lost.
        """
        lacks, blind, lost = lacks or {}, blind or {}, lost or {}
        now_ns = int((now_s if now_s is not None else time.time()) * 1e9)
        states = {
            name: {
                "up": name != detached and name not in blind,
                "reason": blind.get(name, lacks.get(name, "")),
                "hooks": [
                    {"name": f"{name}_one", "attached": name != detached, "reason": "", "hits": 7, "run_ns": 1},
                    {"name": f"{name}_two", "attached": True, "hits": 7, "a_field_of_the_future": 1},
                ],
                "events": 14,
                "events_per_s": 2.5,
                "anomalies": {},
                "lost": lost.get(name, 0),
                "unattributed": 0,
                "suppressed": {},
            }
            for name in observers
        }
        document = {
            "schema_version": SCHEMA_VERSION,
            "agent_version": "0.1.0",
            "pid": 4711,
            "state": "running",
            "started_at": rfc3339_ms(now_ns - 8_000 * 10**9),
            "updated_at": rfc3339_ms(now_ns - int(age_s * 1e9)),
            "trouble": "".join(f"observer {name} is blind" for name in [detached, *blind][-1:] if name),
            "observers": states,
            "sinks": {"file": {"accepted": 0, "rejected": 0, "dropped": 0, "queue": 0, "last_error": ""}},
            **changes,
        }
        self.write(".agent.json", msgspec.json.encode(document))


def as_read(document: Mapping[str, Any]) -> Occurrence:
    """A document as who reads its file gets it."""
    return decode(msgspec.json.encode(document))


def make_occurrence(folder: Path, what: str, **changes: Any) -> Occurrence:
    """An occurrence as `DataDir.document` makes it, as it is read."""
    return as_read(DataDir(folder).document(what, **changes))


def tapio(data_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tapio` as a user does, with pipes."""
    return subprocess.run(
        [TAPIO, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=data_dir.parent,
        env={**_clean(), "TAPIO_DATA_DIR": str(data_dir), **environment},
    )  # fmt: skip


def refuse(data: DataDir, *arguments: str, code: int = 2, **environment: str) -> str:
    """Run what must fail with `code` and one line; the line, without the command's name."""
    ended = tapio(data.path, *arguments, **environment)
    assert ended.returncode == code, ended
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("tapio: ")
    return line.removeprefix("tapio: ")


def _clean() -> dict[str, str]:
    unwanted = ("COLUMNS", "LINES", "NO_COLOR", "TAPIO_DATA_DIR", "TAPIO_DEBUG", "TZ")
    return {**{k: v for k, v in os.environ.items() if k not in unwanted}, "TERM": "xterm", "TZ": "UTC"}


class Terminal:
    """`tapio` in a pseudo-terminal of `columns`."""

    def __init__(self, command: Sequence[object], columns: int, environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**_clean(), **environment},
        )  # fmt: skip
        os.close(slave)
        self.output = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def read(self, until: str = "", timeout_s: float = 20) -> str:
        """Read until a text appears, or until the end."""
        deadline = time.monotonic() + timeout_s
        while not until or until not in self.output:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{until!r} did not appear in {self.output!r}"
            try:
                part = os.read(self._master, 65536)
            except OSError:  # Linux: the other end is closed
                part = b""
            if not part:
                break
            self.output += self._decode(part).replace("\r\n", "\n")
        return self.output

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        self.read()
        os.close(self._master)
        return self.process.wait(10)


def on_terminal(data_dir: Path, columns: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of a command on a terminal."""
    terminal = Terminal([TAPIO, *arguments], columns, {"TAPIO_DATA_DIR": str(data_dir), **environment})
    code = terminal.end()
    return code, terminal.output
