"""Processes that end in ways the tests need. Run as a program: `python victims.py HOW [ARGUMENT...]`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

_SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]


def command(how: str, *arguments: object) -> list[str]:
    """The command line that runs the victim `how`."""
    return ["/usr/bin/python3", "-S", "-E", str(Path(__file__)), how, *map(str, arguments)]


def _exit_thread(code: int) -> None:
    """End only the calling thread, at the system call's level."""
    ctypes.CDLL(None).syscall(_SYS_EXIT, code)


def _start_threads(number: int, target: object = None) -> list[threading.Thread]:
    def rest() -> None:
        time.sleep(60)

    threads = [threading.Thread(target=target or rest, daemon=True) for _ in range(number)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    return threads


def exit_from_thread(code: int) -> None:
    """exit_group() called by one of nine threads."""
    _start_threads(7)
    threading.Thread(target=os._exit, args=(code,)).start()
    time.sleep(60)


def leader_first(code: int) -> None:
    """The leader ends with `code`, another thread later with twice that: since 5.17 the last one gives the status."""

    def outlive() -> None:
        time.sleep(0.2)
        _exit_thread(2 * code)

    _start_threads(1, outlive)
    _exit_thread(code)


def exec_from_thread(code: int) -> None:
    """A thread that is not the leader replaces the process."""
    _start_threads(3)
    threading.Thread(target=os.execv, args=("/bin/sh", ["sh", "-c", f"exit {code}"])).start()
    time.sleep(60)


def die_by(number: int) -> None:
    """A signal with its default action, in a process of four threads."""
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    _start_threads(3)
    os.kill(os.getpid(), number)
    time.sleep(60)


def eat_memory(threads: int, mebibytes: int = 1 << 20) -> None:
    """Fill memory in `threads` threads until killed, or up to a size and then wait."""

    def eat() -> None:
        held = [bytearray(b"x") * (1 << 20) for _ in range(mebibytes)]
        time.sleep(60 if held else 0)

    _start_threads(threads - 1, eat)
    eat()


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(int, sys.argv[2:]))
