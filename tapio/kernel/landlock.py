"""Landlock: the agent may read what its user may read, and write into its data directory alone.

A user without rights can still write to /tmp and to what others left open for all; no seccomp filter can tell one path
from another. Kernels from 5.13 on can, where Landlock is switched on.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from tapio.kernel.syscalls import numbers

_GET_ABI = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # from ABI 2, 3
_SCOPES = 1 << 0 | 1 << 1  # from ABI 6: no abstract UNIX sockets and no signals out of the sandbox

_FORBIDDEN = (
    _EXECUTE | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_CHAR | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK
    | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_SYM
)  # fmt: skip
_IN_THE_DIRECTORY = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE


def restrict_writes(directory: int) -> str:
    """Confine this process to writing beneath `directory` (a descriptor); why that was not possible, else ''.

    Call it before the first thread: it works on the calling thread and its descendants. Needs no_new_privs.
    """
    calls = numbers(platform.machine())
    if not calls:
        return f"the numbers of its calls on {platform.machine()} are not known"
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    abi = syscall(calls["landlock_create_ruleset"], None, 0, _GET_ABI)
    if abi < 1:
        return "the kernel has none: it came with 5.13 and can be switched off"
    forbidden = _FORBIDDEN | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    attributes = struct.pack("=QQQ", forbidden, 0, _SCOPES if abi >= 6 else 0)
    ruleset = syscall(calls["landlock_create_ruleset"], ctypes.c_char_p(attributes), len(attributes), 0)
    if ruleset < 0:
        return _refused()
    try:
        beneath = ctypes.c_char_p(struct.pack("=Qi", _IN_THE_DIRECTORY & forbidden, directory))
        if syscall(calls["landlock_add_rule"], ruleset, _PATH_BENEATH, beneath, 0) != 0:
            return _refused()
        return _refused() if syscall(calls["landlock_restrict_self"], ruleset, 0) != 0 else ""
    finally:
        os.close(ruleset)


def _refused() -> str:
    return f"the kernel refused: {os.strerror(ctypes.get_errno()).lower()}"
