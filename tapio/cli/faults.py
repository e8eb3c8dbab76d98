"""The faults of `tapio selftest`: harmless, in processes of their own, gone afterwards.

Each process takes a name that no other has, so that its occurrence is recognised also from inside a pod, where the
pids that the agent reports mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tapio.cli.probe import EXIT_CODE, OOM_LIMIT_BYTES
from tapio.errors import TapioError, describe_os_error

# Eight times the limit at most: where the limit has no effect, the node must not suffer.
_EAT = "held = [bytearray(b'x') * (1 << 20) for _ in range(256)]"
_RENAME = "open('/proc/self/comm', 'w').write({name!r})"
_WITHIN_S = 20.0


class SkippedFaultError(TapioError):
    """A fault that cannot be made here; the text says why."""


def exit_with_code(name: str) -> None:
    """A process that ends with a code."""
    code = _run(name, f"raise SystemExit({EXIT_CODE})")
    if code != EXIT_CODE:
        raise SkippedFaultError(f"the process ended with {code} instead of {EXIT_CODE}")


def refuse_connect(name: str) -> int:
    """A connect to a port of this machine on which nobody listens; returns the port."""
    with socket.socket() as reserved:
        # Bound, but not listening: nobody else can take the port, and no connect can get it as its own.
        reserved.bind(("127.0.0.1", 0))
        port: int = reserved.getsockname()[1]
        code = _run(
            name, f"import socket\ntry: socket.create_connection(('127.0.0.1', {port}), 5)\n"
            "except ConnectionRefusedError: raise SystemExit(0)\nraise SystemExit(1)",
        )  # fmt: skip
    if code:
        raise SkippedFaultError("the connection was not refused, something redirects it")
    return port


def exhaust_memory(name: str) -> None:
    """A process that is killed for memory, in a cgroup with a limit of 32 MiB."""
    with scratch_cgroup(name) as directory:
        code = _run(name, _EAT, directory)
    if code != -signal.SIGKILL:
        raise SkippedFaultError(f"the process outlived its memory limit (it ended with {code})")


def _run(name: str, body: str, cgroup: Path | None = None) -> int:
    """Run Python code in a process called `name`, inside `cgroup`; its exit code."""
    join = f"open({str(cgroup / 'cgroup.procs')!r}, 'w').write('0')\n" if cgroup else ""
    code = f"{_RENAME.format(name=name)}\n{join}{body}"
    with subprocess.Popen(  # noqa: S603  # our own interpreter
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
    ) as child:
        try:
            _, said = child.communicate(timeout=_WITHIN_S)
        except BaseException as error:
            child.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise SkippedFaultError(f"the process did not end within {_WITHIN_S:.0f} s") from error
            raise
    if child.returncode == 1 and said:
        raise SkippedFaultError(said.decode(errors="replace").strip().splitlines()[-1])
    return child.returncode


@contextlib.contextmanager
def scratch_cgroup(name: str, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Path]:
    """A cgroup with a memory limit, removed afterwards. SkippedFaultError where there can be none."""
    parent, limit, swap_limit = _memory_hierarchy(mounts)
    directory = parent / name
    try:
        try:
            directory.mkdir()
        except OSError as error:
            raise SkippedFaultError(
                f"making a cgroup in {parent}: {describe_os_error(error)}: "
                "it needs root, and in a pod a writable /sys/fs/cgroup"
            ) from error
        try:
            (directory / limit).write_text(str(OOM_LIMIT_BYTES))
        except OSError as error:
            raise SkippedFaultError(
                f"setting {limit} of a cgroup in {parent}: {describe_os_error(error)}: no memory controller there"
            ) from error
        with contextlib.suppress(OSError):  # absent without swap accounting
            (directory / swap_limit[0]).write_text(swap_limit[1])
        yield directory
    finally:
        if directory.exists():
            with _undisturbed():
                _remove(directory)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C waits until what was made is removed."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _memory_hierarchy(mounts: Path) -> tuple[Path, str, tuple[str, str]]:
    """Where the memory controller is, and the files that set the limits of memory and swap."""
    found: Path | None = None
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []  # no Linux
    for line in lines:
        _, target, filesystem, options, *_ = line.split(" ")
        if filesystem == "cgroup" and "memory" in options.split(","):
            return Path(target), "memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", str(OOM_LIMIT_BYTES))
        if filesystem == "cgroup2":
            found = Path(target)
    if found is None:
        raise SkippedFaultError("no cgroup hierarchy is mounted here")
    return found, "memory.max", ("memory.swap.max", "0")


def _remove(directory: Path) -> None:
    """Remove the cgroup and whoever is still in it."""
    deadline = time.monotonic() + 5
    while True:
        with contextlib.suppress(OSError, ValueError):
            for pid in (directory / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TapioError(f"removing {directory}: {describe_os_error(error)}: remove it by rmdir") from error
            time.sleep(0.02)
        else:
            return
