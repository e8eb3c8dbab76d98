"""Real faults below real loop devices: the right disk, errno, operation, time and cgroup, and exact counts."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cgroups import ScratchCgroup, mount_point
from helpers.loops import MIB, Loop, ext4, frozen, loop, numbered_loop, run, shut_down, tmpfs
from helpers.running_agent import PATIENCE, RunningAgent, running_agent, wait_for

pytestmark = pytest.mark.kernel

KIB = 1024
_TIMED_WRITE = """
import mmap, os, sys, time
disk, buffer = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, 64 << 10)
begun = time.monotonic()
os.pwritev(disk, [buffer], 1 << 20)
print((time.monotonic() - begun) * 1000)
"""
STACKED = 'tapio_suppressed_records_total{observer="storage",reason="stacked"}'
_WITHIN_S = 40  # what was folded leaves after 10 s


def of_device(agent: RunningAgent, device: Loop) -> list[dict[str, Any]]:
    """The occurrences of one disk: other tests use disks too, and earlier ones had the same name."""
    return [
        found
        for found in agent.occurrences()
        if found["data"].get("device") == device.name and found["data"]["timestamp_ns"] >= device.made_at_ns
    ]


def counted(found: list[dict[str, Any]], what: str) -> int:
    """How many anomalies of a type the occurrences stand for."""
    return sum(item["data"]["count"] for item in found if item["type"] == f"kernel.storage.{what}")


def describe(found: list[dict[str, Any]]) -> str:
    """What was found instead, in few words."""
    return "; ".join(f"{item['error']['message']} x{item['data']['count']}" for item in found) or "nothing"


def stalled(agent: RunningAgent, device: Loop) -> list[dict[str, Any]]:
    """The spikes of a disk that somebody held up: under emulation every disk takes more than 50 ms now and then."""
    spikes = [item for item in of_device(agent, device) if item["type"] == "kernel.storage.latency_spike"]
    return [item for item in spikes if item["data"].get("latency_ms", 0) >= 500]


def expect(agent: RunningAgent, device: Loop, **expected: int) -> list[dict[str, Any]]:
    """The occurrences of the disk once they stand for what is expected, after time for one too many."""

    def reached() -> bool:
        found = of_device(agent, device)
        return all(counted(found, what) >= number for what, number in expected.items())

    wait_for(reached, _WITHIN_S, lambda: describe(of_device(agent, device)))
    agent.settle()
    found = of_device(agent, device)
    assert {what: counted(found, what) for what in expected} == expected, describe(found)
    return [item for item in found if item["type"].rsplit(".", 1)[1] in expected]


class DirectFile:
    """A disk that is read and written past the page cache: each call is one request."""

    def __init__(self, device: Loop, size: int) -> None:
        self._descriptor = os.open(device.path, os.O_RDWR | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, size)

    def write(self, offset: int) -> None:
        os.pwritev(self._descriptor, [self._buffer], offset)

    def read(self, offset: int) -> None:
        os.preadv(self._descriptor, [self._buffer], offset)

    def close(self) -> None:
        os.close(self._descriptor)
        self._buffer.close()


def fill(folder: Path) -> None:
    """Leave no room on a filesystem."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(64 * KIB)) == 64 * KIB:
            pass


@contextlib.contextmanager
def direct(device: Loop, size: int) -> Iterator[DirectFile]:
    file = DirectFile(device, size)
    try:
        yield file
    finally:
        file.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Loop]:
    """A disk of 64 MiB that has room for 8."""
    with tmpfs(tmp_path / "small", "8m") as folder, loop(folder / "image", 64 * MIB) as device:
        yield device


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Loop]:
    """A disk of 64 MiB that has no room at all."""
    with tmpfs(tmp_path / "full", "4m") as folder, loop(folder / "image", 64 * MIB) as device:
        fill(folder)
        yield device


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[tuple[Path, Loop]]:
    """An ext4 on a disk of its own, and a disk whose file is on it."""
    with (
        tmpfs(tmp_path / "stack", "256m") as folder,
        loop(folder / "lower", 128 * MIB) as lower,
        ext4(lower, tmp_path / "mount") as mount,
        loop(mount / "upper", 32 * MIB) as upper,
    ):
        run("sync", "-f", mount)
        yield mount, upper


