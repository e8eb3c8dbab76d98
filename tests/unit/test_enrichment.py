"""The stage that gives anomalies their pods: whose, how long it waits, what it never says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.api_server import make_pod
from helpers.schema import PROMETHEUS

from tapio.anomalies import ABNORMAL_EXIT, OOM_KILL, Anomaly
from tapio.config import EpisodesConfig, KubernetesConfig
from tapio.enrich.attribution import attribute
from tapio.enrich.cgroups import CgroupIndex
from tapio.enrich.chosen import is_chosen
from tapio.enrich.pods import PodIndex
from tapio.enrich.stage import Enriched, Enrichment
from tapio.episodes import Emitted, Episodes
from tapio.errors import UsageError
from tapio.prometheus import AgentCollector
from tapio.telemetry import Telemetry

NODE = "worker-3"
S = 1_000_000_000
MEMORY = 4
UIDS = [f"5f0c4a1e-9d3b-4a6c-8e21-0b9f6d1c2a3{digit}" for digit in range(4)]
ID = "ab" * 32


class FakeCluster:
    """Pods without an API server."""

    def __init__(self) -> None:
        self.now_ns = 100 * S
        self.pods = PodIndex(NODE, lambda: self.now_ns)
        self.watches = {"pods": True}
        self.addresses: dict[str, dict[str, str]] = {}

    def owners(self, pod: Any) -> Any:
        return pod.owners

    def peer(self, address: str, _boot_ns: int) -> dict[str, str] | None:
        return self.addresses.get(address)

    def learn(self, uid: str, **pod: Any) -> None:
        self.pods.apply("MODIFIED", json.dumps(make_pod("p", uid, containers={"api": ID}, **pod)).encode())

    def delete(self, uid: str) -> None:
        pod = make_pod("p", uid, containers={"api": ID})
        self.pods.apply("DELETED", json.dumps(pod).encode())


class FakeRescan:
    """A walk that finds what it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.found: Any = None

    def ask(self) -> None:
        self.asked += 1

    def take(self) -> Any:
        found, self.found = self.found, None
        return found


class Stage:
    """A stage with its indexes."""

    def __init__(self) -> None:
        self.cluster, self.cgroups, self.rescan = FakeCluster(), CgroupIndex([0, MEMORY]), FakeRescan()
        self.stage = Enrichment(NODE, self.cgroups, self.cluster, self.rescan)  # type: ignore[arg-type]

    def container(self, number: int, uid: str, hierarchy: int = 0, container_id: str = ID, made_ns: int = 0) -> None:
        self.cgroups.add((hierarchy, number), f"/kubepods/pod{uid}/{container_id}", made_ns)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def exit_of(boot_ns: int = 100 * S, count: int = 1, first_ns: int = 0, **data: Any) -> Emitted:
    fields = {"pid": 1, "signal": 0, "exit_code": 3, **data}
    anomaly = Anomaly(ABNORMAL_EXIT, boot_ns, "Abnormal exit", fields, "error", ())
    return Emitted(anomaly, count, "", count, first_ns or boot_ns, boot_ns)


def uids(found: list[Enriched]) -> list[str | None]:
    return [item.data.get("pod_uid") for item in found]


def test_both_hierarchies_or_one_of_them_name_the_pod(stage: Stage) -> None:
    stage.cluster.learn(UIDS[0])
    stage.container(7, UIDS[0])
    stage.container(9, UIDS[0], MEMORY)
    stage.cgroups.add((0, 1), "/", 0)
    stage.cgroups.add((0, 5), "/system.slice/containerd.service", 0)
    v1 = {"cgroup_v1_id": 9, "cgroup_v1_hierarchy": MEMORY}
    leaving = [exit_of(cgroup_id=7), exit_of(cgroup_id=7, **v1), exit_of(cgroup_id=1, **v1), exit_of(cgroup_id=5, **v1),
               exit_of(**v1)]  # fmt: skip
    assert uids(stage.stage.admit(leaving, 100 * S)) == [UIDS[0]] * 5
    assert stage.stage.outcomes["pod"] == 5


