"""A queue on disk: what a network sink took over and its receiver has not accepted yet.

Documents are numbered. Segment files, each named by the number of its first document, hold them framed; the file
`acknowledged` has the number of the last one that is settled. Every write is small and goes straight to the page
cache, so a killed process loses nothing; `sync`, called about once a second, bounds what a power loss can cost.
Whatever a crash or a bad medium leaves behind is read as far as it can be, and numbers that are missing between
others are counted exactly; behind the last one that can be read, as many as can be seen. A missing or damaged
`acknowledged` costs duplicates. What bears a segment's name and is none is renamed, never deleted.

One thread appends, one takes and acknowledges. Neither waits for the other's disk access.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from tapio.sinks.frames import count_remains, frame, read_frames

log = logging.getLogger(__name__)

_FOLDER = ".spool"
_MAGIC = b"TAPIOSP2"
_MARK = struct.Struct("<8sQI")  # magic, number of the last settled document, CRC-32 of those
_MARK_NAME = "acknowledged"
_NAME = re.compile(r"([0-7][0-9a-f]{15})\.segment")  # below 2^63
_MAX_NUMBER = 1 << 62
_MAX_SEGMENT = 1 << 20


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A document and its number, 1 or more: acknowledging an entry settles all entries up to it."""

    document: bytes
    number: int


class _Segment:
    """What is known of one file: `size` bytes hold the documents from `first` to before `end`, or what is left."""

    def __init__(self, first: int) -> None:
        self.first = self.end = first
        self.size = len(_MAGIC)

    @property
    def name(self) -> str:
        return f"{self.first:016x}.segment"

    def unread(self, position: int) -> int:
        """Documents from number `position` on."""
        return max(0, self.end - max(self.first, position))


