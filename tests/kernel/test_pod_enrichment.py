"""The DaemonSet's container names pods: token, host paths and rights of the manifest are enough for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.collector import free_port
from helpers.pod import Pod, running_pod
from helpers.running_agent import wait_for

pytest.importorskip("helpers.api_server", reason="this agent does not know pods yet")
from helpers.api_server import api_server, make_pod
from helpers.kubepods import LAYOUTS, container, new_id

pytestmark = pytest.mark.kernel

CONFIG = (
    'sinks = ["file"]\nebpf_dir = "/opt/tapio/ebpf"\n[container]\nexit_scope = "all"\n'
    "[episodes]\nindividual = 100000\nrate_per_s = 100000\nburst = 100000\n"
)


def test_faults_carry_their_pod(tmp_path: Path) -> None:
    """The token is root's, readable for the fsGroup alone, as the kubelet writes it."""
    with api_server(tmp_path) as api:
        runtime_ids = [new_id() for _ in range(3)]
        made = [make_pod(f"checkout-{number}", containers={"api": id_}) for number, id_ in enumerate(runtime_ids)]
        for item in made:
            api.put("pods", item)
        pod = Pod(tmp_path / "bundle", config=CONFIG, environment=api.environment)
        pod.account, pod.port = api.account, free_port()
        pod.namespaces.remove("network")  # the API server of the test listens on this machine's loopback
        with running_pod(pod):
            wait_for(lambda: '\ntapio_k8s_watch_up{resource="pods"} 1.0\n' in pod.page("/metrics")[1], 15)
            for item, runtime_id, layout in zip(made, runtime_ids, list(LAYOUTS)[:3], strict=True):
                with container(layout, item["metadata"]["uid"], runtime_id) as cgroup:
                    for _ in range(7):
                        cgroup.run(["/bin/sh", "-c", "exit 3"])
                    wait_for(lambda: len(pod.occurrences(cgroup.id)) >= 7, 15)
                    found = pod.occurrences(cgroup.id)
                    assert len(found) == 7
                    names = {one["context"]["namespace"] + "/" + entity["name"] for one in found
                             for entity in one["context"]["entities"] if entity["kind"] == "pod"}  # fmt: skip
                    assert names == {f"default/{item['metadata']['name']}"}
