"""What this command itself causes: the faults of `tapio selftest`, and its own exits with a code.

Without telling them apart, a `tapio health --exit-code` that runs every minute would keep the node degraded for ever.
"""

from __future__ import annotations

import os
import re

from tapio.anomalies import ABNORMAL_EXIT, CONNECTION_REFUSED, OOM_KILL
from tapio.occurrence import Occurrence

EXIT_CODE = 97  # of the process that a selftest lets fail
OOM_LIMIT_BYTES = 32 << 20  # of the cgroup in which it lets one be killed

_EXIT_CODES = (1, 2, 10, 11, 130)
_ENDING_SIGNALS = (1, 2, 3, 13, 15)  # a terminal that closes, Ctrl-C, a reader that is gone, an ordinary end
# At most 15 characters: the kernel cuts a process's name there.
_NAME = re.compile(r"tapio-st-[0-9a-f]{6}")


def new_name() -> str:
    """The name of a new process."""
    return f"tapio-st-{os.urandom(3).hex()}"


def is_own(occurrence: Occurrence) -> bool:
    """Whether `tapio` caused it: the command's own end, or a selftest's fault.

    A process can call itself what it likes, so its name alone says nothing: the facts must be those of the fault, and
    what happened to a pod always counts.
    """
    comm, data = occurrence.data.get("comm"), occurrence.data
    if not isinstance(comm, str) or (occurrence.context is not None and occurrence.context.entities):
        return False
    if comm == "tapio":
        ended = data.get("exit_code") in _EXIT_CODES or data.get("signal") in _ENDING_SIGNALS
        return occurrence.type == ABNORMAL_EXIT.name and ended
    if _NAME.fullmatch(comm) is None:
        return False
    if occurrence.type == ABNORMAL_EXIT.name:
        return data.get("exit_code") == EXIT_CODE or data.get("signal") in _ENDING_SIGNALS
    if occurrence.type == OOM_KILL.name:
        return data.get("memory_limit_bytes") == OOM_LIMIT_BYTES
    return occurrence.type == CONNECTION_REFUSED.name and data.get("dst_ip") == "127.0.0.1"
