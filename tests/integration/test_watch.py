"""The watch against an API server that misbehaves in every way that API servers do."""

from __future__ import annotations

import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.api_server import ApiServerDouble, api_server, make_pod
from helpers.running_agent import wait_for

from tapio.clock import boot_ns
from tapio.config import KubernetesConfig
from tapio.enrich.api_server import ApiServer
from tapio.enrich.kubernetes import Cluster
from tapio.enrich.pods import PodIndex
from tapio.enrich.watch import Watch
from tapio.errors import ClusterError, UsageError

NODE = "worker-3"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServerDouble]:
    with api_server(tmp_path) as double:
        yield double


class Watched:
    """A watch at work, with waits that are noted and cut short."""

    def __init__(self, api: ApiServerDouble, read_timeout_s: float = 90, longest_wait_s: float = 0.1) -> None:
        self.pods = PodIndex(NODE)
        self.waits: list[float] = []

        def run() -> None:
            while not api.closed:
                self.waits.append(self.watch.turn())
                time.sleep(min(self.waits[-1], longest_wait_s))

        server = ApiServer(api.account, api.environment)
        selector = {"fieldSelector": f"spec.nodeName={NODE}"}
        self.watch = Watch(server, "/api/v1/pods", self.pods, selector, read_timeout_s=read_timeout_s)
        threading.Thread(target=run, daemon=True).start()

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 15) -> None:
        wait_for(condition, timeout_s, lambda: f"pods {len(self.pods)}, waits {self.waits}")

    def knows(self, pod: dict[str, Any]) -> bool:
        found = self.pods.find(pod["metadata"]["uid"])
        return found is not None and not found.gone_ns


def lists(api: ApiServerDouble) -> int:
    return sum(1 for asked in api.asked if not asked.is_watch and "continue" not in asked.query)


def test_the_list_comes_in_pages_and_the_watch_goes_on_from_it(api: ApiServerDouble) -> None:
    """A node's pods only, from the API server's cache, with bookmarks; then every change."""
    pods = [api.put("pods", make_pod(f"pod-{index}")) for index in range(253)]
    api.put("pods", make_pod("elsewhere", node="worker-4"))
    api.page = 100
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns and len(watched.pods) == 253)
    first, second, third, watch = api.asked
    assert first.query == {"fieldSelector": f"spec.nodeName={NODE}", "limit": "100", "resourceVersion": "0"}
    assert (second.query["continue"], third.query["continue"]) == ("100", "200")
    assert "resourceVersion" not in second.query
    assert watch.query["allowWatchBookmarks"] == "true"
    assert 240 <= int(watch.query["timeoutSeconds"]) <= 480
    assert watch.query["fieldSelector"] == f"spec.nodeName={NODE}"
    wait_for(lambda: api.watchers == 1)
    late = api.put("pods", make_pod("late"))
    api.delete("pods", pods[7]["metadata"]["uid"])
    watched.wait_for(lambda: watched.knows(late) and not watched.knows(pods[7]))
    assert len(watched.pods) == 253
    assert watched.pods.find(pods[7]["metadata"]["uid"]) is not None, "kept for what is reported late"


def test_a_watch_that_ends_is_taken_up_where_it_was(api: ApiServerDouble) -> None:
    """In order or by a reset, after an event or a bookmark: no second list, nothing missed."""
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    for number, ending in enumerate([None, "drop", None, "drop", b'{"type": "MODIF']):
        pod = api.put("pods", make_pod(f"pod-{number}"))
        watched.wait_for(lambda pod=pod: watched.knows(pod))
        api.bookmark()
        api.send(ending)
        if isinstance(ending, bytes):
            api.send("drop")
        wait_for(lambda: api.watchers == 0)
        unseen = api.put("pods", make_pod(f"unseen-{number}"))
        watched.wait_for(lambda pod=unseen: watched.knows(pod))
        wait_for(lambda: api.watchers == 1)
    assert lists(api) == 1
    assert watched.watch.unreadable == 0


def test_a_bookmark_carries_the_watch_over_a_compaction(api: ApiServerDouble) -> None:
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    for _ in range(11):
        api.put("pods", make_pod(node="worker-4"))
    api.bookmark()
    time.sleep(0.3)
    api.compact()
    api.drop_watches()
    wait_for(lambda: sum(asked.is_watch for asked in api.asked) >= 2 and api.watchers == 1)
    assert lists(api) == 1
    assert watched.watch.up_since_ns


@pytest.mark.parametrize("how", ["status", "event"])
def test_gone_means_a_new_list(api: ApiServerDouble, how: str) -> None:
    """410 by status or as an ERROR event; pods that vanished meanwhile are no longer counted."""
    vanished = api.put("pods", make_pod("vanished"))
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    if how == "event":
        api.expire_watches()
    else:
        api.objects["pods"].clear()
        api.compact()
        api.put("pods", make_pod("x", node="worker-4"))
        api.compact()
        api.drop_watches()
    pod = api.put("pods", make_pod("new"))
    watched.wait_for(lambda: watched.knows(pod) and watched.watch.up_since_ns)
    assert lists(api) == 2
    assert watched.knows(vanished) == (how == "event")


