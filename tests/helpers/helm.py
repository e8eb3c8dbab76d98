"""The chart, rendered by a real helm, and the schema of the Kubernetes API."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from helpers.programs import ROOT, built

CHART = ROOT / "deploy" / "helm" / "tapio"
KUBERNETES = "1.34.2"  # as tools/fetch-kubernetes-schema

Document = dict[str, Any]


def tool(script: str, *arguments: str) -> Path:
    """What a script of tools/ builds or fetches for deploy/. TAPIO_REQUIRE_DEPLOY=1 makes a skip a failure."""
    return built("TAPIO_REQUIRE_DEPLOY", script, *arguments)


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm."""
    command = [tool("build-helm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def template(values: Document, folder: Path, chart: Path = CHART, *flags: str) -> subprocess.CompletedProcess[str]:
    """Render `chart` with `values`, which go through a file in `folder` as a user's do."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    common = ("--namespace", "tapio-system", "--kube-version", KUBERNETES, "--values", file)
    return helm("template", "tapio", chart, *common, *flags)


def render(values: Document, folder: Path, chart: Path = CHART) -> list[Document]:
    """The documents that the chart makes of `values`."""
    done = template(values, folder, chart)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def agent_toml(documents: list[Document]) -> str:
    """The agent's configuration file: dashboards are ConfigMaps too."""
    (text,) = [one["data"]["tapio.toml"] for one in documents if "tapio.toml" in one.get("data", {})]
    return str(text)


def of_kind(documents: list[Document], kind: str) -> Document:
    """The only document of a kind."""
    (found,) = [one for one in documents if one["kind"] == kind]
    return found


def container(documents: list[Document]) -> Document:
    """The agent's container."""
    (found,) = of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    return dict(found)


@functools.cache
def _schema() -> Document:
    """The API's definitions, in which a field that is not there is an error."""
    document: Document = json.loads(tool("fetch-kubernetes-schema").read_text())
    definitions = document["definitions"]
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    for definition in definitions.values():
        if "properties" in definition:
            definition["additionalProperties"] = False
    return document


def check_schema(document: Document) -> None:
    """Fail unless `document` is what the Kubernetes API takes."""
    group, _, version = document["apiVersion"].rpartition("/")
    wanted = {"group": group, "version": version, "kind": document["kind"]}
    definitions = _schema()["definitions"]
    (name,) = [key for key, one in definitions.items() if one.get("x-kubernetes-group-version-kind") == [wanted]]
    schema = {"$ref": f"#/definitions/{name}", "definitions": definitions}
    jsonschema.Draft4Validator(schema).validate(document)
