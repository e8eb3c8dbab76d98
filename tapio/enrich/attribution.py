"""From the cgroup ids in an anomaly's data to the one pod and container that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from tapio.enrich.cgroup_paths import PodCgroup
from tapio.enrich.cgroups import CgroupIndex, Key
from tapio.enrich.pods import Pod

# pod: found. container_unknown: the pod, but not yet the container's name. host: of no pod.
# no_cgroup: the kernel did not say whose. The rest are misses.
Result = Literal["pod", "container_unknown", "host", "no_cgroup", "cgroup_unknown", "pod_unknown", "ambiguous"]
MISSES = ("cgroup_unknown", "pod_unknown", "ambiguous")
UNSETTLED = ("container_unknown", "cgroup_unknown", "pod_unknown")  # time may help


class Attribution(msgspec.Struct, frozen=True):
    """What was found; `container` is its name, `container_id` the runtime's id, '' for what is not known."""

    result: Result
    pod: Pod | None = None
    container_id: str = ""
    container: str = ""


def _keys(data: Mapping[str, Any]) -> list[Key]:
    """The cgroups that an anomaly names."""
    keys = []
    if data.get("cgroup_id"):
        keys.append((0, data["cgroup_id"]))
    if data.get("cgroup_v1_id") and data.get("cgroup_v1_hierarchy"):
        keys.append((data["cgroup_v1_hierarchy"], data["cgroup_v1_id"]))
    return keys


def attribute(
    data: Mapping[str, Any], boot_ns: int, cgroups: CgroupIndex, find_pod: Callable[[str], Pod | None]
) -> Attribution:
    """Whose an anomaly of that time is. Ids that contradict each other name nobody."""
    keys = [key for key in _keys(data) if key[0] in cgroups.hierarchies]
    if not keys:
        return Attribution("no_cgroup")
    known = [cgroup for key in keys if (cgroup := cgroups.find(key, boot_ns)) is not None]
    # In a hybrid of v1 and v2 a pod's processes may be in a host's cgroup of the one and in the pod's of the other.
    named = {cgroup.pods for cgroup in known if cgroup.pods}
    if not named:
        return Attribution("host" if len(known) == len(keys) else "cgroup_unknown")
    found = [_first_known(pods, find_pod) for pods in named]
    pods = {pod.uid: pod for pod, _ in found if pod is not None}
    containers = {container_id for _, container_id in found}
    container_id = containers.pop() if len(containers) == 1 else ""
    if len(pods) > 1:
        return Attribution("ambiguous")
    if any(pod is None for pod, _ in found):
        return Attribution("pod_unknown", container_id=container_id)
    ((_, pod),) = pods.items()
    container = pod.containers.get(container_id, "")
    result: Result = "container_unknown" if container_id and not container else "pod"
    return Attribution(result, pod, container_id, container)


def _first_known(places: tuple[PodCgroup, ...], find_pod: Callable[[str], Pod | None]) -> tuple[Pod | None, str]:
    """The outermost pod of a path that the cluster knows, and the container's id; nobody knows where several nest."""
    for place in places:
        pod = find_pod(place.uid)
        if pod is not None:
            return pod, place.container_id
    return None, places[0].container_id if len(places) == 1 else ""
