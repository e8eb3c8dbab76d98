"""Files that the administrator names: regular ones of a sane size, so that no FIFO, device or mistake stops the agent.

They are read again while the agent runs: a FIFO would block it for ever, /dev/zero would fill its memory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAX_BYTES = 1 << 20


def check_regular(path: Path) -> os.stat_result:
    """What it is, through symbolic links (Kubernetes mounts them). OSError unless it is regular and at most 1 MiB."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    if found.st_size > _MAX_BYTES:
        raise OSError(f"it is larger than {_MAX_BYTES >> 20} MiB")
    return found


def read(path: Path) -> bytes:
    """The whole file; OSError as above."""
    check_regular(path)
    # Non-blocking, and not beyond the limit, in case it has just become another.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(f"it is larger than {_MAX_BYTES >> 20} MiB")
    return content