def known_by(cgroup: ScratchCgroup) -> str:
    """How the cgroup of a request is known: where cgroup v2 controls I/O, the kernel charges it to the bio."""
    return "bio" if (cgroup._directories[0] / "io.stat").exists() else "task"


def test_23_writes_without_space(agent: RunningAgent, small: Loop, cgroup: ScratchCgroup) -> None:
    """Each failed write is counted once, with errno, place, size and the process that wrote; the first 32 succeed."""
    for index in range(32):
        cgroup.run(small.write_command(index * 256 * KIB, 256 * KIB))
    pids = {
        cgroup.run(small.write_command(16 * MIB + index * 256 * KIB, 256 * KIB)).pid: 32768 + index * 512
        for index in range(23)
    }
    found = expect(agent, small, io_error=23)
    refusal = subprocess.run(small.write_command(60 * MIB, KIB), capture_output=True, text=True, check=False).stderr
    wanted = "ENOSPC" if "No space left" in refusal else "EIO"  # 5.10's loop driver says EIO whatever failed
    assert wanted == "ENOSPC" or "Input/output error" in refusal
    for item in found:
        data = item["data"]
        assert (item["severity"], item["outcome"], item["error"]["code"]) == ("critical", "failure", "IO_ERROR")
        assert (data["dev_major"], data["dev_minor"]) == (small.major, small.minor)
        assert (data["errno"], data["operation"], data["bytes"]) == (wanted, "write", 256 * KIB)
        assert (data["cgroup_id"], data["attribution"]) == (cgroup.id, known_by(cgroup))
        # Old kernels let a worker issue some requests.
        assert data.get("comm", "dd" if wanted == "EIO" else None) == "dd"
        assert 0 <= data["latency_ms"] < 50 * PATIENCE
    single = [item["data"] for item in found if item["data"]["count"] == 1]
    assert len(single) >= 5
    assert all(pids[data["pid"]] == data["sector"] for data in single if "pid" in data or wanted != "EIO")
    series = f'{{device="{small.name}",operation="write"}}'
    assert agent.metric(f"tapio_disk_errors_total{series}") >= 23
    assert agent.metric(f"tapio_disk_latency_seconds_count{series}") >= 55


def test_behind_a_scheduler_no_process_is_blamed(agent: RunningAgent, full: Loop, cgroup: ScratchCgroup) -> None:
    """Whoever comes to dispatch hands out what others have queued: who issues need not be who wrote."""
    schedulers = Path(f"/sys/block/{full.name}/queue/scheduler")
    chosen = next((name for name in schedulers.read_text().split() if name.strip("[]") != "none"), None)
    if chosen is None:
        pytest.skip("this kernel has no I/O scheduler")
    schedulers.write_text(chosen)
    try:
        for index in range(3):
            cgroup.run(full.write_command((2 * index + 1) * MIB, 64 * KIB))
        found = expect(agent, full, io_error=3)
    finally:
        schedulers.write_text("none")  # it would stay with the device's number
    for item in found:
        assert not {"pid", "comm"} & item["data"].keys()
        assert item["data"]["attribution"] == ("none" if known_by(cgroup) == "task" else "bio")


