"""A child process that only ends: no exec, no copy of the agent's memory, not a line of Python.

`os.fork()` would copy the page tables of 50 MiB, run what libraries registered for forks (OpenTelemetry starts a
thread) and leave a threaded interpreter to a lone thread. Here the C library's clone() starts its `_exit` on a stack
of its own, in the agent's memory, while the calling thread waits: as vfork() does, without its restrictions on callers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal

_STACK_BYTES = 16 << 10
_CLONE_VM, _CLONE_VFORK = 0x100, 0x4000


class ExitingChild:
    """Makes children that end at once with a code."""

    def __init__(self) -> None:
        """Finds what it needs in the C library: to be done while the agent may still read files."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._exit = ctypes.cast(self._libc["_exit"], ctypes.c_void_p)
        self._stack = mmap.mmap(-1, _STACK_BYTES)
        self._top = ctypes.addressof(ctypes.c_char.from_buffer(self._stack)) + _STACK_BYTES

    def end(self, code: int) -> int:
        """Start a child that ends with `code`; its pid, a zombie until it is waited for. OSError when there is none."""
        # A handler that ran in the child would write to what is the agent's memory.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            flags = _CLONE_VM | _CLONE_VFORK | signal.SIGCHLD
            pid = int(self._libc.clone(self._exit, ctypes.c_void_p(self._top), flags, ctypes.c_void_p(code)))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return pid
