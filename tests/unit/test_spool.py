"""The queue on disk: order, recovery from every kind of end, bounds."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapio.sinks.frames import frame
from tapio.sinks.spool import Entry, Spool

FRAME = len(frame(1, b"x" * 100))


class Disk:
    """A data directory in which spools are opened one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path / "data"
        self.path.mkdir()
        self.descriptor = os.open(self.path, os.O_RDONLY)
        self.dropped = 0
        self._opened: list[Spool] = []

    def open(self, max_bytes: int = 1 << 20) -> Spool:
        self._opened.append(Spool(self.descriptor, "test", max_bytes, self._drop))
        return self._opened[-1]

    def end(self, spool: Spool) -> None:
        """An orderly end; a spool that is left without one is that of a killed agent."""
        self._opened.remove(spool)
        spool.close()

    def close(self) -> None:
        for spool in self._opened:
            spool.close()
        os.close(self.descriptor)

    def _drop(self, count: int) -> None:
        self.dropped += count

    def files(self) -> list[Path]:
        """The segments, oldest first."""
        return sorted((self.path / ".spool/test").glob("*.segment"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


def documents(start: int, stop: int, size: int = 100) -> list[bytes]:
    return [f"{number:08d}".encode().ljust(size, b".") for number in range(start, stop)]


def drain(spool: Spool, limit: int = 7) -> list[bytes]:
    """Take and acknowledge everything."""
    found: list[bytes] = []
    while entries := spool.take(limit, 1 << 20):
        found += [entry.document for entry in entries]
        spool.acknowledge(entries[-1])
    return found


def test_first_in_first_out(disk: Disk) -> None:
    spool = disk.open()
    spool.append(documents(0, 31))
    assert spool.unread == 31
    assert [entry.document for entry in spool.take(5, 1 << 20)] == documents(0, 5)
    spool.append(documents(31, 37))
    assert drain(spool) == documents(5, 37)
    assert spool.unread == 0
    assert spool.take(5, 1 << 20) == []
    spool.append(documents(37, 38))
    assert drain(spool) == documents(37, 38)


def test_a_batch_is_bounded_by_bytes_too(disk: Disk) -> None:
    spool = disk.open()
    spool.append(documents(0, 10, size=1000))
    assert len(spool.take(100, 2500)) == 3


def test_what_was_not_acknowledged_comes_back(disk: Disk) -> None:
    """As after SIGKILL: nothing is closed."""
    spool = disk.open()
    spool.append(documents(0, 20))
    entries = spool.take(10, 1 << 20)
    spool.acknowledge(entries[6])
    again = disk.open()
    assert again.unread == 13
    again.append(documents(20, 23))
    assert drain(again) == documents(7, 23)
    assert disk.open().unread == 0
    assert disk.dropped == 0


def test_segments_are_removed_when_they_are_settled(disk: Disk) -> None:
    spool = disk.open(max_bytes=64 << 10)  # segments of 8 KiB
    for number in range(0, 400, 10):
        spool.append(documents(number, number + 10))
    assert len(disk.files()) > 4
    assert drain(spool) == documents(0, 400)
    assert len(disk.files()) == 1
    assert disk.dropped == 0


def test_beyond_the_bound_the_oldest_is_dropped_and_counted(disk: Disk) -> None:
    """What is left and what was dropped add up, and the newest is there."""
    spool = disk.open(max_bytes=64 << 10)
    for number in range(0, 5000, 10):
        spool.append(documents(number, number + 10))
        assert sum(path.stat().st_size for path in disk.files()) <= 64 << 10
    left = drain(spool)
    assert len(left) + disk.dropped == 5000
    assert left == documents(5000 - len(left), 5000)
    assert len(left) > 400


def test_entries_that_were_taken_are_not_counted_as_dropped(disk: Disk) -> None:
    """They are in the sender's hands: their fate is told by the receiver."""
    spool = disk.open(max_bytes=64 << 10)
    spool.append(documents(0, 20))
    taken = spool.take(13, 1 << 20)
    for number in range(20, 5000, 10):
        spool.append(documents(number, number + 10))
    spool.acknowledge(taken[-1])
    left = drain(spool)
    assert 13 + disk.dropped + len(left) == 5000
    assert left == documents(5000 - len(left), 5000)


def test_recovery_keeps_the_bound_and_the_count(disk: Disk) -> None:
    for number in range(0, 3000, 100):
        disk.open(max_bytes=64 << 10).append(documents(number, number + 100))
    left = drain(disk.open(max_bytes=64 << 10))
    assert len(left) + disk.dropped == 3000
    assert left == documents(3000 - len(left), 3000)


@pytest.mark.parametrize("cut", range(1, 121, 5))
def test_a_torn_end_is_cut_off(disk: Disk, cut: int) -> None:
    """As after a power loss: the last frame is partly there. What comes later is not damaged by it."""
    disk.open().append(documents(0, 5))
    path = disk.files()[0]
    os.truncate(path, path.stat().st_size - min(cut, FRAME - 1))
    spool = disk.open()
    spool.append(documents(5, 8))
    assert drain(spool) == documents(0, 4) + documents(5, 8)


def test_a_tail_of_zeros_is_cut_off(disk: Disk) -> None:
    """As some filesystems leave it after a power loss: of at least one document that was there."""
    disk.open().append(documents(0, 5))
    with disk.files()[0].open("ab") as file:
        file.write(b"\0" * 4096)
    spool = disk.open()
    spool.append(documents(5, 8))
    assert drain(spool) == documents(0, 8)
    assert disk.dropped == 1


def damage(path: Path, at: int, raw: bytes) -> None:
    """Overwrite some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(raw)


# Where in a frame: magic, checksum, number, length too long, just too long, too short, document, all of it.
DAMAGES = [(0, b"\0"), (4, b"\0\0\0\0"), (8, b"\xff" * 8), (16, b"\xff\xff\xff\xff"), (16, b"\x65"), (16, b"\x01"),
           (60, b"?"), (0, b"\0" * FRAME), (0, b"\xfe" * FRAME)]  # fmt: skip


@pytest.mark.parametrize(("where", "raw"), DAMAGES)
@pytest.mark.parametrize("frames", [(0,), (4,), (3, 4), (0, 1, 5), (8,)], ids=repr)
@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_damaged_is_passed_over_and_counted_exactly(
    disk: Disk, frames: tuple[int, ...], where: int, raw: bytes, restarted: bool
) -> None:
    """Whatever part of a frame it is: the frames behind it are found again."""
    spool = disk.open()
    spool.append(documents(0, 9))
    for number in frames:
        damage(disk.files()[0], 8 + number * FRAME + where, raw)
    spool = disk.open() if restarted else spool
    assert drain(spool) == [one for number, one in enumerate(documents(0, 9)) if number not in frames]
    assert disk.dropped == len(frames)
    assert spool.unread == 0
    spool.append(documents(9, 12))
    assert drain(spool) == documents(9, 12)
    assert drain(disk.open()) == []
    assert disk.dropped == len(frames)


@pytest.mark.parametrize("which", [0, 3, -1])
@pytest.mark.parametrize("how", ["head", "all", "removed", "short"])
def test_a_damaged_segment_costs_only_what_cannot_be_read(disk: Disk, how: str, which: int) -> None:
    """The head of a segment, all of it, its second half, or the whole file; the first, one in between, the last."""
    spool = disk.open(max_bytes=64 << 10)  # segments of 8 KiB
    for number in range(0, 420, 60):
        spool.append(documents(number, number + 60))
    assert len(disk.files()) == 7
    path = disk.files()[which]
    gone = {"head": 0, "all": 60, "removed": 60, "short": 31}[how]
    {
        "head": lambda: damage(path, 0, b"\0" * 8),
        "all": lambda: path.write_bytes(b"\xaa" * path.stat().st_size),
        "removed": path.unlink,
        "short": lambda: os.truncate(path, 8 + 29 * FRAME + 30),
    }[how]()
    spool = disk.open(max_bytes=64 << 10)
    left = drain(spool)
    start = which % 7 * 60
    assert left == documents(0, start + 60 - gone) + documents(start + 60, 420)
    if which == 3 or not gone:
        assert disk.dropped == gone
    elif how != "removed":  # no number before or behind it: as much as can be seen
        assert 1 <= disk.dropped <= gone
    spool.append(documents(420, 421))
    assert drain(spool) == documents(420, 421)


def test_a_medium_that_lost_a_segment_does_not_stop_the_rest(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = disk.open(max_bytes=64 << 10)  # segments of 8 KiB
    spool.append(documents(0, 60))
    spool.append(documents(60, 120))
    bad = disk.files()[0].stat().st_ino
    real: Callable[[int, int, int], bytes] = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(5, "Input/output error")
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert drain(spool) == documents(60, 120)
    assert disk.dropped == 60


@pytest.mark.parametrize("mark", [b"", b"garbage", b"TAPIOSP1" + b"\xff" * 20, b"TAPIOSP1" + b"\0" * 20])
def test_a_lost_mark_costs_duplicates_only(disk: Disk, mark: bytes) -> None:
    spool = disk.open()
    spool.append(documents(0, 9))
    spool.acknowledge(spool.take(5, 1 << 20)[-1])
    (disk.path / ".spool/test/acknowledged").write_bytes(mark)
    assert drain(disk.open()) == documents(0, 9)


def test_a_mark_beyond_what_a_power_loss_left_hides_nothing_new(disk: Disk) -> None:
    """The segment shrank below the acknowledged position: what is appended there now is not taken for settled."""
    spool = disk.open()
    spool.append(documents(0, 9))
    spool.acknowledge(spool.take(9, 1 << 20)[-1])
    os.truncate(disk.files()[0], 8 + 3 * FRAME)
    spool = disk.open()
    spool.append(documents(9, 12))
    assert drain(spool) == documents(9, 12)
    disk.files()[0].unlink()
    spool = disk.open()
    spool.append(documents(12, 15))
    assert drain(disk.open()) == documents(12, 15)


def test_a_mark_that_was_too_far_stays_corrected_over_restarts(disk: Disk) -> None:
    """After a power loss new documents lie where the old mark points behind: they must survive a SIGKILL."""
    spool = disk.open()
    spool.append(documents(0, 50))
    spool.acknowledge(spool.take(50, 1 << 20)[-1])
    disk.end(spool)
    os.truncate(disk.files()[0], 8 + 20 * FRAME)
    disk.open().append(documents(50, 70))
    assert drain(disk.open()) == documents(50, 70)
    assert disk.dropped == 0


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_cannot_be_a_segment_is_somebody_elses(disk: Disk, kind: str) -> None:
    """It is neither followed nor removed, and its number is free again."""
    disk.end(disk.open())
    path = disk.path / ".spool/test/0000000000000001.segment"
    {"link": lambda: path.symlink_to("/etc/passwd"), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    descriptors = len(os.listdir("/proc/self/fd"))
    for start in (0, 3, 6):
        spool = disk.open()
        spool.append(documents(start, start + 3))
        assert drain(spool) == documents(start, start + 3)
        disk.end(spool)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert len(list(path.parent.glob("0000000000000001.segment.*.aside"))) == 1


def test_another_version_is_set_aside_not_deleted(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever else lies there is left alone; a number beyond all that can be reached does not break the counting."""
    disk.open()
    folder = disk.path / ".spool/test"
    (folder / "notes.txt").write_text("x")
    (folder / "zz.segment").write_text("x")
    (folder / "ffffffffffffffff.segment").write_text("x")
    (folder / "7fffffffffffffff.segment").write_bytes(b"TAPIOSP2")
    (folder / "0000000000000001.segment").write_bytes(b"TAPIOSP9" + b"x" * 50)
    (folder / "0000000000000002.segment").write_bytes(b"")
    for start in (0, 3):
        spool = disk.open()
        spool.append(documents(start, start + 3))
        assert drain(spool) == documents(start, start + 3)
    assert {"notes.txt", "zz.segment", "ffffffffffffffff.segment"} <= {path.name for path in folder.iterdir()}
    aside = sorted(folder.glob("*.aside"))
    assert [path.read_bytes() for path in aside] == [b"TAPIOSP9" + b"x" * 50, b"TAPIOSP2"]
    assert disk.dropped == 2  # at least one in each
    assert "renamed to 0000000000000001.segment." in caplog.text


def test_a_failed_append_adds_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the bytes were written when the disk became full."""
    spool = disk.open()
    spool.append(documents(0, 3))
    real: Callable[[int, bytes, int], int] = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        real(descriptor, data[:50], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        spool.append(documents(3, 6))
    monkeypatch.setattr(os, "pwrite", real)
    spool.append(documents(6, 9))
    assert drain(disk.open()) == documents(0, 3) + documents(6, 9)


def test_random_damage(disk: Disk) -> None:
    """Bytes flipped, cut out, put in and zeroed anywhere: what is read is true, in order, and the books balance."""
    rng = random.Random(23)  # noqa: S311  # reproducible
    for _ in range(150):
        for path in (disk.path / ".spool/test").glob("*"):
            path.unlink()
        disk.dropped = 0
        spool = disk.open(max_bytes=64 << 10)  # segments of 8 KiB
        for number in range(0, 300, 30):
            spool.append(documents(number, number + 30))
        spool.acknowledge(spool.take(rng.randrange(1, 100), 1 << 20)[-1])
        settled = 300 - spool.unread
        for _ in range(rng.randrange(1, 6)):
            path = rng.choice(disk.files()[:-1])
            raw = path.read_bytes()
            start = rng.randrange(len(raw))
            stop = start + rng.choice([1, 1, 4, 20, 300])
            new = rng.choice([b"", rng.randbytes(stop - start), b"\0" * (stop - start), raw[stop - 50 : stop], raw])
            path.write_bytes(raw[:start] + new + raw[stop:])
        spool = disk.open(max_bytes=64 << 10)
        left = drain(spool, limit=rng.randrange(1, 40))
        assert left == sorted(set(left))
        assert set(left) <= set(documents(settled, 300))
        assert len(left) + disk.dropped == 300 - settled


def test_random_histories(disk: Disk) -> None:
    """Appending, taking, acknowledging, killing and restarting in any order: each document once, in order."""
    rng = random.Random(17)  # noqa: S311  # reproducible
    spool = disk.open(max_bytes=1 << 20)
    appended = settled = taken = 0
    entries: list[Entry] = []
    for _ in range(3000):
        action = rng.random()
        if action < 0.4:
            count = rng.randrange(1, 30)
            spool.append(documents(appended, appended + count, size=rng.randrange(8, 900)))
            appended += count
        elif action < 0.7:
            entries = spool.take(rng.randrange(1, 50), 1 << 16)
            assert [int(entry.document[:8]) for entry in entries] == list(range(taken, taken + len(entries)))
            taken += len(entries)
            if entries and rng.random() < 0.8:
                spool.acknowledge(entries[-1])
                settled = taken
        elif action < 0.75:
            spool = disk.open(max_bytes=1 << 20)
            taken = settled
        assert spool.unread == appended - taken or disk.dropped
        if appended - settled > 800:
            while more := spool.take(100, 1 << 16):
                spool.acknowledge(more[-1])
            settled = taken = appended
    assert disk.dropped == 0
