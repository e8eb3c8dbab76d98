"""The committed dashboards and rules: made by the generator, whole, and of names that otel/schema knows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from helpers import boards, schema
from helpers.boards import Asked

SUFFIXES = ("", "_bucket", "_count", "_sum")
SERIES = {name + suffix for name in schema.PROMETHEUS for suffix in SUFFIXES}
# What a scrape adds, what Loki adds, and what a query itself makes.
OF_BACKENDS = {"job", "instance", "severity_text", "severity_number", "detected_level"}
MADE = {"kind", "workload", "message", "usage", "limit", "trigger", "value", "__error__"}
LABELS = {name.replace(".", "_") for name in schema.RESOURCE | schema.METRIC_LABELS} | OF_BACKENDS
PANELS = [(name, panel) for name, board in boards.BOARDS.items() for panel in boards.panels(board)]
QUERIES = boards.queries()


def rules(name: str) -> list[dict[str, Any]]:
    """The alerts of one file."""
    groups = yaml.safe_load((boards.FOLDER / "alerts" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = [(kind, rule) for kind in ("prometheus", "loki") for rule in rules(f"{kind}.yaml")]
EXPRESSIONS = [(query.source, query.expression) for query in QUERIES]
EXPRESSIONS += [("loki", expression) for _, expression in boards.annotations()]
EXPRESSIONS += [(kind, rule["expr"]) for kind, rule in ALERTS]


def labels_in(expression: str) -> set[str]:
    """The labels that an expression in PromQL or LogQL selects, filters or groups by, or reads in a template."""
    found = set(re.findall(r"\b(\w+)\s*(?:=~|!~|!=|=)\s*[\"`]", expression))
    for clause in re.findall(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)", expression):
        found |= set(re.split(r"[\s,]+", clause.strip()))
    for stage in re.findall(r"\|\s*(?:keep|drop|unwrap)\s+([^|\[)]+)", expression):
        found |= set(re.split(r"[\s,]+", stage.strip()))
    for template in re.findall(r"\{\{(.*?)\}\}", expression):
        found |= set(re.findall(r"\.(\w+)", template))
    return found - {""}


def test_the_generated_files_are_in_step() -> None:
    environment = {**os.environ, "PYTHONPATH": str(boards.FOLDER)}
    command = [sys.executable, "-m", "generator", "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_files_are_what_grafanas_own_types_read() -> None:
    """Nothing of them is unknown to the types of Grafana's schema, and nothing gets lost."""
    for name, board in boards.BOARDS.items():
        read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
        assert read == board, name


