"""The otlp and polku sinks in the running agent: faults in the kernel, a receiver that comes and goes."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.certificates import Authority
from helpers.cgroups import ScratchCgroup
from helpers.no_folding import no_folding
from helpers.receiver import Receiver, receiver
from helpers.running_agent import AGENT, RunningAgent, running_agent, wait_for
from helpers.schema import unknown_names

pytestmark = pytest.mark.kernel

ACCEPTED = 'tapio_sink_occurrences_total{result="accepted",sink="otlp"}'


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def plain() -> Iterator[str]:
    with no_folding() as flag:
        yield flag


@pytest.fixture
def with_metrics() -> Iterator[str]:
    with no_folding("[otlp]\nagent_metrics = true\n") as flag:
        yield flag


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that every user can reach: pytest's own are closed to the agent's."""
    with tempfile.TemporaryDirectory(prefix="tapio-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def variables(collector: Receiver, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "2", **more}


def fail(cgroup: ScratchCgroup, number: int) -> None:
    """So many processes that exit with 1."""
    for _ in range(number):
        cgroup.run(["/bin/false"])


def stored(collector: Receiver, cgroup: ScratchCgroup) -> Counter[str]:
    """How often the receiver has each occurrence of a cgroup."""
    documents = list(collector.stored)
    return Counter(one["id"] for one in documents if one["data"].get("cgroup_id") == cgroup.id)


def resident_mib(agent: RunningAgent) -> float:
    (line,) = (line for line in Path(f"/proc/{agent.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_what_arrives_is_what_stdout_shows(
    tmp_path: Path, plain: str, cgroup: ScratchCgroup, collector: Receiver
) -> None:
    """Field by field, under names that the schema knows, within 1.5 s, and the memory stays in its budget."""
    with running_agent(tmp_path / "data", "--sink=otlp", plain, environment=variables(collector)) as agent:
        fail(cgroup, 53)
        wait_for(lambda: len(stored(collector, cgroup)) == 53, 10)
        agent.settle()
        sent = {one["id"]: one for one in agent.of_cgroup(cgroup.id)}
        assert resident_mib(agent) < 50
        for thread in Path(f"/proc/{agent.pid}/task").iterdir():
            status = (thread / "status").read_text()
            assert "CapEff:\t0000000000000000" in status
            assert "Uid:\t65534" in status
        heartbeat = agent.get("/metrics")[1]
    records = [r for request in collector.requests for r in request.records()]
    records = [r for r in records if r["body"]["data"].get("cgroup_id") == cgroup.id]
    assert {r["body"]["id"]: r["body"] for r in records} == sent
    for record in records:
        assert unknown_names(record) == set()
        assert record["observed"] >= record["time"] - 1_000_000
    assert 'tapio_sink_queue{sink="otlp"}' in heartbeat


def test_an_outage_and_a_restart(tmp_path: Path, plain: str, cgroup: ScratchCgroup, collector: Receiver) -> None:
    """The receiver is away; the agent is stopped, killed and started again meanwhile: every occurrence arrives once."""
    environment = variables(collector)
    sent: set[str] = set()
    for number, ending in ((23, signal.SIGTERM), (29, signal.SIGKILL), (31, signal.SIGINT)):
        collector.stop()
        with running_agent(tmp_path / "data", "--sink=otlp", plain, environment=environment) as agent:
            fail(cgroup, number)
            agent.settle(1.0)
            sent |= {one["id"] for one in agent.of_cgroup(cgroup.id)}
            asked = time.monotonic()
            agent.stop(ending)
            assert time.monotonic() - asked < 5
            if ending != signal.SIGKILL:
                assert "wait in the spool" in agent.log.read_text()
    assert len(sent) == 83
    collector.start()
    with running_agent(tmp_path / "data", "--sink=otlp", plain, environment=environment):
        wait_for(lambda: len(stored(collector, cgroup)) == 83, 15)
    assert stored(collector, cgroup) == dict.fromkeys(sent, 1)


@pytest.mark.parametrize("fault", ["hang", "drip", "503:60"])
def test_the_end_waits_for_nobody(
    tmp_path: Path, plain: str, with_metrics: str, cgroup: ScratchCgroup, collector: Receiver, fault: str
) -> None:
    """A receiver that hangs, for metrics too: the agent ends within 5 s, and the next one delivers."""
    collector.otherwise = fault
    environment = variables(collector, OTEL_EXPORTER_OTLP_TIMEOUT="10", OTEL_METRIC_EXPORT_INTERVAL="500")
    flags = ("--sink=otlp", with_metrics)
    with running_agent(tmp_path / "data", *flags, environment=environment) as agent:
        fail(cgroup, 7)
        wait_for(lambda: {request.path for request in collector.requests} == {"/v1/logs", "/v1/metrics"}, 10)
        asked = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - asked < 5
    collector.patience_s = 0
    collector.otherwise = "ok"
    with running_agent(tmp_path / "data", "--sink=otlp", plain, environment=environment):
        wait_for(lambda: len(stored(collector, cgroup)) == 7, 10)


def test_polku(tmp_path: Path, plain: str, cgroup: ScratchCgroup, collector: Receiver) -> None:
    with running_agent(tmp_path / "data", "--sink=polku", plain, f"--polku-endpoint={collector.url}/occurrences"):
        fail(cgroup, 17)
        wait_for(lambda: len(stored(collector, cgroup)) == 17, 10)
    ours = [one for one in collector.stored if one["data"].get("cgroup_id") == cgroup.id]
    assert {one["error"]["what_failed"].split(" pid")[0] for one in ours} == {"Abnormal exit"}


def test_metrics_leave_when_asked(
    tmp_path: Path, with_metrics: str, cgroup: ScratchCgroup, collector: Receiver
) -> None:
    """The agent's counters as OTel metrics, cumulative, under the names and units of the schema."""
    environment = variables(collector, OTEL_METRIC_EXPORT_INTERVAL="200", NODE_NAME="worker-3")
    flags = ("--sink=otlp", with_metrics)
    with running_agent(tmp_path / "data", *flags, environment=environment) as agent:
        fail(cgroup, 13)
        agent.settle(1.0)
        read = agent.metric('tapio_events_total{observer="container"}')
        assert agent.stop() == 0  # with a last export
    exports = [request.metrics() for request in collector.requests if request.path == "/v1/metrics"]
    assert len(exports) > 2
    (group,) = exports[-1].resource_metrics
    assert {"service.name", "k8s.node.name"} <= {attribute.key for attribute in group.resource.attributes}
    metrics = {metric.name: metric for metric in group.scope_metrics[0].metrics}
    events = metrics["tapio.events"]
    assert events.unit == "{record}"
    assert events.sum.is_monotonic
    assert events.sum.aggregation_temporality == 2  # cumulative
    (point,) = [one for one in events.sum.data_points if one.attributes[0].value.string_value == "container"]
    assert point.as_int >= read >= 13
    # Detached by the time of the last export.
    (group,) = exports[0].resource_metrics
    metrics = {metric.name: metric for metric in group.scope_metrics[0].metrics}
    assert metrics["tapio.observer.up"].gauge.data_points[0].as_int == 1


def test_without_being_asked_no_metrics_leave(
    tmp_path: Path, plain: str, cgroup: ScratchCgroup, collector: Receiver
) -> None:
    """Those of CPUs always do, where there are any."""
    environment = variables(collector, OTEL_METRIC_EXPORT_INTERVAL="200")
    flags = ("--observer=container", "--sink=otlp", plain)
    with running_agent(tmp_path / "data", *flags, environment=environment) as agent:
        fail(cgroup, 3)
        agent.settle(1.0)
    assert {request.path for request in collector.requests} == {"/v1/logs"}


def test_nothing_is_imported_after_the_drop(
    tmp_path: Path, with_metrics: str, public_path: Path, cgroup: ScratchCgroup, collector: Receiver
) -> None:
    """Whatever the receiver does: after the drop the interpreter's files may be out of reach."""
    authority = Authority(public_path / "ca")
    for path in (authority.folder, authority.ca):
        path.chmod(0o755)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    collector.script += [f"503:{date}", "429", "400", "302", "partial:1", "nonsense", "garbage", "cut", "reset", "hang"]
    with receiver(authority.server_context()) as encrypted:
        environment = variables(
            collector, PYTHONVERBOSE="1", OTEL_METRIC_EXPORT_INTERVAL="1000",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{encrypted.url}/v1/metrics",
            OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE=str(authority.ca),
        )  # fmt: skip
        flags = ("--sink=otlp", "--sink=polku", f"--polku-endpoint={encrypted.url}", with_metrics)
        with running_agent(tmp_path / "data", *flags, environment=environment) as agent:
            for _ in range(12):
                fail(cgroup, 1)
                time.sleep(0.4)
            wait_for(lambda: len(collector.requests) >= 12, 20)
            agent.get("/metrics")
            assert agent.stop() == 0
            assert encrypted.requests  # the metrics: polku does not trust this authority
    before, after = agent.log.read_text().split("serving /metrics", 1)
    assert re.search(r"^import 'tapio.sinks.otlp' #", before, re.MULTILINE)
    assert re.findall(r"^import '.*", after.split("# clear", 1)[0], re.MULTILINE) == []


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"}, ["--sink=otlp"], "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "banana"}, ["--sink=grafana"], "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: secret"}, ["--sink=otlp"], "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, ["--sink=otlp"], "OTEL_METRIC_EXPORT_INTERVAL"),
        ({}, ["--sink=polku"], "--polku-endpoint"),
        ({}, ["--sink=polku", "--polku-endpoint=ftp://x"], "expected http://HOST:PORT"),
    ],
)
def test_bad_settings_stop_the_start(
    tmp_path: Path, environment: dict[str, str], flags: list[str], message: str
) -> None:
    line = refuse(tmp_path, flags, environment)
    assert message in line
    assert "secret" not in line


