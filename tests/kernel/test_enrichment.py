"""Real faults in cgroups named like those of kubelets: the right pod in every occurrence, and never a wrong one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import kubepods, victims
from helpers.api_server import ApiServerDouble, api_server, make_pod
from helpers.cgroups import ScratchCgroup
from helpers.kubepods import NODE, cgroup_at, cluster_agent, container, new_id
from helpers.running_agent import AGENT, RunningAgent, running_agent, wait_for
from helpers.tunnel import inside, tunnel

pytestmark = pytest.mark.kernel

MIB = 1 << 20
Found = dict[str, Any]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServerDouble]:
    folder = tmp_path_factory.mktemp("cluster")
    with api_server(folder) as double:
        yield double


@pytest.fixture(scope="module")
def agent(api: ApiServerDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    with pytest.MonkeyPatch.context() as patch:
        config = 'name_peers = "services"\nname_cronjobs = true\n'
        with cluster_agent(tmp_path_factory.mktemp("enriched"), api, patch, config) as running:
            wait_for(lambda: running.metric('tapio_k8s_watch_up{resource="jobs"}') == 1)
            yield running


def fail(cgroup: ScratchCgroup, code: int = 3) -> subprocess.Popen[bytes]:
    return cgroup.run(["/bin/sh", "-c", f"exit {code}"])


def arrived(agent: RunningAgent, cgroup: ScratchCgroup, expected: int = 1, timeout_s: float = 10) -> list[Found]:
    """The occurrences of the cgroup once there are `expected`, after time for one too many to show up."""
    wait_for(lambda: len(agent.of_cgroup(cgroup.id)) >= expected, timeout_s, lambda: str(agent.of_cgroup(cgroup.id)))
    agent.settle()
    return agent.of_cgroup(cgroup.id)


def entities(found: Found) -> dict[str, str]:
    return {entity["kind"]: entity["id"] for entity in found["context"].get("entities", ())}


def new_pod(api: ApiServerDouble, agent: RunningAgent, name: str = "", **pod: Any) -> tuple[str, str]:
    """A pod with one container, that the agent knows of. Its uid and the container's id."""
    container_id, before = new_id(), agent.metric("tapio_k8s_pods")
    made = make_pod(name or f"checkout-{uuid.uuid4().hex[:5]}", containers={"api": container_id}, node=NODE, **pod)
    api.put("pods", made)
    wait_for(lambda: agent.metric("tapio_k8s_pods") > before)
    return made["metadata"]["uid"], container_id


def change(api: ApiServerDouble, uid: str, **metadata: Any) -> None:
    pod = api.objects["pods"][uid]
    pod["metadata"].update(metadata)
    api.put("pods", pod)
    time.sleep(0.3)


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


def test_the_figures_add_up(agent: RunningAgent) -> None:
    """What was found of all anomalies, and no model of the client's in the agent's memory."""
    text = agent.get("/metrics")[1]
    total = sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("tapio_enriched_total{"))
    left = sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("tapio_occurrences_total{"))
    assert total == left > 0
    assert agent.metric('tapio_enriched_total{result="ambiguous"}') == 0
    assert agent.metric('tapio_observer_up{observer="enrichment"}') == 1
    assert agent.metric('tapio_lost_events_total{observer="enrichment"}') == 0


def test_an_api_server_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known pods keep their names, the watch is down, the agent is ready; then a renewed token works."""
    with api_server(tmp_path) as api, cluster_agent(tmp_path, api, monkeypatch) as agent:
        wait_for(lambda: agent.metric('tapio_k8s_watch_up{resource="pods"}') == 1)
        uid, container_id = new_pod(api, agent)
        api.stop()
        wait_for(lambda: agent.metric('tapio_k8s_watch_up{resource="pods"}') == 0)
        with container("systemd containerd", uid, container_id) as cgroup:
            fail(cgroup)
            (item,) = arrived(agent, cgroup)
        assert item["data"]["pod_uid"] == uid
        assert agent.is_ready()
        (api.account / "token").write_text("second")
        api.tokens = {"second"}
        api.start()
        wait_for(lambda: agent.metric('tapio_k8s_watch_up{resource="pods"}') == 1, 90)
        assert api.asked[-1].token in api.tokens


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "localhost"), ("::1", "")])
def test_the_watch_works_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    """By name and over IPv6: list, watch, reconnect and a renewed token, in a process that can do nothing else."""
    with api_server(tmp_path, host, name) as api, cluster_agent(tmp_path, api, monkeypatch) as agent:
        up = 'tapio_k8s_watch_up{resource="pods"}'
        wait_for(lambda: agent.metric(up) == 1)
        new_pod(api, agent)
        api.drop_watches()
        wait_for(lambda: sum(asked.is_watch for asked in api.asked) == 2)
        new_pod(api, agent)
        (api.account / "token").write_text("second")
        api.tokens = {"second"}
        api.drop_watches()
        wait_for(lambda: api.asked[-1].is_watch and api.asked[-1].token in api.tokens and api.watchers == 1, 30)
        uid, container_id = new_pod(api, agent)
        with container("systemd containerd", uid, container_id) as cgroup:
            fail(cgroup)
            (item,) = arrived(agent, cgroup)
        assert item["data"]["pod_uid"] == uid
        open_files = {str(entry.readlink()) for entry in Path(f"/proc/{agent.pid}/fd").iterdir()}
        table = Path(f"/proc/{agent.pid}/net/tcp{'6' if ':' in host else ''}").read_text().splitlines()[1:]
        peers = {f"socket:[{row.split()[9]}]" for row in table if row.split()[2].endswith(f":{api.port:04X}")}
        assert open_files & peers, "the process that is looked at is the one that asks"
        for thread in Path(f"/proc/{agent.pid}/task").iterdir():
            status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
            assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
            assert status["Uid"].split() == ["65534"] * 4
        assert agent.metric('tapio_sandbox_up{mechanism="landlock"}') == 1


def test_a_way_to_the_api_server_that_is_gone_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reset, no answer, nothing to send: the watch is down after 30 s, and up again when the way is back."""
    with contextlib.ExitStack() as stack:
        wire = stack.enter_context(tunnel())
        with inside(wire.namespaces["left"]):
            api = stack.enter_context(api_server(tmp_path, "10.77.0.1"))
        stack.enter_context(inside(wire.namespaces["right"]))
        agent = stack.enter_context(cluster_agent(tmp_path, api, monkeypatch))
        up = 'tapio_k8s_watch_up{resource="pods"}'
        wait_for(lambda: agent.metric(up) == 1)
        wire.drop = lambda _sender, _packet: True
        began = time.monotonic()
        wait_for(lambda: agent.metric(up) == 0, 60)
        print(f"down after {time.monotonic() - began:.1f} s")
        wire.drop = lambda _sender, _packet: False
        wait_for(lambda: agent.metric(up) == 1, 60)
        new_pod(api, agent)