@pytest.mark.parametrize("future", [504, 400, 410, None])
def test_an_api_server_with_a_new_history(api: ApiServerDouble, future: int | None) -> None:
    """It restarts and counts from the beginning: a list, by whatever it shows that our version means nothing to it."""
    api.future = future
    before = api.put("pods", make_pod("before"))
    watched = Watched(api, read_timeout_s=1)
    watched.wait_for(lambda: watched.knows(before))
    api.restart_with_new_history()
    after = api.put("pods", make_pod("after"))
    watched.wait_for(lambda: watched.knows(after) and watched.watch.up_since_ns)
    assert watched.knows(before)


def test_while_the_server_is_away_pods_stay_known_and_the_watch_is_down(api: ApiServerDouble) -> None:
    pod = api.put("pods", make_pod())
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)
    api.stop()
    watched.wait_for(lambda: not watched.watch.up_since_ns)
    watched.wait_for(lambda: len(watched.waits) >= 9)
    assert watched.knows(pod)
    assert max(watched.waits) <= 30
    assert watched.waits[-1] >= 15, "it waits longer and longer"
    api.start()
    late = api.put("pods", make_pod("late"))
    watched.wait_for(lambda: watched.watch.up_since_ns and watched.knows(late))


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
@pytest.mark.parametrize("at", ["list", "watch"])
def test_refusals_are_tried_again(api: ApiServerDouble, status: int, at: str, caplog: pytest.LogCaptureFixture) -> None:
    pod = api.put("pods", make_pod())
    api.faults.extend([status] * 5 if at == "list" else ["ok", *[status] * 5])
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns and watched.knows(pod))
    assert len(watched.waits) >= 5
    assert lists(api) == (6 if at == "list" else 1)
    lines = [line for line in (record.getMessage() for record in caplog.records) if str(api.port) in line]
    assert len(lines) == 1, "the same failure is logged once"
    assert f"/api/v1/pods: HTTP {status}" in lines[0]
    if status == 403:
        assert lines[0].endswith("grant the service account list and watch")


def test_retry_after_is_honoured(api: ApiServerDouble) -> None:
    api.faults.append("retry-after")
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)
    assert watched.waits[0] >= 3


@pytest.mark.parametrize("fault", ["reset", "garbage"])
def test_broken_answers_are_tried_again(api: ApiServerDouble, fault: str) -> None:
    api.faults.extend([fault, "ok", fault, fault])
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)


@pytest.mark.parametrize("answered", [0, 1])
def test_a_server_that_hangs_is_given_up(api: ApiServerDouble, answered: int, monkeypatch: Any) -> None:
    """No request waits for ever: neither a list nor a watch."""
    monkeypatch.setattr("tapio.enrich.watch._LIST_TIMEOUT_S", 0.5)
    api.faults.extend([*["ok"] * answered, "hang"])
    watched = Watched(api, read_timeout_s=0.5)
    watched.wait_for(lambda: len(api.asked) >= answered + 2 and watched.watch.up_since_ns)


def test_a_silent_watch_is_given_up(api: ApiServerDouble) -> None:
    """A half-open connection says nothing for ever, nor does a server that has lost its memory: a new list."""
    watched = Watched(api, read_timeout_s=0.5)
    watched.wait_for(lambda: sum(asked.is_watch for asked in api.asked) >= 3)
    assert lists(api) >= 2


def test_a_server_that_ends_every_watch_is_not_stormed(api: ApiServerDouble) -> None:
    watched = Watched(api, longest_wait_s=30)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        api.send(None)
        time.sleep(0.01)
    assert sum(asked.is_watch for asked in api.asked) <= 8
    assert watched.pods is not None


def test_events_that_cannot_be_read_are_counted_and_passed_over(api: ApiServerDouble) -> None:
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    for event in (b"\n", b"no json\n", b'{"type": 5}\n', b'{"type": "ADDED", "object": {"metadata": {"name": 7}}}\n'):
        api.send(event)
    pod = api.put("pods", make_pod())
    watched.wait_for(lambda: watched.knows(pod))
    assert watched.watch.unreadable == 3
    assert lists(api) == 1


def test_an_event_without_end_is_given_up(api: ApiServerDouble, monkeypatch: Any) -> None:
    monkeypatch.setattr("tapio.enrich.watch._MAX_OBJECT_BYTES", 1 << 16)
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    api.send(b"x" * (1 << 18))
    watched.wait_for(lambda: sum(asked.is_watch for asked in api.asked) >= 2)
    pod = api.put("pods", make_pod())
    watched.wait_for(lambda: watched.knows(pod))


