"""Perf events: what the kernel wants to hear of one, opening it, and why that failed."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

from tapio.errors import KernelError, NoCounterError
from tapio.perf_events import TYPES, Event

_NR_PERF_EVENT_OPEN = {"aarch64": 241, "x86_64": 298}
_FLAG_CLOEXEC = 8
_ATTRIBUTE = struct.Struct("=IIQQQQQIIQ")  # perf_event_attr as of its first version
_DISABLED = 1
_ANY_PROCESS = -1
_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.ENXIO, errno.EINVAL)
_EXTENDED_TYPE_SHIFT = 32


def attribute(event: Event, period: int = 0) -> bytes:
    """The kernel's perf_event_attr. With a `period` (of what the event counts) it samples, from when it is enabled."""
    flags = _DISABLED if period else 0
    return _ATTRIBUTE.pack(event.type, _ATTRIBUTE.size, event.config, period, 0, 0, flags, 0, 0, 0)


def open_event(event: Event, cpu: int, group: int = -1, period: int = 0) -> int:
    """A descriptor of the event on one CPU, for every process; `group` counts it together with that event. OSError."""
    system_call = ctypes.CDLL(None, use_errno=True).syscall
    content = attribute(event, period)
    descriptor = system_call(
        ctypes.c_long(_NR_PERF_EVENT_OPEN[platform.machine()]),
        ctypes.create_string_buffer(content, len(content)),
        ctypes.c_int(_ANY_PROCESS),
        ctypes.c_int(cpu),
        ctypes.c_int(group),
        ctypes.c_ulong(_FLAG_CLOEXEC),
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)


def explain(what: str, words: str, error: OSError) -> KernelError:
    """Why an event could not be opened, in one line."""
    if error.errno in _ABSENT:
        code = errno.errorcode[error.errno]
        text = f"this machine has no performance counter for it, like most virtual machines ({code})"
        return NoCounterError(f"counting {what} by {words}: {text}")
    text = os.strerror(error.errno or 0).lower()
    if error.errno in (errno.EACCES, errno.EPERM):
        text += ": run as root, grant CAP_PERFMON, or lower kernel.perf_event_paranoid"
    elif error.errno == errno.EMFILE:
        text += ": raise the limit of open files (ulimit -n)"
    return KernelError(f"counting {what} by {words}: {text}")


def variants(event: Event, cpu: int, sys_root: Path) -> Iterator[Event]:
    """`event`, and on CPUs with two kinds of cores also as the PMU of this core knows it."""
    yield event
    if event.type != TYPES["hardware"]:
        return
    for cpus in sorted((sys_root / "bus/event_source/devices").glob("cpu_*/cpus")):
        if cpu in cpu_list(cpus.read_text()):
            number = int((cpus.parent / "type").read_text())
            yield Event(event.type, event.config | number << _EXTENDED_TYPE_SHIFT)


def cpu_list(text: str) -> list[int]:
    """The kernel's '0-3,8' as numbers."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def online_cpus(sys_root: Path = Path("/sys")) -> list[int]:
    """The CPUs that are online now."""
    return cpu_list((sys_root / "devices/system/cpu/online").read_text())
