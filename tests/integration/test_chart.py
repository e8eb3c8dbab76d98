"""The Helm chart: what it renders is valid for Kubernetes and for the agent, and asks for no more than is needed."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helpers.collector import collector_binary
from helpers.helm import CHART, Document, agent_toml, check_schema, container, helm, of_kind, render, template
from helpers.programs import ROOT

import tapio
from tapio import config as configuration
from tapio.config import Config
from tapio.kernel import privileges
from tapio.sinks.otlp_environment import read_resource, read_settings

DIGEST = "sha256:" + "0123456789abcdef" * 4
EVERYTHING: Document = {
    "image": {"repository": "mirror/tapio", "digest": DIGEST},
    "imagePullSecrets": [{"name": "registry"}],
    "namespace": {"create": True},
    "clusterName": "prod, eu=1",
    "sinks": ["file", "stdout"],
    "config": {
        "network": {"rst_storm_count": 1000003, "rtt_spike_ratio": 2.5, "ignore_cidrs": ["10.0.0.0/8"]},
        "storage": {"devices": {"sd*": {"warning_ms": 97.5}}},
        "container": {"ignore_comm": ['say "x"', "<y>"]},
    },
    "otlp": {
        "secret": {"name": "otlp", "endpointKey": "endpoint"},
        "tls": {"secretName": "otlp-tls", "clientCertificate": True},
        "resourceAttributes": {"deployment.environment.name": "prod"},
    },
    "serviceAccount": {"annotations": {"a": "b"}},
    "security": {
        "kernelsBefore511": True, "seLinuxOptions": {"type": "spc_t"}, "appArmorProfile": {"type": "Unconfined"},
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "maxUnavailable": 3,
    "service": {"enabled": True},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceMonitor": {"enabled": True},
    "networkPolicy": {
        "enabled": True,
        "ingressFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 4318, "protocol": "TCP"}]}],
    },
    "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Tapio"}},
}  # fmt: skip
PEERS: Document = {"kubernetes": {"namePeers": "services", "nameCronJobs": True}}
VALUES = {
    "default": {},
    "everything": EVERYTHING,
    "privileged": {"security": {"privileged": True, "appArmorProfile": {"type": "Unconfined"}}},
    "peers": PEERS,
    "no kubernetes": {"kubernetes": {"enabled": False}},
    "no otlp": {"otlp": {"enabled": False}, "clusterName": "c"},
    "own names": {
        "fullnameOverride": "watcher", "nameOverride": "kernel", "serviceAccount": {"create": False, "name": "there"},
        "rbac": {"create": False}, "priorityClass": {"create": False, "name": "system-node-critical"},
    },
}  # fmt: skip
each_values = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())


def agent_config(documents: list[Document], folder: Path) -> Config:
    """The configuration as the agent reads it."""
    path = folder / "tapio.toml"
    path.write_text(agent_toml(documents))
    return configuration.load(path, {}, {})


def environment(documents: list[Document], host: str = "10.1.2.3") -> dict[str, str]:
    """The agent's variables, as the kubelet expands them."""
    known = {"HOST_IP": host, "POD_IP": "10.4.5.6", "NODE_NAME": "worker-3"}
    found = {one["name"]: one["value"] for one in container(documents)["env"] if "value" in one}
    return known | {k: re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], v) for k, v in found.items()}


