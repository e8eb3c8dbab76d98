"""Names that were seen, in 16 to 32 bytes each: a set of strings takes five times as much.

Kept are hashes of 64 bits, with a key of this process: that two names of a million share one is as likely as 1 to 10⁷.
"""

from __future__ import annotations

from array import array

_SMALLEST = 1 << 10
_BITS = (1 << 64) - 1


class Seen:
    """A set of names that can only grow: a table with open addressing, at most half full."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _SMALLEST))
        self._mask = _SMALLEST - 1
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, name: str) -> bool:
        key = hash(name) & _BITS or 1
        return self._slots[self._find(key)] == key

    def add(self, name: str) -> None:
        """Remember a name."""
        key = hash(name) & _BITS or 1
        slot = self._find(key)
        if self._slots[slot]:
            return
        self._slots[slot] = key
        self._size += 1
        if 2 * self._size > self._mask:
            self._grow()

    def _find(self, key: int) -> int:
        """The slot that holds the key, or the free one where it belongs."""
        slots, mask = self._slots, self._mask
        slot = key & mask
        while slots[slot] not in (0, key):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        old = self._slots
        self._slots = array("Q", bytes(16 * len(old)))
        self._mask = len(self._slots) - 1
        for key in old:
            if key:
                self._slots[self._find(key)] = key
