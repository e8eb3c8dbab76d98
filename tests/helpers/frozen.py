"""One thread of a process stands still, the others run: as a debugger does it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000


@contextlib.contextmanager
def frozen_thread(tid: int) -> Iterator[None]:
    """Meanwhile the thread `tid` stands still. It should be waiting in a system call: it keeps locks that it holds."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request: int) -> None:
        if libc.ptrace(request, tid, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace({request:#x})")

    ptrace(_SEIZE)
    try:
        ptrace(_INTERRUPT)
        os.waitpid(tid, _WALL)
        yield
    finally:
        ptrace(_DETACH)
