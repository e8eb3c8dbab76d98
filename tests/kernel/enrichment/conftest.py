"""An API server of the tests' own, and one agent that names pods for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.api_server import ApiServerDouble, api_server
from helpers.kubepods import cluster_agent
from helpers.running_agent import RunningAgent, wait_for


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServerDouble]:
    folder = tmp_path_factory.mktemp("cluster")
    with api_server(folder) as double:
        yield double


@pytest.fixture(scope="module")
def agent(api: ApiServerDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    with pytest.MonkeyPatch.context() as patch:
        config = 'name_peers = "services"\nname_cronjobs = true\n'
        with cluster_agent(tmp_path_factory.mktemp("enriched"), api, patch, config) as running:
            wait_for(lambda: running.metric('tapio_k8s_watch_up{resource="jobs"}') == 1)
            yield running
