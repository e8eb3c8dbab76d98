"""otel/schema is whole, and the code's names are those of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import schema

from tapio import occurrence, otel_names
from tapio.anomalies import CATALOGUE
from tapio.prometheus import AgentCollector
from tapio.telemetry import ObserverTelemetry, Telemetry

ROOT = Path(__file__).parent.parent.parent
EBPF = sorted((ROOT / "ebpf").glob("*_monitor.c"))
STABILITIES = {"stable", "release_candidate", "development"}


def test_the_generated_names_are_in_step() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/generate-names", "--check"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_every_group_is_complete() -> None:
    """Ids are unique; everything has type, stability and description; references lead somewhere."""
    groups = schema.groups()
    ids = [group["id"] for group in groups]
    assert len(ids) == len(set(ids))
    defined = [a["id"] for group in groups for a in group.get("attributes", ()) if "id" in a]
    assert len(defined) == len(set(defined))
    for group in groups:
        assert group["type"] in ("attribute_group", "event", "metric"), group["id"]
        assert group["brief"], group["id"]
        for attribute in group["attributes"] if group["type"] == "attribute_group" else ():
            assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", attribute["id"])
            assert attribute["type"] in ("string", "int", "double", "boolean", "string[]"), attribute["id"]
            assert attribute["stability"] in STABILITIES, attribute["id"]
            assert attribute["brief"], attribute["id"]
            assert attribute["examples"], attribute["id"]
        for attribute in group.get("attributes", ()):
            assert attribute.get("ref", attribute.get("id")) in defined
        if group["type"] != "attribute_group":
            assert group["stability"] in STABILITIES
        if group["type"] == "metric":
            assert group["instrument"] in ("counter", "gauge", "histogram")
            assert group["unit"]
            name = group["annotations"]["prometheus"]["name"]
            assert re.fullmatch(r"(tapio|process)_[a-z0-9_]+", name)
            assert name.endswith("_total") == (group["instrument"] == "counter")


def test_attributes_are_filled_from_fields_that_exist() -> None:
    assert set(otel_names.DATA_ATTRIBUTES.values()) <= schema.DATA
    assert set(otel_names.POD_DATA.values()) <= schema.DATA


def test_every_anomaly_type_is_an_event() -> None:
    assert set(CATALOGUE) == schema.EVENTS


def test_every_field_that_occurrences_check_is_described() -> None:
    assert set(occurrence._DATA) <= schema.DATA


def test_the_documented_number_of_series_is_the_sum_of_the_schema() -> None:
    sums = Counter[str]()
    for group in schema.PROMETHEUS.values():
        annotation = group["annotations"]["prometheus"]
        sums[annotation.get("each", "node")] += annotation["series"]
    text = " ".join((ROOT / "tapio" / "README.md").read_text().split())
    assert f"At most {sums['node']}, and {sums['device']} for each disk" in text
    assert f"and {sums['cpu']} for each CPU" in text


def test_the_schema_counts_every_hook() -> None:
    programs = [re.findall(r'^SEC\("(?:tp_btf|fentry|perf_event)', path.read_text(), re.MULTILINE) for path in EBPF]
    by_hook = [
        group["annotations"]["prometheus"]["series"]
        for group in schema.PROMETHEUS.values()
        if {label["ref"] for label in group.get("attributes", ())} in ({"observer", "hook"}, {"program"})
    ]
    assert by_hook == [sum(map(len, programs))] * 7


def test_every_series_of_metrics_is_described() -> None:
    """Name, type and labels, as /metrics writes them."""
    telemetry = Telemetry([ObserverTelemetry("container")], [])
    for family in AgentCollector(telemetry).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert name in schema.PROMETHEUS, name
        group = schema.PROMETHEUS[name]
        assert group["instrument"] == family.type
        labels = {a["ref"] for a in group.get("attributes", ())}
        for sample in family.samples:
            assert set(sample.labels) <= labels, name


@pytest.mark.parametrize("path", sorted((ROOT / "tapio").rglob("*.py")), ids=lambda path: path.name)
def test_no_data_field_of_an_observer_is_missing(path: Path) -> None:
    """Every `data["x"] =` in the sources: a cheap net for what no test happens to emit."""
    written = set(re.findall(r'\bdata\["([a-z_0-9]+)"\] = ', path.read_text()))
    assert written <= schema.DATA
