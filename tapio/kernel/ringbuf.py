"""Reading a BPF ring buffer from mapped memory: no bpf() call, no privilege, no wake-up.

The layout is kernel/bpf/ringbuf.c's: a page with the consumer's position, a page with the producer's, then the
data. The kernel offers the data twice in a row, so that records never wrap; every mapped byte counts as resident
memory, so it is mapped once here and a record that wraps is put together from its two ends.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable

_HEADER = struct.Struct("=II")  # length with two flags, page offset
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_FLAGS = _BUSY | _DISCARDED
_LENGTH = _DISCARDED - 1


class RingBuffer:
    """The consumer of one ring. Not for use by several threads."""

    def __init__(self, descriptor: int, size: int, fence: Callable[[], None], page: int = mmap.PAGESIZE) -> None:
        """Map a ring of `size` bytes (a power of two). `fence` is a full memory barrier, see `memory.fence`."""
        self.size = size
        self.damaged = 0  # how often the ring made no sense and all of it was given up
        self._fence = fence
        self._mask = size - 1
        self._consumer = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._map = mmap.mmap(descriptor, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._page = page
        # A cast view reads and writes eight aligned bytes in one access.
        self._consumed = memoryview(self._consumer).cast("Q")
        self._produced = memoryview(self._map).cast("Q")
        self._headers = memoryview(self._map)[page:].cast("I")

    @property
    def backlog(self) -> int:
        """Bytes that wait to be read."""
        return self._produced[0] - self._consumed[0]

    def read(self, limit: int) -> list[bytes]:
        """Up to `limit` finished records, oldest first, and free their space.

        Stops at a record that a program has reserved and not yet submitted: the kernel keeps the order. What cannot be
        a ring is given up as a whole, and counted: no length or position in it can be trusted any more.
        """
        position, end = self._consumed[0], self._produced[0]
        if position == end:
            return []
        if not 0 < end - position <= self.size or position & 7:
            return self._give_up(end)
        self._fence()  # the headers must not be read before the producer's position
        mask, headers = self._mask, self._headers
        spans: list[tuple[int, int]] = []
        while position < end and len(spans) < limit:
            length = headers[(position & mask) >> 2]
            if length & _FLAGS:
                if length & _BUSY:
                    break
                length &= _LENGTH
            else:
                spans.append(((position + _HEADER.size) & mask, length))
            position += length + _HEADER.size + 7 & ~7
        if position > end:  # no record reaches beyond what was produced
            return self._give_up(end)
        self._fence()  # the records must not be read before their headers
        page, size, data = self._page, self.size, self._map
        records = [
            data[page + start : page + start + length] if start + length <= size else self._wrapped(start, length)
            for start, length in spans
        ]
        self._fence()  # nor their space given back before they were read
        self._consumed[0] = position
        return records

    def _give_up(self, end: int) -> list[bytes]:
        self.damaged += 1
        self._consumed[0] = end
        return []

    def _wrapped(self, start: int, length: int) -> bytes:
        end = self._page + self.size
        return self._map[self._page + start : end] + self._map[self._page : self._page + start + length - self.size]

    def close(self) -> None:
        """Unmap the ring."""
        for view in (self._consumed, self._produced, self._headers):
            view.release()
        self._consumer.close()
        self._map.close()
