"""What a pod's life says about an anomaly: whether an end was expected, and whose memory limit was hit."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from tapio.anomalies import ABNORMAL_EXIT, OOM_KILL, AnomalyType
from tapio.enrich.cgroups import CgroupIndex
from tapio.enrich.pods import Pod

# A process that is told to stop, and crashes over it, is still a crash.
_CRASHES = frozenset({signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV,
                      signal.SIGSYS})  # fmt: skip


def may_be_expected(kind: AnomalyType, data: Mapping[str, Any]) -> bool:
    """Whether it is an end that a pod's end can explain."""
    return kind is ABNORMAL_EXIT and "signal" in data and data["signal"] not in _CRASHES


def is_expected(boot_ns: int, pod: Pod) -> bool:
    """Whether a process ended at a time at which its pod was certainly being deleted, or a job's that was done.

    Certain is what came after this agent learned of it, by its own clock: the API server's has seconds only, and may
    be another than the node's.
    """
    return any(since_ns and boot_ns >= since_ns for since_ns in (pod.deleting_since_ns, pod.done_since_ns))


def oom_scope(kind: AnomalyType, data: Mapping[str, Any], boot_ns: int, cgroups: CgroupIndex) -> str | None:
    """Whose limit was hit, by the path of the cgroup that has it; None: what the kernel side says stands."""
    if kind is not OOM_KILL or not data.get("limit_cgroup_id"):
        return None
    hierarchy = data.get("cgroup_v1_hierarchy", 0)
    victim_id = data.get("cgroup_v1_id") if hierarchy else data.get("cgroup_id")
    limit = cgroups.find((hierarchy, data["limit_cgroup_id"]), boot_ns)
    victim = cgroups.find((hierarchy, victim_id), boot_ns) if victim_id else None
    if limit is None or victim is None or not victim.pods:
        return None
    if not limit.pods or limit.pods[-1].uid != victim.pods[-1].uid:
        return "ancestor"
    return "container" if limit.pods[-1].container_id else "pod"
