"""The index of pods: what is kept, what is forgotten, and who has an address for certain."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from helpers.api_server import make_pod
from hypothesis import given
from hypothesis import strategies as st

from tapio.enrich.api_objects import PodObject
from tapio.enrich.pods import Owner, PodIndex
from tapio.enrich.services import JobIndex, ServiceIndex

NODE = "worker-3"
S = 1_000_000_000


class Clock:
    """The boot clock of a test."""

    def __init__(self) -> None:
        self.ns = 1000 * S

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pods(clock: Clock) -> PodIndex:
    return PodIndex(NODE, clock)


def raw(item: dict[str, Any]) -> bytes:
    return json.dumps(item).encode()


def deleting(pod: dict[str, Any]) -> dict[str, Any]:
    return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "2026-04-03T14:30:00Z"}}


def test_containers_of_earlier_restarts_keep_their_names(pods: PodIndex) -> None:
    first, second = "a" * 64, "b" * 64
    pod = make_pod(uid="u", containers={"api": first})
    pods.apply("ADDED", raw(pod))
    pod["status"]["containerStatuses"] = [
        {
            "name": "api",
            "containerID": f"cri-o://{second}",
            "lastState": {"terminated": {"exitCode": 1, "containerID": f"cri-o://{first}"}},
        }
    ]
    pod["status"]["initContainerStatuses"] = [
        {"name": "setup", "state": {"terminated": {"exitCode": 0, "containerID": f"docker://{'c' * 64}"}}}
    ]
    pods.apply("MODIFIED", raw(pod))
    found = pods.find("u")
    assert found is not None
    assert found.containers == {first: "api", second: "api", "c" * 64: "setup"}
    for number in range(200):
        pod["status"]["containerStatuses"][0]["containerID"] = f"containerd://{number:064}"
        pods.apply("MODIFIED", raw(pod))
    found = pods.find("u")
    assert found is not None
    assert len(found.containers) == 64
    assert f"{199:064}" in found.containers


def test_a_deleted_pod_is_known_for_ten_minutes(pods: PodIndex, clock: Clock) -> None:
    pods.apply("ADDED", raw(make_pod(uid="u")))
    pods.apply("DELETED", raw(make_pod(uid="u")))
    clock.ns += 599 * S
    pods.apply("ADDED", raw(make_pod(uid="other")))
    assert pods.find("u") is not None
    assert len(pods) == 1
    clock.ns += 2 * S
    pods.apply("MODIFIED", raw(make_pod(uid="other")))
    assert pods.find("u") is None


def test_pods_that_are_gone_are_bounded(pods: PodIndex) -> None:
    for number in range(5000):
        pods.apply("DELETED", raw(make_pod(f"p{number}", f"u{number}")))
    assert len(pods) == 0
    assert len(pods._by_uid) == 2048
    assert pods.find("u4999") is not None


def test_a_stale_list_takes_nothing_back(pods: PodIndex, clock: Clock) -> None:
    """A list can be older than the watch: a deletion stays one, absence alone deletes nobody."""
    pods.apply("ADDED", raw(make_pod(uid="absent")))
    pods.apply("MODIFIED", raw(deleting(make_pod(uid="deleting"))))
    clock.ns += S
    assert pods.replace([raw(make_pod(uid="deleting")), b'{"metadata": 5}', raw(make_pod(uid="new"))]) == 1
    still, absent = pods.find("deleting"), pods.find("absent")
    assert still is not None
    assert absent is not None
    assert still.deleting_since_ns == 1000 * S
    assert absent.deleting_since_ns == 0
    assert len(pods) == 2
    pods.replace([raw(make_pod(uid="absent"))])
    absent = pods.find("absent")
    assert absent is not None
    assert not absent.gone_ns


def test_a_deletion_without_a_warning_is_one(pods: PodIndex) -> None:
    """Kubectl delete --force: the pod is gone at once. A static pod's mirror is only a mirror."""
    static = make_pod(uid="m")
    static["metadata"]["annotations"] = {"kubernetes.io/config.hash": "f" * 32}
    for item in (make_pod(uid="u"), static):
        pods.apply("ADDED", raw(item))
        pods.apply("DELETED", raw(deleting(item)))
    forced, mirror = pods.find("u"), pods.find("f" * 32)
    assert forced is not None
    assert mirror is not None
    assert forced.deleting_since_ns == 1000 * S
    assert (mirror.uid, mirror.deleting_since_ns) == ("m", 0)


def test_a_mirror_that_is_made_anew(pods: PodIndex, clock: Clock) -> None:
    """The hash leads to the newer one, also once the older is forgotten."""
    for uid in ("m1", "m2"):
        static = make_pod(uid=uid)
        static["metadata"]["annotations"] = {"kubernetes.io/config.hash": "f" * 32}
        pods.apply("ADDED", raw(static))
        if uid == "m1":
            pods.apply("DELETED", raw(static))
    clock.ns += 601 * S
    pods.apply("ADDED", raw(make_pod(uid="x")))
    found = pods.find("f" * 32)
    assert found is not None
    assert found.uid == "m2"


