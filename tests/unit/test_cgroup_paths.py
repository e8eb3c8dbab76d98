"""Every way in which kubelets and runtimes name a pod's cgroups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapio.enrich.cgroup_paths import PodCgroup, read_path

UID = "5f0c4a1e-9d3b-4a6c-8e21-0b9f6d1c2a34"
LOW = UID.replace("-", "_")
HASH = "0123456789abcdef0123456789abcdef"
ID = "ab" * 32
IN = (PodCgroup(UID, ID),)
POD = (PodCgroup(UID, ""),)
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/kubepods/burstable/pod{UID}/{ID}", IN),  # cgroupfs: containerd, Docker
        (f"/kubepods/besteffort/pod{UID}/{ID}", IN),
        (f"/kubepods/pod{UID}/{ID}", IN),  # guaranteed
        (f"/kubepods/pod{UID}/crio-{ID}", IN),
        (f"/kubepods/burstable/pod{UID}", POD),
        (f"{SLICE}/cri-containerd-{ID}.scope", IN),  # systemd
        (f"{SLICE}/docker-{ID}.scope", IN),
        (f"{SLICE}/crio-{ID}.scope", IN),
        (SLICE, POD),
        (f"/kubepods.slice/kubepods-pod{LOW}.slice/cri-containerd-{ID}.scope", IN),
        (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{LOW}.slice/crio-{ID}.scope", IN),
        (f"/system.slice/containerd.service/kubepods-burstable-pod{LOW}.slice:cri-containerd:{ID}", IN),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{LOW}.slice/cri-containerd-{ID}.scope", IN),
        (f"/kubelet/kubepods/burstable/pod{UID}/{ID}", IN),
        # What runs inside a container belongs to it: crun's own level, systemd, Docker in Docker.
        (f"{SLICE}/crio-{ID}.scope/container", IN),
        (f"{SLICE}/cri-containerd-{ID}.scope/system.slice/nginx.service", IN),
        (f"/kubepods/burstable/pod{UID}/{ID}/docker/{'cd' * 32}", IN),
        # A static pod's cgroup has the hash of its manifest for a uid.
        (f"/kubepods/burstable/pod{HASH}/{ID}", (PodCgroup(HASH, ID),)),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope",
         (PodCgroup(HASH, ID),)),
        # CRI-O's monitor of a container is not the container.
        (f"{SLICE}/crio-conmon-{ID}.scope", ()),
        (f"/kubepods/burstable/pod{UID}/crio-conmon-{ID}", ()),
        # A node that is a pod: the outer pod comes first.
        (f"/kubepods/burstable/pod{UID}/{ID}/kubelet/kubepods/pod{'1' * 8}{UID[8:]}/{'cd' * 32}",
         (PodCgroup(UID, ID), PodCgroup("1" * 8 + UID[8:], "cd" * 32))),
        # In a pod, in something that is no container that we know.
        (f"{SLICE}/something.scope", POD),
        ("/", ()),
        ("", ()),
        ("/system.slice/kubelet.service", ()),
        ("/kubepods.slice/kubepods-burstable.slice", ()),
        ("/kubepods/burstable", ()),
        (f"/docker/{ID}", ()),
        (f"/system.slice/docker-{ID}.scope", ()),
        (f"/machine.slice/libpod-{ID}.scope", ()),
        (f"/user.slice/pod{UID}x/{ID}", ()),
        (f"/kubepods/pod{UID[:-1]}", ()),  # cut off
        (f"/kubepods/mypod{UID}", ()),
        # A node in a container, as kind, k3d and minikube have it; a kubelet with a cgroup root of its own.
        (f"/docker/{'cd' * 32}/kubepods/besteffort/pod{UID}/{ID}", IN),
        (f"/system.slice/docker-{'cd' * 32}.scope{SLICE}/cri-containerd-{ID}.scope", IN),
        (f"/docker/{'cd' * 32}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{LOW}.slice", POD),
        (f"/../../kubepods/pod{UID}/{ID}", IN),  # as a mount shows it in another cgroup namespace
        (f"/my/own/kubepods/pod{UID}/{ID}", IN),
        (f"/my.slice/my-a_b.slice/my-a_b-kubepods.slice/my-a_b-kubepods-pod{LOW}.slice/crio-{ID}.scope", IN),
        (f"/runtime.slice/containerd.service/kubepods-pod{LOW}.slice:cri-containerd:{ID}", IN),
        (f"/kubepods-burstable-pod{LOW}.slice:cri-containerd:{ID}", IN),
        # Look-alikes: not as a kubelet nests them.
        (f"/pod{UID}/{ID}", ()),
        (f"/pods/pod{UID}/{ID}", ()),
        (f"/burstable/pod{UID}/{ID}", ()),
        (f"/kubepods/guaranteed/pod{UID}/{ID}", ()),
        (f"/kubepods/x/pod{UID}/{ID}", ()),
        (f"/mykubepods/pod{UID}/{ID}", ()),
        (f"/kubepods-burstable-pod{LOW}.slice/cri-containerd-{ID}.scope", ()),
        (f"/kubepods.slice/kubepods-burstable-pod{LOW}.slice/cri-containerd-{ID}.scope", ()),
        (f"/x.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice/cri-containerd-{ID}.scope", ()),
        (f"/kubelet-kubepods.slice/kubelet-kubepods-pod{LOW}.slice/crio-{ID}.scope", ()),
        # Look-alikes where others than root make cgroups.
        (f"/user.slice/kubepods/pod{UID}/{ID}", ()),
        (f"/user.slice/user-1000.slice/user@1000.service{SLICE}/cri-containerd-{ID}.scope", ()),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/kubepods/pod{UID}/{ID}", ()),
        (f"/user.slice/containerd.service/kubepods-pod{LOW}.slice:cri-containerd:{ID}", ()),
        (f"/system.slice/mine.service/kubepods/burstable/pod{UID}/{ID}", ()),
        (f"/system.slice/mine.service/kubepods-pod{LOW}.slice:cri-containerd:{ID}", ()),
        (f"/system.slice/mine.service/containerd.service/kubepods-pod{LOW}.slice:cri-containerd:{ID}", ()),
        (f"/system.slice/containerd.service/kubepods/pod{UID}/{ID}", ()),
        (f"/system.slice/containerd.service/x/kubepods-pod{LOW}.slice:cri-containerd:{ID}", ()),
        (f"/system.slice/run-r5.scope{SLICE}/cri-containerd-{ID}.scope", ()),
        (f"/user.slice/user-1000.slice/session-3.scope/kubepods/pod{UID}/{ID}", ()),
        # In a container: still that container.
        (f"{SLICE}/cri-containerd-{ID}.scope/system.slice/x.service/kubepods/pod{'1' * 8}{UID[8:]}/{ID}", IN),
    ],
)  # fmt: skip
def test_a_path_names_its_pod_and_container(path: str, expected: tuple[PodCgroup, ...]) -> None:
    assert read_path(path) == expected


@given(st.text(max_size=600))
def test_any_other_text_names_nobody(path: str) -> None:
    assert read_path(path) == ()
