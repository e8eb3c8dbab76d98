"""A real Prometheus scrapes /metrics; promtool has nothing to say against it."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from helpers.cgroups import scratch_cgroup
from helpers.collector import free_port
from helpers.running_agent import running_agent, wait_for

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")), reason="the package prometheus is not installed"
    ),
]


def test_promtool_is_content(tmp_path: Path) -> None:
    with running_agent(tmp_path / "data") as agent:
        text = agent.get("/metrics")[1]
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_prometheus_answers_queries(tmp_path: Path) -> None:
    """The counters as they are, and the rate of events after a known number of them."""
    port = free_port()
    with running_agent(tmp_path / "data") as agent, scratch_cgroup() as cgroup:
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 500ms}\n"
            f"scrape_configs: [{{job_name: tapio, static_configs: [{{targets: ['127.0.0.1:{agent.port()}']}}]}}]\n"
        )
        log = (tmp_path / "prometheus.log").open("wb")
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                   f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        with log, subprocess.Popen(command, stdout=log, stderr=log) as prometheus:
            try:

                def query(expression: str) -> float:
                    """The sum of an instant query; 0 while there is nothing."""
                    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
                    try:
                        with urllib.request.urlopen(url, timeout=5) as answer:
                            result = json.load(answer)["data"]["result"]
                    except OSError:
                        return 0.0
                    return sum(float(series["value"][1]) for series in result)

                wait_for(lambda: query('up{job="tapio"}') == 1, 60)
                wait_for(lambda: query('count_over_time(tapio_events_total{observer="container"}[1m])') >= 2, 60)
                for _ in range(101):
                    cgroup.run(["/bin/false"])
                agent.settle(1.5)
                total = agent.metric('tapio_events_total{observer="container"}')
                wait_for(lambda: query('tapio_events_total{observer="container"}') >= total, 30)
                assert total >= 101
                assert query('increase(tapio_events_total{observer="container"}[1m])') >= 90  # Prometheus extrapolates
                assert query("rate(tapio_kernel_events_total[1m])") > 0
                assert query('tapio_observer_up{observer="container"}') == 1
                assert query('tapio_lost_events_total{observer="container"}') == 0
            finally:
                prometheus.terminate()
