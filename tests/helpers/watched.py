"""A watch of pods at work on the tests' own API server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from helpers.api_server import ApiServerDouble
from helpers.kubepods import NODE
from helpers.running_agent import wait_for
from tapio.enrich.api_server import ApiServer
from tapio.enrich.pods import PodIndex
from tapio.enrich.watch import Watch


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
        """Wait until the condition holds; what is known and was waited for is said where it does not."""
        wait_for(condition, timeout_s, lambda: f"pods {len(self.pods)}, waits {self.waits}")

    def knows(self, pod: dict[str, Any]) -> bool:
        """Whether the pod is there, and not as one that is gone."""
        found = self.pods.find(pod["metadata"]["uid"])
        return found is not None and not found.gone_ns


def lists(api: ApiServerDouble) -> int:
    """How many lists were begun."""
    return sum(1 for asked in api.asked if not asked.is_watch and "continue" not in asked.query)
