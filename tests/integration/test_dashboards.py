"""Every panel of the dashboards shows data: real faults, the real agent, a real Prometheus, a real Loki.

With TAPIO_DASHBOARD_ANSWERS=FILE the answers to all panels are written there, for `make pictures`.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import boards
from helpers.backends import MAX_SERIES, Backend, loki_binary, require_prometheus, running_loki, running_prometheus
from helpers.boards import Asked, chosen, filled
from helpers.cluster_faults import Faults, cluster_faults
from helpers.collector import PIPELINES, collector_binary, free_port, running_collector
from helpers.grafana import Grafana, grafana_home, running_grafana
from helpers.made_up_cpus import made_up_cpus
from helpers.no_folding import configuration
from helpers.pod_names import naming_relay
from helpers.running_agent import RunningAgent, running_agent, wait_for

pytestmark = pytest.mark.kernel

ANSWERS = os.environ.get("TAPIO_DASHBOARD_ANSWERS", "")
ROUNDS = 12 if ANSWERS else 3
NODE, CLUSTER = "worker-3", "prod-eu"
OVERLAY = Path(__file__).with_name("loki-overlay.yaml")
# What this scenario cannot have: said by the panel itself.
EXCUSES = ("Empty without enrichment", "Empty where nothing was lost")


class Scenario(NamedTuple):
    """What happened, and whom to ask about it."""

    faults: Faults
    prometheus: Backend
    loki: Backend
    begin_s: float
    end_s: float

    def ask(self, query: Asked, **chosen: str) -> list[dict[str, Any]]:
        """The results of a panel's query, as Grafana would ask it."""
        backend = self.prometheus if query.source == "prometheus" else self.loki
        seconds = int(self.end_s - self.begin_s)
        step = max(1, seconds // 60)
        # $__auto is the step, $__rate_interval four scrapes at least.
        expression = filled(query.expression, seconds, f"{step if query.source == 'loki' else 10}s", **chosen)
        if query.instant:
            return backend.instant(expression, self.end_s)
        return backend.over(expression, self.begin_s, self.end_s, step)


def cause(faults: Faults, agent: RunningAgent) -> None:
    """The rounds: every type but those of the node observer."""
    with faults.long_call(600):
        agent.settle(9)  # the path learns
        for number in range(ROUNDS):
            faults.refuse(11 + number % 5)
            faults.exit(3 + number % 3)
            if number % 3 == 0:
                faults.kill_for_memory()
                faults.slow_disk(0.3)
            if number % 4 == 1:
                faults.fill_disk(5)
            if number % 6 == 2:
                faults.reset(31)
            agent.settle(4)
        faults.slow_path()
        agent.settle(12)
    faults.no_answer(3)
    faults.lose_packets()
    agent.settle(13)  # what was folded leaves within 10 s


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    require_prometheus()
    binary, collector = loki_binary(), collector_binary()
    folder = tmp_path_factory.mktemp("scenario")
    gateway = free_port()
    environment = {"OTEL_RESOURCE_ATTRIBUTES": f"k8s.cluster.name={CLUSTER},host.name={NODE}"}
    with (
        running_loki(binary, folder / "loki", boards.FOLDER / "alerts" / "loki.yaml") as loki,
        running_collector(
            collector, folder / "collector", PIPELINES / "gateway.yaml", OVERLAY, port=gateway,
            LOKI_ENDPOINT=f"{loki.url}/otlp",
        ),
        cluster_faults(folder) as faults,
        naming_relay(f"http://127.0.0.1:{gateway}", faults.pods) as relay,
        configuration("[network]\nwindow_s = 4\n") as config,
        running_agent(
            folder / "data", "--sink=otlp", config, environment={**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": relay}
        ) as agent,
        made_up_cpus() as cpus,
        running_prometheus(folder / "prometheus", {
            f"127.0.0.1:{agent.port()}": {"host_name": NODE, "k8s_cluster_name": CLUSTER},
            cpus: {"host_name": "made-up", "k8s_cluster_name": CLUSTER},
        }, boards.FOLDER / "alerts" / "prometheus.yaml") as prometheus,
    ):  # fmt: skip
        wait_for(lambda: prometheus.instant("tapio_build_info", time.time()), 30)
        begin_s = time.time() - 1  # Loki rounds to milliseconds, up as well
        write_a_line_of_a_pod(loki)
        cause(faults, agent)
        sent = 'tapio_sink_occurrences_total{result="accepted",sink="otlp"}'
        wait_for(lambda: agent.metric('tapio_sink_queue{sink="otlp"}') == 0 and agent.metric(sent) > 0, 30)
        time.sleep(3)
        yield Scenario(faults, prometheus, loki, begin_s, time.time())


def write_a_line_of_a_pod(loki: Backend) -> None:
    """What a pod itself logs, with the labels that a log collector gives it."""
    labels = {"service_name": "checkout-api", "k8s_cluster_name": CLUSTER, "k8s_namespace_name": "shop",
              "k8s_pod_name": "checkout-api-7f8b9c6d5-x2x4k"}  # fmt: skip
    push(loki, labels, [(time.time_ns(), "could not reach the database, trying again", {})])


def push(loki: Backend, labels: dict[str, str], lines: list[tuple[int, str, dict[str, str]]]) -> None:
    """Lines of one stream, each with its time in ns and its structured metadata."""
    values = [[str(at_ns), text, metadata] for at_ns, text, metadata in lines]
    body = json.dumps({"streams": [{"stream": labels, "values": values}]}).encode()
    request = urllib.request.Request(f"{loki.url}/loki/api/v1/push", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def test_every_anomaly_is_in_loki_and_counted(scenario: Scenario) -> None:
    """The numbers that the dashboards show are those of the faults that were made, under the right pods."""
    seconds = int(scenario.end_s - scenario.begin_s)
    by_type = scenario.loki.instant(
        f'sum by (error_type) (sum_over_time({{service_name="tapio", k8s_pod_name!=""}} '
        f"| unwrap tapio_anomaly_count [{seconds}s]))", scenario.end_s,
    )  # fmt: skip
    found = {one["metric"]["error_type"]: int(one["value"][1]) for one in by_type}
    caused = dict(scenario.faults.caused)
    at_least = {"RST_STORM", "RETRANSMIT_SPIKE", "RTT_DEGRADATION"}  # one for each window that they last
    exact = {name: (found.get(name), number) for name, number in caused.items() if name not in at_least}
    if scenario.prometheus.instant('sum(tapio_lost_events_total{host_name="worker-3"}) > 0', scenario.end_s):
        assert all((seen or 0) <= number for seen, number in exact.values()), "another test's storm took some"
        return
    assert all(seen == number for seen, number in exact.values()), exact
    assert all(found[name] >= caused[name] for name in at_least)


@pytest.mark.parametrize("query", boards.queries(), ids=lambda query: f"{query.board}-{query.panel['title']}")
def test_every_panel_shows_data(scenario: Scenario, query: Asked) -> None:
    """Parsed and answered by the real thing, and with an answer."""
    answer = scenario.ask(query)
    if not any(excuse in query.panel["description"] for excuse in EXCUSES):
        assert answer, filled(query.expression)
        assert any(one.get("values") or one.get("value") for one in answer)


@pytest.fixture(scope="module")
def grafana(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grafana]:
    folder = tmp_path_factory.mktemp("grafana")
    with running_grafana(grafana_home(), folder, scenario.prometheus, scenario.loki) as server:
        yield server


@pytest.mark.parametrize("board", sorted(boards.BOARDS))
def test_grafana_takes_the_dashboards_as_they_are(grafana: Grafana, board: str) -> None:
    """From the provisioning files: in their folder, and nothing of them is changed."""
    answer = grafana.ask(f"/api/dashboards/uid/{board}")
    assert answer["meta"]["folderTitle"] == "Tapio"
    given = {key: value for key, value in answer["dashboard"].items() if key not in ("id", "version")}
    assert given == boards.BOARDS[board]


@pytest.mark.parametrize("query", boards.queries(), ids=lambda query: f"{query.board}-{query.panel['title']}")
def test_grafana_answers_every_panel(scenario: Scenario, grafana: Grafana, query: Asked) -> None:
    """The queries as the panels have them, by its own data sources, which fill in $__rate_interval and $__range.

    The pages fill in the variables that one chooses, so the test does; and this Grafana is older than $__auto.
    """
    expression = chosen(query.expression).replace("$__auto", "$__interval")
    target = {**query.target, "expr": expression, "datasource": {"type": query.source, "uid": f"tapio-{query.source}"}}
    frames = grafana.query(target, scenario.begin_s, scenario.end_s)
    if not any(excuse in query.panel["description"] for excuse in EXCUSES):
        assert frames, expression


@pytest.mark.parametrize(("board", "expression"), boards.annotations())
def test_every_annotation_marks_the_oom_kills(scenario: Scenario, board: str, expression: str) -> None:
    found = scenario.loki.over(filled(expression), scenario.begin_s, scenario.end_s, 1)
    ours = [one for one in found if one["stream"].get("k8s_pod_name")]  # other tests have their memory killed too
    entries = [value for stream in ours for value in stream["values"]]
    assert len(entries) == scenario.faults.caused["OOM_KILL"], board
    assert all(text.startswith("OOM kill pid=") for _, text, *_ in entries)


def test_a_chosen_pod_shows_its_own_alone(scenario: Scenario) -> None:
    """The variables of the dashboards narrow what is shown."""
    (query,) = [one for one in boards.queries() if one.name == "tapio-workload: OOM kills"]
    everywhere = float(scenario.ask(query)[0]["value"][1])
    assert everywhere == scenario.faults.caused["OOM_KILL"]
    assert float(scenario.ask(query, workload="search")[0]["value"][1]) == everywhere
    assert float(scenario.ask(query, namespace="shop", workload="checkout-api")[0]["value"][1]) == 0
    assert float(scenario.ask(query, pod="postgres-0")[0]["value"][1]) == 0
    query = next(one for one in boards.queries() if one.name == "tapio-workload: I/O problems")
    assert float(scenario.ask(query, workload="postgres")[0]["value"][1]) == (
        scenario.faults.caused["IO_ERROR"] + scenario.faults.caused["LATENCY_SPIKE"]
    )


def test_a_node_that_fell_silent_is_counted(scenario: Scenario) -> None:
    """And an observer that cannot be there is not shown as one that is blind."""
    (query,) = [one for one in boards.queries() if one.name == "tapio-fleet: Nodes silent"]
    assert scenario.ask(query)[0]["value"][1] == "0"
    expression = filled(query.expression, 900, node=NODE)
    later = scenario.prometheus.instant(expression, time.time() + 400)  # beyond what it looks back
    assert later[0]["value"][1] == "1"
    (query,) = [one for one in boards.queries() if one.name == "tapio-node: Observers"]
    states = {one["metric"]["observer"]: one["values"][-1][1] for one in scenario.ask(query, node=NODE)}
    assert states.pop("node") in ("1", "2")  # with and without performance counters
    assert states == {"network": "1", "container": "1", "storage": "1"}


def test_many_occurrences_in_a_loki_that_does_not_index_pods(scenario: Scenario) -> None:
    """Loki refuses to make too many series, and not every Loki has an index label of the pod."""
    at_ns, pod = int(scenario.begin_s - 3600) * 10**9, "search-0"
    common = {"k8s_pod_name": pod, "host_name": NODE, "tapio_anomaly_count": "1", "process_executable_name": "search"}
    stream = {"k8s_cluster_name": CLUSTER, "k8s_namespace_name": "shop", "k8s_deployment_name": "search"}
    lines = []
    for number in range(MAX_SERIES + 3):
        for code, data in (("LATENCY_SPIKE", {"latency_ms": 61 + number}), ("OOM_KILL", {"memory_usage_bytes": 7})):
            occurrence = {"error": {"message": code}, "data": data}
            own = {"error_type": code, "process_pid": str(number), "system_device": "sdb"}
            lines.append((at_ns + number, json.dumps(occurrence), common | own))
    push(scenario.loki, {"service_name": "tapio", **stream}, lines)
    push(scenario.loki, {"service_name": "search", **stream}, [(at_ns, "out of memory", {"k8s_pod_name": pod})])
    then = scenario._replace(begin_s=at_ns / 1e9 - 60, end_s=at_ns / 1e9 + 60)
    found = {one.name: then.ask(one, pod=pod) for one in boards.queries() if one.source == "loki"}
    assert float(found["tapio-workload: OOM kills"][0]["value"][1]) == MAX_SERIES + 3
    (slowest,) = found["tapio-workload: Slowest I/O"]
    assert max(float(value) for _, value in slowest["values"]) == 61 + MAX_SERIES + 2
    assert [line for one in found["tapio-workload: The pods' own logs"] for _, line, *_ in one["values"]] == [
        "out of memory"
    ]


@pytest.mark.parametrize("board", sorted(boards.BOARDS))
def test_every_variable_has_values(scenario: Scenario, board: str) -> None:
    for variable in boards.BOARDS[board]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = variable["query"]
        if variable["datasource"]["type"] == "prometheus":
            selector, label = query["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            found = scenario.prometheus.get(f"/api/v1/label/{label}/values", **{"match[]": filled(selector)})
        else:
            stream = filled(query["stream"])
            found = scenario.loki.get(
                f"/loki/api/v1/label/{query['label']}/values", query=stream, start=int(scenario.begin_s * 1e9)
            )
        assert found["data"], variable["name"]


def firing(backend: Backend, path: str) -> dict[str, set[str]]:
    """The alerts that fire, with the nodes or pods they are about."""
    found: dict[str, set[str]] = {}
    for alert in backend.get(path)["data"]["alerts"]:
        labels = alert["labels"]
        if alert["state"] == "firing":
            found.setdefault(labels["alertname"], set()).add(
                labels.get("k8s_pod_name") or labels.get("host_name") or labels.get("network_peer_address", "")
            )
    return found


def test_the_alerts_fire_after_the_faults_and_no_others_do(scenario: Scenario) -> None:
    """Those that wait for a duration, and those of a healthy agent, stay silent."""
    wait_for(lambda: "TapioIoErrors" in firing(scenario.prometheus, "/api/v1/alerts"), 20)
    expected = {"TapioOomKill", "TapioIoErrors"}
    if scenario.prometheus.instant("increase(tapio_lost_events_total[10m]) > 0", time.time()):
        expected.add("TapioEventsLost")  # another test's storm: then it must
    assert firing(scenario.prometheus, "/api/v1/alerts") == {name: {NODE} for name in expected}
    expected = {"TapioPodOomKilled", "TapioPodCrashes", "TapioPeerRefuses", "TapioDiskFails"}
    wait_for(lambda: set(firing(scenario.loki, "/prometheus/api/v1/alerts")) == expected, 30)
    found = firing(scenario.loki, "/prometheus/api/v1/alerts")
    assert found["TapioPodOomKilled"] == {"search-5d9f7b8c4-9zq7l"}
    assert found["TapioPodCrashes"] == {"checkout-api-7f8b9c6d5-x2x4k"}  # and not the report, which says `exit 3`
    assert found["TapioDiskFails"] == {NODE}
    assert "10.77.0.2" in found["TapioPeerRefuses"]  # other tests may have theirs
    assert not any(peer.startswith("127.") for peer in found["TapioPeerRefuses"]), "each pod's own"


@pytest.mark.skipif(not ANSWERS, reason="TAPIO_DASHBOARD_ANSWERS is not set")
def test_the_answers_are_written(scenario: Scenario) -> None:
    """All that the panels show, as data for `tools/draw-dashboards`."""
    document = [
        {"board": one.board, "panel": one.panel["id"], "legend": one.legend, "answer": scenario.ask(one, node=NODE)}
        for one in boards.queries()
    ]
    Path(ANSWERS).write_text(json.dumps({"begin_s": scenario.begin_s, "end_s": scenario.end_s, "answers": document}))
