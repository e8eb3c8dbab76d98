"""What enrichment reads of the API's objects; everything else in them is skipped."""

from __future__ import annotations

import msgspec

# What msgspec raises on foreign bytes: its own errors are ValueErrors, as is UnicodeDecodeError; and deep nesting.
UNREADABLE = (ValueError, RecursionError)


class OwnerReference(msgspec.Struct, frozen=True):
    """An owner; one of them is the controller."""

    kind: str
    name: str
    uid: str = ""
    api_version: str = msgspec.field(name="apiVersion", default="")
    controller: bool | None = None


class Labels(msgspec.Struct, frozen=True):
    """The one label that matters."""

    pod_template_hash: str = msgspec.field(name="pod-template-hash", default="")


class Annotations(msgspec.Struct, frozen=True):
    """The kubelet names a static pod's cgroup by this hash, not by the uid that the API server knows."""

    config_hash: str = msgspec.field(name="kubernetes.io/config.hash", default="")


class Metadata(msgspec.Struct, frozen=True):
    """Of any object."""

    name: str
    uid: str
    namespace: str = ""
    deletion_timestamp: str | None = msgspec.field(name="deletionTimestamp", default=None)
    labels: Labels | None = None
    annotations: Annotations | None = None
    owners: tuple[OwnerReference, ...] | None = msgspec.field(name="ownerReferences", default=None)

    def controller(self) -> OwnerReference | None:
        """The owner that manages the object."""
        return next((owner for owner in self.owners or () if owner.controller), None)


class Terminated(msgspec.Struct, frozen=True):
    """How a container ended."""

    exit_code: int = msgspec.field(name="exitCode", default=0)
    container_id: str | None = msgspec.field(name="containerID", default=None)


class ContainerState(msgspec.Struct, frozen=True):
    """Of a container: set when it has ended."""

    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """One container: `container_id` is 'containerd://<64 hexadecimal digits>'."""

    name: str
    container_id: str | None = msgspec.field(name="containerID", default=None)
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class PodAddress(msgspec.Struct, frozen=True):
    """One of a pod's addresses."""

    ip: str = ""


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Where it runs."""

    node_name: str = ""
    host_network: bool | None = None


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What became of it."""

    phase: str = ""
    pod_ips: tuple[PodAddress, ...] | None = msgspec.field(name="podIPs", default=None)
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    ephemeral_container_statuses: tuple[ContainerStatus, ...] | None = None

    def containers(self) -> tuple[ContainerStatus, ...]:
        """Those of all kinds."""
        return (
            *(self.init_container_statuses or ()),
            *(self.container_statuses or ()),
            *(self.ephemeral_container_statuses or ()),
        )


class PodObject(msgspec.Struct, frozen=True):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ServiceSpec(msgspec.Struct, frozen=True, rename="camel"):
    """The addresses of a service; 'None' for a headless one."""

    cluster_ips: tuple[str, ...] | None = msgspec.field(name="clusterIPs", default=None)
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)


class ServiceObject(msgspec.Struct, frozen=True):
    """A service."""

    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()


class JobObject(msgspec.Struct, frozen=True):
    """A job, for the cron job that owns it."""

    metadata: Metadata