def test_exits_of_scope_main_with_the_container_observer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the chart sets it; and cgroups are known with the network observer alone, too."""
    with api_server(tmp_path) as api:
        config = '[container]\nexit_scope = "main"\n'
        with cluster_agent(tmp_path, api, monkeypatch, config, ["--observer=container"]) as agent:
            uid, container_id = new_pod(api, agent)
            with container("systemd containerd", uid, container_id) as cgroup:
                fail(cgroup, 3)
                cgroup.run(["/usr/bin/unshare", "--pid", "--fork", "/bin/sh", "-c", "(exit 8); exit 6"])
                found = arrived(agent, cgroup)
        assert [item["data"]["exit_code"] for item in found] == [6]
        assert found[0]["data"]["pod_uid"] == uid
        with cluster_agent(tmp_path, api, monkeypatch, "", ["--observer=network"]) as agent:
            uid, container_id = new_pod(api, agent)
            with container("kind", uid, container_id) as cgroup:
                cgroup.run(["/usr/bin/python3", "-c", "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"])
                (item,) = arrived(agent, cgroup)
        assert item["data"]["pod_uid"] == uid


@pytest.mark.parametrize(
    ("setting", "environment", "message"),
    [
        ("enabled = true", {"NODE_NAME": ""}, "the environment has no NODE_NAME"),
        ("enabled = true", {"KUBERNETES_SERVICE_HOST": ""}, "the environment has no KUBERNETES_SERVICE_HOST"),
        ('service_account_dir = "/nowhere"', {}, "reading the service account in /nowhere: "),
        ("", {"closed": "token"}, "token as uid 65534: permission denied: set fsGroup of the pod to 65534"),
        ("", {"closed": "ca.crt"}, "ca.crt as uid 65534: permission denied"),
    ],
)
def test_a_start_that_cannot_work_is_one_line(
    tmp_path: Path, api: ApiServerDouble, setting: str, environment: dict[str, str], message: str
) -> None:
    account = tmp_path / "account"
    account.mkdir()
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent, account):
        folder.chmod(0o755)
    for name in ("token", "ca.crt"):
        (account / name).write_bytes((api.account / name).read_bytes())
        (account / name).chmod(0o600 if name == environment.get("closed") else 0o644)
    config = tmp_path / "tapio.toml"
    account_line = "" if "service_account" in setting else f'service_account_dir = "{account}"\n'
    config.write_text(f"[kubernetes]\n{account_line}{setting}\n")
    command = [AGENT, f"--config={config}", f"--data-dir={tmp_path / 'data'}", "--metrics-address=", "--sink=file"]
    full = {**os.environ, **api.environment, "NODE_NAME": NODE, **environment}
    done = subprocess.run(command, env=full, capture_output=True, text=True, timeout=30, check=False)
    errors = [line for line in done.stderr.splitlines() if "INFO" not in line and "WARNING" not in line]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert message in errors[0]


def test_a_node_name_outside_of_a_cluster(tmp_path: Path, cgroup: ScratchCgroup, monkeypatch: Any) -> None:
    """Then only the node is named, and a line says so."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with running_agent(tmp_path / "data", "--observer=container", environment={"NODE_NAME": NODE}) as agent:
        fail(cgroup)
        (item,) = arrived(agent, cgroup)
        assert item["context"] == {"node": NODE}
        assert "occurrences name the node and no pods" in agent.log.read_text()
        assert "\ntapio_k8s_watch_up{" not in agent.get("/metrics")[1]


def test_check_shows_what_enrichment_needs(api: ApiServerDouble) -> None:
    environment = {**os.environ, **api.environment, "NODE_NAME": NODE}
    done = subprocess.run([AGENT, "--check"], env=environment, capture_output=True, text=True, check=False)
    rows = [line.split()[:3] for line in done.stdout.splitlines()]
    assert ["enrichment", "cgroup_mkdir", "attached"] in rows
    assert ["enrichment", "cgroup_rmdir", "attached"] in rows
