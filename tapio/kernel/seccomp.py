"""The allow-list of system calls, as a filter that the kernel runs before each of them (seccomp, classic BPF).

What is not on the list gives EPERM. Calls that the kernel got after 5.1 give ENOSYS, as on an older kernel, so that a
newer libc falls back to what is allowed. Calls of another architecture (32-bit on x86-64) kill the process: nothing
in the agent makes them. There is no way to take a filter off again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence

from tapio.kernel.syscalls import Check, Rule, numbers, rules

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x4000_0000  # numbers of the x32 interface, on x86-64 only
_FIRST_COMMON = 424  # from here on calls have the same number everywhere; all of them came with 5.1 or later

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

_SET_MODE_FILTER, _TSYNC = 1, 1

Instruction = tuple[int, int, int, int]  # code, how far to jump if true and if false, operand


def build(machine: str, allowed: Sequence[Rule]) -> list[Instruction]:
    """The filter's program."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL_PROCESS)]
    known = numbers(machine)
    for rule in allowed:
        body = _checks(rule.checks)
        # A check that fails leads to the reload behind the block; another call jumps over all of it.
        program += [(_EQUAL, 0, len(body), known[rule.call]), *body]
    program += [
        (_AT_LEAST, 0, 1, _FIRST_COMMON),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    return program


def _checks(checks: Sequence[Check]) -> list[Instruction]:
    """Allow if all checks hold, else fall through with the call's number loaded again."""
    body: list[Instruction] = [(_RETURN, 0, 0, _ALLOW)]
    if checks:
        body.append((_LOAD, 0, 0, _NR))
    for check in reversed(checks):
        matches: list[Instruction] = []
        for left, value in enumerate(reversed(check.values)):
            # The last value that does not match either jumps to the reload, the end of the block.
            matches.insert(0, (_EQUAL, left, 0 if left else len(body) - 1, value))
        body = [(_LOAD, 0, 0, _ARGUMENTS + 8 * check.argument), (_AND, 0, 0, check.mask), *matches, *body]
    return body


def install(*, every_thread: bool = True) -> str:
    """Put the filter in force for this process or thread, for good; why that was not possible, else ''.

    Needs no_new_privs.
    """
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return f"there is no filter for {machine}"
    program = build(machine, rules(machine, os.getpid()))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    flags = _TSYNC if every_thread else 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(numbers(machine)["seccomp"], _SET_MODE_FILTER, flags, ctypes.c_char_p(header)) != 0:
        return f"the kernel refused: {os.strerror(ctypes.get_errno()).lower()}"
    return ""
