"""Cgroups named as kubelets and runtimes name them, in every hierarchy that matters here."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.api_server import ApiServerDouble
from helpers.cgroups import ScratchCgroup, _remove, mount_point
from helpers.running_agent import UNFOLDED, RunningAgent, configured_agent

NODE = "worker-3"

# Driver and runtime: the path of a container below the node's root. `low` is the uid with underscores.
_BURSTABLE = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{low}.slice"
LAYOUTS = {
    "cgroupfs containerd": "kubepods/burstable/pod{uid}/{id}",
    "cgroupfs docker, guaranteed": "kubepods/pod{uid}/{id}",
    "cgroupfs cri-o": "kubepods/besteffort/pod{uid}/crio-{id}",
    "systemd containerd": f"{_BURSTABLE}/cri-containerd-{{id}}.scope",
    "systemd docker": "kubepods.slice/kubepods-pod{low}.slice/docker-{id}.scope",
    "systemd cri-o": f"{_BURSTABLE.replace('burstable', 'besteffort')}/crio-{{id}}.scope",
    "systemd cri-o, crun": f"{_BURSTABLE}/crio-{{id}}.scope/container",
    "kind": "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{low}.slice/cri-containerd-{id}.scope",
    "mixed up": "system.slice/containerd.service/kubepods-burstable-pod{low}.slice:cri-containerd:{id}",
    "nested in a container": "kubepods/burstable/pod{uid}/{id}/system.slice/nginx.service",
}


def new_id() -> str:
    """A container's id as runtimes make them."""
    return uuid.uuid4().hex + uuid.uuid4().hex


def path_of(layout: str, uid: str, container_id: str) -> str:
    """The path of a container's cgroup."""
    return LAYOUTS[layout].format(uid=uid, low=uid.replace("-", "_"), id=container_id)


@contextlib.contextmanager
def cgroup_at(path: str) -> Iterator[dict[str, ScratchCgroup]]:
    """Every cgroup on a path, below a root of its own; by path, '' is the root. Removed with everything in them."""
    unified, memory = mount_point("cgroup2"), mount_point("cgroup", "memory")
    assert unified is not None, "no cgroup v2 mount on this machine"
    top = f"tapio-test-{uuid.uuid4().hex[:8]}"
    roots = [unified / top, *([memory / top] if memory else [])]
    made: list[Path] = []
    found: dict[str, ScratchCgroup] = {}
    try:
        names = path.split("/")
        for depth in range(len(names) + 1):
            relative = "/".join(names[:depth])
            directories = [root / relative if relative else root for root in roots]
            for directory in directories:
                directory.mkdir()
                made.append(directory)
            found[relative] = ScratchCgroup(directories, directories[-1])
        yield found
    finally:
        for directory in reversed(made):
            if directory.exists():
                _remove(directory)


@contextlib.contextmanager
def container(layout: str, uid: str, container_id: str) -> Iterator[ScratchCgroup]:
    """The cgroup of one container."""
    path = path_of(layout, uid, container_id)
    with cgroup_at(path) as made:
        yield made[path]


@contextlib.contextmanager
def cluster_agent(
    folder: Path, api: ApiServerDouble, monkeypatch: Any, config: str = "", flags: Sequence[str] = ()
) -> Iterator[RunningAgent]:
    """A ready agent with enrichment, whose watch is up."""
    for name, value in {**api.environment, "NODE_NAME": NODE}.items():
        monkeypatch.setenv(name, value)
    text = f'{UNFOLDED}[kubernetes]\nservice_account_dir = "{api.account}"\n{config}'
    with configured_agent(folder, text, *flags) as agent:
        yield agent
