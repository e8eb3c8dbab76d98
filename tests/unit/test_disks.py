"""What each disk did: from the kernel side's rows to series."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tapio.disks import disk_io
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
