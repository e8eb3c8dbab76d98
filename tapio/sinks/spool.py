"""A queue on disk: what a network sink took over and its receiver has not accepted yet.

Segment files hold framed documents; the file `acknowledged` says up to where they are settled. Every write is
small and goes straight to the page cache, so a killed process loses nothing; `sync`, called about once a second,
bounds what a power loss can cost. Whatever a crash leaves behind is readable: a torn frame at the end of a segment
is cut off, a damaged one in the middle is skipped and counted, a missing or damaged `acknowledged` costs duplicates.

One thread appends, one takes and acknowledges. Neither waits for the other's disk access.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

_FOLDER = ".spool"
_MAGIC = b"TAPIOSP1"
_FRAME = struct.Struct("<II")  # length and CRC-32 of the document that follows
_MARK = struct.Struct("<8sQQI")  # magic, segment, offset, CRC-32 of those
_MARK_NAME = "acknowledged"
_NAME = re.compile(r"([0-9a-f]{16})\.segment")
_MAX_SEGMENT = 1 << 20
_MAX_DOCUMENT = 16 << 20
_READ_AHEAD = 256 << 10


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A document and where it ends: acknowledging an entry settles all entries up to it."""

    document: bytes
    segment: int
    end: int


class _Segment:
    """What is known of one file: `size` bytes hold `documents`, of which `unread` were not taken yet."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.size = len(_MAGIC)
        self.unread = 0

    @property
    def name(self) -> str:
        return f"{self.number:016x}.segment"


class Spool:
    """A bounded FIFO of documents in `<directory>/.spool/<name>`. OSError is the caller's in every method."""

    def __init__(self, directory: int, name: str, max_bytes: int, on_drop: Callable[[int], None]) -> None:
        """Recover what an earlier run left. `directory` is the descriptor of the data directory.

        `on_drop` is told how many documents were given up for space or were damaged; from either thread.
        """
        for path in (_FOLDER, f"{_FOLDER}/{name}"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, mode=0o700, dir_fd=directory)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._directory = os.open(f"{_FOLDER}/{name}", flags, dir_fd=directory)
        self._on_drop = on_drop
        self._max_bytes = max_bytes
        self._max_segment = min(_MAX_SEGMENT, max(4096, max_bytes // 8))
        self._lock = threading.Lock()
        self._segments: list[_Segment] = []
        self._writing: int | None = None  # descriptor of the last segment
        self._dirty = False
        self._reading: tuple[int, int] | None = None  # segment number and descriptor
        self._taken = 0  # the highest number that was there at the start, also of what is not ours
        self._position = (0, 0)  # where the next entry starts: segment number and offset
        self._mark = os.open(_MARK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                             dir_fd=self._directory)  # fmt: skip
        try:
            self._recover()
        except OSError:
            self.close()
            raise

    @property
    def unread(self) -> int:
        """Documents that were not taken yet."""
        return sum(segment.unread for segment in tuple(self._segments))

    def append(self, documents: Sequence[bytes]) -> None:
        """Add documents; makes room by dropping the oldest segments. After an OSError none of them was added."""
        if not documents:
            return
        frames = b"".join(_frame(document) for document in documents)
        segment = self._segments[-1] if self._segments else None
        fits = segment is not None and (segment.size == len(_MAGIC) or segment.size + len(frames) <= self._max_segment)
        if segment is None or self._writing is None or not fits:
            segment = self._start_segment()
        self._make_room(len(frames))
        assert self._writing is not None  # noqa: S101  # _start_segment opened it
        try:
            _write_all(self._writing, frames, segment.size)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._writing, segment.size)
            raise
        with self._lock:
            segment.size += len(frames)
            segment.unread += len(documents)
        self._dirty = True

    def sync(self) -> None:
        """Carry what was appended to the disk."""
        if self._dirty and self._writing is not None:
            self._dirty = False
            os.fdatasync(self._writing)

    def take(self, limit: int, max_bytes: int) -> list[Entry]:
        """The next entries, oldest first; [] when there are none. They stay on disk until acknowledged."""
        while True:
            with self._lock:
                segment = next((s for s in self._segments if s.number >= self._position[0] and s.unread), None)
                if segment is None:
                    return []
                end, expected = segment.size, segment.unread
            start = self._position[1] if segment.number == self._position[0] else len(_MAGIC)
            entries, position, passed = self._read(segment, start, end, limit, max_bytes)
            if position >= end:
                passed = expected
            with self._lock:
                self._position = (segment.number, position)
                if segment not in self._segments:  # dropped in the meantime, and counted as that
                    continue
                segment.unread -= passed
            if passed > len(entries):
                self._on_drop(passed - len(entries))
            if entries:
                return entries

    def acknowledge(self, entry: Entry) -> None:
        """Remember that everything up to `entry` is settled."""
        self._write_mark(entry.segment, entry.end)
        with self._lock:
            done = [s for s in self._segments if s.number < entry.segment]
            done += [s for s in self._segments[:-1] if s.number == entry.segment and s.size <= entry.end]
            self._segments = [s for s in self._segments if s not in done]
        for segment in done:
            self._unlink(segment)

    def close(self) -> None:
        """Carry everything to the disk and let go of it."""
        with contextlib.suppress(OSError):
            self.sync()
        reading = () if self._reading is None else (self._reading[1],)
        writing = () if self._writing is None else (self._writing,)
        for descriptor in (self._directory, self._mark, *reading, *writing):
            os.close(descriptor)
        self._writing = self._reading = None

    def _start_segment(self) -> _Segment:
        with contextlib.suppress(OSError):
            self.sync()
        segment = _Segment(max([self._position[0], self._taken, *(s.number for s in self._segments)]) + 1)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(segment.name, flags, 0o600, dir_fd=self._directory)
        try:
            _write_all(descriptor, _MAGIC, 0)
            os.fsync(self._directory)
        except OSError:
            os.close(descriptor)
            self._unlink(segment)
            raise
        if self._writing is not None:
            os.close(self._writing)
        self._writing = descriptor
        with self._lock:
            self._segments.append(segment)
        return segment

    def _make_room(self, wanted: int) -> None:
        """Drop the oldest segments until `wanted` more bytes fit. Entries that were taken live on in memory."""
        while len(self._segments) > 1 and sum(s.size for s in self._segments) + wanted > self._max_bytes:
            with self._lock:
                oldest = self._segments.pop(0)
            self._on_drop(oldest.unread)
            self._unlink(oldest)

    def _unlink(self, segment: _Segment) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(segment.name, dir_fd=self._directory)

    def _read(
        self, segment: _Segment, start: int, end: int, limit: int, max_bytes: int
    ) -> tuple[list[Entry], int, int]:
        """Up to `limit` entries between two offsets, the offset behind them, and how many were passed for them.

        Behind what cannot be read as a frame nothing can be found: then the offset is `end`.
        """
        entries: list[Entry] = []
        passed = size = 0
        descriptor = self._open_to_read(segment)
        try:
            for document, position in _documents(descriptor, start, end) if descriptor is not None else ():
                passed += 1
                if document is None:
                    continue
                entries.append(Entry(document, segment.number, position))
                size += len(document)
                if len(entries) >= limit or size >= max_bytes:
                    return entries, position, passed
        except OSError as error:
            if error.errno != errno.EIO:  # the medium has lost it: what comes after this segment must not wait for it
                raise
        return entries, end, passed

    def _open_to_read(self, segment: _Segment) -> int | None:
        if self._reading is not None and self._reading[0] == segment.number:
            return self._reading[1]
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(segment.name, flags, dir_fd=self._directory)
        except FileNotFoundError:  # dropped in the meantime, or removed by somebody
            return None
        self._reading = segment.number, descriptor
        return descriptor

    def _recover(self) -> None:
        names = [match for name in os.listdir(self._directory) if (match := _NAME.fullmatch(name))]
        self._taken = max((int(name[1], 16) for name in names), default=0)
        numbers = sorted(int(name[1], 16) for name in names if self._is_file(name[0]))
        acknowledged = self._read_mark()
        for number in numbers:
            segment = _Segment(number)
            if number < acknowledged[0]:
                self._unlink(segment)
                continue
            start = acknowledged[1] if number == acknowledged[0] else len(_MAGIC)
            if self._scan(segment, start):
                self._segments.append(segment)
            else:
                self._unlink(segment)
        self._position = acknowledged
        for segment in self._segments:
            if segment.number == acknowledged[0] and acknowledged[1] > segment.size:
                # A power loss took the end of what was settled. What is appended there now is not: the mark must say
                # so before anything is, also after another restart.
                self._position = (segment.number, segment.size)
                self._write_mark(*self._position)
        if self._segments and self._segments[-1].size < self._max_segment:
            last = self._segments[-1]
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._writing = os.open(last.name, flags, dir_fd=self._directory)
            os.ftruncate(self._writing, last.size)

    def _write_mark(self, segment: int, offset: int) -> None:
        fields = struct.pack("<8sQQ", _MAGIC, segment, offset)
        os.pwrite(self._mark, fields + struct.pack("<I", zlib.crc32(fields)), 0)

    def _is_file(self, name: str) -> bool:
        """Whether it can be a segment of ours: a link, a folder or a pipe of that name is somebody else's."""
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def _read_mark(self) -> tuple[int, int]:
        raw = os.pread(self._mark, _MARK.size, 0)
        if len(raw) == _MARK.size and zlib.crc32(raw[:-4]) == int.from_bytes(raw[-4:], "little"):
            magic, number, offset, _ = _MARK.unpack(raw)
            if magic == _MAGIC:
                return number, offset
        return 0, 0

    def _scan(self, segment: _Segment, start: int) -> bool:
        """Count what a file holds from `start` on; whether it is a segment that holds something."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(segment.name, flags, dir_fd=self._directory)
        try:
            magic = os.pread(descriptor, len(_MAGIC), 0)
            if magic != _MAGIC:  # never written, or written by a version that this one cannot read
                self._on_drop(1 if magic else 0)
                return False
            for _, position in _documents(descriptor, len(_MAGIC), os.fstat(descriptor).st_size):
                segment.size = position
                segment.unread += position > start
        finally:
            os.close(descriptor)
        return segment.size > len(_MAGIC)


def _frame(document: bytes) -> bytes:
    return _FRAME.pack(len(document), zlib.crc32(document)) + document


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _documents(descriptor: int, start: int, end: int) -> Iterator[tuple[bytes | None, int]]:
    """Documents between two offsets with the offset behind each; None for a damaged one. Ends at a torn frame."""
    buffer, base = b"", start
    while start + _FRAME.size <= end:
        if start + _FRAME.size > base + len(buffer):
            buffer, base = os.pread(descriptor, min(_READ_AHEAD, end - start), start), start
            if len(buffer) < _FRAME.size:
                return
        length, checksum = _FRAME.unpack_from(buffer, start - base)
        stop = start + _FRAME.size + length
        if not 0 < length <= _MAX_DOCUMENT or stop > end:
            return
        if stop > base + len(buffer):
            buffer, base = os.pread(descriptor, max(_READ_AHEAD, stop - start), start), start
            if len(buffer) < stop - start:
                return
        document = buffer[start + _FRAME.size - base : stop - base]
        yield (document if zlib.crc32(document) == checksum else None), stop
        start = stop
