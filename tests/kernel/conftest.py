"""One agent for all tests of a module: starting it is the slow part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.cgroups import ScratchCgroup, scratch_cgroup
from helpers.running_agent import RunningAgent, running_agent


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    with running_agent(tmp_path_factory.mktemp("agent") / "data") as running:
        yield running


@pytest.fixture
def cgroup() -> Iterator[ScratchCgroup]:
    with scratch_cgroup() as scratch:
        yield scratch