def hashed(uid: str, name: str, config_hash: str) -> dict[str, Any]:
    pod = make_pod(uid=uid, name=name)
    pod["metadata"]["annotations"] = {"kubernetes.io/config.hash": config_hash}
    return pod


def test_an_annotation_takes_nobody_s_cgroup(pods: PodIndex) -> None:
    """Whoever may make a pod can write any hash: another pod's uid, or a static pod's hash."""
    for item in (hashed("evil", "evil", "victim"), make_pod(uid="victim", name="victim")):
        pods.apply("ADDED", raw(item))
    found = pods.find("victim")
    assert found is not None
    assert found.name == "victim"
    pods.apply("ADDED", raw(hashed("m", "kube-apiserver", "f" * 32)))
    pods.apply("ADDED", raw(hashed("thief", "thief", "f" * 32)))
    assert pods.find("f" * 32) is None


@pytest.mark.parametrize(
    ("kind", "api_version", "expected"),
    [
        ("Job", "batch/v1", ("job",)),
        ("Job", "batch.volcano.sh/v1alpha1", ()),
        ("StatefulSet", "apps.kruise.io/v1beta1", ()),
        ("Rollout", "argoproj.io/v1alpha1", ("rollout",)),
        ("Node", "v1", ()),
    ],
)
def test_owners_are_of_the_kind_that_the_cluster_means(
    pods: PodIndex, kind: str, api_version: str, expected: tuple[str, ...]
) -> None:
    pod = make_pod(uid="u")
    owner = {"kind": kind, "apiVersion": api_version, "name": "it", "uid": "o", "controller": True}
    pod["metadata"]["ownerReferences"] = [owner]
    pods.apply("ADDED", raw(pod))
    found = pods.find("u")
    assert found is not None
    assert tuple(one.kind for one in found.owners) == expected


def address(pods: PodIndex, ip: str, when_ns: int) -> str | None:
    """The uid of who alone claims it, all who do where there are several."""
    return " and ".join(pod.uid for pod in pods.at_address(ip, when_ns)) or None


def test_an_address_belongs_to_a_pod_from_then_to_then(pods: PodIndex, clock: Clock) -> None:
    ips = {"podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd00::7"}]}
    began = clock.ns
    pods.apply("ADDED", raw(make_pod(uid="first", **ips)))
    clock.ns += 10 * S
    pods.apply("MODIFIED", raw(make_pod(uid="first", **ips)))
    assert address(pods, "10.1.0.7", began) == address(pods, "fd00::7", clock.ns) == "first"
    assert address(pods, "10.1.0.7", began - 1) is None, "before, it may have been another's"
    pods.apply("DELETED", raw(make_pod(uid="first", **ips)))
    ended = clock.ns
    clock.ns += 5 * S
    assert address(pods, "10.1.0.7", ended) == "first", "reported late"
    assert address(pods, "10.1.0.7", ended + 1) is None
    pods.apply("ADDED", raw(make_pod(uid="second", **ips)))
    assert address(pods, "10.1.0.7", clock.ns) == "second"
    assert address(pods, "10.1.0.7", clock.ns - 1) is None


def test_a_deletion_that_nobody_told_of(pods: PodIndex, clock: Clock) -> None:
    """The list after the gap lacks the pod: nobody knows how long it had its address, and the next one has it now."""
    ips = {"podIPs": [{"ip": "10.1.0.7"}]}
    pods.apply("ADDED", raw(make_pod(uid="first", **ips)))
    in_gap = clock.ns + S
    clock.ns += 10 * S
    pods.replace([raw(make_pod(uid="second", **ips))])
    assert address(pods, "10.1.0.7", in_gap) is None
    assert address(pods, "10.1.0.7", clock.ns) == "second"
    gone = pods.find("first")
    assert gone is not None
    assert (gone.gone_ns, gone.deleting_since_ns) == (clock.ns, 0), "an end of the gap is nothing that was expected"
    assert len(pods) == 1
    clock.ns += 601 * S
    pods.replace([])
    assert pods.find("first") is None
    assert pods._by_address == {}