@each_values
def test_lint(values: Document, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    done = helm("lint", "--strict", CHART, "--values", tmp_path / "values.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@each_values
def test_kubernetes_takes_every_document(values: Document, tmp_path: Path) -> None:
    documents = render(values, tmp_path)
    for document in documents:
        if document["apiVersion"] != "monitoring.coreos.com/v1":
            check_schema(document)
    named = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(set(named)) == len(named)


def test_the_schema_check_sees_errors(tmp_path: Path) -> None:
    daemonset = of_kind(render({}, tmp_path), "DaemonSet")
    for path, value in (("hostPid", True), ("terminationGracePeriodSeconds", "x"), ("containers", [{"image": "x"}])):
        broken = copy.deepcopy(daemonset)
        broken["spec"]["template"]["spec"][path] = value
        with pytest.raises(jsonschema.ValidationError):
            check_schema(broken)


def test_the_rendered_manifest_is_in_step(tmp_path: Path) -> None:
    done = template({"namespace": {"create": True}}, tmp_path)
    text = (ROOT / "deploy" / "tapio.yaml").read_text()
    assert text.split("\n---\n", 1)[1] == done.stdout.split("---\n", 1)[1], "run 'make manifest'"


def test_the_chart_has_the_agent_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == tapio.__version__


@pytest.mark.parametrize("values", [v for k, v in VALUES.items() if k not in ("peers", "no kubernetes")])
def test_the_agent_takes_the_configuration(values: Document, tmp_path: Path) -> None:
    documents = render(values, tmp_path)
    config = agent_config(documents, tmp_path)
    assert config.container.exit_scope == "main"
    otlp = values.get("otlp", {}).get("enabled", True)
    assert config.sinks == (*values.get("sinks", ["file"]), *(["otlp"] if otlp else []))
    assert "data_dir" not in agent_toml(documents)


def test_numbers_and_texts_arrive_as_they_are(tmp_path: Path) -> None:
    config = agent_config(render(EVERYTHING, tmp_path), tmp_path)
    assert config.network.rst_storm_count == 1000003
    assert config.network.rtt_spike_ratio == 2.5
    assert config.storage.devices["sd*"].warning_ms == 97.5
    assert config.container.ignore_comm == ('say "x"', "<y>")


def test_what_the_user_sets_wins(tmp_path: Path) -> None:
    documents = render({"config": {"container": {"exit_scope": "all", "ignore_exit_codes": [3]}}}, tmp_path)
    config = agent_config(documents, tmp_path)
    assert (config.container.exit_scope, config.container.ignore_exit_codes) == ("all", (3,))


@pytest.mark.skipif(not hasattr(Config(), "kubernetes"), reason="this agent does not know [kubernetes] yet")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (PEERS["kubernetes"], {"name_peers": "services", "name_cronjobs": True}),
        ({"enabled": False}, {"enabled": False}),
        ({"namePeers": "off"}, {"name_peers": "off"}),
    ],
)
def test_enrichment_is_configured(values: Document, expected: Document, tmp_path: Path) -> None:
    section: Any = getattr(agent_config(render({"kubernetes": values}, tmp_path), tmp_path), "kubernetes")  # noqa: B009
    assert {key: getattr(section, key) for key in expected} == expected


@pytest.mark.skipif(not hasattr(Config(), "kubernetes"), reason="this agent does not know [kubernetes] yet")
def test_host_paths_are_mounted_where_the_agent_looks(tmp_path: Path) -> None:
    section: Any = getattr(Config(), "kubernetes")  # noqa: B009
    mounts = {one["mountPath"] for one in container(render({}, tmp_path))["volumeMounts"]}
    assert {section.host_proc, section.host_cgroup} <= mounts


@pytest.mark.parametrize("pod_ip", ["10.4.5.6", "fd00::12"])
def test_metrics_are_on_the_pod_s_address(pod_ip: str, tmp_path: Path) -> None:
    agent = container(render({"metrics": {"port": 9999}}, tmp_path))
    (flag,) = [one for one in agent["args"] if one.startswith("--metrics-address=")]
    address = flag.partition("=")[2].replace("$(POD_IP)", pod_ip)
    assert Config(metrics_address=address).metrics_endpoint() == (pod_ip, 9999)
    assert [port["containerPort"] for port in agent["ports"]] == [9999]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert agent[probe]["httpGet"]["port"] == agent["ports"][0]["name"]


def test_otlp_goes_to_the_node_s_collector(tmp_path: Path) -> None:
    variables = environment(render({}, tmp_path))
    assert read_settings(variables, "logs").endpoint == "http://10.1.2.3:4318/v1/logs"
    six = environment(render({"otlp": {"endpoint": "http://[$(HOST_IP)]:4318"}}, tmp_path), "fd00::1")
    assert read_settings(six, "metrics").endpoint == "http://[fd00::1]:4318/v1/metrics"


def test_the_cluster_s_name_survives_any_character(tmp_path: Path) -> None:
    attributes = read_resource(environment(render(EVERYTHING, tmp_path)))
    assert attributes == {"k8s.cluster.name": "prod, eu=1", "deployment.environment.name": "prod"}


