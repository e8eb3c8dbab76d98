"""Which request below explains one above."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapio.observers.storage_stack import Disk, Request, Stacks, SysfsDisks

SDA, DM0, DM1, LOOP0, NONE = Disk(8, 0), Disk(253, 0), Disk(253, 1), Disk(7, 0), Disk(0, 0)
MS = 1_000_000


class Table:
    def __init__(self, **below: Disk) -> None:
        self._below = below

    def below(self, disk: Disk) -> frozenset[Disk]:
        found = self._below.get(f"d{disk.major}_{disk.minor}")
        return frozenset({found} if found else ())


KIB = 1024
EIO, ENOSPC = 5, 28


def request(start_ms: float, end_ms: float, **more: Any) -> Request:
    """A slow write of 64 KiB, unless said otherwise."""
    return Request(int(start_ms * MS), int(end_ms * MS), **{"bytes": 64 * KIB, "reads": False, **more})


def explained(stacks: Stacks, upper: Request, disk: Disk = DM0, lower: Disk = NONE, warning_ms: int = 50) -> bool:
    return stacks.explain(disk, lower, upper, warning_ms * MS)


def on_sda(*reports: Request) -> Stacks:
    """dm-0 on sda, of which these were reported."""
    stacks = Stacks(Table(d253_0=SDA), {})
    for report in reports:
        stacks.report(SDA, report)
    return stacks


def test_only_what_lies_below_explains() -> None:
    stacks = on_sda(request(1, 1000))
    assert not explained(stacks, request(0, 1001), DM1)
    assert not explained(stacks, request(0, 1001), SDA)
    assert explained(stacks, request(0, 1001))


def test_floors_in_between_need_no_report() -> None:
    """A loop on a mapped disk on sda: mapped disks have no requests of their own."""
    assert explained(on_sda(request(1, 1000)), request(0, 1001), LOOP0, DM0)


def test_time_that_nobody_below_explains_is_reported() -> None:
    """Reported below: 1 to 61, 30 to 90 and 500 to 560."""
    for warning_ms in (100, 102):
        stacks = on_sda(*(request(start, start + 60) for start in (1, 30, 500)))
        assert explained(stacks, request(0, 190), warning_ms=warning_ms) == (warning_ms == 102)  # 101 ms remain
        assert not explained(stacks, request(200, 300), warning_ms=warning_ms)


def test_a_request_explains_only_one_that_was_on_its_way_for_longer() -> None:
    for upper in (request(2, 1001), request(0, 999), request(1001, 1100)):
        assert not explained(on_sda(request(1, 1000)), upper)


def test_a_flush_waits_for_what_is_already_on_its_way() -> None:
    flush = request(300, 1001, bytes=0, flushes=True)
    assert explained(on_sda(request(1, 1000)), flush)
    assert not explained(on_sda(request(1, 1000), request(1, 1000, reads=True)), request(300, 1001))
    assert not explained(on_sda(request(1, 1002)), flush)


@pytest.mark.parametrize("error", [None, EIO])
def test_only_the_same_direction_explains(error: int | None) -> None:
    stacks = on_sda(request(1, 1000, error=error))
    assert not explained(stacks, request(0, 1001, error=error, reads=True))
    assert explained(stacks, request(0, 1001, error=error))


def test_only_the_same_error_within_its_time_explains_an_error() -> None:
    stacks = on_sda(request(1, 2), request(10, 11, error=ENOSPC))
    assert not explained(stacks, request(0, 3, error=ENOSPC))
    assert not explained(stacks, request(9, 12, error=EIO))
    assert not explained(stacks, request(10.5, 12, error=ENOSPC))
    assert not explained(stacks, request(9, 10.5, error=ENOSPC))
    assert explained(stacks, request(9, 12, error=ENOSPC))


def test_a_request_of_another_cgroup_explains_nothing() -> None:
    """One without a cgroup may be anybody's: a journal's, say."""
    for below, above, stacked in (((0, 7), (0, 8), False), ((0, 7), (0, 7), True), (None, (0, 8), True)):
        assert explained(on_sda(request(1, 1000, cgroup=below)), request(0, 1001, cgroup=above)) == stacked


def test_a_loop_disk_is_served_by_kernel_workers() -> None:
    for disk, stacked in ((LOOP0, False), (DM0, True)):
        stacks = on_sda(request(1, 1000, by_process=True))
        assert explained(stacks, request(0, 1001, by_process=True), disk, SDA) == stacked


def test_a_failed_request_also_explains_one_that_was_only_slow() -> None:
    """A timeout below, and the second try succeeded."""
    assert explained(on_sda(request(1, 1000, error=110)), request(0, 1001))


@pytest.mark.parametrize("error", [None, EIO])
@pytest.mark.parametrize(
    ("lower_kib", "upper_kib", "stacked"),
    [
        ([64], [64, 64], 1),  # one request fails one
        ([64, 64], [64, 64, 64], 2),
        ([256], [64, 64, 64, 64, 64], 4),  # merged on the way down
        ([64, 64, 64, 64], [256], 1),  # split
        ([4], [1024, 4], 1),  # only a part failed
        ([0], [64, 0, 64], 3),  # many may wait for one flush
    ],
)
def test_a_request_explains_no_more_than_went_through_it(
    error: int | None, lower_kib: list[int], upper_kib: list[int], stacked: int
) -> None:
    stacks = on_sda(*(request(1, 1000, bytes=size * KIB, error=error) for size in lower_kib))
    assert sum(explained(stacks, request(0, 1001, bytes=size * KIB, error=error)) for size in upper_kib) == stacked


def test_all_of_many_at_a_time() -> None:
    """97 in flight below a stall: each of those above finds its own, whichever ends first."""
    for ends in (range(97), range(96, -1, -1)):
        stacks = on_sda(*(request(n + 0.5, 1000 + n / 1000) for n in range(97)))
        assert all(explained(stacks, request(n, 1001 + n / 1000)) for n in ends)
        assert not explained(stacks, request(0, 1002))


def test_who_waits_for_longer_leaves_those_below_that_others_need() -> None:
    """The first upper request to complete had the first one below, though it was on its way with the second, too."""
    stacks = on_sda(request(5, 70), request(20, 90))
    assert explained(stacks, request(0, 92), warning_ms=60)
    assert explained(stacks, request(15, 95), warning_ms=60)


def test_memory_is_bounded_in_a_storm() -> None:
    stacks = on_sda(*(request(index * 100, index * 100 + 60) for index in range(10_000)))
    assert max(map(len, stacks._histories._entries.values())) <= 256
    assert explained(stacks, request(999_899, 999_961))


def test_a_circle_ends() -> None:
    stacks = Stacks(Table(d253_0=DM1, d253_1=DM0), {})
    assert not explained(stacks, request(0, 100))


def test_sysfs(tmp_path: Path) -> None:
    """Slaves of a mapped disk, the disk of a partition; what is missing or damaged is nothing."""
    blocks, disk = tmp_path / "dev" / "block", tmp_path / "devices" / "sda"
    blocks.mkdir(parents=True)
    (disk / "sda1").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda1" / "partition").write_text("1\n")
    (disk / "sda1" / "dev").write_text("8:1\n")
    (blocks / "8:1").symlink_to(disk / "sda1")
    (blocks / "8:0").symlink_to(disk)
    mapped = tmp_path / "devices" / "dm-0"
    (mapped / "slaves").mkdir(parents=True)
    (mapped / "slaves" / "sda1").symlink_to(disk / "sda1")
    (blocks / "253:0").symlink_to(mapped)
    now = [0.0]
    disks = SysfsDisks(tmp_path, {}, clock=lambda: now[0])
    assert disks.below(DM0) == {Disk(8, 1)}
    assert disks.below(Disk(8, 1)) == {SDA}
    assert disks.below(SDA) == disks.below(LOOP0) == frozenset()
    (disk / "sda1" / "dev").write_text("garbage\n")
    assert disks.below(DM0) == {Disk(8, 1)}
    now[0] = 11.0
    assert disks.below(DM0) == frozenset()
