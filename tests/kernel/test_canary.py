"""The agent's own events come back from the kernel, are no anomalies, and tell quiet from blind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cgroups import ScratchCgroup
from helpers.data_dirs import TAPIO
from helpers.running_agent import AGENT, RunningAgent, configured_agent, wait_for
from helpers.thief import thief

pytestmark = pytest.mark.kernel

OFTEN = "[agent]\ncanary_interval_s = 0.1\n[kernel]\ndrain_interval_ms = 10\n"


def trips(agent: RunningAgent, observer: str) -> float:
    return agent.metric(f'tapio_canary_round_trip_seconds{{observer="{observer}"}}')


def own(agent: RunningAgent, observer: str) -> float:
    return agent.metric(f'tapio_suppressed_records_total{{observer="{observer}",reason="own_process"}}')


def of_agent(found: list[dict[str, Any]], pid: int) -> list[dict[str, Any]]:
    """Occurrences of the agent itself or of a child of its."""
    return [one for one in found if pid in (one["data"].get("pid"), one["data"].get("ppid"))]


def state(data_dir: Path) -> dict[str, Any]:
    """The observers' states in the heartbeat; {} before the first."""
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads((data_dir / ".agent.json").read_text())["observers"]
        return found
    return {}


def test_canaries_come_back_and_are_no_anomalies(tmp_path: Path) -> None:
    with configured_agent(tmp_path, OFTEN, "--observer=network", "--observer=container") as agent:
        for observer in ("network", "container"):
            wait_for(lambda observer=observer: own(agent, observer) >= 23, 30)
            assert 0 < trips(agent, observer) < 5
            assert agent.metric(f'tapio_canary_missed_total{{observer="{observer}"}}') == 0
        assert agent.stop() == 0
        assert of_agent(agent.occurrences(), agent.pid) == []


@pytest.mark.parametrize("codes", ["", "ignore_exit_codes = [113]\n", f"ignore_exit_codes = {list(range(256))}\n"])
def test_no_setting_filters_them(tmp_path: Path, cgroup: ScratchCgroup, codes: str) -> None:
    """Other processes that end like them stay filtered."""
    config = f'{OFTEN}[container]\nexit_scope = "main"\n{codes}[network]\nignore_cidrs = ["127.0.0.0/8"]\n'
    with configured_agent(tmp_path, config, "--observer=network", "--observer=container") as agent:
        cgroup.run(["/bin/sh", "-c", "(exit 113); (exit 113); exit 113"])
        wait_for(lambda: own(agent, "container") >= 7 and own(agent, "network") >= 7, 30)
        assert trips(agent, "container") > 0
        assert agent.metric('tapio_canary_missed_total{observer="container"}') == 0
        assert of_agent(agent.occurrences(), agent.pid) == []
        assert agent.of_cgroup(cgroup.id) == []


@pytest.mark.parametrize("observer", ["network", "container"])
def test_what_does_not_come_back_is_blindness(tmp_path: Path, observer: str) -> None:
    """/readyz, /metrics, the heartbeat, `tapio status` and `health` say so; it is over when they come back."""
    config = "[agent]\ncanary_interval_s = 1\n[kernel]\ndrain_interval_ms = 1000\n"
    with configured_agent(tmp_path, config, f"--observer={observer}") as agent:
        wait_for(lambda: trips(agent, observer) > 0, 15)
        with thief(agent.pid):
            wait_for(lambda: agent.get("/readyz")[0] == 503, 60)
            assert f"observer {observer} is blind: 2 canaries in a row did not come back" in agent.get("/readyz")[1]
            assert agent.metric(f'tapio_observer_up{{observer="{observer}"}}') == 0
            assert agent.metric(f'tapio_canary_missed_total{{observer="{observer}"}}') >= 2
            wait_for(lambda: not state(agent.data_dir)[observer]["up"])
            status = subprocess.run([TAPIO, "status", "--json", "--data-dir", agent.data_dir],
                                    capture_output=True, text=True, check=False)  # fmt: skip
            (view,) = (one for one in json.loads(status.stdout)["observers"] if one["name"] == observer)
            assert (status.returncode, view["state"]) == (1, "blind")
            assert "canaries" in view["reason"]
            assert json.loads(status.stdout)["agent"]["state"] == "running"
            health = subprocess.run([TAPIO, "health", observer, "--data-dir", agent.data_dir],
                                    capture_output=True, text=True, check=False)  # fmt: skip
            assert health.stdout.startswith((f"{observer} is degraded", f"{observer} is critical")), health.stdout
        wait_for(agent.is_ready, 30)
        assert agent.get("/healthz")[0] == 200
        assert agent.stop() == 0
        assert of_agent(agent.occurrences(), agent.pid) == []


def test_off_is_off(tmp_path: Path) -> None:
    """By the setting, and where the observer is."""
    with configured_agent(tmp_path, "[agent]\ncanary_interval_s = 0\n", "--observer=container") as agent:
        agent.settle(1.0)
        assert own(agent, "container") == 0
        assert "canary_round_trip_seconds{" not in agent.get("/metrics")[1]
    (tmp_path / "other").mkdir()
    with configured_agent(tmp_path / "other", OFTEN, "--observer=storage") as agent:
        agent.settle(1.0)
        assert "canary_missed_total{" not in agent.get("/metrics")[1]
        assert agent.is_ready()


@contextlib.contextmanager
def agent_in(namespace: list[str], tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """An agent in namespaces of its own; its data directory, and its pid as the host has it."""
    (tmp_path / "tapio.toml").write_text(OFTEN)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    command = [*namespace, AGENT, f"--config={tmp_path / 'tapio.toml'}", f"--data-dir={tmp_path / 'data'}",
               "--sink=file", "--metrics-address=", "--observer=network", "--observer=container"]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        wait_for(lambda: state(tmp_path / "data"), 20, lambda: (tmp_path / "log").read_text())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pid = int(children[0]) if "--fork" in namespace else process.pid
        yield tmp_path / "data", pid
        assert process.poll() is None, (tmp_path / "log").read_text()
        os.kill(pid, signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_without_loopback_there_is_a_reason_and_no_blindness(tmp_path: Path) -> None:
    """A network namespace of its own, whose lo is down."""
    with agent_in(["unshare", "--net"], tmp_path) as (data, _):
        wait_for(lambda: "sends no canary" in state(data)["network"]["reason"], 20)
        wait_for(lambda: state(data)["container"]["canary_round_trip_s"], 20)
        assert state(data)["network"]["up"]
        shown = subprocess.run([TAPIO, "status", "--data-dir", data], capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stdout
        assert "network lacks something: it sends no canary" in " ".join(shown.stdout.split())


def test_in_a_pid_namespace_of_its_own(tmp_path: Path) -> None:
    """As in a container: the agent knows its pid there, the kernel side knows both."""
    with agent_in(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"], tmp_path) as (data, pid):
        for observer in ("network", "container"):
            wait_for(lambda observer=observer: state(data)[observer]["canary_round_trip_s"], 20)
        wait_for(lambda: state(data)["container"]["suppressed"]["own_process"] >= 5, 20)
        assert state(data)["container"]["canary_missed"] == 0
        assert of_agent([json.loads(path.read_text()) for path in data.glob("0*.json")], pid) == []