def test_hierarchies_that_contradict_each_other_name_nobody(stage: Stage) -> None:
    for uid in UIDS[:2]:
        stage.cluster.learn(uid)
    stage.container(7, UIDS[0])
    stage.container(9, UIDS[1], MEMORY)
    stage.container(11, UIDS[2], MEMORY)
    both = {"cgroup_v1_hierarchy": MEMORY}
    assert uids(stage.stage.admit([exit_of(cgroup_id=7, cgroup_v1_id=9, **both)], 100 * S)) == [None]
    assert stage.stage.outcomes["ambiguous"] == 1
    # One of the two is not known to the cluster: it is waited for, and then nobody is named.
    assert stage.stage.admit([exit_of(cgroup_id=7, cgroup_v1_id=11, **both)], 100 * S) == []
    assert uids(stage.stage.due(103 * S)) == [None]
    assert stage.stage.misses == 2


def test_two_containers_of_one_pod_name_no_container(stage: Stage) -> None:
    stage.cluster.learn(UIDS[0])
    stage.container(7, UIDS[0])
    stage.container(9, UIDS[0], MEMORY, "cd" * 32)
    (found,) = stage.stage.admit([exit_of(cgroup_id=7, cgroup_v1_id=9, cgroup_v1_hierarchy=MEMORY)], 100 * S)
    assert found.data["pod_uid"] == UIDS[0]
    assert "container_id" not in found.data


def test_an_event_of_before_an_id_was_given_anew_names_nobody(stage: Stage) -> None:
    for uid in UIDS[:2]:
        stage.cluster.learn(uid)
    stage.container(7, UIDS[0], made_ns=50 * S)
    stage.cgroups.remove((0, 7), 90 * S)
    stage.container(7, UIDS[1], made_ns=95 * S)
    assert (
        stage.stage.admit([exit_of(93 * S, cgroup_id=7), exit_of(96 * S, cgroup_id=7)], 100 * S)[0].data["pod_uid"]
        == UIDS[1]
    )
    assert uids(stage.stage.due(103 * S)) == [None]


def test_a_hierarchy_that_is_not_watched_is_not_waited_for(stage: Stage) -> None:
    (found,) = stage.stage.admit([exit_of(cgroup_v1_id=9, cgroup_v1_hierarchy=7)], 100 * S)
    assert found.context is not None
    assert (found.context.node, found.context.namespace, found.context.entities) == (NODE, "", ())
    assert stage.stage.outcomes["no_cgroup"] == 1


def test_what_comes_before_its_cgroup_or_its_pod_waits_for_them(stage: Stage) -> None:
    """Each leaves as soon as it can, the order of the others does not matter to it."""
    stage.cluster.learn(UIDS[0])
    stage.container(8, UIDS[1])
    assert stage.stage.admit([exit_of(cgroup_id=7), exit_of(cgroup_id=8)], 100 * S) == []
    assert stage.stage.due(101 * S) == []
    stage.container(7, UIDS[0])
    assert uids(stage.stage.due(101 * S)) == [UIDS[0]]
    stage.cluster.learn(UIDS[1])
    assert uids(stage.stage.due(102 * S - 1)) == [UIDS[1]]
    assert stage.stage.due(200 * S) == []
    assert stage.stage.misses == 0


def test_the_container_is_waited_for_too(stage: Stage) -> None:
    """A crash in a container's first second comes before the kubelet's status; at last it leaves with its pod alone."""
    stage.cluster.learn(UIDS[0])
    stage.container(7, UIDS[0], container_id="cd" * 32)
    assert stage.stage.admit([exit_of(cgroup_id=7)], 100 * S) == []
    (found,) = stage.stage.due(102 * S)
    assert found.context is not None
    assert [entity.kind for entity in found.context.entities] == ["pod", "deployment", "replicaset"]
    assert stage.stage.outcomes["container_unknown"] == 1
    assert stage.stage.misses == 0


def test_the_stage_holds_a_bounded_number_for_two_seconds(stage: Stage) -> None:
    stage.container(7, UIDS[0])
    leaving = [exit_of(cgroup_id=7) for _ in range(1100)]
    assert len(stage.stage.admit(leaving, 100 * S)) == 76
    assert stage.stage.held_full == 76
    assert stage.stage.due(102 * S - 1) == []
    assert len(stage.stage.due(102 * S)) == 1024
    assert stage.stage.misses == 1100