@pytest.mark.parametrize("which", ["CERTIFICATE", "CLIENT_KEY"])
def test_files_that_the_new_user_cannot_read_stop_the_start(tmp_path: Path, public_path: Path, which: str) -> None:
    """Root could read them; the agent will not be root for long."""
    authority = Authority(public_path / "ca")
    authority.folder.chmod(0o755)
    certificate, key = authority.issue("client")
    for path in (authority.ca, certificate, key):
        path.chmod(0o644)
    files = {"CERTIFICATE": authority.ca, "CLIENT_CERTIFICATE": certificate, "CLIENT_KEY": key}
    files[which].chmod(0o600)
    environment = {f"OTEL_EXPORTER_OTLP_{name}": str(path) for name, path in files.items()}
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "https://127.0.0.1:1"
    line = refuse(tmp_path, ["--sink=otlp"], environment)
    assert f"reading {files[which]} as uid 65534: permission denied" in line


def refuse(tmp_path: Path, flags: list[str], environment: dict[str, str]) -> str:
    """The one line of an agent that does not start."""
    command = [AGENT, f"--data-dir={tmp_path / 'data'}", "--metrics-address=", *flags]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True,
                          timeout=30, check=False)  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if " WARNING: " not in line]
    assert done.stdout == ""
    return line
