"""Enrichment as it was chosen: checked and imported while the agent is root, at work once it is not.

Without it nothing of the `kubernetes` package is imported, which takes 13 MiB.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tapio.config import KubernetesConfig
from tapio.enrich.cgroup_events import CgroupObserver
from tapio.enrich.cgroups import CgroupIndex, Rescan, find_all
from tapio.enrich.hierarchies import find_hierarchies
from tapio.enrich.stage import Enrichment
from tapio.errors import UsageError
from tapio.kernel.channel import Loaded

log = logging.getLogger(__name__)


def is_chosen(config: KubernetesConfig, node: str, environment: Mapping[str, str]) -> bool:
    """Whether anomalies get their pods; UsageError when that was asked for and cannot be."""
    in_cluster = bool(environment.get("KUBERNETES_SERVICE_HOST"))
    if config.enabled is True and not (node and in_cluster):
        missing = "KUBERNETES_SERVICE_HOST" if node else "NODE_NAME"
        raise UsageError(
            f"enabling kubernetes: the environment has no {missing}: run in a pod with NODE_NAME set by the Downward "
            'API, or set kubernetes.enabled = "auto"'
        )
    if config.enabled == "auto" and node and not in_cluster:
        log.warning("NODE_NAME is set, KUBERNETES_SERVICE_HOST is not: occurrences name the node and no pods")
    return bool(config.enabled and node and in_cluster)


class ChosenEnrichment:
    """What enrichment is made of. UsageError when the service account or the cgroups cannot be read."""

    def __init__(self, config: KubernetesConfig, node: str, environment: Mapping[str, str]) -> None:
        from tapio.enrich.kubernetes import Cluster

        self._node = node
        self._cluster = Cluster(config, node, environment)
        try:
            self._hierarchies = find_hierarchies(Path(config.host_proc), Path(config.host_cgroup))
        except (OSError, ValueError, IndexError) as error:
            raise UsageError(
                f"looking for cgroups in {config.host_proc}/self/mountinfo: {error}: set kubernetes.host_proc"
            ) from error
        if not self._hierarchies:
            raise UsageError(
                f"looking for cgroups: none is mounted below {config.host_cgroup}: mount the host's /sys/fs/cgroup "
                "there, or set kubernetes.host_cgroup"
            )
        self._index = CgroupIndex(hierarchy.number for hierarchy in self._hierarchies)

    def make_observer(self, loaded: Loaded) -> CgroupObserver:
        """What keeps the cgroups in step with the kernel."""
        return CgroupObserver(loaded, self._index, self._hierarchies)

    def scan(self) -> None:
        """Learn the cgroups that exist. After the kernel's records are on, so that none is missed in between."""
        self._index.merge(find_all(self._hierarchies))

    def start(self) -> Enrichment:
        """Begin to watch, without privileges. UsageError when the token cannot be read by the user that we are now."""
        self._cluster.start()
        return Enrichment(self._node, self._index, self._cluster, Rescan(self._hierarchies))
