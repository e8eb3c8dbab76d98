"""Which request below explains one above."""

from __future__ import annotations

from pathlib import Path

from tapio.observers.storage_stack import Disk, Span, Stacks, SysfsDisks

SDA, DM0, DM1, LOOP0, NONE = Disk(8, 0), Disk(253, 0), Disk(253, 1), Disk(7, 0), Disk(0, 0)
MS = 1_000_000
WARNING_NS = 50 * MS


class Table:
    def __init__(self, **below: Disk) -> None:
        self._below = below

    def below(self, disk: Disk) -> frozenset[Disk]:
        found = self._below.get(f"d{disk.major}_{disk.minor}")
        return frozenset({found} if found else ())


def span(start_ms: int, end_ms: int) -> Span:
    return Span(start_ms * MS, end_ms * MS)


def test_only_what_lies_below_explains() -> None:
    stacks = Stacks(Table(d253_0=SDA), {})
    stacks.report(SDA, span(0, 1000), failed=False)
    assert stacks.explain(DM0, NONE, span(0, 1001), failed=False, warning_ns=WARNING_NS)
    assert not stacks.explain(DM1, NONE, span(0, 1001), failed=False, warning_ns=WARNING_NS)
    assert not stacks.explain(SDA, NONE, span(0, 1001), failed=False, warning_ns=WARNING_NS)


def test_floors_in_between_need_no_report() -> None:
    """A loop on a mapped disk on sda: mapped disks have no requests of their own."""
    stacks = Stacks(Table(d253_0=SDA), {})
    stacks.report(SDA, span(0, 1000), failed=False)
    assert stacks.explain(LOOP0, DM0, span(0, 1001), failed=False, warning_ns=WARNING_NS)


def test_time_that_nobody_below_explains_is_reported() -> None:
    stacks = Stacks(Table(d253_0=SDA), {})
    for start in (0, 30, 500):  # 0 to 80 and 500 to 560 together
        stacks.report(SDA, span(start, start + 60), failed=False)
    upper = span(0, 190)
    assert not stacks.explain(DM0, NONE, upper, failed=False, warning_ns=WARNING_NS)  # 100 ms remain
    assert stacks.explain(DM0, NONE, upper, failed=False, warning_ns=101 * MS)
    assert not stacks.explain(DM0, NONE, span(200, 300), failed=False, warning_ns=WARNING_NS)


def test_an_error_is_explained_by_an_error_within_its_time() -> None:
    stacks = Stacks(Table(d253_0=SDA), {})
    stacks.report(SDA, span(0, 100), failed=False)
    assert not stacks.explain(DM0, NONE, span(0, 101), failed=True, warning_ns=WARNING_NS)
    stacks.report(SDA, span(200, 201), failed=True)
    assert stacks.explain(DM0, NONE, span(199, 202), failed=True, warning_ns=WARNING_NS)
    assert not stacks.explain(DM0, NONE, span(300, 301), failed=True, warning_ns=WARNING_NS)


def test_memory_is_bounded_in_a_storm() -> None:
    stacks = Stacks(Table(d253_0=SDA), {})
    for index in range(10_000):
        stacks.report(SDA, span(index * 100, index * 100 + 60), failed=False)
    assert max(len(history.spans) for history in stacks._histories._entries.values()) <= 64
    assert stacks.explain(DM0, NONE, span(999_900, 999_960), failed=False, warning_ns=WARNING_NS)


def test_a_circle_ends() -> None:
    stacks = Stacks(Table(d253_0=DM1, d253_1=DM0), {})
    assert not stacks.explain(DM0, NONE, span(0, 100), failed=False, warning_ns=WARNING_NS)


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
