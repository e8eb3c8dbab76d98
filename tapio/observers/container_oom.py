"""OOM kills: one anomaly for each victim, whose limit was hit, and group kills as one story.

The kernel marks *threads* (a process can be marked up to eight times) and also marks tasks that were exiting
anyway. See `ebpf/headers/memcg.h` for what the fields of the record rest on.
"""

from __future__ import annotations

import resource
from typing import Any

from tapio.anomalies import OOM_KILL, Anomaly
from tapio.kernel.channel import Loaded
from tapio.kernel.layout import make_decoder
from tapio.observers.base import RecentMap, comm_text

_SIGKILL = 9
_GROUP_WINDOW_NS = 1_000_000_000
_MAX_LISTED_VICTIMS = 64
_MAX_GROUPS = 1024

_IDENTITY = ("start_boot_ns", "cgroup_id", "memory_cgroup_id", "memory_hierarchy", "pid", "ppid", "uid", "comm")


def identity_fields(prefix: str) -> tuple[str, ...]:
    """The fields of the task_identity member `prefix` that `identity_data` reads."""
    return tuple(f"{prefix}_{name}" for name in _IDENTITY)


def identity_data(record: Any, prefix: str, attribution: str) -> dict[str, Any]:
    """Who the task is, as occurrence data. An id that the kernel did not show is left out."""

    def value(name: str) -> Any:
        return getattr(record, f"{prefix}_{name}")

    data: dict[str, Any] = {"pid": value("pid"), "tid": value("pid"), "ppid": value("ppid"), "uid": value("uid")}
    data["comm"] = comm_text(value("comm"))
    if value("cgroup_id"):
        data["cgroup_id"] = value("cgroup_id")
    if value("memory_hierarchy") and value("memory_cgroup_id"):
        data["cgroup_v1_id"] = value("memory_cgroup_id")
        data["cgroup_v1_hierarchy"] = value("memory_hierarchy")
    data["attribution"] = attribution if value("cgroup_id") else "none"
    return data


_OOM_FIELDS = (
    *("kind", "status", "boot_ns", "rss_pages", "limit_pages", "limit_usage_pages", "limit_cgroup_id"),
    *("group_cgroup_id", "kills", "limit_evidence", "limit_level", "tid", "trigger_pid", "trigger_comm"),
    *("oom_score_adj", *identity_fields("victim")),
)


