"""The ring reader against a producer written in the test, on memory of the same shape as the kernel's."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapio.kernel.ringbuf import RingBuffer

BUSY, DISCARDED = 1 << 31, 1 << 30


class Producer:
    """What kernel/bpf/ringbuf.c does, with the data mapped once."""

    def __init__(self, size: int, page: int) -> None:
        self.descriptor = os.memfd_create("ring")
        os.ftruncate(self.descriptor, 2 * page + size)
        self._memory = mmap.mmap(self.descriptor, 2 * page + size)
        self._size, self._page = size, page

    @property
    def position(self) -> int:
        return int(struct.unpack_from("=Q", self._memory, self._page)[0])

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("=Q", self._memory, 0)[0])

    def start_at(self, position: int) -> None:
        struct.pack_into("=Q", self._memory, 0, position)
        struct.pack_into("=Q", self._memory, self._page, position)

    def put(self, payload: bytes, flags: int = 0) -> bool:
        """Reserve and submit; False when there is no room."""
        step = (len(payload) + 8 + 7) & ~7
        if self.position - self.consumed + step > self._size - 1:
            return False
        data = struct.pack("=II", len(payload) | flags, 0) + payload
        for index, byte in enumerate(data):
            self._memory[2 * self._page + (self.position + index) % self._size] = byte
        struct.pack_into("=Q", self._memory, self._page, self.position + step)
        return True

    def finish(self, position: int) -> None:
        """Clear the busy flag of the record at `position`."""
        offset = 2 * self._page + position % self._size
        (head,) = struct.unpack_from("=I", self._memory, offset)
        struct.pack_into("=I", self._memory, offset, head & ~BUSY)

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)


@pytest.fixture(params=[mmap.PAGESIZE, 65536])
def ring(request: pytest.FixtureRequest) -> Iterator[tuple[Producer, RingBuffer]]:
    producer = Producer(4096, request.param)
    reader = RingBuffer(producer.descriptor, 4096, lambda: None, page=request.param)
    yield producer, reader
    reader.close()
    producer.close()


def test_nothing_to_read(ring: tuple[Producer, RingBuffer]) -> None:
    assert ring[1].read(10) == []


def test_a_record_that_is_not_submitted_stops_the_reader(ring: tuple[Producer, RingBuffer]) -> None:
    producer, reader = ring
    producer.put(b"first")
    busy = producer.position
    producer.put(b"second", BUSY)
    producer.put(b"third")
    assert reader.read(10) == [b"first"]
    assert reader.read(10) == []
    producer.finish(busy)
    assert reader.read(10) == [b"second", b"third"]
    assert reader.backlog == 0


def test_discarded_records_are_skipped(ring: tuple[Producer, RingBuffer]) -> None:
    producer, reader = ring
    producer.put(b"gone", DISCARDED)
    producer.put(b"here")
    producer.put(b"gone too", DISCARDED)
    assert reader.read(10) == [b"here"]
    assert reader.backlog == 0


def test_the_limit_leaves_the_rest(ring: tuple[Producer, RingBuffer]) -> None:
    producer, reader = ring
    for number in range(7):
        producer.put(bytes([number]))
    assert reader.read(3) == [b"\0", b"\1", b"\2"]
    assert len(reader.read(100)) == 4


@settings(max_examples=200)
@given(
    start=st.integers(0, 1 << 40).map(lambda number: number * 8),
    turns=st.lists(
        st.tuples(
            st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.booleans()), max_size=12), st.integers(1, 9)
        ),
        max_size=12,
    ),
)
def test_every_record_comes_once_and_in_order(start: int, turns: list[tuple[list[tuple[bytes, bool]], int]]) -> None:
    """Whatever the sizes, the wraps and the batches: what was submitted is what is read."""
    producer = Producer(4096, mmap.PAGESIZE)
    producer.start_at(start)
    reader = RingBuffer(producer.descriptor, 4096, lambda: None)
    put, got = [], []
    try:
        for records, limit in turns:
            for payload, discarded in records:
                if producer.put(payload, DISCARDED if discarded else 0) and not discarded:
                    put.append(payload)
            got += reader.read(limit)
        while reader.backlog:
            got += reader.read(1000)
        assert got == put
        assert producer.consumed == producer.position
    finally:
        reader.close()
        producer.close()
