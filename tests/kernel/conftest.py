"""One agent for all tests of a module: starting it is the slow part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cgroups import ScratchCgroup, scratch_cgroup
from helpers.disks import UNSEEN, fill
from helpers.loops import MIB, Loop, loop, tmpfs
from helpers.running_agent import RunningAgent, running_agent
from helpers.schema import DATA

# They need a machine of their own: memory in cgroup v2, and all of the node's memory. tests/vm runs them.
collect_ignore = [] if "TAPIO_VM" in os.environ else ["test_oom_groups.py", "test_oom_node.py"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    with running_agent(tmp_path_factory.mktemp("agent") / "data") as running:
        yield running
        emitted = {name for one in running.occurrences() for name in one["data"]}
        assert emitted <= DATA, "describe it in otel/schema/data.yaml"
        if "TAPIO_VM" in os.environ:  # the kernel that we develop on does keep some from us: tapio/kernel/README.md
            assert running.metric(UNSEEN) == 0


@pytest.fixture
def cgroup() -> Iterator[ScratchCgroup]:
    with scratch_cgroup() as scratch:
        yield scratch


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Loop]:
    """A disk of 64 MiB that has no room at all."""
    with tmpfs(tmp_path / "full", "4m") as folder, loop(folder / "image", 64 * MIB) as device:
        fill(folder)
        yield device
