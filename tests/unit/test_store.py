"""The data directory: whole files or none, retention, and whose directory it may be."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapio.errors import StoreError
from tapio.ids import IdSource
from tapio.store import Retention, Store, is_occurrence_name, lock_directory, open_directory

NO_LIMIT = {"max_files": 10**9, "max_bytes": 10**12, "min_emission_ms": 0}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield Store(descriptor)
    os.close(descriptor)


def fill(store: Store, number: int, size: int = 10, start_ms: int = 1_000) -> list[str]:
    """Files a millisecond apart."""
    clock = iter(range(start_ms, start_ms + number))
    ids = IdSource(lambda: next(clock) * 1_000_000)
    made = [f"{ids.next()}.json" for _ in range(number)]
    for name in made:
        store.write(name, b"x" * size)
    return made


def test_a_failed_write_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match="full"):
        fill(store, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("victim"), lambda path: path.hardlink_to(path.parent / "victim")]
)
def test_what_lies_where_a_file_is_made_is_replaced(store: Store, tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A FIFO must not hold the agent, nor a link lead it to another file."""
    (tmp_path / "victim").write_text("intact")
    make(tmp_path / ".a.tmp")
    store.write("a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "victim").read_text() == "intact"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "victim"]


def test_retention_by_number_size_and_age(store: Store) -> None:
    names = fill(store, 30)
    retention = Retention(store)
    retention.apply(**{**NO_LIMIT, "max_files": 20})
    assert store.occurrences() == names[10:]
    retention.apply(**{**NO_LIMIT, "max_bytes": 155})
    assert store.occurrences() == names[15:]
    retention.apply(**{**NO_LIMIT, "min_emission_ms": 1_020})
    assert store.occurrences() == names[20:]
    retention.apply(**{**NO_LIMIT, "max_bytes": 1})
    assert store.occurrences() == names[29:]


def test_retention_counts_what_was_there_and_what_is_added(store: Store) -> None:
    old = fill(store, 5)
    retention = Retention(store)
    new = fill(store, 5, start_ms=2_000)
    for name in new:
        retention.add(name, 10)
    retention.apply(**{**NO_LIMIT, "max_files": 7})
    assert store.occurrences() == [*old[3:], *new]


def test_ten_thousand_files_take_little_memory(store: Store) -> None:
    """They are remembered as long as they are there."""
    retention = Retention(store)
    ids = IdSource()
    tracemalloc.start()
    try:
        for _ in range(10_000):
            retention.add(f"{ids.next()}.json", 500)
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()


def test_foreign_files_are_left_alone(store: Store, tmp_path: Path) -> None:
    foreign = ["notes.json", ".hidden", "01JA1B2C3D4E5F6G7H8J9K0L1M.txt", "81JA1B2C3D4E5F6G7H8J9K0L1M.json"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    fill(store, 3)
    store.remove_leftovers()
    Retention(store).apply(max_files=1, max_bytes=1, min_emission_ms=2**48)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(foreign)


def test_leftovers_of_a_killed_agent_are_removed(store: Store, tmp_path: Path) -> None:
    for name in (".01JA1B2C3D4E5F6G7H8J9K0L1M.json.tmp", "..agent.json.tmp"):
        (tmp_path / name).write_text("half")
    store.remove_leftovers()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_vanished_is_no_error(store: Store, tmp_path: Path) -> None:
    names = fill(store, 3)
    retention = Retention(store)
    (tmp_path / names[0]).unlink()
    retention.apply(**{**NO_LIMIT, "max_files": 1})
    assert store.occurrences() == names[2:]


def test_what_cannot_be_removed_does_not_end_retention(store: Store, tmp_path: Path) -> None:
    """A directory with an occurrence's name: skipped and told, the others go."""
    (tmp_path / "00000000000000000000000000.json").mkdir()
    names = fill(store, 9)
    retention = Retention(store)
    assert "is a directory" in retention.apply(**{**NO_LIMIT, "max_files": 3})
    assert store.occurrences()[1:] == names[6:]
    assert retention.apply(**{**NO_LIMIT, "max_files": 3}) == ""


def test_files_that_others_removed_are_not_counted_for_long(store: Store, tmp_path: Path) -> None:
    now = 0.0
    names = fill(store, 20)
    retention = Retention(store, lambda: now)
    for name in names[10:]:
        (tmp_path / name).unlink()
    now = 61.0
    for name in fill(store, 9, start_ms=2_000):
        retention.add(name, 10)
    retention.apply(**{**NO_LIMIT, "max_files": 20})
    assert len(store.occurrences()) == 19


@pytest.mark.parametrize("name", ["../../etc/passwd", "01JA1B2C3D4E5F6G7H8J9K0L1M.json\n", ""])
def test_odd_names_are_no_occurrences(name: str) -> None:
    assert not is_occurrence_name(name)


def test_opening_creates_and_locks(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    uid, gid = os.getuid(), os.getgid()
    directory = open_directory(path, uid, gid)
    lock = lock_directory(directory, path, uid, gid)
    with pytest.raises(StoreError, match=rf"another tapio-agent \(pid {os.getpid()}\)"):
        lock_directory(directory, path, uid, gid)
    os.close(lock)
    os.close(lock_directory(directory, path, uid, gid))
    os.close(directory)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give directories away")
def test_a_directory_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    with pytest.raises(StoreError, match="belongs to somebody else"):
        open_directory(tmp_path, 65534, 65534)
    assert tmp_path.stat().st_uid == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give directories away")
def test_a_directory_that_holds_nothing_but_occurrences_is_taken(store: Store, tmp_path: Path) -> None:
    """Restored from a backup, say: retention must be able to remove the files, whoever they belong to."""
    fill(store, 3)
    store.write(".agent.json", b"{}")
    os.close(open_directory(tmp_path, 65534, 65534))
    assert tmp_path.stat().st_uid == 65534


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give directories away")
def test_a_lock_of_somebody_else_does_not_make_it_ours(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / ".lock").write_text("")
    with pytest.raises(StoreError, match="belongs to somebody else"):
        open_directory(tmp_path, 65534, 65534)
    assert tmp_path.stat().st_uid == 0


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StoreError, match="symbolic link"):
        open_directory(tmp_path / "link", os.getuid(), os.getgid())


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"not a directory|file exists"):
            open_directory(path, os.getuid(), os.getgid())
