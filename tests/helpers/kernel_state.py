"""What is loaded into the kernel right now, read by bpf(2) without any library."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path

_NR_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 11, 13, 15


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(_NR_BPF, command, attributes, len(attributes)))


def loaded_programs() -> dict[int, str]:
    """Ids and names (at most 15 characters) of all BPF programs."""
    found: dict[int, str] = {}
    program_id = 0
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("=III", program_id, 0, 0).ljust(64, b"\0"), 64)
        if _bpf(_PROG_GET_NEXT_ID, attributes) != 0:
            return found
        program_id = struct.unpack_from("=I", attributes, 4)[0]
        descriptor = _bpf(
            _PROG_GET_FD_BY_ID, ctypes.create_string_buffer(struct.pack("=I", program_id).ljust(64, b"\0"), 64)
        )
        if descriptor < 0:
            continue
        info = ctypes.create_string_buffer(256)
        attributes = ctypes.create_string_buffer(
            struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info)).ljust(64, b"\0"), 64
        )
        if _bpf(_OBJ_GET_INFO_BY_FD, attributes) == 0:
            found[program_id] = info.raw[64:80].split(b"\0")[0].decode()
        os.close(descriptor)


def programs_of(pid: int | str) -> set[int]:
    """The ids of the programs that a process holds."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # it ended, or hides
        for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a file that it has just closed
                for line in descriptor.read_text().splitlines():
                    if line.startswith("prog_id:"):
                        found.add(int(line.split()[1]))
    return found


def held_programs() -> set[int]:
    """The ids of the programs that any process holds."""
    return set().union(*(programs_of(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()))
