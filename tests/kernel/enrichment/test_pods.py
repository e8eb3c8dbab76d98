"""Real faults in cgroups named like those of kubelets: the right pod in every occurrence, and never a wrong one."""

from __future__ import annotations

import signal
import time
import uuid

import pytest
from helpers import kubepods, victims
from helpers.api_server import ApiServerDouble, make_pod
from helpers.cgroups import ScratchCgroup
from helpers.kubepods import NODE, arrived, cgroup_at, container, entities, fail, new_id, new_pod
from helpers.running_agent import RunningAgent, wait_for

pytestmark = pytest.mark.kernel

MIB = 1 << 20


@pytest.mark.parametrize("layout", kubepods.LAYOUTS)
def test_the_right_pod_in_every_layout(agent: RunningAgent, api: ApiServerDouble, layout: str) -> None:
    """Three kinds of faults, seven exits: pod, container and deployment, the namespace and the runtime's id."""
    name = f"checkout-{uuid.uuid4().hex[:5]}"
    uid, container_id = new_pod(api, agent, name)
    with container(layout, uid, container_id) as cgroup:
        for code in range(1, 8):
            fail(cgroup, code)
        cgroup.run(victims.command("die_by", int(signal.SIGTERM)))
        cgroup.run(["/usr/bin/python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"])
        found = arrived(agent, cgroup, 10)  # the refused process fails, too
    assert len(found) == 10
    assert sum(item["type"] == "kernel.network.connection_refused" for item in found) == 1
    for item in found:
        assert item["context"]["node"] == NODE
        assert item["context"]["namespace"] == "default"
        assert list(entities(item).items()) == [
            ("pod", f"default/{name}"),
            ("deployment", "default/checkout-api"),
            ("replicaset", "default/checkout-api-7f8b9"),
            ("container", f"default/{name}/api"),
        ]
        assert item["data"]["pod_uid"] == uid
        assert item["data"]["container_id"] == container_id
        assert "expected" not in item["data"]


@pytest.mark.parametrize(
    ("limited", "victim", "scope"),
    [("container", "container", "container"), ("container", "nested", "container"), ("pod", "container", "pod"),
     ("above", "container", "ancestor")],
)  # fmt: skip
def test_whose_memory_limit_was_hit(
    agent: RunningAgent, api: ApiServerDouble, limited: str, victim: str, scope: str
) -> None:
    """The path of the cgroup that had the limit says it: the container's, also from inside, the pod's, or another."""
    uid, container_id = new_pod(api, agent)
    path = f"kubepods/burstable/pod{uid}/{container_id}/nested"
    with cgroup_at(path) as made:
        place = {"above": "kubepods", "pod": f"kubepods/burstable/pod{uid}", "container": path.removesuffix("/nested"),
                 "nested": path}  # fmt: skip
        made[place[limited]].limit_memory(32 * MIB)
        cgroup = made[place[victim]]
        process = cgroup.run(victims.command("eat_memory", 4))
        (item,) = arrived(agent, cgroup)
        limit_id = made[place[limited]].memory_v1_id or made[place[limited]].id
    assert item["type"] == "kernel.container.oom_kill"
    data = item["data"]
    assert (data["oom_scope"], data["memory_limit_bytes"], data["limit_cgroup_id"]) == (scope, 32 * MIB, limit_id)
    assert (data["pid"], data["trigger_pid"], data["trigger_comm"]) == (process.pid, process.pid, "python3")
    assert (data["pod_uid"], data["container_id"]) == (uid, container_id)


def test_200_containers_that_live_for_less_than_300_ms(agent: RunningAgent, api: ApiServerDouble) -> None:
    """A cgroup that is made, fails and is removed before anybody could look it up: none is missed, each has its pod."""
    pods = [new_pod(api, agent, f"short-{number}") for number in range(20)]
    expected: dict[int, str] = {}
    longest_s = 0.0
    layouts = list(kubepods.LAYOUTS)
    for number in range(200):
        uid, container_id = pods[number % 20]
        began = time.monotonic()
        with container(layouts[number % len(layouts)], uid, container_id) as cgroup:
            expected[fail(cgroup, 7).pid] = uid
        longest_s = max(longest_s, time.monotonic() - began)

    def found() -> dict[int, str]:
        return {
            item["data"]["pid"]: item["data"].get("pod_uid", "")
            for item in agent.occurrences()
            if item["data"].get("exit_code") == 7 and item["data"]["pid"] in expected
        }

    wait_for(lambda: len(found()) == 200, 15, lambda: str(len(found())))
    assert found() == expected
    print(f"200 containers, the longest lived {longest_s * 1000:.0f} ms")


