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
    ],
)  # fmt: skip
def test_a_path_names_its_pod_and_container(path: str, expected: tuple[PodCgroup, ...]) -> None:
    assert read_path(path) == expected


@given(st.text(max_size=600))
def test_any_other_text_names_nobody(path: str) -> None:
    assert read_path(path) == ()
