"""The stage between episodes and sinks: gives each anomaly its pod, and holds for a moment what comes before its pod.

It runs in the agent's loop and never blocks: the watch and the kernel's records fill the indexes meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from tapio.anomalies import Anomaly
from tapio.enrich.attribution import MISSES, UNSETTLED, Attribution, Result, attribute
from tapio.enrich.cgroups import CgroupIndex, Rescan
from tapio.enrich.pods import Pod
from tapio.enrich.verdict import is_expected, may_be_expected, oom_scope
from tapio.episodes import Emitted
from tapio.occurrence import Context, Entity

if TYPE_CHECKING:  # it brings the kubernetes package
    from tapio.enrich.kubernetes import Cluster

_HOLD_NS = 2_000_000_000
_RESCAN_AFTER_NS = 500_000_000
_MAX_HELD = 1024


class Enriched(msgspec.Struct, frozen=True):
    """An anomaly that leaves, what is known of its place, and what that adds to its data."""

    emitted: Emitted
    context: Context | None
    data: dict[str, Any]


class Enrichment:
    """Pods for anomalies. Counts anomalies by what was found in `outcomes`."""

    def __init__(self, node: str, cgroups: CgroupIndex, cluster: Cluster, rescan: Rescan) -> None:
        self._node = node
        self._cgroups, self._cluster, self._rescan = cgroups, cluster, rescan
        self._held: deque[tuple[Emitted, int]] = deque()  # and until when
        self._seen = (-1, -1)
        self.outcomes: dict[str, int] = dict.fromkeys(get_args(Result), 0)
        self.held_full = 0  # left at once because too many were held

    @property
    def misses(self) -> int:
        """Anomalies that left without a pod although they may be of one."""
        return sum(self.outcomes[result] for result in MISSES)

    @property
    def pods(self) -> int:
        """Pods of this node that are known to exist."""
        return len(self._cluster.pods)

    @property
    def watches(self) -> dict[str, bool]:
        """Whether each watch on the API server is open, by what it watches."""
        return self._cluster.watches

    def mark_expected(self, anomalies: Iterable[Anomaly]) -> list[Anomaly]:
        """The same, ends that their pod's end explains marked as expected: each by its own time, so before folding."""
        return [
            msgspec.structs.replace(anomaly, data={**anomaly.data, "expected": True}, severity="info")
            if may_be_expected(anomaly.type, anomaly.data)
            and (pod := self._attribute(anomaly).pod) is not None
            and is_expected(anomaly.boot_ns, pod)
            else anomaly
            for anomaly in anomalies
        ]

    def admit(self, leaving: Iterable[Emitted], now_ns: int) -> list[Enriched]:
        """Those that can leave; the others are held for at most two seconds."""
        found = []
        for emitted in leaving:
            attribution = self._attribute(emitted.anomaly)
            if attribution.result in UNSETTLED:
                if len(self._held) < _MAX_HELD:
                    self._held.append((emitted, now_ns + _HOLD_NS))
                    continue
                self.held_full += emitted.count
            found.append(self._finish(emitted, attribution))
        return found

    def due(self, now_ns: int | None) -> list[Enriched]:
        """What was held and is now known, or has waited long enough; None: everything, the agent is stopping."""
        if not self._held:
            return []
        self._fill_gaps(now_ns)
        seen = self._cgroups.version, self._cluster.pods.version
        if seen == self._seen and now_ns is not None and now_ns < self._held[0][1]:
            return []
        self._seen = seen
        found, waiting = [], deque[tuple[Emitted, int]]()
        for emitted, until_ns in self._held:
            attribution = self._attribute(emitted.anomaly)
            if now_ns is not None and now_ns < until_ns and attribution.result in UNSETTLED:
                waiting.append((emitted, until_ns))
            else:
                found.append(self._finish(emitted, attribution))
        self._held = waiting
        return found

    def _fill_gaps(self, now_ns: int | None) -> None:
        """A cgroup that the kernel did not tell of for half a second will not come by itself."""
        if now_ns is None:
            return
        found = self._rescan.take()
        if found is not None:
            self._cgroups.merge(found)
        emitted, until_ns = self._held[0]
        if (
            until_ns - now_ns < _HOLD_NS - _RESCAN_AFTER_NS
            and self._attribute(emitted.anomaly).result == "cgroup_unknown"
        ):
            self._rescan.ask()

    def _attribute(self, anomaly: Anomaly) -> Attribution:
        return attribute(anomaly.data, anomaly.boot_ns, self._cgroups, self._cluster.pods.find)

    def _finish(self, emitted: Emitted, attribution: Attribution) -> Enriched:
        anomaly = emitted.anomaly
        self.outcomes[attribution.result] += emitted.count
        data: dict[str, Any] = {}
        pod = attribution.pod
        if attribution.container_id:
            data["container_id"] = attribution.container_id
        if pod is not None:
            data["pod_uid"] = pod.uid
        scope = oom_scope(anomaly.type, anomaly.data, anomaly.boot_ns, self._cgroups)
        if scope is not None:
            data["oom_scope"] = scope
        if "dst_ip" in anomaly.data:
            peer = self._cluster.peer(anomaly.data["dst_ip"], anomaly.boot_ns)
            if peer is not None:
                data["peer"] = peer
        context = Context(
            node=self._node,
            namespace=pod.namespace if pod is not None else "",
            entities=self._entities(pod, attribution.container),
        )
        return Enriched(emitted, context, data)

    def _entities(self, pod: Pod | None, container: str) -> tuple[Entity, ...]:
        if pod is None:
            return ()

        def entity(kind: str, name: str, path: str) -> Entity:
            return Entity(kind=kind, id=f"{pod.namespace}/{path}", name=name)

        # What the pod belongs to from the top: readers of the first two find pod and deployment.
        owners = [entity(owner.kind, owner.name, owner.name) for owner in reversed(self._cluster.owners(pod))]
        inside = [entity("container", container, f"{pod.name}/{container}")] if container else []
        return (entity("pod", pod.name, pod.name), *owners, *inside)
