"""Loop devices that fail, stall or just work: on a tmpfs or an ext4 of the test's own, all removed at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_EXT4_SHUTDOWN, _SHUTDOWN_NO_LOG_FLUSH = 0x8004587D, 2
_LOOP_CTL_ADD, _LOOP_CTL_REMOVE = 0x4C80, 0x4C81
MIB = 1 << 20


def run(*command: object) -> str:
    """Run a program that must succeed; its output."""
    finished = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{command}: {finished.stderr}"
    return finished.stdout.strip()


class Loop:
    """A loop device."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.made_at_ns = time.time_ns()
        number = path.stat().st_rdev
        self.major, self.minor = os.major(number), os.minor(number)

    def write_command(self, offset: int, size: int) -> list[str]:
        """A program that writes once, directly: one request up to the device's limit."""
        command = ["dd", "if=/dev/zero", f"of={self.path}", f"bs={size}", "count=1", "oflag=direct,seek_bytes"]
        return [*command, f"seek={offset}", "conv=notrunc"]


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size in a new folder."""
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tapio-test", folder)
    with _unmounted_at_end(folder):
        yield folder


@contextlib.contextmanager
def loop(image: Path, size: int, *options: str) -> Iterator[Loop]:
    """A loop device on a sparse file."""
    with image.open("xb") as file:
        file.truncate(size)
    path = Path(run("losetup", "-f", "--show", *options, image))
    scheduler = Path(f"/sys/block/{path.name}/queue/scheduler")
    if "[none]" not in scheduler.read_text():  # it stays with the number, whoever chose it
        scheduler.write_text("none")
    try:
        yield Loop(path)
    finally:
        run("losetup", "-d", path)


@contextlib.contextmanager
def numbered_loop(number: int, image: Path, size: int) -> Iterator[Loop]:
    """A loop device of this number, which is free, on a sparse file; the number goes at the end, too."""
    with image.open("xb") as file:
        file.truncate(size)
    path = Path(f"/dev/loop{number}")
    with Path("/dev/loop-control").open("rb") as control:
        fcntl.ioctl(control, _LOOP_CTL_ADD, number)
        try:
            run("losetup", path, image)
            try:
                yield Loop(path)
            finally:
                run("losetup", "-d", path)
        finally:
            _until(lambda: fcntl.ioctl(control, _LOOP_CTL_REMOVE, number))
            image.unlink()


def _until(done: Callable[[], object], patience_s: float = 10) -> None:
    """Try until it succeeds: a device is busy for a moment after its last user has gone."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            done()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def queue_setting(device: Loop, name: str, value: str, usual: str) -> Iterator[None]:
    """A setting of a disk's queue, and the usual one again at the end: it would stay with the device's number."""
    setting = Path(f"/sys/block/{device.name}/queue/{name}")
    setting.write_text(value)
    try:
        yield
    finally:
        setting.write_text(usual)


@contextlib.contextmanager
def ext4(device: Loop, folder: Path) -> Iterator[Path]:
    """A fresh ext4 on the device, mounted in a new folder; without journal thread's lazy work."""
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device.path)
    folder.mkdir()
    run("mount", "-t", "ext4", device.path, folder)
    with _unmounted_at_end(folder):
        yield folder


@contextlib.contextmanager
def ground_floor(folder: Path, room: str, size: int) -> Iterator[tuple[Loop, Path]]:
    """A disk with an ext4 for the files of others, and where that is mounted; its own file is ground/image."""
    with (
        tmpfs(folder / "ground", room) as ground,
        loop(ground / "image", size) as disk,
        ext4(disk, folder / "mount") as mount,
    ):
        yield disk, mount


def shut_down(mount: Path) -> None:
    """Make an ext4 answer every access with EIO."""
    descriptor = os.open(mount, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _EXT4_SHUTDOWN, _SHUTDOWN_NO_LOG_FLUSH.to_bytes(4, "little"))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def frozen(mount: Path) -> Iterator[None]:
    """The filesystem lets nobody write meanwhile."""
    run("fsfreeze", "-f", mount)
    try:
        yield
    finally:
        run("fsfreeze", "-u", mount)


@contextlib.contextmanager
def _unmounted_at_end(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        deadline = time.monotonic() + 10
        while subprocess.run(["umount", folder], capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, run("umount", folder)
            time.sleep(0.1)
