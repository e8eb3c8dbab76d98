"""The storage detector on made-up records: what is an anomaly, whose it is, and what is only counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import schema
from helpers.records import make_layout, make_loaded, pack
from hypothesis import given
from hypothesis import strategies as st

from tapio.anomalies import Anomaly
from tapio.config import Config, DiskConfig, StorageConfig
from tapio.errors import ObjectError
from tapio.observers.storage import _FIELDS, _OPERATIONS, StorageObserver

REQUEST = make_layout("request_record", _FIELDS)
ISSUE_SEEN, HAS_BIO, BLKCG_KNOWN, BLKCG_ROOT, ISSUER_BLKCG, FOR_OTHERS = 1, 2, 4, 8, 16, 32
ENUMS = {
    "RECORD_REQUEST": 20,
    "REQUEST_ISSUE_SEEN": ISSUE_SEEN,
    "REQUEST_HAS_BIO": HAS_BIO,
    "REQUEST_BLKCG_KNOWN": BLKCG_KNOWN,
    "REQUEST_BLKCG_ROOT": BLKCG_ROOT,
    "REQUEST_ISSUER_BLKCG": ISSUER_BLKCG,
    "REQUEST_FOR_OTHERS": FOR_OTHERS,
}
BY_TASK = ISSUE_SEEN | HAS_BIO | BLKCG_KNOWN | ISSUER_BLKCG
MS = 1_000_000


def make_observer(**config: Any) -> StorageObserver:
    loaded = make_loaded("storage", {"request_record": REQUEST}, ENUMS, {})
    observer = StorageObserver(loaded, sys_root=Path("/nonexistent"))
    observer.configure(Config(storage=StorageConfig(**config)))
    return observer


def request_of(latency_ms: float, **more: Any) -> bytes:
    values = {
        "facts": BY_TASK,
        "boot_ns": 10_000 * MS,
        "latency_ns": int(latency_ms * MS),
        "operation": 1,
        "sector": 2048,
        "bytes": 4096,
        "major": 8,
        "device": b"sda",
        "bio_cgroup_id": 77,
        "issuer_cgroup_id": 77,
        "pid": 4711,
        "comm": b"app",
        **more,
    }
    return pack(REQUEST, kind=20, **values)


def one(observer: StorageObserver, record: bytes) -> Anomaly:
    (found,) = observer.decode([record])
    return found


def test_thresholds_are_reached_not_passed() -> None:
    observer = make_observer()
    found = observer.decode([request_of(49.999), request_of(50), request_of(199.999), request_of(200)])
    assert [(a.type.name, a.severity, a.data["threshold_ms"]) for a in found] == [
        ("kernel.storage.latency_spike", "warning", 50),
        ("kernel.storage.latency_spike", "warning", 50),
        ("kernel.storage.latency_spike", "critical", 200),
    ]
    assert observer.suppressed["below_threshold"] == 1


def test_an_error_is_one_anomaly_also_when_it_was_slow() -> None:
    anomaly = one(make_observer(), request_of(900, failed=1, error=5, status=10))
    assert (anomaly.type.name, anomaly.severity) == ("kernel.storage.io_error", "critical")
    assert anomaly.message == "I/O error on sda: write of 4096 bytes at sector 2048 failed (EIO)"
    assert anomaly.data == {
        "device": "sda",
        "dev_major": 8,
        "dev_minor": 0,
        "operation": "write",
        "sector": 2048,
        "bytes": 4096,
        "latency_ms": 900.0,
        "errno": "EIO",
        "cgroup_id": 77,
        "attribution": "bio",
        "pid": 4711,
        "comm": "app",
    }


@pytest.mark.parametrize(
    ("number", "name"), [(28, "ENOSPC"), (61, "ENODATA"), (84, "EILSEQ"), (95, "EOPNOTSUPP"), (110, "ETIMEDOUT")]
)
def test_errno_has_the_kernels_name(number: int, name: str) -> None:
    assert one(make_observer(), request_of(1, failed=1, error=number)).data["errno"] == name


def test_a_status_that_nobody_knows_is_given_as_it_is() -> None:
    data = one(make_observer(), request_of(1, failed=1, error=0, status=42)).data
    assert "errno" not in data
    assert data["block_status"] == 42


@pytest.mark.parametrize(
    ("operation", "name"), [(0, "read"), (1, "write"), (2, "flush"), (3, "discard"), (9, "write_zeroes"), (13, "other")]
)
def test_operations(operation: int, name: str) -> None:
    assert one(make_observer(), request_of(60, operation=operation)).data["operation"] == name


def test_what_was_not_seen_is_left_out() -> None:
    """A request that was on its way before the agent came: the error counts, time and issuer are unknown."""
    data = one(make_observer(), request_of(0, facts=HAS_BIO | BLKCG_KNOWN, failed=1, error=5)).data
    assert not {"latency_ms", "pid", "comm"} & data.keys()
    assert (data["cgroup_id"], data["attribution"]) == (77, "bio")


V1 = {"bio_cgroup_id": 99, "bio_hierarchy": 7}


@pytest.mark.parametrize(
    ("record", "cgroup_id", "v1_id", "attribution", "has_pid"),
    [
        # cgroup v2: the bio names the cgroup, whoever issued.
        ({}, 77, None, "bio", True),
        ({"facts": BY_TASK & ~ISSUER_BLKCG, "issuer_cgroup_id": 5}, 77, None, "bio", False),
        ({"facts": BY_TASK & ~ISSUER_BLKCG | FOR_OTHERS, "issuer_cgroup_id": 1}, 77, None, "bio", False),
        # The controller is not enabled down to the issuer's cgroup.
        ({"issuer_cgroup_id": 78}, 78, None, "task", True),
        # The root names nobody: the issuer counts if it is charged there too and is no kernel worker.
        ({"facts": BY_TASK | BLKCG_ROOT, "bio_cgroup_id": 1, "issuer_cgroup_id": 78}, 78, None, "task", True),
        ({"facts": BY_TASK | BLKCG_ROOT | FOR_OTHERS, "bio_cgroup_id": 1}, None, None, "none", False),
        ({"facts": BY_TASK & ~ISSUER_BLKCG | BLKCG_ROOT, "bio_cgroup_id": 1}, None, None, "none", False),
        # cgroup v1: translated by an issuer in the same cgroup, else only its own id is known.
        (V1, 77, 99, "bio", True),
        ({**V1, "facts": BY_TASK & ~ISSUER_BLKCG}, None, 99, "none", False),
        ({**V1, "facts": BY_TASK | FOR_OTHERS}, None, 99, "none", False),
        ({**V1, "facts": BY_TASK | BLKCG_ROOT}, 77, None, "task", True),
        # No bio: a flush, issued for many. No block cgroups in this kernel: the issuer alone.
        ({"facts": ISSUE_SEEN, "operation": 2}, None, None, "none", False),
        ({"facts": ISSUE_SEEN | HAS_BIO}, 77, None, "task", True),
        ({"facts": ISSUE_SEEN | HAS_BIO | FOR_OTHERS}, None, None, "none", False),
        ({"issuer_cgroup_id": 0, **V1}, None, 99, "none", True),
    ],
)
def test_blame(
    record: dict[str, Any], cgroup_id: int | None, v1_id: int | None, attribution: str, *, has_pid: bool
) -> None:
    data = one(make_observer(), request_of(60, **record)).data
    assert (data.get("cgroup_id"), data.get("cgroup_v1_id"), data["attribution"]) == (cgroup_id, v1_id, attribution)
    assert (data.get("pid"), data.get("comm")) == ((4711, "app") if has_pid else (None, None))


def test_patterns() -> None:
    """The first pattern that fits counts; the kernel side passes what the lowest threshold lets through."""
    devices = {"sdb*": DiskConfig(warning_ms=500, critical_ms=900), "sd*": DiskConfig(warning_ms=5)}
    observer = make_observer(devices=devices, ignore_devices=("ram*",))
    assert observer.configure(Config(storage=StorageConfig(devices=devices, ignore_devices=("ram*",)))) == {
        "slow_ns": 5 * MS,
        "keep_issues": 4096,
    }
    records = [
        request_of(6),
        request_of(499, device=b"sdb"),
        request_of(500, device=b"sdb1"),
        request_of(49, device=b"nvme0n1"),
        request_of(900, device=b"ram0"),
        request_of(1, device=b"ram0", failed=1, error=5),
    ]
    assert [a.data["device"] for a in observer.decode(records)] == ["sda", "sdb1"]
    assert observer.suppressed | {"undecodable": 0, "stacked": 0} == observer.suppressed
    assert (observer.suppressed["below_threshold"], observer.suppressed["ignored_device"]) == (2, 2)


@pytest.mark.parametrize(
    ("pattern", "ignored"),
    [("sd[a-c]", {"sda", "sdb"}), ("sd[!a]*", {"sdb", "sdb1"}), ("sd?", {"sda", "sdb"}), ("sdb[0-9]", {"sdb1"})],
)
def test_patterns_fit_the_whole_name(pattern: str, ignored: set[str]) -> None:
    """As tapio.toml describes them."""
    config = StorageConfig(ignore_devices=(pattern,))
    assert {name for name in ("sda", "sdb", "sdb1") if config.ignores(name)} == ignored


def test_every_operation_is_described() -> None:
    text = (schema.FOLDER / "data.yaml").read_text()
    (described,) = (line for line in text.splitlines() if "secure_erase" in line)
    assert [name for name in (*_OPERATIONS.values(), "other") if name not in described] == []


def test_new_thresholds_count_at_once() -> None:
    observer = make_observer()
    assert observer.decode([request_of(40)]) == []
    observer.configure(Config(storage=StorageConfig(warning_ms=30)))
    assert len(observer.decode([request_of(40)])) == 1


def test_an_upper_request_that_waited_for_a_reported_one_is_not_reported() -> None:
    lower = request_of(1000, major=7, minor=0, device=b"loop0", facts=BY_TASK | FOR_OTHERS)
    on_top = {"major": 7, "minor": 1, "device": b"loop1", "lower_major": 7}
    observer = make_observer()
    found = observer.decode([lower, request_of(1010, **on_top, boot_ns=10_005 * MS)])
    assert [a.data["device"] for a in found] == ["loop0"]
    # Another one waited somewhere else: its own 300 ms began when the lower request was over.
    found = observer.decode([request_of(300, **on_top, boot_ns=10_400 * MS)])
    assert [a.data["device"] for a in found] == ["loop1"]
    assert observer.suppressed["stacked"] == 1


@pytest.mark.parametrize(
    "upper",
    [
        {"error": 28},
        {"bio_cgroup_id": 78},
        {"operation": 0},
        {"bytes": 8192, "operation": 0},
        {"error": 0, "status": 42},
        {"failed": 0},
    ],
)
def test_a_fault_of_another_kind_below_explains_nothing(upper: dict[str, Any]) -> None:
    lower = request_of(100, major=7, minor=0, device=b"loop0", failed=1, error=5, facts=BY_TASK | FOR_OTHERS)
    on_top = {"major": 7, "minor": 1, "device": b"loop1", "lower_major": 7, "failed": 1, "error": 5}
    observer = make_observer()
    found = observer.decode([lower, request_of(300, **{**on_top, **upper}, boot_ns=10_001 * MS)])
    assert [a.data["device"] for a in found] == ["loop0", "loop1"]


def test_an_ignored_lower_disk_explains_nothing() -> None:
    observer = make_observer(ignore_devices=("loop0",))
    lower = request_of(1000, major=7, minor=0, device=b"loop0")
    upper = request_of(1010, major=7, minor=1, device=b"loop1", lower_major=7, boot_ns=10_005 * MS)
    assert [a.data["device"] for a in observer.decode([lower, upper])] == ["loop1"]


@given(st.lists(st.binary(max_size=REQUEST.size + 8)))
def test_any_bytes_are_survived(records: list[bytes]) -> None:
    observer = make_observer()
    found = observer.decode(records)
    assert len(found) + sum(observer.suppressed.values()) == len(records)


def test_an_object_without_the_record_is_refused() -> None:
    with pytest.raises(ObjectError, match="request_record"):
        StorageObserver(make_loaded("storage", {}, ENUMS, {}))
