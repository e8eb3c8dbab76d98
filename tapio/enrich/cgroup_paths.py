"""What a cgroup's path says: which pod and which container.

    cgroupfs driver   /kubepods/burstable/pod<uid>/<container>                                      containerd, Docker
                      /kubepods/burstable/pod<uid>/crio-<container>                                 CRI-O
    systemd driver    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/
                          cri-containerd-<container>.scope, docker-<container>.scope, crio-<container>.scope
    mixed up          /system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<container>

In a systemd name the uid has underscores for dashes. Cgroups inside a container belong to it. `crio-conmon-…` is
CRI-O's monitor of a container, not the container. A node that is itself a container, or whose kubelet has a
`--cgroup-root`, has all of this further down, and a pod that runs a cluster has pods inside: then a path names several
pods, the outermost first.

A pod is named only from a kubepods root down as the kubelet nests it, and only where nobody but root and the container
runtimes can make cgroups: systemd hands `user.slice` to users and a service's or scope's own cgroup to whom it runs as,
so nothing below those is believed. But: below a container's scope (a node in a container) it is, and a name of the
mixed-up kind directly in a runtime's service.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

_UID = r"(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
_CONTAINER = r"(?P<container>[0-9a-f]{64})"
_POD = re.compile(
    rf"(?:(?:[^/-]+-)*kubepods(?:-burstable|-besteffort)?-pod{_UID}\.slice|pod{_UID.replace('uid', 'plain')})"
)
_MIXED_UP = re.compile(rf"(?:[a-z0-9-]*-)?kubepods(?:-burstable|-besteffort)?-pod{_UID}\.slice:[a-z-]+:{_CONTAINER}")
_IN_POD = re.compile(
    rf"(?:(?:cri-containerd|docker|crio)-{_CONTAINER}\.scope|(?:crio-)?{_CONTAINER.replace('container', 'plain')})"
)
_MONITOR = "crio-conmon-"
_CONTAINER_SCOPE = re.compile(r"[a-z-]+-[0-9a-f]{64}\.scope")
_RUNTIME = re.compile(
    r"(?:containerd|docker|cri-docker|crio|k3s(?:-agent)?|rke2-(?:server|agent)|k0s(?:controller|worker)"
    r"|snap\.microk8s\.daemon-[a-z0-9-]+)\.service"
)


class PodCgroup(NamedTuple):
    """A pod as a path names it, and the container, '' where the path ends at the pod."""

    uid: str
    container_id: str


@functools.lru_cache(1024)  # each container has a cgroup in several hierarchies, and nested ones
def read_path(path: str) -> tuple[PodCgroup, ...]:
    """The pods that a path is inside of, the outermost first; () for a cgroup of the host."""
    found: list[PodCgroup] = []
    names = path.split("/")
    for index, (name, below) in enumerate(zip(names, [*names[1:], ""], strict=True)):
        mixed_up = _MIXED_UP.fullmatch(name)
        if mixed_up:
            found.append(PodCgroup(_dashed(mixed_up["uid"]), mixed_up["container"]))
        elif _is_delegated(name) and not (_RUNTIME.fullmatch(name) and _MIXED_UP.fullmatch(below)):
            break
        pod = _POD.fullmatch(name)
        if pod and _is_in_kubepods(names[: index + 1]) and not below.startswith(_MONITOR):
            container = _IN_POD.fullmatch(below)
            container_id = (container["container"] or container["plain"]) if container else ""
            found.append(PodCgroup(_dashed(pod["uid"] or pod["plain"]), container_id))
    return tuple(found)


def _is_delegated(name: str) -> bool:
    """Whether somebody else than root may make cgroups below this one."""
    return name == "user.slice" or (name.endswith((".service", ".scope")) and not _CONTAINER_SCOPE.fullmatch(name))


def _is_in_kubepods(names: list[str]) -> bool:
    """Whether the cgroups above the last, which looks like a pod's, are those that the kubelet puts it in."""
    *above, name = names
    if name.endswith(".slice"):  # a-b.slice is in a.slice: all that the name says has to be there
        levels = name.removesuffix(".slice").split("-")
        slices = ["-".join(levels[:depth]) + ".slice" for depth in range(1, len(levels))]
        return above[-len(slices) :] == slices
    if above and above[-1] in ("burstable", "besteffort"):
        above.pop()
    return above[-1:] == ["kubepods"]


def _dashed(uid: str) -> str:
    return uid.replace("_", "-")
