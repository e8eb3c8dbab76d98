"""How documents lie in a segment of the spool: framed, numbered, and found again behind whatever was damaged.

A frame begins with bytes that no UTF-8 text holds, and its checksum covers number, length and document: the next
whole frame can be found behind a damaged one, and its number says how many are missing in between.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

MAX_DOCUMENT = 1 << 20
_MAGIC = b"\xfe\xffT1"
_FRAME = struct.Struct("<4sIQI")  # magic, CRC-32 of all that follows, number and length of the document that follows
_READ_AHEAD = 256 << 10


def frame(number: int, document: bytes) -> bytes:
    """The frame of a document of at most MAX_DOCUMENT bytes."""
    rest = struct.pack("<QI", number, len(document)) + document
    return struct.pack("<4sI", _MAGIC, zlib.crc32(rest)) + rest


def read_frames(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """Number, document and the offset behind it, of every whole frame between two offsets. OSError from reading."""
    window = _Window(descriptor, end)
    while start + _FRAME.size <= end:
        magic, checksum, number, length = _FRAME.unpack(window.see(start, _FRAME.size))
        stop = start + _FRAME.size + length
        if magic == _MAGIC and length <= MAX_DOCUMENT and stop <= end:
            rest = window.see(start + 8, _FRAME.size - 8 + length)
            if zlib.crc32(rest) == checksum:
                yield number, rest[_FRAME.size - 8 :], stop
                start = stop
                continue
        start = window.find(_MAGIC, start + 1)


def count_remains(descriptor: int, start: int, end: int) -> int:
    """How many documents the bytes between two offsets, in which no frame is whole, were at least."""
    window = _Window(descriptor, end)
    found, position = 0, window.find(_MAGIC, start)
    while position < end:
        found += 1
        position = window.find(_MAGIC, position + 1)
    return found or int(start < end)


class _Window:
    """A file up to `end`, of which a part is held in memory. Behind the end of the file there are zeros."""

    def __init__(self, descriptor: int, end: int) -> None:
        self._descriptor, self._end = descriptor, end
        self._base, self._held = 0, b""

    def see(self, start: int, size: int) -> bytes:
        if start < self._base or start + size > self._base + len(self._held):
            wanted = max(size, min(_READ_AHEAD, self._end - start))
            self._base, self._held = start, os.pread(self._descriptor, wanted, start).ljust(size, b"\0")
        return self._held[start - self._base : start - self._base + size]

    def find(self, what: bytes, start: int) -> int:
        """Where `what` begins, from `start` on; `end` if it does not."""
        while start + len(what) <= self._end:
            size = min(_READ_AHEAD, self._end - start)
            found = self.see(start, size).find(what)
            if found >= 0:
                return start + found
            start += size - len(what) + 1
        return self._end
