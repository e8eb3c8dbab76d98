"""The C library's memory allocator, told to give back what the agent does not use.

By default glibc keeps an area for each thread, and grows the size from which memory is taken from the kernel directly
up to 32 MiB: what a burst has left in pieces stays resident, some MiB over an hour of mixed faults. With a global
interpreter lock threads hardly ever allocate at the same time.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_THRESHOLD_BYTES = 128 << 10


def keep_small() -> None:
    """Call it before the first thread. A C library without these settings has no such habits either."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
