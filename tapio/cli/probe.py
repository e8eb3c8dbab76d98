"""What this command itself causes: the faults of `tapio selftest`, and its own exits with a code.

Without telling them apart, a `tapio health --exit-code` that runs every minute would keep the node degraded for ever.
"""

from __future__ import annotations

import os
import re

from tapio.anomalies import ABNORMAL_EXIT
from tapio.occurrence import Occurrence

_EXIT_CODES = (1, 2, 10, 11, 130)
# At most 15 characters: the kernel cuts a process's name there.
_NAME = re.compile(r"tapio-st-[0-9a-f]{6}")


def new_name() -> str:
    """The name of a new process."""
    return f"tapio-st-{os.urandom(3).hex()}"


def is_own(occurrence: Occurrence) -> bool:
    """Whether `tapio` caused it, by the name of the process: that of the command, or a selftest's."""
    comm, data = occurrence.data.get("comm"), occurrence.data
    if comm == "tapio":
        return occurrence.type == ABNORMAL_EXIT.name and data.get("exit_code") in _EXIT_CODES
    return isinstance(comm, str) and _NAME.fullmatch(comm) is not None
