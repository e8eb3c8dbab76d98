"""The watch keeps up with an API server's history: pages, bookmarks, what was compacted away, a new history."""

from __future__ import annotations

import sys
import time
import uuid

import pytest
from helpers.api_server import ApiServerDouble, make_pod
from helpers.kubepods import NODE
from helpers.running_agent import wait_for
from helpers.watched import Watched, lists


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


def test_no_model_of_the_client_is_loaded(api: ApiServerDouble) -> None:
    """They cost 22 MiB and half a second."""
    watched = Watched(api)
    watched.wait_for(lambda: watched.watch.up_since_ns)
    assert not [name for name in sys.modules if name.startswith("kubernetes.client.models.")]
    assert "kubernetes.client.api.core_v1_api" not in sys.modules
