"""Occurrence ids."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ulid import ULIDGenerator


class IdSource:
    """ULIDs of the emission time, strictly increasing also when the clock stands still or steps back."""

    def __init__(self, unix_ns: Callable[[], int] = time.time_ns) -> None:
        self._unix_ns = unix_ns
        self._latest_ms = 0
        self._generator = ULIDGenerator(clock=self._clock_ms, randomness=self._randomness)

    def _clock_ms(self) -> int:
        self._latest_ms = max(self._latest_ms, self._unix_ns() // 1_000_000)
        return self._latest_ms

    @staticmethod
    def _randomness(_timestamp_ms: int) -> bytes:
        # The top bit stays clear: 2^79 ids fit behind the first one of a millisecond.
        random = os.urandom(10)
        return bytes([random[0] & 0x7F]) + random[1:]

    def next(self) -> str:
        """The next id."""
        return str(self._generator.generate())
