"""Following the data directory: every new file exactly once, also late ones, by inotify or by polling.

Not by the newest id: the file of an older occurrence may come later than that of a newer one. So the names of all files
that are there are remembered, each in a few bytes, and forgotten when retention removed them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator

from tapio.cli.directory import DataDirectory, first
from tapio.cli.inotify import Inotify, InotifyUnavailableError
from tapio.cli.seen import Seen
from tapio.errors import StoreError
from tapio.occurrence import Occurrence
from tapio.store import is_occurrence_name

_POLL_EVERY_S = 0.25
_POLL_SHARE = 4  # of the time at most every fourth part is spent in listing a large directory
_FORGET_BEYOND = 4096
_PORTION = 4096
_TRIES = 5  # for a file that cannot be read: somebody may be writing it by hand


class Follower:
    """Yields occurrences whose files appear after it was made."""

    def __init__(self, directory: DataDirectory, since: str | None = None, *, polling: bool = False) -> None:
        """`since`: files that are there already count as new from this name on. `polling`: no inotify."""
        self._directory = directory
        self._seen = Seen()
        for name in directory.names():
            if since is None or name < since:
                self._seen.add(name)
        self._kept = len(self._seen)
        self._tries: dict[str, int] = {}
        self._inotify: Inotify | None = None
        if not polling:
            with contextlib.suppress(InotifyUnavailableError):
                self._inotify = Inotify(directory.descriptor)
        # What came between the first look and the start of inotify is found by a second look.
        self._scan = True

    @property
    def polls(self) -> bool:
        """Whether the directory is listed again and again, for want of inotify."""
        return self._inotify is None

    def next(self, timeout_s: float) -> Iterator[Occurrence]:
        """What is new, waiting for it at most `timeout_s`."""
        if self._scan:
            self._scan = False
            yield from self._read(self._unseen())
        elif self._inotify is None:
            yield from self._poll(timeout_s)
        else:
            names, overflowed = self._inotify.read(timeout_s)
            yield from self._read(name for name in names if is_occurrence_name(name))
            self._scan = overflowed
        if len(self._seen) + len(self._tries) > 2 * self._kept + _FORGET_BEYOND:
            self._forget()

    def _unseen(self) -> Iterator[str]:
        """What is new in the directory, oldest first, with few names at a time in memory."""
        floor = ""
        while True:
            names = (name for name in self._directory.names() if name > floor and name not in self._seen)
            portion = first(names, _PORTION, newest=False)
            yield from portion
            if len(portion) < _PORTION:
                return
            floor = portion[-1]

    def _poll(self, timeout_s: float) -> Iterator[Occurrence]:
        deadline = time.monotonic() + timeout_s
        while True:
            begun = time.monotonic()
            # Files that could not be read get their next try with new ones, or when the time is up.
            new = any(name not in self._seen and name not in self._tries for name in self._directory.names())
            now = time.monotonic()
            if new or now >= deadline:
                yield from self._read(self._unseen())
                return
            time.sleep(min(max(_POLL_EVERY_S, (_POLL_SHARE - 1) * (now - begun)), deadline - now))

    def check(self) -> None:
        """StoreError when the directory was removed or replaced: nothing will ever come in the one that is open."""
        try:
            there = os.path.samestat(os.stat(self._directory.path), os.fstat(self._directory.descriptor))  # noqa: PTH116
        except OSError:
            there = False
        if not there:
            raise StoreError(f"watching {self._directory.shown}: the directory is gone or was replaced: start again")

    def _read(self, names: Iterable[str]) -> Iterator[Occurrence]:
        for name in names:
            if name in self._seen:
                continue
            damaged = self._directory.skipped["damaged"]
            occurrence = self._directory.read(name)
            tries = self._tries.pop(name, 0) + 1
            if tries > 1:
                damaged -= 1  # what the try before counted is taken back
                self._directory.skipped["damaged"] -= 1
            if self._directory.skipped["damaged"] > damaged and tries < _TRIES and len(self._tries) < _FORGET_BEYOND:
                self._tries[name] = tries
                continue
            self._seen.add(name)
            if occurrence is not None:
                yield occurrence

    def _forget(self) -> None:
        """Forget names whose files are gone: ids never come again."""
        there, tries = Seen(), {}
        for name in self._directory.names():
            if name in self._seen:
                there.add(name)
            elif name in self._tries:
                tries[name] = self._tries[name]
        self._seen, self._tries = there, tries
        self._kept = len(there) + len(tries)

    def close(self) -> None:
        """Stop following."""
        if self._inotify is not None:
            self._inotify.close()
