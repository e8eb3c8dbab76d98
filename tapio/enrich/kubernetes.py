"""What the cluster tells of this node: its pods, and where asked for the services and jobs of all namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tapio.config import KubernetesConfig
from tapio.enrich.api_server import ApiServer
from tapio.enrich.pods import Owner, Pod, PodIndex
from tapio.enrich.services import JobIndex, ServiceIndex
from tapio.enrich.watch import Watch


class Cluster:
    """Made as root, started after the drop of privileges. Nothing of it ever blocks its reader."""

    def __init__(self, config: KubernetesConfig, node: str, environment: Mapping[str, str]) -> None:
        """UsageError when the service account's files are missing or the API server's address is not set."""
        self._server = ApiServer(Path(config.service_account_dir), environment)
        self._names_pods = config.name_peers != "off"
        self.pods = PodIndex(node)
        self._services, self._jobs = ServiceIndex(), JobIndex()
        of_node = {"fieldSelector": f"spec.nodeName={node}"}
        self._watches = [Watch(self._server, "/api/v1/pods", self.pods, of_node)]
        if config.name_peers == "services":
            self._watches.append(Watch(self._server, "/api/v1/services", self._services))
        if config.name_cronjobs:
            self._watches.append(Watch(self._server, "/apis/batch/v1/jobs", self._jobs))

    def start(self) -> None:
        """Begin to watch. UsageError when token or CA cannot be read any more."""
        self._server.check_readable()
        for watch in self._watches:
            watch.start()

    @property
    def watches(self) -> dict[str, bool]:
        """Whether each watch is open and its list complete, by what it watches."""
        return {watch.resource: bool(watch.up_since_ns) for watch in self._watches}

    def owners(self, pod: Pod) -> tuple[Owner, ...]:
        """What the pod belongs to, from its controller upwards."""
        found = pod.owners
        cronjob = self._jobs.cronjob_of(found[0].uid) if found and found[0].kind == "job" else ""
        return (*found, Owner("cronjob", cronjob)) if cronjob else found

    def peer(self, address: str, boot_ns: int) -> dict[str, str] | None:
        """Who alone had this address for certain.

        While a watch was down it may have passed on, and the node's own is everybody's: then nobody is named.
        """
        if not self._names_pods or not all(0 < watch.up_since_ns <= boot_ns for watch in self._watches):
            return None
        pods = self.pods.at_address(address, boot_ns)
        service = self._services.at_address(address, boot_ns)
        if service is not None:
            return None if pods else {"namespace": service.namespace, "service": service.name}
        if len(pods) != 1 or pods[0].host_network:
            return None
        return {"namespace": pods[0].namespace, "pod": pods[0].name}