def test_there_are_four_dashboards_that_lead_to_each_other() -> None:
    assert set(boards.BOARDS) == {"tapio-fleet", "tapio-node", "tapio-workload", "tapio-agent"}
    for name, board in boards.BOARDS.items():
        assert board["uid"] == name
        assert board["tags"] == ["tapio"]
        (link,) = board["links"]
        assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
            "dashboards", ["tapio"], True, True,
        )  # fmt: skip
        assert board["schemaVersion"] <= 41  # what Grafana 11 and 12 read
        assert "id" not in board
        text = str(board)
        for target in re.findall(r"/d/([\w-]+)", text):
            assert target in boards.BOARDS


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=lambda value: value["title"] if isinstance(value, dict) else "")
def test_every_panel_is_whole(name: str, panel: dict[str, Any]) -> None:
    """Title, description, unit, and a data source that is a variable."""
    assert panel["title"]
    assert panel["description"].endswith((".", "?")), name
    assert panel["type"] == "logs" or panel["fieldConfig"]["defaults"]["unit"]
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    for source in sources:
        assert source["uid"] == f"${{{source['type']}}}"
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@pytest.mark.parametrize("query", [one for one in QUERIES if one.panel["type"] == "stat"], ids=lambda query: query.name)
def test_what_every_cluster_has_is_not_coloured_as_a_fault(query: Asked) -> None:
    """Else the numbers were orange for ever, and nobody looked at them."""
    everyday = r'anomaly_type=~"kernel|abnormal_exit|ABNORMAL_EXIT|connection_refused|CONNECTION_REFUSED'
    steps = [step["color"] for step in query.panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert (steps == ["blue"]) == bool(re.search(everyday, query.expression)), steps


@pytest.mark.parametrize("name", sorted(boards.BOARDS))
def test_every_dashboard_is_whole(name: str) -> None:
    """Numbers and places of panels are unique; data sources and cluster are variables; nothing names a data source."""
    board = boards.BOARDS[name]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    cells = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(cells) == len(set(cells))
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert [variables[kind]["type"] for kind in ("prometheus", "loki")] == ["datasource", "datasource"]
    for variable in variables.values():
        assert variable["label"]
        if variable["type"] == "query":
            assert variable["datasource"]["uid"] in ("${prometheus}", "${loki}")
            assert variable["description"]
            assert variable["includeAll"] is not (name == "tapio-node" and variable["name"] == "node")
            assert not variable["includeAll"] or variable["allValue"] == ".*"
    used = set(re.findall(rf"\$\{{?({'|'.join(boards.VARIABLES)})\b", str(board["panels"])))
    assert used <= set(variables)
    for variable in variables.values():
        # Grafana gives up a chosen value that is not in the list any more, each time it asks for the list.
        assert variable["type"] != "query" or variable["refresh"] == 1, "on load only"
    for source in board["annotations"]["list"]:
        assert source["datasource"]["uid"] == "${loki}"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_rates_suit_the_resolution_and_counters_are_summed_after_them(query: Asked) -> None:
    """`$__rate_interval` under rate, `$__range` under increase, `$__auto` in LogQL; sum of rate, never rate of sum."""
    for function, window in re.findall(r"\b(rate|increase|\w+_over_time)\s*\([^\[]*\[([^\]]*)\]", query.expression):
        allowed = {"rate": ["$__rate_interval"], "increase": ["$__range"]}.get(function, ["$__auto", "$__range"])
        assert window in allowed
    for found in re.finditer(r"\b(?:rate|increase)\(", query.expression):
        before = query.expression[: found.start()]
        assert re.search(r"(sum( by \([^)]*\))? \(|sum\()(label_replace\()?$", before), query.expression
    if query.source == "prometheus":
        counters = re.findall(r"\b(\w+_total)\{", query.expression)
        assert len(counters) == len(re.findall(r"\b(?:rate|increase)\(\w+_total\{", query.expression))
    if "$__range" in query.expression:
        assert query.instant, "over the whole range it is one value"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_no_panel_grows_beyond_reading(query: Asked) -> None:
    """Of nodes, peers, processes, namespaces and pods the ten highest; in Loki also beside its limit of 500 series."""
    grouped = set(re.findall(r"\b(\w+)\b", " ".join(re.findall(r"\bby \(([^)]*)\)", query.expression))))
    unbounded = {"host_name", "network_peer_address", "process_executable_name", "k8s_namespace_name", "workload"}
    counts = query.expression.startswith(("count(", "sum(("))
    if grouped & unbounded and not counts:
        assert re.match(r"(sort_desc\()?(topk|bottomk)\(10, ", query.expression), query.expression
    assert not re.search(r"max( by \([^)]*\))? \(max_over_time", query.expression), "a series of each record"


@pytest.mark.parametrize(("kind", "expression"), EXPRESSIONS)
def test_every_name_is_in_the_schema(kind: str, expression: str) -> None:
    if kind == "prometheus":
        assert set(re.findall(r"\b((?:tapio|process)_\w+)\b(?=[\[{)]|\s|$)", expression)) <= SERIES
        for kind_of in re.findall(r'anomaly_type=~?"([^"]+)"', expression):
            assert kind_of in schema.EVENTS | {"kernel.+"}
    else:
        for codes in re.findall(r'error_type=~?"([^"]+)"', expression):
            assert set(codes.split("|")) <= {name.rsplit(".", 1)[1].upper() for name in schema.EVENTS}
        fields = re.findall(r'="data\.(\w+)"', expression)
        assert set(fields) <= schema.DATA
        for stream in re.findall(r"\{(service_name[^}]*)\}", expression):
            pod = re.findall(r"k8s_pod_name\s*(=~|!~|!=|=)\s*\"([^\"]*)\"", stream)
            assert all(how == "=~" and value.endswith("|") for how, value in pod), "no index label in every Loki"
    assert labels_in(expression) <= LABELS | MADE, labels_in(expression) - LABELS - MADE


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_legends_and_columns_are_in_the_schema(query: Asked) -> None:
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= LABELS | MADE
    for transformation in query.panel.get("transformations", ()):
        if transformation["id"] == "organize":
            assert set(transformation["options"]["renameByName"]) <= LABELS | MADE | {"Time"}


@pytest.mark.parametrize(("kind", "rule"), ALERTS, ids=lambda value: value["alert"] if isinstance(value, dict) else "")
def test_every_alert_is_whole_and_in_the_runbook(kind: str, rule: dict[str, Any]) -> None:
    """Severity, summary, description, and a section of the README that says what to do."""
    assert kind
    assert rule["labels"]["severity"] in ("critical", "warning")
    for text in (rule["annotations"]["summary"], rule["annotations"]["description"]):
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= LABELS | MADE
    name = rule["alert"]
    assert rule["annotations"]["runbook"] == f"dashboards/README.md#{name.lower()}"
    assert f"\n#### {name}\n" in (boards.FOLDER / "README.md").read_text()


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    sections = set(re.findall(r"^#### (\w+)$", (boards.FOLDER / "README.md").read_text(), re.MULTILINE))
    assert sections == {rule["alert"] for _, rule in ALERTS}


def test_one_fault_is_one_notification() -> None:
    """Alerts of both rulers about the same type of occurrence: the one that knows more silences the other."""
    by_name = {rule["alert"]: rule["expr"] for _, rule in ALERTS}
    document = yaml.safe_load((boards.FOLDER / "alerts" / "inhibit.yaml").read_text())
    inhibited = set()
    for rule in document["inhibit_rules"]:
        names = [re.fullmatch(r'alertname="(\w+)"', *rule[f"{end}_matchers"]) for end in ("source", "target")]
        source, target = (found[1] for found in names if found)
        inhibited.add((source, target))
        for label in rule["equal"]:
            assert all(label in re.findall(r"\w+", by_name[name].split("(")[1]) for name in (source, target)), label
    both = set()
    for source in rules("loki.yaml"):
        for target in rules("prometheus.yaml"):
            kinds = {f'"kernel.{kind}"' for kind in ("container.oom_kill", "storage.io_error")
                     if f'"{kind.split(".")[1].upper()}"' in source["expr"]}  # fmt: skip
            if any(kind in target["expr"] for kind in kinds):
                both.add((source["alert"], target["alert"]))
    assert inhibited == both


def test_every_prometheus_alert_is_tried_firing_and_not_firing() -> None:
    """In the cases for promtool, which tests/integration/test_alerts.py runs."""
    cases = yaml.safe_load((boards.FOLDER / "alerts" / "tests" / "prometheus.yaml").read_text())["tests"]
    tried: dict[str, set[bool]] = {}
    for case in cases:
        for check in case["alert_rule_test"]:
            tried.setdefault(check["alertname"], set()).add(bool(check.get("exp_alerts")))
    assert tried == {rule["alert"]: {True, False} for rule in rules("prometheus.yaml")}


def test_provisioning_fits_the_dashboards() -> None:
    """The names that the variables of the dashboards look for, and the folder that the files are in."""
    folder = boards.FOLDER / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "tapio.yaml").read_text())["datasources"]
    assert {source["type"] for source in sources} == {"prometheus", "loki"}
    (provider,) = yaml.safe_load((folder / "dashboards" / "tapio.yaml").read_text())["providers"]
    assert provider["options"]["path"] in (boards.FOLDER / "README.md").read_text()
