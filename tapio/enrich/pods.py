"""The pods of this node, as one watch tells of them. One thread writes, any may read: entries are replaced whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from tapio.clock import boot_ns
from tapio.enrich.api_objects import UNREADABLE, Metadata, PodObject, PodStatus

_KEPT_NS = 600_000_000_000
_MAX_GONE = 2048
_MAX_CONTAINERS = 64  # names kept of a pod, those of earlier restarts included


class Owner(msgspec.Struct, frozen=True):
    """Something that a pod belongs to: the kind in lower case, as entities have it."""

    kind: str
    name: str
    uid: str = ""


class Address(msgspec.Struct, frozen=True):
    """That a pod had an address for certain, on the boot clock. `until_ns` 0: it still has."""

    pod: Pod
    since_ns: int
    until_ns: int = 0


class Pod(msgspec.Struct, frozen=True):
    """What is known of a pod. Times on the boot clock, 0: has not happened."""

    uid: str
    namespace: str
    name: str
    owners: tuple[Owner, ...]
    containers: dict[str, str]  # names by runtime id
    addresses: tuple[str, ...] = ()
    host_network: bool = False  # they are the node's
    config_hash: str = ""
    deleting_since_ns: int = 0  # when this agent learned of it
    done_since_ns: int = 0  # the same of a job whose work is done
    gone_ns: int = 0


_GROUPS = {"ReplicaSet": "apps", "StatefulSet": "apps", "DaemonSet": "apps", "Job": "batch"}


def owners_of(metadata: Metadata) -> tuple[Owner, ...]:
    """The controller, and the deployment where its replica set's name says so together with the pod's label."""
    controller = metadata.controller()
    if controller is None or controller.kind == "Node":  # of static pods: a node is no workload
        return ()
    group = controller.api_version.rpartition("/")[0]
    if controller.api_version and _GROUPS.get(controller.kind, group) != group:  # another project's kind of that name
        return ()
    found = [Owner(controller.kind.lower(), controller.name, controller.uid)]
    template_hash = metadata.labels.pod_template_hash if metadata.labels else ""
    deployment = controller.name.removesuffix(f"-{template_hash}")
    if controller.kind == "ReplicaSet" and template_hash and deployment not in ("", controller.name):
        found.append(Owner("deployment", deployment))
    return tuple(found)


class PodIndex:
    """Pods by uid, and by the hash that names a static pod's cgroup."""

    def __init__(self, node: str, now_ns: Callable[[], int] = boot_ns) -> None:
        self.version = 0  # grows with every change
        self.others = 0  # pods of other nodes, which nobody asked for
        self._node = node
        self._now_ns = now_ns
        self._decoder = msgspec.json.Decoder(PodObject)
        self._by_uid: dict[str, Pod] = {}
        self._by_hash: dict[str, dict[str, None]] = {}  # uids, the latest last
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._by_address: dict[str, tuple[Address, ...]] = {}

    def __len__(self) -> int:
        """Pods that exist."""
        return len(self._by_uid) - len(self._gone)

    def find(self, uid: str) -> Pod | None:
        """The pod whose cgroup is named by this uid; also one that was deleted lately.

        Anybody can write the annotation with the hash: it never takes another pod's uid, and two pods that claim
        one hash have none of it, unless it is one static pod whose mirror was made anew.
        """
        if (pod := self._by_uid.get(uid)) is not None:
            return pod
        claims = [self._by_uid[claim] for claim in self._by_hash.get(uid, ())]
        return claims[-1] if len({(pod.namespace, pod.name) for pod in claims}) == 1 else None

    def at_address(self, address: str, when_ns: int) -> list[Pod]:
        """The pods that claim this address at that time (boot clock); of several it is nobody's for certain.

        That of a pod which is being deleted may be given to the next before it is gone.
        """
        claims = [
            held.pod
            for held in self._by_address.get(address, ())
            if held.since_ns <= when_ns and (not held.until_ns or when_ns <= held.until_ns)
        ]
        return [pod for pod in claims if not pod.deleting_since_ns] or claims

    def replace(self, objects: Iterable[bytes]) -> int:
        """Take over a whole list; returns how many of it could not be read. Pods that are not in it are gone.

        A list can be older than what is known, so nothing is concluded from a pod's absence but that it may be
        forgotten after a while, and that nobody knows how long it had its addresses.
        """
        seen, unreadable = set(), 0
        for raw in objects:
            try:
                seen.add(self._store(self._decoder.decode(raw)))
            except UNREADABLE:
                unreadable += 1
        for uid in [uid for uid in self._by_uid if uid not in seen and uid not in self._gone]:
            self._retire(self._by_uid[uid])
            self._disclaim(self._by_uid[uid])
        self._changed()
        return unreadable

    def apply(self, kind: str, raw: bytes | msgspec.Raw) -> None:
        """Take over one change: ADDED, MODIFIED or DELETED. One of UNREADABLE when it cannot be read."""
        pod = self._decoder.decode(raw)
        uid = self._store(pod, deleted=kind == "DELETED")
        if kind == "DELETED" and uid:
            self._retire(self._by_uid[uid])
        self._changed()

    def _changed(self) -> None:
        now_ns = self._now_ns()
        while self._gone:
            uid = next(iter(self._gone))
            if len(self._gone) <= _MAX_GONE and now_ns - self._by_uid[uid].gone_ns < _KEPT_NS:
                break
            del self._gone[uid]
            pod = self._by_uid.pop(uid)
            self._unclaim(pod)
            self._disclaim(pod)
        self.version += 1

    def _store(self, found: PodObject, *, deleted: bool = False) -> str:
        """Remember a pod; returns its uid, '' for one of another node."""
        metadata, status = found.metadata, found.status
        if found.spec.node_name != self._node:
            self.others += 1
            return ""
        known = self._by_uid.get(metadata.uid)
        containers = dict(known.containers) if known else {}
        containers.update(_containers(status))
        for old in list(containers)[:-_MAX_CONTAINERS]:
            del containers[old]
        deleting_since_ns = known.deleting_since_ns if known else 0  # neither is ever taken back
        done_since_ns = known.done_since_ns if known else 0
        config_hash = metadata.annotations.config_hash if metadata.annotations else ""
        # Of a static pod the API server has only a mirror, and deleting that stops nothing.
        if (deleted or metadata.deletion_timestamp) and not deleting_since_ns and not config_hash:
            deleting_since_ns = self._now_ns()
        owners = owners_of(metadata)
        if owners and owners[0].kind == "job" and not done_since_ns and _succeeded(status):
            done_since_ns = self._now_ns()
        ended = status.phase in ("Succeeded", "Failed")
        addresses = tuple(address.ip for address in status.pod_ips or () if address.ip)
        pod = Pod(
            uid=metadata.uid,
            namespace=metadata.namespace,
            name=metadata.name,
            owners=owners,
            containers=containers,
            addresses=() if ended else addresses,
            host_network=bool(found.spec.host_network),
            config_hash=config_hash,
            deleting_since_ns=deleting_since_ns,
            done_since_ns=done_since_ns,
        )
        self._gone.pop(pod.uid, None)
        if known:
            self._unclaim(known)
        self._by_uid[pod.uid] = pod
        if pod.config_hash:
            self._by_hash.setdefault(pod.config_hash, {})[pod.uid] = None
        self._note_addresses(pod, known)
        return pod.uid

    def _unclaim(self, pod: Pod) -> None:
        claims = self._by_hash.get(pod.config_hash, {})
        claims.pop(pod.uid, None)
        if not claims:
            self._by_hash.pop(pod.config_hash, None)

    def _note_addresses(self, pod: Pod, known: Pod | None) -> None:
        for address in pod.addresses:
            others, own = self._claims(address, pod.uid)
            since_ns = own[0].since_ns if own and not own[0].until_ns else self._now_ns()
            self._by_address[address] = (*others, Address(pod, since_ns))
        for address in known.addresses if known else ():
            if address not in pod.addresses:
                self._release(address, pod.uid)

    def _claims(self, address: str, uid: str) -> tuple[list[Address], list[Address]]:
        """Those of others on an address, and the pod's own."""
        held = self._by_address.get(address, ())
        return [one for one in held if one.pod.uid != uid], [one for one in held if one.pod.uid == uid]

    def _release(self, address: str, uid: str) -> None:
        others, own = self._claims(address, uid)
        ended = [one if one.until_ns else msgspec.structs.replace(one, until_ns=self._now_ns()) for one in own]
        self._by_address[address] = (*others, *ended)

    def _disclaim(self, pod: Pod) -> None:
        """Forget that the pod ever had its addresses."""
        for address in pod.addresses:
            others, _ = self._claims(address, pod.uid)
            if others:
                self._by_address[address] = tuple(others)
            else:
                self._by_address.pop(address, None)

    def _retire(self, pod: Pod) -> None:
        self._by_uid[pod.uid] = msgspec.structs.replace(pod, gone_ns=self._now_ns())
        self._gone[pod.uid] = None
        for address in pod.addresses:
            self._release(address, pod.uid)


def _containers(status: PodStatus) -> dict[str, str]:
    """Names by runtime id, those of the instance before the latest restart included."""
    found = {}
    for container in status.containers():
        for state in (container.last_state, container.state):
            if state and state.terminated and state.terminated.container_id:
                found[_bare(state.terminated.container_id)] = container.name
        if container.container_id:
            found[_bare(container.container_id)] = container.name
    return found


def _bare(container_id: str) -> str:
    return container_id.rpartition("//")[2]


def _succeeded(status: PodStatus) -> bool:
    """Whether all that a job's pod was made for is done: what still runs in it is told to stop."""
    if status.phase == "Succeeded":
        return True
    ends = [container.state.terminated if container.state else None for container in status.container_statuses or ()]
    return bool(ends) and all(end is not None and end.exit_code == 0 for end in ends)