def test_a_stop_lets_everything_go(stage: Stage) -> None:
    stage.stage.admit([exit_of(cgroup_id=7, count=5)], 100 * S)
    assert len(stage.stage.due(None)) == 1
    assert stage.stage.outcomes["cgroup_unknown"] == 5


def test_a_cgroup_that_the_kernel_did_not_tell_of_is_looked_for(stage: Stage) -> None:
    stage.cluster.learn(UIDS[0])
    stage.stage.admit([exit_of(cgroup_id=7)], 100 * S)
    stage.stage.due(100 * S + S // 4)
    assert stage.rescan.asked == 0
    stage.stage.due(100 * S + 3 * S // 4)
    assert stage.rescan.asked == 1
    other = CgroupIndex([0])
    other.add((0, 7), f"/kubepods/pod{UIDS[0]}/{ID}", 0)
    stage.rescan.found = {(0, 7): other.find((0, 7), 0)}
    assert uids(stage.stage.due(101 * S)) == [UIDS[0]]


def test_a_pod_inside_of_a_pod_is_the_one_that_the_cluster_knows(stage: Stage) -> None:
    """A node that is a pod: seen from within, and from the node below it."""
    inner = f"/kubepods/pod{UIDS[0]}/{ID}/kubelet/kubepods/pod{UIDS[1]}/{'cd' * 32}"
    stage.cgroups.add((0, 7), inner, 0)
    for known in UIDS[:2]:
        cluster = FakeCluster()
        cluster.learn(known)
        found = attribute({"cgroup_id": 7}, S, stage.cgroups, cluster.pods.find)
        assert found.pod is not None
        assert found.pod.uid == known
    found = attribute({"cgroup_id": 7}, S, stage.cgroups, lambda _uid: None)
    assert (found.result, found.container_id) == ("pod_unknown", "")


@pytest.mark.parametrize(
    ("boot_s", "signal", "expected"),
    [(110, 0, True), (109.9, 0, False), (109.9, 15, False), (120, 15, True), (120, 9, True), (120, 11, False),
     (120, 6, False)],
)  # fmt: skip
@pytest.mark.parametrize("why", ["deleted", "job done"])
def test_expected_are_ends_since_the_deletion_that_are_no_crash(
    stage: Stage, boot_s: float, signal: int, why: str, *, expected: bool
) -> None:
    """Since the agent learned of it: a crash in the same second may have been before."""
    stage.cluster.learn(UIDS[0], owner=("Job", "j"))
    stage.container(7, UIDS[0])
    stage.cluster.now_ns = 110 * S
    if why == "deleted":
        stage.cluster.delete(UIDS[0])
    else:
        stage.cluster.learn(UIDS[0], owner=("Job", "j"), phase="Succeeded")
    anomaly = exit_of(round(boot_s * S), cgroup_id=7, signal=signal).anomaly
    (found,) = stage.stage.mark_expected([anomaly])
    assert found.data.get("expected", False) is expected
    assert found.severity == ("info" if expected else "error")


@pytest.mark.parametrize("limits", [{}, {"max_keys": 0}, {"burst": 1}], ids=str)
def test_what_was_expected_is_never_folded_with_what_was_not(stage: Stage, limits: dict[str, int]) -> None:
    """Seven crashes before the deletion, eleven ends after it: two stories, also beyond what may leave or be kept."""
    stage.cluster.learn(UIDS[0])
    stage.container(7, UIDS[0])
    stage.container(9, UIDS[0])
    stage.cluster.now_ns = 110 * S
    stage.cluster.delete(UIDS[0])
    episodes = Episodes(EpisodesConfig(individual=1, **limits), lambda: "id")
    ends = [(109, 7)] * 4 + [(109, 9)] * 3 + [(111, 7)] * 5 + [(111, 9)] * 6
    anomalies = stage.stage.mark_expected(exit_of(at * S, cgroup_id=cgroup).anomaly for at, cgroup in ends)
    leaving = [*episodes.admit(anomalies, 112 * S), *episodes.flush()]
    counts = {(item.anomaly.severity, item.anomaly.data.get("expected")): 0 for item in leaving}
    for item in leaving:
        counts[item.anomaly.severity, item.anomaly.data.get("expected")] += item.count
    assert counts == {("error", None): 7, ("info", True): 11}


def test_an_oom_kill_of_a_pod_that_is_being_deleted_is_not_expected(stage: Stage) -> None:
    stage.cluster.learn(UIDS[0])
    stage.container(7, UIDS[0])
    stage.cluster.delete(UIDS[0])
    anomaly = Anomaly(OOM_KILL, 120 * S, "OOM kill", {"cgroup_id": 7, "signal": 9, "exit_code": 137}, "critical", ())
    (marked,) = stage.stage.mark_expected([anomaly])
    assert marked.severity == "critical"
    assert "expected" not in marked.data


@pytest.mark.parametrize(
    ("limit_path", "scope"),
    [
        (f"/kubepods/pod{UIDS[0]}/{ID}", "container"),
        (f"/kubepods/pod{UIDS[0]}/{ID}/inner", "container"),
        (f"/kubepods/pod{UIDS[0]}", "pod"),
        ("/kubepods", "ancestor"),
        (f"/kubepods/pod{UIDS[1]}/{ID}", "ancestor"),
        (None, None),
    ],
)
@pytest.mark.parametrize("hierarchy", [0, MEMORY])
def test_whose_limit_it_was(stage: Stage, limit_path: str | None, scope: str | None, hierarchy: int) -> None:
    """By the path of the cgroup that had it, in the hierarchy of the memory controller; pods need not be known."""
    stage.container(7, UIDS[0], hierarchy)
    if limit_path is not None:
        stage.cgroups.add((hierarchy, 3), limit_path, 0)
    victim = {"cgroup_v1_id": 7, "cgroup_v1_hierarchy": hierarchy} if hierarchy else {"cgroup_id": 7}
    anomaly = Anomaly(OOM_KILL, S, "OOM kill", {**victim, "limit_cgroup_id": 3, "oom_scope": "ancestor"}, "critical")
    stage.stage.admit([Emitted(anomaly, 1)], S)
    (found,) = stage.stage.due(None)
    assert found.data.get("oom_scope") == scope


def test_the_peer_is_added_for_connections_alone(stage: Stage) -> None:
    stage.cluster.addresses["10.1.0.7"] = {"namespace": "default", "pod": "db-0"}
    found = stage.stage.admit([exit_of(dst_ip="10.1.0.7"), exit_of(dst_ip="10.1.0.8"), exit_of()], S)
    assert [item.data.get("peer") for item in found] == [{"namespace": "default", "pod": "db-0"}, None, None]


def test_every_series_is_described(stage: Stage) -> None:
    telemetry = Telemetry([], [])
    telemetry.enrichment = stage.stage
    stage.cluster.learn(UIDS[0])
    seen: dict[str, float] = {}
    for family in AgentCollector(telemetry).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name in PROMETHEUS
        labels = {attribute["ref"] for attribute in PROMETHEUS[name].get("attributes", ())}
        for sample in family.samples:
            assert set(sample.labels) <= labels
            seen[name] = sample.value
    assert (seen["tapio_k8s_pods"], seen["tapio_k8s_watch_up"], seen["tapio_enrichment_misses_total"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("enabled", "node", "host", "chosen"),
    [("auto", "n", "10.0.0.1", True), ("auto", "", "10.0.0.1", False), ("auto", "n", "", False),
     (False, "n", "10.0.0.1", False), (True, "n", "10.0.0.1", True)],
)  # fmt: skip
def test_when_it_is_on(enabled: Any, node: str, host: str, *, chosen: bool) -> None:
    assert is_chosen(KubernetesConfig(enabled=enabled), node, {"KUBERNETES_SERVICE_HOST": host}) is chosen


@pytest.mark.parametrize(("node", "missing"), [("", "NODE_NAME"), ("n", "KUBERNETES_SERVICE_HOST")])
def test_what_it_lacks_when_it_was_asked_for(node: str, missing: str) -> None:
    with pytest.raises(UsageError, match=f"enabling kubernetes: the environment has no {missing}: "):
        is_chosen(KubernetesConfig(enabled=True), node, {})