class Spool:
    """A bounded FIFO of documents in `<directory>/.spool/<name>`. OSError is the caller's in every method."""

    def __init__(self, directory: int, name: str, max_bytes: int, on_drop: Callable[[int], None]) -> None:
        """Recover what an earlier run left. `directory` is the descriptor of the data directory.

        `on_drop` is told how many documents were given up for space or cannot be read; from either thread.
        """
        for path in (_FOLDER, f"{_FOLDER}/{name}"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, mode=0o700, dir_fd=directory)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._directory = os.open(f"{_FOLDER}/{name}", flags, dir_fd=directory)
        self._where = f"the spool of {name}"
        self._on_drop = on_drop
        self._max_bytes = max_bytes
        self._max_segment = min(_MAX_SEGMENT, max(4096, max_bytes // 8))
        self._lock = threading.Lock()
        self._segments: list[_Segment] = []
        self._writing: int | None = None  # descriptor of the last segment
        self._dirty = False
        self._reading: tuple[int, int] | None = None  # first number and descriptor of a segment
        self._to_write = self._to_read = 1  # numbers of the next documents
        self._offset = (0, 0)  # where the next one is: first number of its segment, offset
        self._mark = -1
        try:
            self._mark = os.open(
                _MARK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._directory
            )
            self._recover()
        except BaseException:
            self.close()
            raise

    @property
    def unread(self) -> int:
        """Documents that were not taken yet."""
        return sum(segment.unread(self._to_read) for segment in tuple(self._segments))

    def append(self, documents: Sequence[bytes]) -> None:
        """Add documents, each of at most MAX_DOCUMENT bytes; makes room by dropping the oldest segments.

        After an OSError none of them was added.
        """
        if not documents:
            return
        frames = b"".join(frame(number, document) for number, document in enumerate(documents, self._to_write))
        segment = self._segments[-1] if self._segments else None
        fits = segment is not None and (segment.size == len(_MAGIC) or segment.size + len(frames) <= self._max_segment)
        if segment is None or self._writing is None or not fits:
            segment = self._start_segment()
        self._make_room(len(frames))
        assert self._writing is not None  # noqa: S101  # _start_segment opened it
        try:
            _write_all(self._writing, frames, segment.size)
        except OSError:
            try:
                os.ftruncate(self._writing, segment.size)
            except OSError:  # what was written of them must not be taken for what comes next
                os.close(self._writing)
                self._writing = None
            raise
        with self._lock:
            self._to_write += len(documents)
            segment.end = self._to_write
            segment.size += len(frames)
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
                segment = next((s for s in self._segments if s.unread(self._to_read)), None)
                if segment is None:
                    return []
                position, end, size = max(self._to_read, segment.first), segment.end, segment.size
            entries, offset = self._read(segment, position, end, size, limit, max_bytes)
            following = entries[-1].number + 1 if entries and offset < size else end
            with self._lock:
                if segment not in self._segments:  # dropped in the meantime, and counted as that
                    continue
                self._to_read, self._offset = following, (segment.first, offset)
            self._lose(following - position - len(entries))
            if entries:
                return entries

    def acknowledge(self, entry: Entry) -> None:
        """Remember that everything up to `entry` is settled."""
        fields = struct.pack("<8sQ", _MAGIC, entry.number)
        os.pwrite(self._mark, fields + struct.pack("<I", zlib.crc32(fields)), 0)
        with self._lock:
            done = [segment for segment in self._segments[:-1] if segment.end <= entry.number + 1]
            self._segments = [segment for segment in self._segments if segment not in done]
        for segment in done:
            self._unlink(segment)

    def close(self) -> None:
        """Carry everything to the disk and let go of it."""
        with contextlib.suppress(OSError):
            self.sync()
        reading = () if self._reading is None else (self._reading[1],)
        writing = () if self._writing is None else (self._writing,)
        mark = () if self._mark < 0 else (self._mark,)
        for descriptor in (self._directory, *mark, *reading, *writing):
            os.close(descriptor)
        self._writing = self._reading = None

    def _start_segment(self) -> _Segment:
        with contextlib.suppress(OSError):
            self.sync()
        segment = _Segment(self._to_write)
        with self._lock:
            # Nothing was ever added to the last one, or it would not bear that number.
            self._segments = [other for other in self._segments if other.first != segment.first]
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
                unread = oldest.unread(self._to_read)
            self._on_drop(unread)
            self._unlink(oldest)

    def _unlink(self, segment: _Segment) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(segment.name, dir_fd=self._directory)

    def _read(
        self, segment: _Segment, position: int, end: int, size: int, limit: int, max_bytes: int
    ) -> tuple[list[Entry], int]:
        """Up to `limit` entries from number `position` on, and the offset behind them: `size` if there are no more."""
        entries: list[Entry] = []
        taken = 0
        descriptor = self._open_to_read(segment)
        if descriptor is None:
            return entries, size
        start = self._offset[1] if self._offset[0] == segment.first else len(_MAGIC)
        try:
            for number, document, offset in read_frames(descriptor, start, size):
                if not position <= number < end:
                    continue
                entries.append(Entry(document, number))
                position, taken = number + 1, taken + len(document)
                if len(entries) >= limit or taken >= max_bytes:
                    return entries, offset
        except OSError as error:
            if error.errno != errno.EIO:  # the medium has lost it: what comes after this segment must not wait for it
                raise
        return entries, size

    def _open_to_read(self, segment: _Segment) -> int | None:
        if self._reading is not None and self._reading[0] == segment.first:
            return self._reading[1]
        if self._reading is not None:
            os.close(self._reading[1])
            self._reading = None
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(segment.name, flags, dir_fd=self._directory)
        except FileNotFoundError:  # dropped in the meantime, or removed by somebody
            return None
        self._reading = segment.first, descriptor
        return descriptor

    def _recover(self) -> None:
        self._to_read = self._read_mark() + 1
        firsts = sorted(int(match[1], 16) for name in os.listdir(self._directory) if (match := _NAME.fullmatch(name)))
        kinds = {segment: self._look(segment) for segment in map(_Segment, firsts)}
        ours = [segment for segment, kind in kinds.items() if kind == "ours"]
        for segment in (segment for segment, kind in kinds.items() if kind == "empty"):
            self._unlink(segment)
        for segment in (segment for segment, kind in kinds.items() if kind == "foreign"):
            aside = f"{segment.name}.{time.time_ns()}.aside"
            os.rename(segment.name, aside, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            log.warning("%s: %s is no segment of this version: renamed to %s", self._where, segment.name, aside)
            if not ours or not ours[0].first < segment.first < ours[-1].first:  # else numbers will be missing
                self._lose(1, "at least ")
        for segment, following in itertools.pairwise(ours):
            segment.end = following.first
            if segment.end <= self._to_read:
                self._unlink(segment)
            else:
                self._segments.append(segment)
        self._to_write = self._to_read
        if ours:
            self._recover_last(ours[-1])

    def _recover_last(self, segment: _Segment) -> None:
        """Take up the segment behind which nothing tells how many documents it had."""
        writing = os.open(segment.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        self._writing = writing
        written, size = segment.size, len(_MAGIC)
        for number, _, offset in read_frames(writing, len(_MAGIC), written):
            if segment.end <= number < segment.first + written:
                segment.end, size = number + 1, offset
        segment.size = size
        self._segments.append(segment)
        if segment.end >= self._to_read:
            self._lose(count_remains(writing, size, written), "at least ")
            self._to_write = segment.end
            os.ftruncate(writing, size)
        else:  # a power loss took the end of what was settled: to continue here would leave numbers out
            os.close(writing)
            self._writing = None

    def _look(self, segment: _Segment) -> Literal["ours", "empty", "foreign"]:
        """Whether this version can read what is in the file of a segment; its size is noted."""
        descriptor = self._open_regular(segment.name)
        try:
            if descriptor is not None and segment.first < _MAX_NUMBER:
                segment.size = os.fstat(descriptor).st_size
                if not segment.size:  # a crash came before its first byte
                    return "empty"
                # If just its beginning is damaged it holds frames nevertheless.
                if os.pread(descriptor, len(_MAGIC), 0) == _MAGIC or any(read_frames(descriptor, 0, segment.size)):
                    return "ours"
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return "foreign"

    def _lose(self, count: int, least: str = "") -> None:
        if count:
            log.warning("%s: %s%d occurrences cannot be read: they are lost", self._where, least, count)
            self._on_drop(count)

    def _open_regular(self, name: str) -> int | None:
        """The descriptor of a file; None for what cannot be a segment: a link, a folder, a pipe."""
        if not stat.S_ISREG(os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_mode):
            return None
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory)

    def _read_mark(self) -> int:
        raw = os.pread(self._mark, _MARK.size, 0)
        if len(raw) == _MARK.size and zlib.crc32(raw[:-4]) == int.from_bytes(raw[-4:], "little"):
            magic, number, _ = _MARK.unpack(raw)
            if magic == _MAGIC:
                return int(number)
        return 0


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
