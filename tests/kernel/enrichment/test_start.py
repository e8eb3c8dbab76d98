"""Starts of an agent that names pods: what makes them fail, what they do outside of a cluster and with one observer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.api_server import ApiServerDouble, api_server
from helpers.cgroups import ScratchCgroup
from helpers.kubepods import NODE, arrived, cluster_agent, container, fail, new_pod
from helpers.running_agent import AGENT, running_agent

pytestmark = pytest.mark.kernel


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