def test_an_address_that_two_claim_is_nobodys(pods: PodIndex, clock: Clock) -> None:
    """Unless the first is being deleted: its address may be given to the next before it is gone."""
    ips = {"podIPs": [{"ip": "10.1.0.7"}]}
    pods.apply("ADDED", raw(make_pod(uid="first", **ips)))
    pods.apply("ADDED", raw(make_pod(uid="second", **ips)))
    clock.ns += S
    pods.apply("MODIFIED", raw(make_pod(uid="first", **ips)))
    assert address(pods, "10.1.0.7", clock.ns) == "second and first"
    pods.apply("DELETED", raw(make_pod(uid="first", **ips)))
    assert address(pods, "10.1.0.7", clock.ns) == "second"
    other = {"podIPs": [{"ip": "10.1.0.8"}]}
    pods.apply("ADDED", raw(make_pod(uid="third", **other)))
    pods.apply("MODIFIED", raw(deleting(make_pod(uid="third", **other))))
    pods.apply("ADDED", raw(make_pod(uid="fourth", **other)))
    pods.apply("DELETED", raw(make_pod(uid="third", **other)))
    assert address(pods, "10.1.0.8", clock.ns) == "fourth"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_addresses_of_pods_that_ended_are_free_and_the_node_s_are_known(
    pods: PodIndex, clock: Clock, phase: str
) -> None:
    ips = {"podIPs": [{"ip": "10.1.0.7"}]}
    host = make_pod(uid="host", podIPs=[{"ip": "192.168.0.5"}])
    host["spec"]["hostNetwork"] = True
    pods.apply("ADDED", raw(host))
    pods.apply("ADDED", raw(make_pod(uid="u", **ips)))
    pods.apply("MODIFIED", raw(make_pod(uid="u", phase=phase, **ips)))
    assert [pod.host_network for pod in pods.at_address("192.168.0.5", clock.ns)] == [True]
    assert address(pods, "10.1.0.7", clock.ns + 1) is None


@pytest.mark.parametrize(
    ("ends", "phase", "done"),
    [([0, 0], "Running", True), ([0, None], "Running", False), ([0, 1], "Running", False), ([], "Pending", False),
     ([1], "Succeeded", True), ([1], "Failed", False)],
)  # fmt: skip
def test_a_job_is_done_when_all_that_it_is_for_ended_well(
    pods: PodIndex, ends: list[int | None], phase: str, *, done: bool
) -> None:
    """Sidecars, which are init containers, do not count: they are what is told to stop then."""
    statuses = [
        {"name": f"c{index}", "state": {} if end is None else {"terminated": {"exitCode": end}}}
        for index, end in enumerate(ends)
    ]
    pod = make_pod(uid="u", owner=("Job", "j"), phase=phase, containerStatuses=statuses)
    pod["status"]["initContainerStatuses"] = [{"name": "sidecar", "state": {"running": {}}}]
    pods.apply("ADDED", raw(pod))
    found = pods.find("u")
    assert found is not None
    assert found.done_since_ns == (1000 * S if done else 0)
    assert found.owners == (Owner("job", "j", "uid-j"),)


def test_a_job_is_done_since_it_was_learned(pods: PodIndex, clock: Clock) -> None:
    """Later changes do not move that, and a stale list does not take it back."""
    running, done = (make_pod(uid="u", owner=("Job", "j"), phase=phase) for phase in ("Running", "Succeeded"))
    for item in (running, done, done, running):
        clock.ns += S
        pods.apply("MODIFIED", raw(item))
    found = pods.find("u")
    assert found is not None
    assert found.done_since_ns == 1002 * S


def test_services_pass_their_addresses_on(clock: Clock) -> None:
    services = ServiceIndex(clock)
    first = {"metadata": {"name": "a", "namespace": "n", "uid": "1"}, "spec": {"clusterIP": "10.9.0.1"}}
    second = {"metadata": {"name": "b", "namespace": "n", "uid": "2"}, "spec": {"clusterIP": "10.9.0.1"}}
    services.apply("ADDED", raw(first))
    began = clock.ns
    clock.ns += S
    services.apply("MODIFIED", raw(first))
    found = services.at_address("10.9.0.1", began)
    assert found is not None
    assert found.name == "a"
    assert services.at_address("10.9.0.1", began - 1) is None
    assert services.replace([raw(second), b"{}"]) == 1
    assert services.at_address("10.9.0.1", began) is None
    found = services.at_address("10.9.0.1", clock.ns)
    assert found is not None
    assert found.name == "b"


def test_jobs_without_a_cron_job() -> None:
    jobs = JobIndex()
    metadata = {"name": "j", "namespace": "n", "uid": "1"}
    owner = {"kind": "CronJob", "name": "c", "uid": "9", "controller": True}
    assert jobs.replace([raw({"metadata": {**metadata, "ownerReferences": [owner]}}), b"5"]) == 1
    jobs.apply("ADDED", raw({"metadata": {**metadata, "uid": "2"}}))
    assert (jobs.cronjob_of("1"), jobs.cronjob_of("2"), jobs.cronjob_of("3")) == ("c", "", "")
    jobs.apply("DELETED", raw({"metadata": metadata}))
    assert jobs.cronjob_of("1") == ""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["metadata", "spec", "status", "name", "ownerReferences", "labels", "containerStatuses"]), _JSON)
def test_a_pod_that_is_not_as_it_should_be(place: str, value: Any) -> None:
    """It is refused or understood, and does not touch the others."""
    pods = PodIndex(NODE)
    pods.apply("ADDED", raw(make_pod(uid="good")))
    pod = make_pod(uid="odd")
    (pod if place in pod else pod["metadata"] if place != "containerStatuses" else pod["status"])[place] = value
    try:
        pods.apply("ADDED", raw(pod))
    except msgspec.MsgspecError:
        assert pods.find("odd") is None
    assert pods.find("good") is not None
    assert msgspec.json.decode(raw(make_pod()), type=PodObject).status.phase == "Running"
