"""Cgroups named as kubelets and runtimes name them, their pods, and what an agent tells of their faults."""

from __future__ import annotations

import contextlib
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.api_server import ApiServerDouble, make_pod
from helpers.cgroups import ScratchCgroup, _remove, mount_point
from helpers.running_agent import UNFOLDED, RunningAgent, configured_agent, wait_for

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


def new_pod(api: ApiServerDouble, agent: RunningAgent, name: str = "", **pod: Any) -> tuple[str, str]:
    """A pod with one container, that the agent knows of. Its uid and the container's id."""
    container_id, before = new_id(), agent.metric("tapio_k8s_pods")
    made = make_pod(name or f"checkout-{uuid.uuid4().hex[:5]}", containers={"api": container_id}, node=NODE, **pod)
    api.put("pods", made)
    wait_for(lambda: agent.metric("tapio_k8s_pods") > before)
    return made["metadata"]["uid"], container_id


def change(api: ApiServerDouble, uid: str, **metadata: Any) -> None:
    """Change a pod's metadata, and give the agent time to hear of it."""
    pod = api.objects["pods"][uid]
    pod["metadata"].update(metadata)
    api.put("pods", pod)
    time.sleep(0.3)


def fail(cgroup: ScratchCgroup, code: int = 3) -> subprocess.Popen[bytes]:
    """A process of the cgroup that ended with `code`."""
    return cgroup.run(["/bin/sh", "-c", f"exit {code}"])


def arrived(
    agent: RunningAgent, cgroup: ScratchCgroup, expected: int = 1, timeout_s: float = 10
) -> list[dict[str, Any]]:
    """The occurrences of the cgroup once there are `expected`, after time for one too many to show up."""
    wait_for(lambda: len(agent.of_cgroup(cgroup.id)) >= expected, timeout_s, lambda: str(agent.of_cgroup(cgroup.id)))
    agent.settle()
    return agent.of_cgroup(cgroup.id)


def entities(found: dict[str, Any]) -> dict[str, str]:
    """The entities of an occurrence: ids by kind."""
    return {entity["kind"]: entity["id"] for entity in found["context"].get("entities", ())}
