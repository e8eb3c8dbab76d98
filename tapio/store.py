"""The data directory: one `<ULID>.json` for each occurrence, the heartbeat, and the lock of the agent that owns it.

The agent opens the directory while it is root and works through the descriptor from then on: after the drop of
privileges the path may be out of reach. Anything in it that does not have an occurrence's name is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tapio.errors import StoreError, describe_os_error
from tapio.occurrence import ULID

HEARTBEAT = ".agent.json"
_LOCK = ".lock"
_NAME = re.compile(rf"{ULID}\.json")
_TEMPORARY = re.compile(rf"\.({ULID}\.json|\.agent\.json)\.tmp")
_STOCK_S = 60.0
_SUFFIX = ".json"
_MAX_SIZE = 2**32 - 1
_ENTRY = struct.Struct("=26sI")  # a file's ULID and size in bytes
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def open_directory(path: Path, uid: int, gid: int) -> int:
    """Create `path` if needed, give it to `uid`, and open it. StoreError if that is impossible or unsafe.

    A directory that belongs to somebody else is not taken over if it holds anything but occurrences:
    `--data-dir /etc` must not hand /etc to the agent's user.
    """
    doing = f"opening the data directory {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o755)
        if path.is_symlink():
            raise StoreError(f"{doing}: it is a symbolic link, which could be turned elsewhere: name its target")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{doing}: {describe_os_error(error)}: choose another with --data-dir") from error
    try:
        if os.fstat(descriptor).st_uid != uid:
            foreign = [name for name in os.listdir(descriptor) if not _is_ours(name)]
            if foreign and not _is_locked_by(descriptor, uid):
                raise StoreError(
                    f"{doing}: it belongs to somebody else and holds {min(foreign)!a}: choose another with --data-dir"
                )
            os.fchown(descriptor, uid, gid)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"{doing}: {describe_os_error(error)}: choose another with --data-dir") from error
    except StoreError:
        os.close(descriptor)
        raise
    return descriptor


def _is_ours(name: str) -> bool:
    """Whether Tapio writes files of this name, and can replace one that somebody else owns."""
    return is_occurrence_name(name) or name == HEARTBEAT or _TEMPORARY.fullmatch(name) is not None


def _is_locked_by(directory: int, uid: int) -> bool:
    """Whether an agent with this uid used the directory before."""
    try:
        return os.stat(_LOCK, dir_fd=directory, follow_symlinks=False).st_uid == uid
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _as_user(uid: int, gid: int) -> Iterator[None]:
    """Files made inside belong to `uid`: a root without CAP_DAC_OVERRIDE cannot write into its directory."""
    own_uid, own_gid = os.geteuid(), os.getegid()
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own_uid)
        os.setegid(own_gid)


def lock_directory(directory: int, path: Path, uid: int, gid: int) -> int:
    """Lock the directory for this process; StoreError names the pid that holds it. The lock dies with the process."""
    doing = f"locking the data directory {path}"
    try:
        with _as_user(uid, gid):
            lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=directory)
    except OSError as error:
        raise StoreError(f"{doing}: {describe_os_error(error)}: choose another with --data-dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(f"{doing}: another tapio-agent (pid {holder}) uses it: stop it or choose another") from error
    except OSError as error:
        os.close(lock)
        raise StoreError(f"{doing}: {describe_os_error(error)}: choose another with --data-dir") from error
    return lock


def is_occurrence_name(name: str) -> bool:
    """Whether a file of this name holds an occurrence."""
    return _NAME.fullmatch(name) is not None


def emission_ms(name: str) -> int:
    """Unix milliseconds at which the occurrence with this file name was emitted."""
    milliseconds = 0
    for character in name[:10]:
        milliseconds = milliseconds << 5 | _CROCKFORD.index(character)
    return milliseconds


def name_at(unix_ms: int) -> str:
    """The smallest file name that an occurrence emitted at `unix_ms` can have."""
    digits = []
    unix_ms = max(0, unix_ms)
    for _ in range(10):
        digits.append(_CROCKFORD[unix_ms & 31])
        unix_ms >>= 5
    return "".join(reversed(digits))


class Store:
    """Writing and removing the files of an open data directory. Not for use by several threads at once."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def write(self, name: str, document: bytes) -> None:
        """Create or replace `name`: readers see the old document or the whole new one. OSError is the caller's."""
        temporary = f".{name}.tmp"
        # A file of its own: one that is there could be a FIFO, which would hold us for ever, or another file's name.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, 0o644, dir_fd=self._directory)
        except FileExistsError:
            os.unlink(temporary, dir_fd=self._directory)
            descriptor = os.open(temporary, flags, 0o644, dir_fd=self._directory)
        try:
            try:
                while document:
                    document = document[os.write(descriptor, document) :]
            finally:
                os.close(descriptor)
            os.rename(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._directory)
            raise

    def remove(self, name: str) -> None:
        """Remove a file; one that is already gone is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)

    def occurrences(self) -> list[str]:
        """The names of all occurrence files, oldest first."""
        return sorted(name for name in os.listdir(self._directory) if is_occurrence_name(name))

    def size(self, name: str) -> int:
        """The size of a file in bytes, 0 if it is gone."""
        try:
            return os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def remove_leftovers(self) -> None:
        """Remove temporary files that a killed agent left behind."""
        for name in os.listdir(self._directory):
            if _TEMPORARY.fullmatch(name):
                self.remove(name)


class Retention:
    """Removes the oldest occurrence files beyond a number, a total size and an age."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._files = bytearray()  # an `_ENTRY` for each file, oldest first: 30 bytes, where a tuple takes 180
        self._bytes = 0
        self._take_stock()

    def _take_stock(self) -> None:
        """Look at what is there: one stat for each file."""
        self._stock_taken = self._monotonic()
        self._files.clear()
        self._bytes = 0
        for name in self._store.occurrences():
            self.add(name, self._store.size(name))

    def add(self, name: str, size: int) -> None:
        """Note a file that was written just now."""
        size = min(size, _MAX_SIZE)
        self._files += _ENTRY.pack(name.removesuffix(_SUFFIX).encode(), size)
        self._bytes += size

    def apply(self, *, max_files: int, max_bytes: int, min_emission_ms: int) -> str:
        """Remove what is too much or too old; the newest file always stays unless it is too old.

        Returns what went wrong with the last file that could not be removed, '' if all could: it is skipped.
        """
        trouble = ""
        while self._files:
            identity, size = _ENTRY.unpack_from(self._files)
            name, number = identity.decode() + _SUFFIX, len(self._files) // _ENTRY.size
            too_much = number > max_files or (self._bytes > max_bytes and number > 1)
            if not too_much and emission_ms(name) >= min_emission_ms:
                break
            if self._monotonic() - self._stock_taken > _STOCK_S:
                self._take_stock()  # somebody else may have removed files
                continue
            try:
                self._store.remove(name)
            except OSError as error:
                trouble = f"{name}: {describe_os_error(error)}"
            del self._files[: _ENTRY.size]
            self._bytes -= size
        return trouble