class OomKills:
    """Marks to anomalies. Counts what it leaves out in `suppressed`."""

    def __init__(self, loaded: Loaded, suppressed: dict[str, int], evicted: dict[str, int]) -> None:
        self._decode = make_decoder(loaded.record("oom_record"), _OOM_FIELDS)
        self._hit, self._none = loaded.enum("LIMIT_HIT"), loaded.enum("LIMIT_NONE")
        self._page_bytes = resource.getpagesize()
        self._suppressed = suppressed
        self._reported: RecentMap[tuple[int, int], None] = RecentMap("oom_victims", evicted)
        # Marked, but dying of something else.
        self._exiting: RecentMap[tuple[int, int], None] = RecentMap("oom_exiting", evicted)
        # Counted by a cgroup when it last killed.
        self._kills: RecentMap[int, int] = RecentMap("oom_cgroups", evicted)
        self._kills_before = loaded.oom_kills
        self._groups: dict[tuple[int, int], _Group] = {}
        self._evicted = evicted
        evicted["oom_groups"] = 0

    def has_reported(self, process: tuple[int, int]) -> bool:
        """Whether the kill of this (pid, start time) became an anomaly."""
        return process in self._reported

    def mark(self, raw: bytes) -> list[Anomaly]:
        """The anomalies of one mark: none for a further thread or for a task that was exiting anyway."""
        record = self._decode(raw)
        process = record.victim_pid, record.victim_start_boot_ns
        if process in self._reported:
            self._suppressed["duplicate"] += 1
            return []
        if not self._is_fresh(record):
            self._exiting[process] = None
            self._suppressed["already_exiting"] += 1
            return []
        self._reported[process] = None
        anomaly = self._anomaly(record)
        if not record.group_cgroup_id:
            return [anomaly]
        return self._add_to_group(record, anomaly)

    def was_killed(self, record: Any) -> bool:
        """Whether the exit of a marked process is that of an OOM kill; for kernels whose marks give only a pid."""
        process = record.task_pid, record.task_start_boot_ns
        return bool(process not in self._exiting and record.status & 0x7F == _SIGKILL and record.kills != 0)

    def from_exit(self, record: Any) -> Anomaly:
        """The kill of a process whose mark gave only a pid: its exit is the first that is known of it."""
        self._reported[(record.task_pid, record.task_start_boot_ns)] = None
        data = identity_data(record, "task", "victim") | {"exit_code": 128 + _SIGKILL, "signal": _SIGKILL}
        data |= {"memory_usage_bytes": 0, "memory_limit_bytes": 0}
        return Anomaly(OOM_KILL, record.boot_ns, _message(data), data, OOM_KILL.severity)

    def due(self, boot_ns: int | None) -> list[Anomaly]:
        """The rest of each group kill that had no new victim for a second, as one anomaly."""
        over = [key for key, group in self._groups.items() if boot_ns is None or group.until_ns <= boot_ns]
        rests = [self._groups.pop(key).rest() for key in over]
        return [anomaly for anomaly in rests if anomaly is not None]

    def _is_fresh(self, record: Any) -> bool:
        """Whether the OOM killer killed now, or only helped along a task that was exiting."""
        if record.kills >= 0:
            cgroup = record.victim_memory_cgroup_id
            before = self._kills.get(cgroup)
            if before is None:
                before = self._kills_before.get(cgroup, 0)
            self._kills[cgroup] = record.kills
            if record.kills == before:
                return False
        return bool(record.status & 0x7F == _SIGKILL)

    def _anomaly(self, record: Any) -> Anomaly:
        data = identity_data(record, "victim", "victim") | {
            "tid": record.tid,
            "exit_code": 128 + _SIGKILL,
            "signal": _SIGKILL,
        }
        data["memory_usage_bytes"] = record.rss_pages * self._page_bytes
        data["memory_limit_bytes"] = record.limit_pages * self._page_bytes
        data["oom_score_adj"] = record.oom_score_adj
        data |= {"trigger_pid": record.trigger_pid, "trigger_comm": comm_text(record.trigger_comm)}
        if record.limit_evidence == self._hit:
            data["oom_scope"] = "ancestor" if record.limit_level else "container"
            data["limit_usage_bytes"] = record.limit_usage_pages * self._page_bytes
            data["limit_cgroup_id"] = record.limit_cgroup_id
        elif record.limit_evidence == self._none:
            data["oom_scope"] = "node"
        return Anomaly(OOM_KILL, record.boot_ns, _message(data), data, OOM_KILL.severity)

    def _add_to_group(self, record: Any, anomaly: Anomaly) -> list[Anomaly]:
        key = record.group_cgroup_id, record.trigger_pid
        group = self._groups.get(key)
        if group is None:
            early = self._make_room()
            self._groups[key] = _Group(record.boot_ns + _GROUP_WINDOW_NS)
            return [*early, anomaly]
        group.add(anomaly)
        group.until_ns = record.boot_ns + _GROUP_WINDOW_NS
        return []

    def _make_room(self) -> list[Anomaly]:
        """Beyond the limit the oldest group is told of early: further victims of it are then a group of their own."""
        if len(self._groups) < _MAX_GROUPS:
            return []
        self._evicted["oom_groups"] += 1
        rest = self._groups.pop(next(iter(self._groups))).rest()
        return [rest] if rest is not None else []


def _message(data: dict[str, Any]) -> str:
    usage, limit = data["memory_usage_bytes"] >> 20, data["memory_limit_bytes"] >> 20
    return f"OOM kill pid={data['pid']} (usage={usage}MB, limit={limit}MB)"


class _Group:
    """The victims of one group kill (memory.oom.group) after the first."""

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self._anomaly: Anomaly | None = None
        self._data: dict[str, Any] = {}
        self._victims: list[dict[str, Any]] = []
        self._count = 0

    def add(self, anomaly: Anomaly) -> None:
        """Count one more victim. Only facts that hold for all stay; the first 64 victims are listed."""
        if self._anomaly is None:
            self._anomaly, self._data = anomaly, anomaly.data
        largest = max(self._data["memory_usage_bytes"], anomaly.data["memory_usage_bytes"])
        self._data = {name: value for name, value in self._data.items() if anomaly.data.get(name) == value}
        self._data["memory_usage_bytes"] = largest
        self._count += 1
        if len(self._victims) < _MAX_LISTED_VICTIMS:
            names = ("pid", "comm", "cgroup_id", "memory_usage_bytes")
            self._victims.append({name: anomaly.data[name] for name in names if name in anomaly.data})

    def rest(self) -> Anomaly | None:
        """All but the first victim as one anomaly; one alone is reported as it is."""
        if self._anomaly is None or self._count == 1:
            return self._anomaly
        data = self._data | {"count": self._count, "victims": self._victims}
        message = f"OOM kill of {self._count} more processes of the same group"
        return Anomaly(OOM_KILL, self._anomaly.boot_ns, message, data, OOM_KILL.severity)