def test_a_token_that_was_renewed_is_used_at_once(api: ApiServerDouble) -> None:
    """The old one is refused, the file has a new one: the next request has it."""
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    (api.account / "token").write_text("second-token\n")
    api.tokens = {"second-token"}
    api.drop_watches()
    pod = api.put("pods", make_pod())
    watched.wait_for(lambda: watched.knows(pod))
    assert [asked.token for asked in api.asked if asked.is_watch][-1] == "second-token"


def test_another_authority_is_not_trusted(api: ApiServerDouble, tmp_path: Path) -> None:
    with api_server(tmp_path / "other") as other:
        (api.account / "ca.crt").write_bytes(other.authority.ca.read_bytes())
    server = ApiServer(api.account, api.environment)
    with pytest.raises(ClusterError, match="CERTIFICATE_VERIFY_FAILED"):
        server.get("/api/v1/pods", {}, 5)
    assert api.asked == [], "the token was not sent"


def test_thousands_of_pods(api: ApiServerDouble) -> None:
    """Also from a server that ignores the selector and the page size: the other nodes' pods are left out."""
    for index in range(3000):
        uid = str(uuid.uuid4())
        pod = make_pod(f"pod-{index}", uid, node=NODE if index % 3 == 0 else "worker-4")
        api.objects["pods"][uid] = pod
    api.selects, api.page = False, 3000
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns, 30)
    assert len(watched.pods) == 1000
    assert watched.pods.others == 2000


def test_a_list_that_breaks_off_retires_nobody(api: ApiServerDouble) -> None:
    """What came of it is known at once, nothing is concluded from what did not; then it is listed anew."""
    pods = [api.put("pods", make_pod(f"pod-{index}")) for index in range(31)]
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    for index in range(31, 211):
        uid = str(uuid.uuid4())
        api.objects["pods"][uid] = make_pod(f"pod-{index}", uid)
    api.faults.append("half")
    api.expire_watches()
    watched.wait_for(lambda: 31 < len(watched.pods) < 211)
    assert all(watched.knows(pod) for pod in pods)
    watched.wait_for(lambda: len(watched.pods) == 211)
    assert lists(api) == 3


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


@pytest.mark.parametrize(("missing", "message"), [("token", "token file"), ("ca.crt", "certification file")])
def test_a_service_account_that_is_not_whole(api: ApiServerDouble, missing: str, message: str) -> None:
    (api.account / missing).unlink()
    with pytest.raises(UsageError, match=f"reading the service account in .*{message}.*: mount its token and CA"):
        ApiServer(api.account, api.environment)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PORT", "https"), ("PORT", "0"), ("PORT", "99999"), ("PORT", "443/tcp"), ("HOST", "bad host"), ("HOST", "me@it"),
     ("HOST", "tcp://10.0.0.1")],
)  # fmt: skip
def test_an_address_that_is_none(api: ApiServerDouble, variable: str, value: str) -> None:
    """It is the environment that is named, not the token."""
    with pytest.raises(UsageError, match=rf"KUBERNETES_SERVICE_{variable} '{value}'.*: no host and port: set the "):
        ApiServer(api.account, {**api.environment, f"KUBERNETES_SERVICE_{variable}": value})


@pytest.mark.parametrize("content", ["hello\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_ca_that_is_none_stops_the_start(api: ApiServerDouble, content: str) -> None:
    (api.account / "ca.crt").write_text(content)
    with pytest.raises(UsageError, match=r"reading .*ca\.crt: it holds no certificate \(.+\): mount the cluster's CA"):
        ApiServer(api.account, api.environment)


def test_a_token_that_is_none_is_tried_again(api: ApiServerDouble, caplog: pytest.LogCaptureFixture) -> None:
    (api.account / "token").write_text("two\nlines")
    watched = Watched(api)
    watched.wait_for(lambda: any("reading the token: it has characters" in line for line in caplog.messages))
    assert api.asked == []


def test_a_way_that_is_gone_without_a_word_is_probed(api: ApiServerDouble) -> None:
    """A connection that says nothing, and one on which nothing is acknowledged, end after 30 s."""
    answer = ApiServer(api.account, api.environment).get("/api/v1/pods", {}, 5)
    sock = answer.connection.sock
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle_s, interval_s, probes, unacknowledged_ms = (sock.getsockopt(socket.IPPROTO_TCP, one) for one in options)
    assert idle_s + interval_s * probes == unacknowledged_ms / 1000 == 30
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    answer.close()


def test_no_model_of_the_client_is_loaded(api: ApiServerDouble) -> None:
    """They cost 22 MiB and half a second."""
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)
    assert not [name for name in sys.modules if name.startswith("kubernetes.client.models.")]
    assert "kubernetes.client.api.core_v1_api" not in sys.modules