def test_a_pod_that_comes_after_its_event_is_waited_for(agent: RunningAgent, api: ApiServerDouble) -> None:
    """Up to two seconds; meanwhile others are not held up."""
    late, container_id = str(uuid.uuid4()), new_id()
    known = new_pod(api, agent)
    with container("systemd containerd", late, container_id) as first, container("kind", *known) as second:
        fail(first)
        fail(second)
        assert len(arrived(agent, second)) == 1
        assert agent.of_cgroup(first.id) == []
        api.put("pods", make_pod("late", late, containers={"api": container_id}))
        (item,) = arrived(agent, first)
    assert entities(item)["pod"] == "default/late"


def test_a_pod_that_never_comes_is_counted(agent: RunningAgent) -> None:
    """After two seconds it leaves without pod; the runtime's id stays, it is the kernel's word."""
    misses, container_id = agent.metric("tapio_enrichment_misses_total"), new_id()
    began = time.monotonic()
    with container("cgroupfs containerd", str(uuid.uuid4()), container_id) as cgroup:
        for _ in range(5):
            fail(cgroup)
        found = arrived(agent, cgroup, 5)
    assert time.monotonic() - began > 2
    for item in found:
        assert item["context"] == {"node": NODE}
        assert item["data"]["container_id"] == container_id
        assert "pod_uid" not in item["data"]
    assert agent.metric("tapio_enrichment_misses_total") - misses == 5
    assert agent.metric('tapio_enriched_total{result="pod_unknown"}') >= 5


def test_processes_of_the_host_have_no_pod_and_wait_for_nothing(
    agent: RunningAgent, api: ApiServerDouble, cgroup: ScratchCgroup
) -> None:
    """Also where a pod is near: CRI-O's monitor in the pod's slice, a user's cgroup that has a known pod's name."""
    misses = agent.metric("tapio_enrichment_misses_total")
    fail(cgroup)
    (item,) = arrived(agent, cgroup, 1, 1.5)
    assert item["context"] == {"node": NODE}
    uid, container_id = new_pod(api, agent)
    low = uid.replace("-", "_")
    for path in (
        f"kubepods/burstable/pod{uid}/crio-conmon-{new_id()}",
        "kubepods/burstable",
        f"pods/pod{uid}/{container_id}",
        f"user.slice/user-1000.slice/user@1000.service/kubepods/burstable/pod{uid}/{container_id}",
        f"system.slice/mine.service/kubepods-pod{low}.slice:cri-containerd:{container_id}",
    ):
        with cgroup_at(path) as made:
            fail(made[path])
            (item,) = arrived(agent, made[path], 1, 1.5)
            assert item["context"] == {"node": NODE}
    assert agent.metric("tapio_enrichment_misses_total") == misses


def test_a_pod_replaced_under_its_name_and_pods_of_other_nodes(agent: RunningAgent, api: ApiServerDouble) -> None:
    """The old db-0 keeps its uid, the new one has its own; another node's pod is nobody here."""
    old, old_container = new_pod(api, agent, "db-0", owner=("StatefulSet", "db"), labels={})
    with container("systemd containerd", old, old_container) as before:
        pods = agent.metric("tapio_k8s_pods")
        api.delete("pods", old)
        wait_for(lambda: agent.metric("tapio_k8s_pods") < pods)
        new, new_container = new_pod(api, agent, "db-0", owner=("StatefulSet", "db"), labels={})
        with container("systemd containerd", new, new_container) as after:
            fail(before)
            fail(after)
            assert [item["data"]["pod_uid"] for item in arrived(agent, before)] == [old]
            assert [item["data"]["pod_uid"] for item in arrived(agent, after)] == [new]
    elsewhere, foreign = str(uuid.uuid4()), new_id()
    api.put("pods", make_pod("elsewhere", elsewhere, node="worker-4", containers={"api": foreign}))
    with container("systemd containerd", elsewhere, foreign) as cgroup:
        fail(cgroup)
        (item,) = arrived(agent, cgroup)
    assert "entities" not in item["context"]


def test_a_container_of_which_the_status_says_nothing(agent: RunningAgent, api: ApiServerDouble) -> None:
    """The sandbox's: the pod is known, a container's name is not made up."""
    uid, _ = new_pod(api, agent)
    sandbox = new_id()
    with container("systemd containerd", uid, sandbox) as cgroup:
        fail(cgroup)
        (item,) = arrived(agent, cgroup)
    assert item["data"]["pod_uid"] == uid
    assert "container" not in entities(item)


def test_the_figures_add_up(agent: RunningAgent) -> None:
    """What was found of all anomalies, and no model of the client's in the agent's memory."""
    text = agent.get("/metrics")[1]
    total = sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("tapio_enriched_total{"))
    left = sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("tapio_occurrences_total{"))
    assert total == left > 0
    assert agent.metric('tapio_enriched_total{result="ambiguous"}') == 0
    assert agent.metric('tapio_observer_up{observer="enrichment"}') == 1
    assert agent.metric('tapio_lost_events_total{observer="enrichment"}') == 0
