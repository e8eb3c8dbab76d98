"""Whose a block request is: the process that asked, the cgroup that wrote, or nobody where that is not certain."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers.cgroups import ScratchCgroup, mount_point
from helpers.disks import KIB, WITHIN_S, charged_by, counted, expect, fill, of_device
from helpers.loops import MIB, Loop, ground_floor, loop, queue_setting, run, tmpfs
from helpers.running_agent import RunningAgent, wait_for

pytestmark = pytest.mark.kernel


def test_behind_a_scheduler_no_process_is_blamed(agent: RunningAgent, full_disk: Loop, cgroup: ScratchCgroup) -> None:
    """Whoever comes to dispatch hands out what others have queued: who issues need not be who wrote."""
    schedulers = Path(f"/sys/block/{full_disk.name}/queue/scheduler")
    chosen = next((name for name in schedulers.read_text().split() if name.strip("[]") != "none"), None)
    if chosen is None:
        pytest.skip("this kernel has no I/O scheduler")
    with queue_setting(full_disk, "scheduler", chosen, usual="none"):
        for index in range(3):
            cgroup.run(full_disk.write_command((2 * index + 1) * MIB, 64 * KIB))
        found = expect(agent, full_disk, io_error=3)
    for item in found:
        assert not {"pid", "comm"} & item["data"].keys()
        assert item["data"]["attribution"] == ("none" if charged_by(cgroup) == "task" else "bio")


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


def test_writeback_is_blamed_on_the_writer_or_nobody(
    agent: RunningAgent, tmp_path: Path, cgroup: ScratchCgroup
) -> None:
    """What a kernel worker writes: the writing cgroup where the kernel knows it, else nobody; never a process."""
    with ground_floor(tmp_path, "32m", 128 * MIB) as (device, mount):
        run("sync", "-f", mount)
        fill(tmp_path / "ground")
        cgroup.run(["dd", "if=/dev/zero", f"of={mount}/file", "bs=64k", "count=400"])
        subprocess.run(["sync", "-f", mount], capture_output=True, check=False)
        wait_for(lambda: counted(of_device(agent, device), "io_error") >= 1, WITHIN_S)
        agent.settle()
        # Errors alone: under emulation mkfs and mount are slow now and then, and those spikes are theirs.
        found = [item["data"] for item in of_device(agent, device) if item["type"] == "kernel.storage.io_error"]
        by_workers = [data for data in found if "pid" not in data]
        assert by_workers, found
        for data in by_workers:
            assert data["attribution"] == "none" if "cgroup_id" not in data else data["cgroup_id"] == cgroup.id
            assert "comm" not in data
        assert {data["comm"] for data in found if "pid" in data} <= {"sync"}


def test_the_v1_block_cgroup_is_named_beside_the_v2_one(
    agent: RunningAgent, full_disk: Loop, cgroup: ScratchCgroup
) -> None:
    """Where blkio is a v1 hierarchy, its id is given too, and the issuer in it gives the v2 id."""
    blkio = mount_point("cgroup", "blkio")
    if blkio is None:
        pytest.skip("blkio is not a cgroup v1 hierarchy here")
    scratch = blkio / cgroup._directories[0].name
    scratch.mkdir()
    try:
        script = f'echo $$ > {scratch}/cgroup.procs && exec "$@"'
        for index in range(3):
            cgroup.run(["sh", "-c", script, "sh", *full_disk.write_command(16 * MIB + index * MIB, 64 * KIB)])
        found = expect(agent, full_disk, io_error=3)
        for item in found:
            data = item["data"]
            assert (data["cgroup_id"], data["attribution"]) == (cgroup.id, "bio")
            assert data["cgroup_v1_id"] == scratch.stat().st_ino
    finally:
        scratch.rmdir()
