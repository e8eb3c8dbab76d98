"""Storage observer: block requests that failed (`io_error`) or took long (`latency_spike`)."""

from __future__ import annotations

import errno
import fnmatch
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tapio.anomalies import IO_ERROR, LATENCY_SPIKE, Anomaly, Severity
from tapio.config import Config, StorageConfig
from tapio.kernel.channel import Loaded
from tapio.kernel.layout import make_decoder
from tapio.observers.base import Observer, RecentMap, Settings, comm_text
from tapio.observers.storage_blame import BLAME_FIELDS, Blame
from tapio.observers.storage_stack import Disk, Request, Stacks, SysfsDisks

_READ, _FLUSH = 0, 2
_OPERATIONS = {_READ: "read", 1: "write", _FLUSH: "flush", 3: "discard", 5: "secure_erase", 9: "write_zeroes"}
_ERRNO_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}  # Python prefers ENOTSUP
_NO_SECTOR = (1 << 64) - 1
_NS_PER_MS = 1_000_000

_FIELDS = (
    *("kind", "facts", "boot_ns", "latency_ns", "sector", "bytes", "operation", "failed", "error", "status"),
    *("major", "minor", "lower_major", "lower_minor", "device", *BLAME_FIELDS),
)


class _Rules(NamedTuple):
    """What the settings say of one disk."""

    device: str
    ignored: bool
    warning_ns: int
    critical_ns: int


class StorageObserver(Observer):
    """One anomaly for each request that failed or was slow, on the lowest disk that was."""

    name = "storage"

    def __init__(self, loaded: Loaded, sys_root: Path = Path("/sys")) -> None:
        """`sys_root` is where sysfs tells which disks stand on which."""
        self._decode = make_decoder(loaded.record("request_record"), _FIELDS)
        self._kind = loaded.enum("RECORD_REQUEST")
        self._issue_seen = loaded.enum("REQUEST_ISSUE_SEEN")
        self._blame = Blame(loaded)
        self.evicted: dict[str, int] = {}
        self._stacks = Stacks(SysfsDisks(sys_root, self.evicted), self.evicted)
        self._config = StorageConfig()
        self._keep_issues: int | None = None  # the table keeps the size it was made with
        self._rules: RecentMap[bytes, _Rules] = RecentMap("rules", self.evicted, 256)
        self.suppressed = dict.fromkeys(("below_threshold", "ignored_device", "stacked", "undecodable"), 0)

    def configure(self, config: Config) -> Settings:
        """The kernel passes on what the lowest threshold of any disk lets through; the rest is decided here."""
        self._config = config.storage
        self._keep_issues = self._keep_issues if self._keep_issues is not None else config.storage.max_in_flight // 2
        self._rules = RecentMap("rules", self.evicted, 256)
        lowest_ms = min([self._config.warning_ms, *(self._config.thresholds_of(p)[0] for p in self._config.devices)])
        return {"slow_ns": max(1, int(lowest_ms * _NS_PER_MS)), "keep_issues": self._keep_issues}

    def decode(self, records: Iterable[bytes]) -> list[Anomaly]:
        """The anomalies in a batch of records, in the order of the completions."""
        found: list[Anomaly] = []
        for record in records:
            kind = int.from_bytes(record[:4], sys.byteorder)
            try:
                if kind != self._kind:
                    raise ValueError(f"a record of kind {kind}")
                anomaly = self._request(self._decode(record))
            except ValueError:
                self.suppressed["undecodable"] += 1
            else:
                found += [anomaly] if anomaly else []
        return found

    def due(self, boot_ns: int | None) -> list[Anomaly]:  # noqa: ARG002  # nothing is held back
        """Nothing: a lower request completes, and is decoded, before the upper one that waits for it."""
        return []

    def _request(self, record: Any) -> Anomaly | None:
        rules = self._rules.get(record.device) or self._make_rules(record.device)
        if rules.ignored:
            self.suppressed["ignored_device"] += 1
            return None
        latency_ns = record.latency_ns if record.facts & self._issue_seen else 0
        failed = bool(record.failed)
        if not failed and latency_ns < rules.warning_ns:
            self.suppressed["below_threshold"] += 1
            return None
        disk, lower = Disk(record.major, record.minor), Disk(record.lower_major, record.lower_minor)
        request = Request(
            issued_ns=record.boot_ns - latency_ns,
            completed_ns=record.boot_ns,
            bytes=record.bytes,
            reads=record.operation == _READ,
            flushes=record.operation == _FLUSH,
            error=(record.error or -record.status) if failed else None,
            cgroup=self._blame.named_cgroup(record),
            by_process=self._blame.is_by_process(record),
        )
        stacked = self._stacks.explain(disk, lower, request, rules.warning_ns)
        self._stacks.report(disk, request)
        if stacked:
            self.suppressed["stacked"] += 1
            return None
        data = self._data(record, rules.device)
        key = rules.device, data["operation"], data.get("errno", data.get("block_status"))
        if failed:
            message = _error_message(data, record.status)
            return Anomaly(IO_ERROR, record.boot_ns, message, data, IO_ERROR.severity, key)
        critical = latency_ns >= rules.critical_ns
        severity: Severity = "critical" if critical else "warning"
        data["threshold_ms"] = (rules.critical_ns if critical else rules.warning_ns) / _NS_PER_MS
        message = f"I/O latency spike on {rules.device}: {data['operation']} took {data['latency_ms']:.1f} ms"
        return Anomaly(LATENCY_SPIKE, record.boot_ns, message, data, severity, key)

    def _make_rules(self, name: bytes) -> _Rules:
        """What the settings say of a disk; its thresholds are those of the first pattern that fits."""
        device = comm_text(name)
        pattern = next((p for p in self._config.devices if fnmatch.fnmatchcase(device, p)), None)
        common = self._config.warning_ms, self._config.critical_ms
        warning_ms, critical_ms = common if pattern is None else self._config.thresholds_of(pattern)
        rules = _Rules(
            device, self._config.ignores(device), round(warning_ms * _NS_PER_MS), round(critical_ms * _NS_PER_MS)
        )
        self._rules[name] = rules
        return rules

    def _data(self, record: Any, device: str) -> dict[str, Any]:
        data: dict[str, Any] = {"device": device, "dev_major": record.major, "dev_minor": record.minor}
        data["operation"] = _OPERATIONS.get(record.operation, "other")
        if record.sector != _NO_SECTOR:
            data["sector"] = record.sector
        data["bytes"] = record.bytes
        if record.facts & self._issue_seen:
            data["latency_ms"] = round(record.latency_ns / _NS_PER_MS, 3)
        if record.failed and record.error in _ERRNO_NAMES:
            data["errno"] = _ERRNO_NAMES[record.error]
        elif record.failed:
            data["block_status"] = record.status
        return data | self._blame.data(record)


def _error_message(data: dict[str, Any], status: int) -> str:
    reason = data.get("errno", f"status {status}")
    place = f" at sector {data['sector']}" if "sector" in data else ""
    return f"I/O error on {data['device']}: {data['operation']} of {data['bytes']} bytes{place} failed ({reason})"
