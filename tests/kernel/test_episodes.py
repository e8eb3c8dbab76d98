"""A storm of real exits: few occurrences, and the sum of their counts is exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import running_agent, wait_for

pytestmark = pytest.mark.kernel

CONFIG = "[episodes]\ninterval_s = 1\nclose_after_s = 2\n"


def test_a_storm_is_one_story(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """1,009 equal exits: five alone, a handful for the rest, an end; nothing is missing, twice or invented."""
    config = tmp_path / "tapio.toml"
    config.write_text(CONFIG)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with running_agent(tmp_path / "data", f"--config={config}") as agent:
        cgroup.run(["/bin/sh", "-c", "i=0; while [ $i -lt 1009 ]; do (exit 3); i=$((i+1)); done; exit 0"])

        def states() -> list[str]:
            return [item["data"]["episode"]["state"] for item in agent.of_cgroup(cgroup.id)]

        wait_for(lambda: "closed" in states(), 30)
        found = agent.of_cgroup(cgroup.id)
        assert sum(item["data"]["count"] for item in found) == 1009
        assert found[-1]["data"]["episode"]["total"] == 1009
        assert len({item["data"]["episode"]["id"] for item in found}) == 1
        assert states()[:5] == ["open"] * 5
        assert len(found) < 40
        folded = [item for item in found if item["data"]["count"] > 1]
        assert all(item["data"]["exit_code"] == 3 and "pid" not in item["data"] for item in folded)
        assert agent.metric('tapio_folded_total{anomaly_type="kernel.container.abnormal_exit"}') >= 1004


def test_a_stop_in_mid_storm_loses_nothing(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    with running_agent(tmp_path / "data") as agent:
        cgroup.run(["/bin/sh", "-c", "i=0; while [ $i -lt 211 ]; do (exit 3); i=$((i+1)); done; exit 0"])
        assert agent.stop() == 0
        found = agent.of_cgroup(cgroup.id)
        assert sum(item["data"]["count"] for item in found) == 211
        assert len(found) == 6
        assert json.loads((agent.data_dir / f"{found[-1]['id']}.json").read_text()) == found[-1]
