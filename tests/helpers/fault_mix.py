"""Faults at a steady pace. Run as a program: `python fault_mix.py PORT DISK`; it ends with its standard input.

Ten times a second: 17 refused connects to PORT on loopback, 2 children that end badly; once a second one write to
DISK that fails. At the end the numbers are printed as JSON, by type of anomaly.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

_TURN_S = 0.1
_REFUSED_A_TURN = 17
_ENDINGS = (3, 5, 7, -signal.SIGTERM, 11, -signal.SIGKILL)


def command(port: int, disk: Path) -> list[str]:
    """The command line that runs the mix."""
    return ["/usr/bin/python3", "-S", "-E", str(Path(__file__)), str(port), str(disk)]


def _refuse(port: int) -> None:
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


def _end_badly(how: int) -> None:
    child = os.fork()
    if child == 0:
        if how < 0:
            signal.signal(-how, signal.SIG_DFL) if how != -signal.SIGKILL else None
            os.kill(os.getpid(), -how)
            signal.pause()
        os._exit(how)
    os.waitpid(child, 0)


def main() -> None:
    port, disk = int(sys.argv[1]), os.open(sys.argv[2], os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 1 << 16)
    made: Counter[str] = Counter()
    turn, due = 0, time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        for _ in range(_REFUSED_A_TURN):
            _refuse(port)
        for number in (2 * turn, 2 * turn + 1):
            _end_badly(_ENDINGS[number % len(_ENDINGS)])
        made["kernel.network.connection_refused"] += _REFUSED_A_TURN
        made["kernel.container.abnormal_exit"] += 2
        if turn % 10 == 0:
            try:
                os.pwritev(disk, [buffer], turn // 10 % 512 << 16)
            except OSError:
                made["kernel.storage.io_error"] += 1
        turn += 1
        due = max(due + _TURN_S, time.monotonic())  # after a pause of the machine no storm
    print(json.dumps(made))


if __name__ == "__main__":
    main()
