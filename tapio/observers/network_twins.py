"""A storm of refused connects: records of one batch that differ only in their time and local port.

They are counted by their bytes, without decoding each: that is what keeps the agent small beside 100,000 a second.
As many as an episode passes on one by one are left alone; the rest of the batch is one anomaly with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import msgspec

from tapio.anomalies import Anomaly


class Twins:
    """The twins within one batch of records; memory is bounded by the batch."""

    def __init__(self, key: Callable[[bytes], Hashable], individual: int) -> None:
        """`key` is the same for twins; the first `individual` of them are not taken."""
        self._key = key
        self._individual = individual
        self._waiting: dict[Hashable, int] = {}  # how many are still to be left alone
        self._taken: dict[Hashable, int] = {}
        self._last: dict[Hashable, bytes] = {}

    def expect(self, record: bytes) -> None:
        """Twins of this record may be taken."""
        self._waiting.setdefault(self._key(record), self._individual - 1)

    def takes(self, record: bytes) -> bool:
        """Whether the record was counted with its twins and needs nothing more."""
        key = self._key(record)
        left = self._waiting.get(key)
        if left is None:
            return False
        if left:
            self._waiting[key] = left - 1
            return False
        self._taken[key] = self._taken.get(key, 0) + 1
        self._last[key] = record
        return True

    def taken(self) -> Iterator[tuple[bytes, int]]:
        """The last of those taken that are twins, and their number."""
        for key, count in self._taken.items():
            yield self._last[key], count


def bundled(anomaly: Anomaly, count: int) -> Anomaly:
    """The anomaly standing for `count` like it; alone it is as it was."""
    if count == 1:
        return anomaly
    data = {name: value for name, value in anomaly.data.items() if name != "src_port"}
    return msgspec.structs.replace(anomaly, data={**data, "count": count})
