"""The little of inotify(7) that following one directory needs, by ctypes. Linux only."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys

_MOVED_TO, _CLOSE_WRITE = 0x80, 0x08
_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")
_BUFFER = 1 << 16


class InotifyUnavailableError(Exception):
    """No inotify here: another system, or no watch is left."""


class Inotify:
    """Names that appear in one directory."""

    def __init__(self, directory: int) -> None:
        """`directory` is an open descriptor. InotifyUnavailableError where it cannot be watched."""
        if sys.platform != "linux":
            raise InotifyUnavailableError
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, AttributeError) as error:
            raise InotifyUnavailableError from error
        if self._descriptor < 0:
            raise InotifyUnavailableError
        # By the descriptor: the directory that was opened, whatever its path means by now.
        path = f"/proc/self/fd/{directory}".encode()
        if libc.inotify_add_watch(self._descriptor, path, _MOVED_TO | _CLOSE_WRITE) < 0:
            os.close(self._descriptor)
            raise InotifyUnavailableError

    def read(self, timeout_s: float) -> tuple[list[str], bool]:
        """New names in their order; whether some were lost by overflow."""
        ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
        if not ready:
            return [], False
        try:
            events = os.read(self._descriptor, _BUFFER)
        except BlockingIOError:
            return [], False
        names, masks, offset = [], 0, 0
        while offset < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, offset)
            offset += _EVENT.size
            name = events[offset : offset + length].rstrip(b"\0")
            offset += length
            masks |= mask
            if name and mask & (_MOVED_TO | _CLOSE_WRITE):
                names.append(os.fsdecode(name))
        return names, bool(masks & _OVERFLOW)

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)
