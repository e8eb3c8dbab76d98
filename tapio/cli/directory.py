"""Reading the data directory: newest first by name, a few files open at a time, nothing trusted.

Memory does not grow with the number of files: names are taken from the directory in portions. Whatever cannot be
read as an occurrence is skipped and counted, never fatal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from tapio import heartbeat_document
from tapio.cli.text import harmless
from tapio.errors import HeartbeatError, OccurrenceError, StoreError, UsageError, describe_os_error
from tapio.heartbeat_document import Heartbeat
from tapio.occurrence import Occurrence, decode
from tapio.store import HEARTBEAT, emission_ms, is_occurrence_name, name_at

_MAX_DOCUMENT = 1 << 20
_BLOCK = 1 << 16
_PORTIONS = 256, 4096, 32768  # few names suffice mostly; the last size repeats
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: a FIFO must not hang the reader

SKIPPED = ("damaged", "foreign", "too_large", "unreadable")

ByteTest = Callable[[bytes], bool]


class Stock(msgspec.Struct, frozen=True):
    """What the names alone tell: how many occurrences there are, since when, and how many since a moment."""

    files: int
    oldest_ms: int  # 0: there is none
    since: int


class DataDirectory:
    """An open data directory. `skipped` counts files that hold no occurrence, by reason."""

    def __init__(self, path: Path) -> None:
        """StoreError when it cannot be read."""
        self.path = path
        self.shown = harmless(str(path))  # the path in what is said about it
        self.skipped: Counter[str] = Counter()
        self.misnamed = 0  # JSON files that do not bear an occurrence's name, as of the latest `names`
        self.newest = ""  # the first name of the latest `newest_first`
        self.gone = 0  # files that retention removed between being seen and being read
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.scandir(self.descriptor).close()
        except OSError as error:
            what = describe_os_error(error)
            hint = "is it the agent's --data-dir? choose with --data-dir or TAPIO_DATA_DIR"
            if isinstance(error, PermissionError):
                hint = "run as its owner or as root"
            raise StoreError(f"reading the data directory {self.shown}: {what}: {hint}") from error

    def names(self) -> Iterator[str]:
        """The names of all occurrence files, in no order."""
        misnamed = 0
        try:
            with os.scandir(self.descriptor) as entries:
                for entry in entries:
                    if is_occurrence_name(entry.name):
                        yield entry.name
                    elif entry.name.endswith(".json") and entry.name[0] != ".":
                        misnamed += 1
            self.misnamed = misnamed
        except OSError as error:
            raise StoreError(
                f"reading the data directory {self.shown}: {describe_os_error(error)}: check the disk"
            ) from error

    def newest_first(self, since_ms: int = 0) -> Iterator[str]:
        """Names from the newest on, as far back as `since_ms` (Unix milliseconds of the emission)."""
        floor, ceiling = name_at(since_ms), ""
        sizes = iter(_PORTIONS)
        size = next(sizes)
        while True:
            within = (n for n in self.names() if n >= floor and (not ceiling or n < ceiling))
            portion = first(within, size, newest=True)
            if portion and not ceiling:
                self.newest = portion[0]
            yield from portion
            if len(portion) < size:
                return
            ceiling, size = portion[-1], next(sizes, size)

    def stock(self, since_ms: int) -> Stock:
        """Count the files, and those that were emitted at or after `since_ms`."""
        floor, files, since, oldest = name_at(since_ms), 0, 0, ""
        for name in self.names():
            files += 1
            since += name >= floor
            if not oldest or name < oldest:
                oldest = name
        return Stock(files, emission_ms(oldest) if oldest else 0, since)

    def read(self, name: str, byte_test: ByteTest | None = None) -> Occurrence | None:
        """The occurrence in the file; None, and counted, when there is none.

        None also where `byte_test` says of a whole document that nobody wants it: most of the cost is in decoding.
        """
        try:
            document = self._read(name)
        except OSError as error:
            self._count(error)
            return None
        if len(document) > _MAX_DOCUMENT:
            self.skipped["too_large"] += 1
            return None
        if byte_test is not None and _looks_whole(document, name) and not byte_test(document):
            return None
        try:
            occurrence = decode(document)
        except OccurrenceError:
            self.skipped["damaged"] += 1
            return None
        if occurrence.id != name.removesuffix(".json"):
            self.skipped["foreign"] += 1
            return None
        return occurrence

    def occurrences(self, since_ms: int = 0, byte_test: ByteTest | None = None) -> Iterator[Occurrence]:
        """All occurrences that can be read, newest first; `byte_test` may leave some out without decoding them."""
        for name in self.newest_first(since_ms):
            occurrence = self.read(name, byte_test)
            if occurrence is not None:
                yield occurrence

    def _count(self, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            self.gone += 1
        elif error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            self.skipped["foreign"] += 1
        else:
            self.skipped["unreadable"] += 1

    def _read(self, name: str) -> bytes:
        """At most one byte more than is allowed."""
        descriptor = os.open(name, _OPEN, dir_fd=self.descriptor)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.ELOOP, "not a file")
            document = os.read(descriptor, _BLOCK)
            if len(document) < _BLOCK:  # nearly every file
                return document
            parts, left = [document], _MAX_DOCUMENT + 1 - len(document)
            while left > 0 and (part := os.read(descriptor, min(left, _BLOCK))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def heartbeat(self) -> Heartbeat | None:
        """The heartbeat, None when there is none; HeartbeatError when it cannot be used."""
        doing = f"reading the heartbeat {self.shown}/{HEARTBEAT}"
        try:
            document = self._read(HEARTBEAT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HeartbeatError(f"{doing}: {describe_os_error(error)}: check its permissions") from error
        try:
            return heartbeat_document.decode(document)
        except HeartbeatError as error:
            raise HeartbeatError(f"{doing}: {error}") from error

    def close(self) -> None:
        """Let go of the directory."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def first(names: Iterable[str], size: int, *, newest: bool) -> list[str]:
    """The newest or oldest names, sorted, at most `size`; never more than twice as many are held."""
    kept: list[str] = []
    bound = ""
    for name in names:
        if bound and (name < bound if newest else name > bound):
            continue
        kept.append(name)
        if len(kept) == 2 * size:
            kept.sort(reverse=newest)
            del kept[size:]
            bound = kept[-1]
    kept.sort(reverse=newest)
    return kept[:size]


def _looks_whole(document: bytes, name: str) -> bool:
    """Whether this is a document that was not cut short, with the id of its name: what is not, must be counted."""
    return document[:1] == b"{" and document[-1:] == b"}" and f'"{name[:-5]}"'.encode() in document


def find_directory(flag: str | None) -> Path:
    """The directory of the flag, of TAPIO_DATA_DIR, or the default; UsageError for an empty one."""
    chosen = flag if flag is not None else os.environ.get("TAPIO_DATA_DIR") or ".tapio/occurrences"
    if not chosen or "\0" in chosen:
        raise UsageError("--data-dir: it is empty: name the directory that the agent writes to")
    return Path(chosen)
