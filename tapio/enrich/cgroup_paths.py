"""What a cgroup's path says: which pod and which container.

    cgroupfs driver   /kubepods/burstable/pod<uid>/<container>                                      containerd, Docker
                      /kubepods/burstable/pod<uid>/crio-<container>                                 CRI-O
    systemd driver    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/
                          cri-containerd-<container>.scope, docker-<container>.scope, crio-<container>.scope
    mixed up          /system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<container>

In a systemd name the uid has underscores for dashes. Cgroups inside a container belong to it. `crio-conmon-…` is
CRI-O's monitor of a container, not the container. A node that is itself a container has all of this further down,
and a pod that runs a cluster has pods inside: then a path names several pods, the outermost first.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

_UID = r"(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
_CONTAINER = r"(?P<container>[0-9a-f]{64})"
_POD = re.compile(
    rf"(?:(?:[a-z0-9-]*-)?kubepods(?:-burstable|-besteffort)?-pod{_UID}\.slice|pod{_UID.replace('uid', 'plain')})"
)
_MIXED_UP = re.compile(rf"(?:[a-z0-9-]*-)?kubepods(?:-burstable|-besteffort)?-pod{_UID}\.slice:[a-z-]+:{_CONTAINER}")
_IN_POD = re.compile(
    rf"(?:(?:cri-containerd|docker|crio)-{_CONTAINER}\.scope|(?:crio-)?{_CONTAINER.replace('container', 'plain')})"
)
_MONITOR = "crio-conmon-"


class PodCgroup(NamedTuple):
    """A pod as a path names it, and the container, '' where the path ends at the pod."""

    uid: str
    container_id: str


@functools.lru_cache(1024)  # each container has a cgroup in several hierarchies, and nested ones
def read_path(path: str) -> tuple[PodCgroup, ...]:
    """The pods that a path is inside of, the outermost first; () for a cgroup of the host."""
    found: list[PodCgroup] = []
    names = path.split("/")
    for name, below in zip(names, [*names[1:], ""], strict=True):
        mixed_up = _MIXED_UP.fullmatch(name)
        if mixed_up:
            found.append(PodCgroup(_dashed(mixed_up["uid"]), mixed_up["container"]))
            continue
        pod = _POD.fullmatch(name)
        if pod and not below.startswith(_MONITOR):
            container = _IN_POD.fullmatch(below)
            container_id = (container["container"] or container["plain"]) if container else ""
            found.append(PodCgroup(_dashed(pod["uid"] or pod["plain"]), container_id))
    return tuple(found)


def _dashed(uid: str) -> str:
    return uid.replace("_", "-")
