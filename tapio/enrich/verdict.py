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
_LEARNED_LATE_NS = 1_000_000_000  # the kubelet may have heard of the deletion before us


def is_expected(kind: AnomalyType, data: Mapping[str, Any], first_ns: int, pod: Pod) -> bool:
    """Whether a process ended because its pod does: it is being deleted, or a job that is done.

    `first_ns` is the time of the first of all ends that the anomaly stands for (boot clock).
    """
    if kind is not ABNORMAL_EXIT or data.get("signal") in _CRASHES or "signal" not in data:
        return False
    if pod.deleting_since_ns and first_ns >= pod.deleting_since_ns - _LEARNED_LATE_NS:
        return True
    return pod.job_done


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
