"""The agent's watch of pods, confined as it is: an API server that goes away, one that cannot be reached in silence."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from helpers.api_server import api_server
from helpers.kubepods import arrived, cluster_agent, container, fail, new_pod
from helpers.running_agent import wait_for
from helpers.tunnel import inside, tunnel

pytestmark = pytest.mark.kernel


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
