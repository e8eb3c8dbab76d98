"""What each disk did: from the kernel side's rows to series."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tapio.disks import DiskRows, disk_io
from tapio.prometheus import exposition
from tapio.telemetry import DISK_LATENCY_BOUNDS_S, ObserverTelemetry, Telemetry

BUCKETS = len(DISK_LATENCY_BOUNDS_S) + 1
NOTHING = (0,) * 5


def make_row(name: bytes, number: int = 1, **buckets: int) -> dict[str, Any]:
    """A row with so many requests in the buckets that are named as `b<index>`, each of 10 ns; no errors."""
    latency = [0] * 5 * BUCKETS
    for key, count in buckets.items():
        latency[int(key[1:])] = count
    sums = tuple(10 * sum(latency[start : start + BUCKETS]) for start in range(0, len(latency), BUCKETS))
    return {"disk": number, "name": name.ljust(32, b"\0"), "latency": tuple(latency), "sum_ns": sums, "errors": NOTHING}


def test_rows_become_one_entry_for_each_operation_that_was_asked_for() -> None:
    last = 5 * BUCKETS - 1
    found = disk_io([make_row(b"sda", b3=7, **{f"b{BUCKETS}": 2, f"b{last}": 1}), make_row(b"", number=0)])
    assert [(disk.device, disk.operation, sum(disk.latency), disk.sum_ns) for disk in found] == [
        ("sda", "other", 1, 10),
        ("sda", "read", 7, 70),
        ("sda", "write", 2, 20),
    ]
    assert (found[0].latency[-1], found[1].latency[3], found[2].latency[0]) == (1, 7, 2)


def test_a_disk_that_came_back_under_another_number_is_one_disk() -> None:
    (disk,) = disk_io([make_row(b"nvme0n1", 1, b0=5), make_row(b"nvme0n1", 2, b0=6)])
    assert disk.latency[0] == 11


def test_an_error_alone_is_shown() -> None:
    (disk,) = disk_io([{**make_row(b"sda"), "errors": (0, 3, 0, 0, 0)}])
    assert (disk.operation, disk.errors, sum(disk.latency)) == ("write", 3, 0)


class Machine:
    """A table of 8 rows, and a sysfs that knows some disks."""

    def __init__(self, root: Path) -> None:
        self.rows = [make_row(b"", number=0) for _ in range(8)]
        self._root = root
        (root / "dev" / "block").mkdir(parents=True)
        self.now, self.evicted = 0.0, dict[str, int]()
        self.written: list[list[str]] = []
        self.table = DiskRows(lambda: [*self.rows], self._write, self.evicted, root, lambda: self.now)

    def _write(self, values: dict[str, Any], index: int) -> None:
        self.written.append(list(values))
        self.rows[index] = {**self.rows[index], **values}

    def add(self, index: int, name: str, count: int = 1) -> None:
        """A disk that did so many reads, in this row; its number is 7:index."""
        self.rows[index] = make_row(name.encode(), 7 << 32 | index, b0=count)
        folder = self._root / "devices" / name.replace("/", "!")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "size").write_text("2048\n")
        link = self._root / "dev" / "block" / f"7:{index}"
        link.unlink(missing_ok=True)
        link.symlink_to(folder)

    def remove(self, index: int, *, empty: bool = False) -> None:
        """The disk with this number goes, or what was in it."""
        link = self._root / "dev" / "block" / f"7:{index}"
        (link / "size").write_text("0\n") if empty else link.unlink()

    def read(self) -> dict[str, int]:
        """Reads of each disk as they are shown, 3 s after the last time."""
        self.now += 3
        return {disk.device: sum(disk.latency) for disk in self.table.read()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    for index in range(7):
        machine.add(index, f"cciss/c{index}", 10 + index)
    return machine


@pytest.mark.parametrize("empty", [False, True])
def test_rows_of_disks_that_are_gone_are_given_back(machine: Machine, *, empty: bool) -> None:
    machine.remove(2, empty=empty)
    machine.remove(5, empty=empty)
    assert sorted(machine.read().values()) == [10, 11, 12, 13, 14, 15, 16]
    machine.rows[5] = make_row(b"cciss/c5", 7 << 32 | 5, b0=16)  # a late completion: another look is needed
    assert sorted(machine.read().values()) == [10, 11, 13, 14, 16, 16]
    assert sorted(machine.read().values()) == [10, 11, 13, 14, 16, 16]  # two rows are enough
    assert [bool(row["disk"]) for row in machine.rows] == [True, True, False, True, True, True, True, False]
    assert machine.written == [["instance", "name", "latency", "sum_ns", "errors", "disk"]]
    assert not any(machine.rows[2]["latency"])


def test_nothing_is_given_back_while_a_quarter_is_free(machine: Machine) -> None:
    machine.rows[6] = make_row(b"", number=0)
    for index in range(6):
        machine.remove(index)
    for _ in range(3):
        assert len(machine.read()) == 6


def test_totals_of_a_name_go_on(machine: Machine) -> None:
    """Also under another number, and after it went for the second time; another disk gets none of them."""
    for number in (1, 2):
        machine.remove(3)
        machine.read()
        assert "cciss/c3" not in machine.read()
        machine.add(3, "other", 100)
        assert machine.read()["other"] == 100 * number
        machine.remove(3)
        machine.read()
        assert "other" not in machine.read()
        machine.add(3, "cciss/c3", 1)
        assert machine.read()["cciss/c3"] == 13 + number


def test_a_number_that_another_disk_has_now_is_no_sign_of_life(machine: Machine) -> None:
    row = machine.rows[4]
    machine.add(4, "new")
    machine.rows[4] = row
    machine.read()
    assert "cciss/c4" not in machine.read()


def test_without_sysfs_no_disk_is_gone(machine: Machine, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "dev")
    for _ in range(3):
        assert len(machine.read()) == 7


def test_the_histogram_is_cumulative_and_in_seconds() -> None:
    observer = ObserverTelemetry("storage")
    observer.read_disks = lambda: disk_io([make_row(b"sda", b0=3, b1=4, **{f"b{BUCKETS - 1}": 1})])
    text = exposition(Telemetry([observer], [])).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in families["tapio_disk_latency_seconds"].samples
    }
    assert samples["tapio_disk_latency_seconds_bucket", "2e-06"] == 3
    assert samples["tapio_disk_latency_seconds_bucket", "4e-06"] == 7
    assert samples["tapio_disk_latency_seconds_bucket", "16.777216"] == 7
    assert samples["tapio_disk_latency_seconds_bucket", "+Inf"] == 8
    assert samples["tapio_disk_latency_seconds_count", None] == 8
    assert samples["tapio_disk_latency_seconds_sum", None] == 80e-9
