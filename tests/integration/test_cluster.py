"""What the watches of a cluster tell together: whose an address is, the owners of a pod, deletions in a gap."""

from __future__ import annotations

from helpers.api_server import ApiServerDouble, make_pod
from helpers.kubepods import NODE
from helpers.running_agent import wait_for

from tapio.clock import boot_ns
from tapio.config import KubernetesConfig
from tapio.enrich.kubernetes import Cluster


def test_a_deletion_during_a_gap(api: ApiServerDouble) -> None:
    """The pod is retired by the list; of the time of the gap no address is named, although a watch stands again."""
    gone = api.put("pods", make_pod("gone", podIPs=[{"ip": "10.1.2.3"}]))
    stays = api.put("pods", make_pod("stays", podIPs=[{"ip": "10.1.2.4"}]))
    cluster = Cluster(KubernetesConfig(service_account_dir=str(api.account)), NODE, api.environment)
    cluster.start()
    wait_for(lambda: cluster.peer("10.1.2.3", boot_ns()))
    api.stop()
    wait_for(lambda: not any(cluster.watches.values()))
    in_gap = boot_ns()
    api.objects["pods"].pop(gone["metadata"]["uid"])
    later = make_pod("later", podIPs=[{"ip": "10.1.2.3"}])
    api.objects["pods"][later["metadata"]["uid"]] = later
    api.restart_with_new_history()
    wait_for(lambda: cluster.peer("10.1.2.3", boot_ns()), 40)
    assert cluster.peer("10.1.2.3", boot_ns()) == {"namespace": "default", "pod": "later"}
    assert cluster.peer("10.1.2.4", boot_ns()) == {"namespace": "default", "pod": "stays"}
    assert cluster.peer("10.1.2.3", in_gap) is None
    assert cluster.peer("10.1.2.4", in_gap) is None
    found, kept = (cluster.pods.find(pod["metadata"]["uid"]) for pod in (gone, stays))
    assert found is not None
    assert kept is not None
    assert (bool(found.gone_ns), found.deleting_since_ns, kept.gone_ns) == (True, 0, 0)


def test_an_address_of_several_names_nobody(api: ApiServerDouble) -> None:
    """Two pods and a service, a pod and a service, the node's own address."""
    for number in range(2):
        api.put("pods", make_pod(f"twin-{number}", podIPs=[{"ip": "10.9.0.1"}]))
    api.put("pods", make_pod("single", podIPs=[{"ip": "10.9.0.2"}]))
    host = make_pod("host", podIPs=[{"ip": "10.9.0.3"}])
    host["spec"]["hostNetwork"] = True
    api.put("pods", host)
    api.put("pods", make_pod("alone", podIPs=[{"ip": "10.9.0.4"}]))
    for number in (1, 2, 3, 5):
        metadata = {"name": f"s{number}", "namespace": "prod", "uid": f"s{number}"}
        api.put("services", {"metadata": metadata, "spec": {"clusterIPs": [f"10.9.0.{number}"]}})
    api.put("pods", {**host, "metadata": {**host["metadata"], "uid": "h", "name": "other"}})
    config = KubernetesConfig(service_account_dir=str(api.account), name_peers="services")
    cluster = Cluster(config, NODE, api.environment)
    cluster.start()
    wait_for(lambda: all(cluster.watches.values()))
    named = {number: cluster.peer(f"10.9.0.{number}", boot_ns()) for number in range(1, 7)}
    assert {number: peer for number, peer in named.items() if peer} == {
        4: {"namespace": "default", "pod": "alone"},
        5: {"namespace": "prod", "service": "s5"},
    }


def test_services_and_cron_jobs_take_a_watch_each(api: ApiServerDouble) -> None:
    """Only where asked for; while one of the watches is down, no peer is named."""
    pod = make_pod("backup-1-x", owner=("Job", "backup-1"), labels={}, podIPs=[{"ip": "10.1.2.3"}])
    api.put("pods", pod)
    service = {"name": "db", "namespace": "prod", "uid": "s1"}
    api.put("services", {"metadata": service, "spec": {"clusterIP": "10.9.0.1", "clusterIPs": ["10.9.0.1", "fd00::1"]}})
    api.put("services", {"metadata": {**service, "name": "headless", "uid": "s2"}, "spec": {"clusterIP": "None"}})
    job = {"name": "backup-1", "namespace": "default", "uid": "uid-backup-1"}
    owner = {"kind": "CronJob", "name": "backup", "uid": "c1", "controller": True}
    api.put("jobs", {"metadata": {**job, "ownerReferences": [owner]}})
    config = KubernetesConfig(service_account_dir=str(api.account), name_peers="services", name_cronjobs=True)
    cluster = Cluster(config, NODE, api.environment)
    cluster.start()
    wait_for(lambda: cluster.watches == dict.fromkeys(("pods", "services", "jobs"), True))
    now = 1 << 62
    assert cluster.peer("10.9.0.1", now - 1) == {"namespace": "prod", "service": "db"}
    assert cluster.peer("fd00::1", now - 1) == {"namespace": "prod", "service": "db"}
    assert cluster.peer("10.1.2.3", now - 1) == {"namespace": "default", "pod": "backup-1-x"}
    assert cluster.peer("None", now - 1) is None
    assert cluster.peer("10.1.2.4", now - 1) is None
    found = cluster.pods.find(pod["metadata"]["uid"])
    assert found is not None
    assert [(owner.kind, owner.name) for owner in cluster.owners(found)] == [("job", "backup-1"), ("cronjob", "backup")]
    api.delete("services", "s1")
    wait_for(lambda: cluster.peer("10.9.0.1", now - 1) is None)
    api.stop()
    wait_for(lambda: not any(cluster.watches.values()))
    assert cluster.peer("10.1.2.3", now - 1) is None