def test_credentials_come_from_secrets(tmp_path: Path) -> None:
    documents = render(EVERYTHING, tmp_path)
    references = {
        one["name"]: one["valueFrom"]["secretKeyRef"]
        for one in container(documents)["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    }
    assert references == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": {"name": "otlp", "key": "endpoint"},
        "OTEL_EXPORTER_OTLP_HEADERS": {"name": "otlp", "key": "headers"},
    }
    (mount,) = [one for one in container(documents)["volumeMounts"] if one["name"] == "otlp-tls"]
    variables = environment(documents)
    for name, file in (("CERTIFICATE", "ca.crt"), ("CLIENT_CERTIFICATE", "tls.crt"), ("CLIENT_KEY", "tls.key")):
        assert variables[f"OTEL_EXPORTER_OTLP_{name}"] == f"{mount['mountPath']}/{file}"
    assert not any(one["kind"] == "Secret" for one in documents)


@pytest.mark.parametrize("old", [False, True])
def test_capabilities_are_those_that_the_agent_needs(old: bool, tmp_path: Path) -> None:
    context = container(render({"security": {"kernelsBefore511": old}}, tmp_path))["securityContext"]
    needed = {name.removeprefix("CAP_") for name in privileges._TO_ATTACH + privileges._TO_DROP}
    assert set(context["capabilities"]["add"]) == needed | ({"SYS_RESOURCE"} if old else set())
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_each_capability_is_explained() -> None:
    """In the template, in deploy/README.md."""
    lines = (CHART / "templates/daemonset.yaml").read_text().splitlines()
    added = [line for line in lines if re.match(r"\s+- [A-Z_]+( #|$)", line)]
    readme = (ROOT / "deploy/README.md").read_text()
    assert len(added) == 7
    for line in added:
        assert " # " in line
        assert f"CAP_{line.split()[1]}" in readme


def test_privileged_is_a_switch(tmp_path: Path) -> None:
    context = container(render(VALUES["privileged"], tmp_path))["securityContext"]
    assert context["privileged"] is True
    assert "capabilities" not in context
    assert "allowPrivilegeEscalation" not in context  # Kubernetes refuses false here
    assert context["readOnlyRootFilesystem"] is True


@each_values
def test_only_the_data_directory_is_writable(values: Document, tmp_path: Path) -> None:
    documents = render(values, tmp_path)
    spec = of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]
    mounts = container(documents)["volumeMounts"]
    assert {one["name"] for one in mounts} == {one["name"] for one in spec["volumes"]}
    assert [one["mountPath"] for one in mounts if not one.get("readOnly")] == ["/var/lib/tapio"]
    assert container(documents)["securityContext"]["readOnlyRootFilesystem"] is True
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


