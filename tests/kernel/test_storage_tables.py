"""The bounded tables of the storage observer: what has no room, or no end, is counted."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from pathlib import Path

import pytest
from helpers.changed_object import changed_object
from helpers.disks import KIB, UNSEEN, direct, expect, fails
from helpers.loops import MIB, Loop, frozen, ground_floor, loop, numbered_loop, queue_setting, tmpfs
from helpers.running_agent import configured_agent, running_agent, wait_for

pytestmark = pytest.mark.kernel


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
    missed = 'tapio_kernel_missed_total{{hook="block_rq_{}",observer="storage",reason="{}"}}'
    with (
        ground_floor(tmp_path, "256m", 64 * MIB) as (_, mount),
        loop(mount / "stuck", 16 * MIB) as stuck,
        tmpfs(tmp_path / "full", "1m") as small_folder,
        loop(small_folder / "image", 64 * MIB) as busy,
        direct(busy, 4 * KIB) as file,
        configured_agent(tmp_path, "[storage]\nmax_in_flight = 1\n") as agent,
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
            assert item["data"]["errno"] in ("ENOSPC", "EIO")  # 5.10's loop driver says EIO whatever failed
            assert not {"latency_ms", "pid", "comm"} & item["data"].keys()
        expect(agent, stuck, latency_spike=1)


@pytest.mark.parametrize("statistics", ["1", "0"])
def test_a_completion_that_no_program_is_run_for_is_lost_and_counted(
    tmp_path: Path, full_disk: Loop, statistics: str
) -> None:
    """Some kernels keep one from us now and then; here it is each seventh failing one. The next request tells.

    Where a disk keeps no statistics its requests have no start time.
    """
    opening, issued = "int block_rq_complete(__u64 *ctx)\n{\n", "\tkey = (__u64)rq;\n"
    request = "((struct request *)ctx[0])"
    seventh = f"(__s32)ctx[1] && {request}->__sector % 56 == 0"
    # A busy disk of the machine has unseen completions of its own.
    other = f"disk_of({request})->major != {full_disk.major} || disk_of({request})->first_minor != {full_disk.minor}"
    path = changed_object(
        tmp_path,
        "storage_monitor",
        (opening, f"{opening}\tif (({seventh}) || {other})\n\t\treturn 0;\n"),
        (issued, f"\tif ({other.replace(request, 'rq')})\n\t\treturn 0;\n{issued}"),
    )
    flags = ("--observer=storage", f"--ebpf-dir={path.parent}")
    lost = 'tapio_lost_events_total{observer="storage"}'
    with (
        queue_setting(full_disk, "iostats", statistics, usual="1"),
        running_agent(tmp_path / "data", *flags) as agent,
        direct(full_disk, 4 * KIB) as file,
    ):
        assert all(fails(file.write, index * 4 * KIB) for index in range(97))

        def used_again() -> bool:
            for index in range(64):
                file.read(index * 4 * KIB)
            return agent.metric(UNSEEN) >= 14

        wait_for(used_again, 10, lambda: f"{agent.metric(UNSEEN)} of 14")
        expect(agent, full_disk, io_error=97 - 14)
        assert (agent.metric(UNSEEN), agent.metric(lost)) == (14, 14)
        (told,) = {item["data"]["reason"] for item in agent.occurrences() if item["type"] == "tapio.agent.events_lost"}
        assert told == "unseen"
        agent.stop()
        losses = [item["data"]["count"] for item in agent.occurrences() if item["type"] == "tapio.agent.events_lost"]
        assert sum(losses) == 14