def test_eio_of_reads_and_writes(agent: RunningAgent, stack: tuple[Path, Loop]) -> None:
    """A filesystem that was shut down fails the disk above it; the disk below works and is not named."""
    mount, upper = stack
    before = len(agent.occurrences())
    shut_down(mount)
    with direct(upper, 64 * KIB) as file:
        for index in range(13):
            with contextlib.suppress(OSError):
                file.write(index * MIB)
        for index in range(7):
            with contextlib.suppress(OSError):
                file.read(index * MIB)
    found = expect(agent, upper, io_error=20)
    operations = {
        name: sum(i["data"]["count"] for i in found if i["data"]["operation"] == name) for name in ("read", "write")
    }
    assert operations == {"read": 7, "write": 13}
    assert {item["data"]["errno"] for item in found} == {"EIO"}
    (lower,) = (line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {mount} " in line)
    # Not those of ENOSPC: an earlier test's disk had the same number, and its folded errors leave late.
    errors = [item["data"] for item in agent.occurrences()[before:] if item["type"] == "kernel.storage.io_error"]
    assert lower.removeprefix("/dev/") not in {data["device"] for data in errors if data["errno"] == "EIO"}


def test_a_request_that_a_worker_issues_again_stays_the_readers(
    agent: RunningAgent, tmp_path: Path, cgroup: ScratchCgroup
) -> None:
    """A file that ends in the middle of a read: the driver sends the rest back, and a kernel worker issues it again."""
    with tmpfs(tmp_path / "short", "64m") as folder, loop(folder / "image", 32 * MIB, "--direct-io=off") as device:
        os.truncate(folder / "image", MIB + 32 * KIB)
        command = ["dd", f"if={device.path}", "of=/dev/null", "bs=64k", "count=1", "skip=16", "iflag=direct"]
        readers = [cgroup.run(command) for _ in range(5)]
        if not any(reader.returncode for reader in readers):
            pytest.skip("this kernel's loop driver fills up such a read with zeros")
        found = [item["data"] for item in expect(agent, device, io_error=5)]
    places = {(data["operation"], data["errno"], data["sector"], data["bytes"]) for data in found}
    if places == {("read", "EIO", 2048, 64 * KIB)}:
        pytest.skip("this kernel's loop driver fails such a read at once")
    assert places == {("read", "EIO", 2112, 32 * KIB)}
    assert {data.get("pid") for data in found} == {reader.pid for reader in readers}
    assert {data.get("comm") for data in found} == {"dd"}


def test_a_frozen_filesystem_is_a_latency_spike(
    agent: RunningAgent, stack: tuple[Path, Loop], cgroup: ScratchCgroup
) -> None:
    """The one write that waited is reported with the time it took, in the cgroup that wrote."""
    mount, upper = stack
    with frozen(mount):
        writer = cgroup.start([sys.executable, "-c", _TIMED_WRITE, str(upper.path)], stdout=subprocess.PIPE)
        time.sleep(1.5)
    took_ms = float(writer.communicate()[0])
    (spike,) = expect(agent, upper, latency_spike=1)
    data = spike["data"]
    assert (spike["severity"], spike["outcome"], spike["error"]["code"]) == ("critical", "in_progress", "LATENCY_SPIKE")
    assert 0.8 * took_ms <= data["latency_ms"] <= took_ms
    assert (data["operation"], data["sector"], data["bytes"]) == ("write", 2048, 64 * KIB)
    # Where a kernel worker issued the request there is no pid.
    assert data.get("pid", writer.pid) == writer.pid
    assert (data["cgroup_id"], data["attribution"]) == (cgroup.id, known_by(cgroup))
    assert (data["dev_major"], data["dev_minor"], data["threshold_ms"]) == (upper.major, upper.minor, 200)


def test_500_healthy_writes_are_silent(agent: RunningAgent, tmp_path: Path) -> None:
    """Nothing is reported but what the writer itself saw take as long: the machine may be busy with other tests."""
    with (
        tmpfs(tmp_path / "healthy", "64m") as folder,
        loop(folder / "image", 32 * MIB) as device,
        direct(device, 64 * KIB) as file,
    ):
        series = f'tapio_disk_latency_seconds_count{{device="{device.name}",operation="write"}}'
        before, slow = agent.metric(series), 0
        for index in range(500):
            begun = time.monotonic()
            file.write(index * 64 * KIB)
            slow += time.monotonic() - begun >= 0.05
        agent.settle()
        found = of_device(agent, device)
        assert counted(found, "io_error") == 0
        assert counted(found, "latency_spike") <= slow
        assert agent.metric(series) - before == 500


def test_a_discard_that_the_disk_lacks_is_silent(agent: RunningAgent, tmp_path: Path) -> None:
    """Overlayfs on ramfs: the loop driver offers discard and zeroing, and the file below refuses both."""
    counts = 'tapio_disk_latency_seconds_count{{device="{}",operation="{}"}}'
    with ramfs_overlay(tmp_path) as folder, loop(folder / "image", 16 * MIB) as device:
        before = [agent.metric(counts.format(device.name, operation)) for operation in ("discard", "other")]
        run("dd", "if=/dev/urandom", f"of={device.path}", "bs=1M", "count=1", "oflag=direct")
        # The kernel hides the refusal, and offers it no more. Old ones (5.10) refuse without asking the disk.
        discarded = subprocess.run(["blkdiscard", "-l", str(MIB), device.path], capture_output=True, check=False)
        assert any(device.path.read_bytes()[:MIB])
        run("blkdiscard", "--zeroout", "-l", MIB, device.path)
        expect(agent, device, io_error=0)
        after = [agent.metric(counts.format(device.name, operation)) for operation in ("discard", "other")]
        assert after[0] - before[0] >= (discarded.returncode == 0)
        assert after[1] - before[1] >= 1


@contextlib.contextmanager
def ramfs_overlay(tmp_path: Path) -> Iterator[Path]:
    below, merged = tmp_path / "ramfs", tmp_path / "merged"
    below.mkdir()
    merged.mkdir()
    run("mount", "-t", "ramfs", "tapio-test", below)
    try:
        for name in ("lower", "upper", "work"):
            (below / name).mkdir()
        options = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
        run("mount", "-t", "overlay", "-o", options, "tapio-test", merged)
        try:
            yield merged
        finally:
            run("umount", merged)
    finally:
        run("umount", below)


def test_writeback_is_blamed_on_the_writer_or_nobody(
    agent: RunningAgent, tmp_path: Path, cgroup: ScratchCgroup
) -> None:
    """What a kernel worker writes: the writing cgroup where the kernel knows it, else nobody; never a process."""
    with (
        tmpfs(tmp_path / "small", "32m") as folder,
        loop(folder / "image", 128 * MIB) as device,
        ext4(device, tmp_path / "mount") as mount,
    ):
        run("sync", "-f", mount)
        fill(folder)
        cgroup.run(["dd", "if=/dev/zero", f"of={mount}/file", "bs=64k", "count=400"])
        subprocess.run(["sync", "-f", mount], capture_output=True, check=False)
        wait_for(lambda: counted(of_device(agent, device), "io_error") >= 1, _WITHIN_S)
        agent.settle()
        # Errors alone: under emulation mkfs and mount are slow now and then, and those spikes are theirs.
        found = [item["data"] for item in of_device(agent, device) if item["type"] == "kernel.storage.io_error"]
        by_workers = [data for data in found if "pid" not in data]
        assert by_workers, found
        for data in by_workers:
            assert data["attribution"] == "none" if "cgroup_id" not in data else data["cgroup_id"] == cgroup.id
            assert "comm" not in data
        assert {data["comm"] for data in found if "pid" in data} <= {"sync"}


# A loop disk's backing file is known by loop's own type. A kernel without BTF of modules (5.10) does not show it.
needs_loops_type = pytest.mark.skipif(
    Path("/sys/module/loop/initstate").exists() and not Path("/sys/kernel/btf/loop").exists(),
    reason="loop is a module here and the kernel has no BTF of it: what a loop disk stands on is unknown",
)


@needs_loops_type
def test_a_slow_disk_below_is_one_story(agent: RunningAgent, tmp_path: Path) -> None:
    """Three floors: only the lowest disk that was slow is named."""
    with (
        tmpfs(tmp_path / "floors", "512m") as folder,
        loop(folder / "0", 256 * MIB) as ground,
        ext4(ground, tmp_path / "mount0") as mount,
        loop(mount / "1", 128 * MIB) as lower,
        ext4(lower, tmp_path / "mount1") as lower_mount,
        loop(lower_mount / "2", 32 * MIB, "--direct-io=on") as upper,
        direct(upper, 64 * KIB) as file,
    ):
        for index in range(4):  # lay the file out, so that nothing but the write itself waits
            file.write(index * 64 * KIB)
        run("sync", "-f", lower_mount)
        before = agent.metric(STACKED)
        with frozen(mount):
            writer = threading.Thread(target=file.write, args=(64 * KIB,))
            writer.start()
            time.sleep(1.0)
        writer.join()
        wait_for(lambda: stalled(agent, lower), _WITHIN_S)
        expect(agent, upper, io_error=0)
        expect(agent, ground, io_error=0)
        (spike,) = stalled(agent, lower)
        assert spike["data"]["latency_ms"] >= 800
        assert stalled(agent, upper) == []
        assert agent.metric(STACKED) - before >= 1


@contextlib.contextmanager
def two_floors(tmp_path: Path, lower_size: int, upper_size: int) -> Iterator[tuple[Loop, Loop]]:
    """A disk that has no room any more, and one whose file is on it and which passes every request on."""
    with (
        tmpfs(tmp_path / "floors", "48m") as folder,
        loop(folder / "0", lower_size) as lower,
        ext4(lower, tmp_path / "mount") as mount,
        loop(mount / "1", upper_size, "--direct-io=on") as upper,
    ):
        run("sync", "-f", mount)
        fill(folder)
        yield lower, upper


@needs_loops_type
def test_an_error_below_is_one_story(agent: RunningAgent, tmp_path: Path) -> None:
    """The lower disk has no room; the upper one fails because of it, and only the lower one is named."""
    with (
        two_floors(tmp_path, 128 * MIB, 64 * MIB) as (lower, upper),
        direct(upper, 64 * KIB) as file,
    ):
        failed = 0
        for index in range(512):
            try:
                file.write(index * 64 * KIB)
            except OSError:
                failed += 1
            if failed == 7:
                break
        assert failed == 7
        wait_for(lambda: counted(of_device(agent, lower), "io_error") >= failed, _WITHIN_S)
        expect(agent, upper, io_error=0)


@needs_loops_type
def test_errors_below_of_eight_at_a_time_are_one_story(agent: RunningAgent, tmp_path: Path) -> None:
    """Each of the 97 that failed above is explained by its own error below, however they overlap."""
    with two_floors(tmp_path, 512 * MIB, 256 * MIB) as (lower, upper):
        before = agent.metric(STACKED)
        places = iter(range(0, 64 * KIB * 97, 64 * KIB))
        failed = in_threads(8, upper, lambda file: [fails(file.write, place) for place in places].count(True))
        assert failed == 97
        wait_for(lambda: counted(of_device(agent, lower), "io_error") >= failed, _WITHIN_S)
        expect(agent, upper, io_error=0)
        assert agent.metric(STACKED) - before == 97


@needs_loops_type
@pytest.mark.parametrize("other", ["of another errno", "of another direction", "of a process"])
def test_an_upper_disks_own_errors_are_told_beside_errors_below(
    agent: RunningAgent, tmp_path: Path, other: str
) -> None:
    """The filesystem between the two was shut down, so nothing goes down; below, others fail all the time."""
    with (
        tmpfs(tmp_path / "floors", "80m") as folder,
        loop(folder / "lower", 256 * MIB) as lower,
        ext4(lower, tmp_path / "mount") as mount,
        loop(mount / "upper", 32 * MIB) as upper,
    ):
        run("sync", "-f", mount)
        fill(folder)
        if other != "of another errno":
            os.truncate(folder / "lower", 128 * MIB)  # what lies behind cannot be read
        shut_down(mount)
        before, done = agent.metric(STACKED), threading.Event()

        def fail_below(file: DirectFile) -> int:
            access = file.write if other == "of another errno" else file.read
            return [fails(access, 192 * MIB) for _ in iter(done.is_set, True)].count(True)

        below: list[int] = []
        neighbour = threading.Thread(target=lambda: below.append(in_threads(1, lower, fail_below)))
        neighbour.start()
        try:
            with direct(upper, 64 * KIB) as file:
                access = file.read if other == "of a process" else file.write
                assert all(fails(access, index * 64 * KIB) for index in range(293))
        finally:
            done.set()
            neighbour.join()
        assert below[0] >= 10
        expect(agent, upper, io_error=293)
        assert agent.metric(STACKED) == before


def fails(access: Callable[[int], None], place: int) -> bool:
    """Whether an access fails."""
    try:
        access(place)
    except OSError:
        return True
    return False


def in_threads(number: int, device: Loop, work: Callable[[DirectFile], int]) -> int:
    """The sum of what `work` returns in so many threads."""
    found: list[int] = []

    def run_one() -> None:
        with direct(device, 64 * KIB) as file:
            found.append(work(file))

    threads = [threading.Thread(target=run_one) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found)


def test_the_v1_block_cgroup_is_named_beside_the_v2_one(agent: RunningAgent, full: Loop, cgroup: ScratchCgroup) -> None:
    """Where blkio is a v1 hierarchy, its id is given too, and the issuer in it gives the v2 id."""
    blkio = mount_point("cgroup", "blkio")
    if blkio is None:
        pytest.skip("blkio is not a cgroup v1 hierarchy here")
    scratch = blkio / cgroup._directories[0].name
    scratch.mkdir()
    try:
        script = f'echo $$ > {scratch}/cgroup.procs && exec "$@"'
        for index in range(3):
            cgroup.run(["sh", "-c", script, "sh", *full.write_command(16 * MIB + index * MIB, 64 * KIB)])
        found = expect(agent, full, io_error=3)
        for item in found:
            data = item["data"]
            assert (data["cgroup_id"], data["attribution"]) == (cgroup.id, "bio")
            assert data["cgroup_v1_id"] == scratch.stat().st_ino
    finally:
        scratch.rmdir()


def test_thresholds_of_one_disk(tmp_path: Path) -> None:
    """A disk with thresholds of its own keeps quiet, or says critical earlier, while the others stay as they are."""
    with (
        tmpfs(tmp_path / "small", "256m") as folder,
        loop(folder / "lower", 128 * MIB) as lower,
        ext4(lower, tmp_path / "mount") as mount,
        loop(mount / "tolerant", 16 * MIB) as tolerant,
        loop(mount / "strict", 16 * MIB) as strict,
        loop(mount / "ignored", 16 * MIB) as ignored,
    ):
        config = tmp_path / "tapio.toml"
        config.write_text(
            f'[storage]\nignore_devices = ["{ignored.name}"]\n'
            f'[storage.devices."{tolerant.name}"]\nwarning_ms = 60000\ncritical_ms = 90000\n'
            f'[storage.devices."{strict.name}"]\nwarning_ms = 20\ncritical_ms = 70\n'
        )
        config.chmod(0o644)
        with readable(tmp_path), running_agent(tmp_path / "data", f"--config={config}") as agent:
            with frozen(mount):
                writers = [
                    subprocess.Popen(disk.write_command(0, 64 * KIB), stderr=subprocess.DEVNULL)
                    for disk in (tolerant, strict, ignored)
                ]
                time.sleep(0.4)
            for writer in writers:
                writer.wait()
            (spike,) = expect(agent, strict, latency_spike=1)
            assert (spike["severity"], spike["data"]["threshold_ms"]) == ("critical", 70)
            expect(agent, tolerant, io_error=0, latency_spike=0)
            expect(agent, ignored, io_error=0, latency_spike=0)


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Pytest's folders are for their owner alone; the agent reads its configuration as nobody."""
    changed = []
    for path in (folder, *folder.parents):
        mode = path.stat().st_mode
        if not mode & 0o001:
            changed.append((path, mode))
            path.chmod(mode | 0o055)
    try:
        yield
    finally:
        for path, mode in changed:
            path.chmod(mode & 0o7777)


def test_rows_of_disks_that_are_gone_serve_others(tmp_path: Path) -> None:
    """More disks than the table holds come and go: each is counted right or counted as missed, and none as another."""
    shown = re.compile(r'(?m)^tapio_disk_latency_seconds_count{device="loop(\d{4})",operation="write"} (\d+)\.0$')
    full = 'tapio_kernel_missed_total{hook="block_rq_complete",observer="storage",reason="disk_table_full"}'
    with tmpfs(tmp_path / "many", "64m") as folder, running_agent(tmp_path / "data", "--observer=storage") as agent:

        def come_and_go(number: int, writes: int) -> None:
            with numbered_loop(number, folder / "image", MIB) as device, direct(device, 4 * KIB) as file:
                for index in range(writes):
                    file.write(index * 4 * KIB)

        def read() -> dict[int, int]:
            return {int(number): int(writes) for number, writes in shown.findall(agent.get("/metrics")[1])}

        first = {number: 1 + number % 5 for number in range(3001, 3072)}
        for number, writes in first.items():
            come_and_go(number, writes)
        missed = agent.metric(full)
        counted_first = read()
        assert 48 < len(counted_first) <= 64
        assert counted_first.items() <= first.items()
        hidden = sum(first.values()) - sum(counted_first.values())
        assert missed >= hidden > 0
        wait_for(lambda: not read(), 10)
        second = {number: 1 + number % 5 for number in range(4001, 4024)} | {3001: 7}
        for number, writes in second.items():
            come_and_go(number, writes)
        second[3001] += first[3001]
        assert read() == second
        assert agent.metric(full) == missed


def test_20000_requests_that_no_room_is_for(tmp_path: Path) -> None:
    """A table that is full costs times and issuers, not errors; each request without an entry is counted."""
    config = tmp_path / "tapio.toml"
    config.write_text("[storage]\nmax_in_flight = 1\n")
    config.chmod(0o644)
    missed = 'tapio_kernel_missed_total{{hook="block_rq_{}",observer="storage",reason="{}"}}'
    with (
        tmpfs(tmp_path / "stack", "256m") as folder,
        loop(folder / "lower", 64 * MIB) as lower,
        ext4(lower, tmp_path / "mount") as mount,
        loop(mount / "stuck", 16 * MIB) as stuck,
        tmpfs(tmp_path / "full", "1m") as small_folder,
        loop(small_folder / "image", 64 * MIB) as busy,
        direct(busy, 4 * KIB) as file,
        readable(tmp_path),
        running_agent(tmp_path / "data", f"--config={config}") as agent,
    ):
        with frozen(mount):
            # One request that hangs holds the only entry. Another disk may be quicker: then it is free again soon.
            writer = subprocess.Popen(stuck.write_command(0, 64 * KIB), stderr=subprocess.DEVNULL)
            time.sleep(0.5)
            before = [
                agent.metric(missed.format(*where)) for where in (("issue", "table_full"), ("complete", "unmatched"))
            ]
            for index in range(20_000):
                file.write(index % 256 * 4 * KIB)
            for index in range(23):
                with contextlib.suppress(OSError):
                    file.write(32 * MIB + index * 64 * KIB)
            after = [
                agent.metric(missed.format(*where)) for where in (("issue", "table_full"), ("complete", "unmatched"))
            ]
        writer.wait()
        assert after[0] - before[0] >= 20_023
        assert after[1] - before[1] >= 20_023
        for item in expect(agent, busy, io_error=23):
            assert item["data"]["errno"] == "ENOSPC"
            assert not {"latency_ms", "pid", "comm"} & item["data"].keys()
        expect(agent, stuck, latency_spike=1)