@pytest.mark.parametrize(
    ("values", "resources"),
    [
        ({}, {("", "pods")}),
        (PEERS, {("", "pods"), ("", "services"), ("batch", "jobs")}),
        ({"kubernetes": {"namePeers": "services"}}, {("", "pods"), ("", "services")}),
        ({"kubernetes": {"nameCronJobs": True}}, {("", "pods"), ("batch", "jobs")}),
    ],
)
def test_rbac_is_as_narrow_as_can_be(values: Document, resources: set[tuple[str, str]], tmp_path: Path) -> None:
    documents = render(values, tmp_path)
    rules = of_kind(documents, "ClusterRole")["rules"]
    assert {(group, name) for rule in rules for group in rule["apiGroups"] for name in rule["resources"]} == resources
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}
    binding = of_kind(documents, "ClusterRoleBinding")
    account = of_kind(documents, "ServiceAccount")["metadata"]
    (subject,) = binding["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    assert binding["roleRef"]["name"] == of_kind(documents, "ClusterRole")["metadata"]["name"]


def test_without_enrichment_there_is_no_access_to_the_api(tmp_path: Path) -> None:
    documents = render(VALUES["no kubernetes"], tmp_path)
    spec = of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert not {"ClusterRole", "ClusterRoleBinding"} & {one["kind"] for one in documents}
    assert "/host/proc" not in {one["mountPath"] for one in container(documents)["volumeMounts"]}


def test_token_and_keys_are_readable_after_the_drop(tmp_path: Path) -> None:
    """The agent keeps the gid of its user alone, so fsGroup has to be that one."""
    spec = of_kind(render(EVERYTHING, tmp_path), "DaemonSet")["spec"]["template"]["spec"]
    assert spec["securityContext"]["fsGroup"] == privileges.find_user(Config().user)[1]
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes["otlp-tls"]["secret"]["defaultMode"] == 0o440
    assert volumes["config"]["configMap"]["defaultMode"] == 0o444


def test_a_changed_configuration_starts_new_pods(tmp_path: Path) -> None:
    def annotations(values: Document) -> Document:
        spec: Document = of_kind(render(values, tmp_path), "DaemonSet")["spec"]
        return dict(spec["template"]["metadata"]["annotations"])

    assert annotations({}) == annotations({"dashboards": {"enabled": True}})
    changed = annotations({"config": {"node": {"busy_percent": 60}}})
    assert annotations({})["checksum/config"] != changed["checksum/config"]


def test_image_by_digest_and_pull_secrets(tmp_path: Path) -> None:
    documents = render(EVERYTHING, tmp_path)
    assert container(documents)["image"] == f"mirror/tapio@{DIGEST}"
    assert of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert container(render({}, tmp_path))["image"] == f"tapio:{tapio.__version__}"


def test_the_namespace_is_labelled_for_pod_security(tmp_path: Path) -> None:
    labels = of_kind(render({"namespace": {"create": True}}, tmp_path), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"image": {"digest": "sha256:short"}},
        {"kubernetes": {"namePeers": "all"}},
        {"kubernetes": {"namePeers": False}},  # `off` without quotes
        {"config": {"data_dir": "/elsewhere"}},  # the mount and the image's environment say where
        {"dataPath": "/"},
        {"metrics": {"port": 80}},  # the agent binds it without privileges
        {"maxUnavailable": "0%"},
        {"sinks": ["otlp"]},
        {"otlp": {"resourceAttributes": {"a=b": "c"}}},
        {"serviceMonitor": {"enabled": True}},  # needs the service
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(values: Document, tmp_path: Path) -> None:
    done = template(values, tmp_path)
    assert done.returncode != 0
    assert "rror" in done.stderr


def test_every_dashboard_is_a_config_map(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    board = {"title": "Überblick {{ node }}", "panels": [1, 2.5, "`"]}
    (chart / "dashboards" / "tapio_test.json").write_text(json.dumps(board))
    documents = render({"dashboards": {"enabled": True}}, tmp_path, chart)
    found = {name: text for one in documents if one["kind"] == "ConfigMap" for name, text in one["data"].items()}
    for path in (chart / "dashboards").glob("*.json"):
        assert json.loads(found[path.name]) == json.loads(path.read_text())
    assert json.loads(found["tapio_test.json"]) == board
    for one in documents:
        check_schema(one)
        if "dashboard" in one["metadata"]["name"]:
            assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
            assert len(json.dumps(one)) < 1 << 20


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor"])
def test_scraped_series_have_the_labels_that_the_dashboards_go_by(kind: str, tmp_path: Path) -> None:
    name = kind[0].lower() + kind[1:]
    values = {name: {"enabled": True}, "service": {"enabled": True}, "clusterName": "prod-eu"}
    (monitor,) = [one for one in render(values, tmp_path) if one["kind"] == kind]
    (endpoint,) = monitor["spec"].get("podMetricsEndpoints") or monitor["spec"]["endpoints"]
    labels = {one["targetLabel"]: one.get("replacement", one.get("sourceLabels")) for one in endpoint["relabelings"]}
    node = ["__meta_kubernetes_pod_node_name"]
    assert labels == {"job": "tapio", "host_name": node, "k8s_cluster_name": "prod-eu"}


def test_the_example_collector_s_pipeline_is_valid(tmp_path: Path) -> None:
    resource = yaml.safe_load((ROOT / "deploy/examples/opentelemetry-collector.yaml").read_text())
    assert (resource["apiVersion"], resource["kind"]) == ("opentelemetry.io/v1beta1", "OpenTelemetryCollector")
    (port,) = [one for one in resource["spec"]["ports"] if "hostPort" in one]
    endpoint = resource["spec"]["config"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert endpoint.endswith(f":{port['hostPort']}")
    assert f":{port['hostPort']}" in yaml.safe_load((CHART / "values.yaml").read_text())["otlp"]["endpoint"]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(resource["spec"]["config"]))
    variables = {one["name"]: one["value"] for one in resource["spec"]["env"]}
    command = [collector_binary(), "validate", f"--config={file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
