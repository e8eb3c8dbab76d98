"""What occurrences take from a pod's object: its owners, ends that were to be expected, the names of peers."""

from __future__ import annotations

import signal
import time
import uuid
from typing import Any

import pytest
from helpers import victims
from helpers.api_server import ApiServerDouble, make_pod
from helpers.kubepods import NODE, arrived, change, container, entities, fail, new_id, new_pod
from helpers.running_agent import RunningAgent

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("owner", "labels", "expected"),
    [
        (("StatefulSet", "db-x"), {}, {"statefulset": "default/db-x"}),
        (("DaemonSet", "agent-x"), {}, {"daemonset": "default/agent-x"}),
        # No label: a replica set of nobody's, whatever its name looks like.
        (("ReplicaSet", "a-b-c"), {}, {"replicaset": "default/a-b-c"}),
        (("ReplicaSet", "a-b-c"), {"pod-template-hash": "d"}, {"replicaset": "default/a-b-c"}),
        (("ReplicaSet", "a-b-c"), {"pod-template-hash": "c"},
         {"replicaset": "default/a-b-c", "deployment": "default/a-b"}),
        (("ReplicaSet", "-c"), {"pod-template-hash": "c"}, {"replicaset": "default/-c"}),
        (None, {}, {}),
    ],
)  # fmt: skip
def test_owners(agent: RunningAgent, api: ApiServerDouble, owner: Any, labels: Any, expected: dict[str, str]) -> None:
    uid, container_id = new_pod(api, agent, owner=owner, labels=labels)
    with container("cgroupfs cri-o", uid, container_id) as cgroup:
        fail(cgroup)
        (item,) = arrived(agent, cgroup)
    assert {kind: name for kind, name in entities(item).items() if kind not in ("pod", "container")} == expected


def test_a_static_pod_is_found_by_its_hash(agent: RunningAgent, api: ApiServerDouble) -> None:
    """Deleting its mirror stops nothing, so no end is expected then."""
    hashed, container_id = uuid.uuid4().hex, new_id()
    pod = make_pod("etcd-worker-3", namespace="kube-system", owner=("Node", NODE), containers={"etcd": container_id})
    pod["metadata"]["annotations"] = {"kubernetes.io/config.hash": hashed, "kubernetes.io/config.mirror": hashed}
    api.put("pods", pod)
    uid = pod["metadata"]["uid"]
    with container("systemd containerd", hashed, container_id) as cgroup:
        fail(cgroup)
        (item,) = arrived(agent, cgroup)
        change(api, uid, deletionTimestamp="2026-04-03T14:30:00Z")
        fail(cgroup)
        later = arrived(agent, cgroup, 2)[1]
    assert entities(item)["pod"] == "kube-system/etcd-worker-3"
    assert item["data"]["pod_uid"] == uid
    assert "expected" not in later["data"]


def test_ends_of_a_pod_that_is_being_deleted_are_expected(agent: RunningAgent, api: ApiServerDouble) -> None:
    """From the deletion on; a crash stays a crash, and so does what came before."""
    uid, container_id = new_pod(api, agent)
    with container("systemd cri-o", uid, container_id) as cgroup:
        fail(cgroup, 11)
        arrived(agent, cgroup)  # well within the second of the deletion
        change(api, uid, deletionTimestamp="2026-04-03T14:30:00Z", deletionGracePeriodSeconds=30)
        fail(cgroup, 13)
        cgroup.run(victims.command("die_by", int(signal.SIGTERM)))
        cgroup.run(victims.command("die_by", int(signal.SIGSEGV)))
        arrived(agent, cgroup, 4)
        api.delete("pods", uid)
        time.sleep(0.3)
        cgroup.run(victims.command("die_by", int(signal.SIGKILL)))
        found = {item["data"]["exit_code"]: item for item in arrived(agent, cgroup, 5)}
    judged = {code: (item["severity"], item["data"].get("expected")) for code, item in found.items()}
    assert judged == {
        11: ("warning", None),
        13: ("info", True),
        143: ("info", True),
        139: ("error", None),
        137: ("info", True),
    }
    assert {item["data"]["pod_uid"] for item in found.values()} == {uid}


def test_what_is_left_of_a_job_that_is_done_is_expected(agent: RunningAgent, api: ApiServerDouble) -> None:
    """A failing job is not; and the cron job is named."""
    owner = {"kind": "CronJob", "name": "backup", "uid": "c1", "controller": True}
    job = {"name": "backup-29", "namespace": "default", "uid": "uid-backup-29", "ownerReferences": [owner]}
    api.put("jobs", {"metadata": job})
    uid, container_id = new_pod(api, agent, "backup-29-abcde", owner=("Job", "backup-29"), labels={})
    with container("systemd containerd", uid, container_id) as cgroup:
        fail(cgroup, 5)
        (first,) = arrived(agent, cgroup)
        pod = api.objects["pods"][uid]
        pod["status"]["phase"] = "Succeeded"
        change(api, uid)
        fail(cgroup, 7)
        second = arrived(agent, cgroup, 2)[1]
    assert (first["severity"], first["data"].get("expected")) == ("warning", None)
    assert (second["severity"], second["data"].get("expected")) == ("info", True)
    assert entities(first)["job"] == "default/backup-29"
    assert entities(first)["cronjob"] == "default/backup"
    assert "deployment" not in entities(first)


def test_the_peer_is_named(agent: RunningAgent, api: ApiServerDouble) -> None:
    """A pod of this node or a service, by its address: refused connects from a pod and from the host."""
    uid, container_id = new_pod(api, agent)
    new_pod(api, agent, "peer-0", podIPs=[{"ip": "127.91.7.3"}])
    service = {"name": "db", "namespace": "prod", "uid": str(uuid.uuid4())}
    api.put("services", {"metadata": service, "spec": {"clusterIPs": ["127.91.7.5"]}})
    time.sleep(0.5)
    with container("systemd containerd", uid, container_id) as cgroup:
        for address in ("127.91.7.3", "127.91.7.5", "127.91.7.7"):
            connect = f"import socket; s = socket.socket(); s.connect_ex(('{address}', 9))"
            cgroup.run(["/usr/bin/python3", "-c", connect])
        found = {item["data"]["dst_ip"]: item["data"] for item in arrived(agent, cgroup, 3)}
    assert found["127.91.7.3"]["peer"] == {"namespace": "default", "pod": "peer-0"}
    assert found["127.91.7.5"]["peer"] == {"namespace": "prod", "service": "db"}
    assert "peer" not in found["127.91.7.7"]
