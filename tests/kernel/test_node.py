"""The node observer on the real kernel, with software events through the same program and maps as hardware ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import cpu_load
from helpers.kernel_state import loaded_programs
from helpers.receiver import receiver
from helpers.running_agent import AGENT, RunningAgent, running_agent, wait_for

from tapio import perf_events
from tapio.config import Config, NodeConfig
from tapio.kernel import memory, perf
from tapio.kernel.layout import make_decoder
from tapio.kernel.perf import online_cpus
from tapio.kernel.ringbuf import RingBuffer
from tapio.observers.node_deltas import FIELDS, Delta, difference
from tapio.source import attach_observers

pytestmark = pytest.mark.kernel

CPU = online_cpus()[-1]
PERIOD_NS = 97_000_000
CLOCK_AND_FAULTS = {"cycles": "software:cpu-clock", "instructions": "software:page-faults"}


def has_pmu() -> bool:
    try:
        os.close(perf.open_event(perf_events.parse("hardware:cpu-cycles"), CPU))
    except OSError:
        return False
    return True


without_pmu = pytest.mark.skipif(has_pmu(), reason="this machine has a PMU")


def samplers() -> set[int]:
    """The ids of the observer's programs in the kernel."""
    return {number for number, name in loaded_programs().items() if name == "cpu_sample"}


def config_file(tmp_path: Path, **node: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in node.items()]
    (tmp_path / "node.toml").write_text("\n".join(["[node]", *lines]))
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)  # the agent reads it again as nobody
    return f"--config={tmp_path / 'node.toml'}"


class Sampler:
    """The observer's program attached by this process, its records decoded."""

    def __init__(self, **node: Any) -> None:
        outcome = attach_observers(Config(observers=("node",), node=NodeConfig(**CLOCK_AND_FAULTS, **node)))
        assert not outcome.failed
        (self.attachment,) = outcome.attached
        loaded = self.attachment.loaded
        self.ring = RingBuffer(self.attachment.descriptors["events"], loaded.sizes["events"], memory.fence())
        self.counters = memory.HookCounters(self.attachment)
        self.decode = make_decoder(loaded.record("cpu_record"), FIELDS)

    def records(self) -> list[Any]:
        return [self.decode(record) for record in self.ring.read(1 << 16)]

    def wait(self, cpu: int) -> Any:
        """The next record of a CPU."""
        found: list[Any] = []
        self.records()
        wait_for(lambda: found.extend(record for record in self.records() if record.cpu == cpu) or found)
        return found[0]


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    made = Sampler()
    try:
        yield made
    finally:
        made.ring.close()
        made.counters.close()
        made.attachment.close()


def between(before: Any, after: Any) -> Delta:
    delta = difference(before, after, PERIOD_NS)
    assert delta is not None
    return delta


def test_every_cpu_is_sampled_and_its_clock_is_right(sampler: Sampler) -> None:
    """Within one percent of the time that passed; every hit is a record, or was left out because the CPU was idle."""
    assert sampler.attachment.loaded.counted_cpus == tuple(online_cpus())
    for cpu in online_cpus():
        with cpu_load.load("spin", cpu):
            before = sampler.wait(cpu)
            time.sleep(1.5)
            delta = between(before, sampler.wait(cpu))
        assert delta.cycles == pytest.approx(delta.duration_ns, rel=0.01)
        assert delta.busy_ns >= 0.9 * delta.duration_ns >= 0.9 * 1.4e9
    counts = sampler.counters.read()["cpu_sample"]
    assert counts["hits"] == counts["submitted"] + counts["filtered"]
    assert (counts["lost"], counts["unreadable"]) == (0, 0)


def test_an_idle_cpu_is_seen_as_idle(sampler: Sampler) -> None:
    """The share of busy samples is what /proc/stat says of this machine's busy time, within a quarter of the time."""

    def busy_s() -> float:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = (
            int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        )
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    sampler.records()
    started, busy_before, counts = time.monotonic(), busy_s(), dict.fromkeys(online_cpus(), 0)
    before: dict[int, int] = {}
    while time.monotonic() < started + 5:
        time.sleep(0.1)
        for record in sampler.records():
            counts[record.cpu] = record.busy_samples - before.setdefault(record.cpu, record.busy_samples)
    busy = (busy_s() - busy_before) / (time.monotonic() - started) / len(counts)
    seen = sum(counts.values()) * PERIOD_NS / 1e9 / (time.monotonic() - started) / len(counts)
    assert seen == pytest.approx(busy, abs=0.25)


def test_page_faults_of_a_known_load(sampler: Sampler) -> None:
    """All that getrusage() counts of the load, and no more than the whole machine had, within five percent."""

    def machine_faults() -> int:
        return next(
            int(line.split()[1])
            for line in Path("/proc/vmstat").read_text().splitlines()
            if line.startswith("pgfault ")
        )

    with cpu_load.load("spin", CPU):  # so that the CPU reports at every sample
        before, machine_before = sampler.wait(CPU), machine_faults()
        faults = sum(cpu_load.fault(CPU, 200_003) for _ in range(2))
        after, machine_after = sampler.wait(CPU), machine_faults()
    delta = between(before, after)
    assert faults >= 400_006
    assert faults * 0.95 <= delta.instructions <= (machine_after - machine_before) * 1.05


def wait_for_anomaly(agent: RunningAgent, kind: str, timeout_s: float = 30) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [
            item for item in agent.occurrences() if item["type"] == f"kernel.node.{kind}" and item["data"]["cpu"] == CPU
        ]

    wait_for(found, timeout_s, lambda: agent.log.read_text())
    (occurrence,) = found()
    return occurrence


def test_a_stall_on_a_busy_cpu(tmp_path: Path) -> None:
    """The clock as stall event: every cycle is stalled. Reported when the CPU is busy, with the window's values."""
    flags = config_file(
        tmp_path, **CLOCK_AND_FAULTS, stalls="software:cpu-clock", sustained_intervals=7, interval_ms=50
    )
    with running_agent(tmp_path / "data", "--observer=node", flags) as agent, cpu_load.load("spin", CPU):
        occurrence = wait_for_anomaly(agent, "cpu_stall")
        data = occurrence["data"]
        assert data["stall_pct"] == pytest.approx(100, abs=1)
        assert data["stall_cycles"] == pytest.approx(data["cycles"], rel=0.01)
        assert data["cycles"] == pytest.approx(data["interval_ms"] * 1e6, rel=0.01)
        assert data["busy_pct"] >= 50
        assert occurrence["severity"] == "critical"
        assert not [item for item in agent.occurrences() if item["type"].endswith("memory_pressure")]
        series = f'tapio_cpu_stalled_cycles_total{{cpu="{CPU}"}}'
        assert agent.metric(series) >= data["stall_cycles"]
        agent.settle(2)
        wait_for_anomaly(agent, "cpu_stall")  # still the only one


def test_no_stall_without_stalled_cycles(tmp_path: Path) -> None:
    """A busy CPU whose stall event counts next to nothing."""
    flags = config_file(
        tmp_path, **CLOCK_AND_FAULTS, stalls="software:major-faults", sustained_intervals=5, interval_ms=50
    )
    with running_agent(tmp_path / "data", "--observer=node", flags) as agent, cpu_load.load("spin", CPU):
        agent.settle(3)
        assert agent.occurrences() == []
        assert agent.metric(f'tapio_cpu_cycles_total{{cpu="{CPU}"}}') > 1e9
        assert agent.get("/readyz") == (200, "ready\n")


def test_an_event_for_stalls_that_the_machine_lacks(tmp_path: Path) -> None:
    """Named in the configuration: what needs it is off with its reason everywhere, the rest works."""
    flags = config_file(tmp_path, **CLOCK_AND_FAULTS, stalls="raw:0xffffffffffff")
    why = "counting stalled cycles by raw:0xffffffffffff: this machine has no performance counter for it"
    check = subprocess.run([AGENT, "--check", "--observer=node", flags], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout.count(why)) == (0, 1)
    with running_agent(tmp_path / "data", "--observer=node", flags) as agent, cpu_load.load("spin", CPU):
        wait_for(lambda: f'tapio_cpu_cycles_total{{cpu="{CPU}"}}' in agent.get("/metrics")[1])
        assert agent.metric('tapio_uncounted_cpus{counter="stalls"}') == len(online_cpus())
        assert agent.metric('tapio_uncounted_cpus{counter="cycles"}') == 0
        assert "tapio_cpu_stalled_cycles" not in agent.get("/metrics")[1]
        assert agent.log.read_text().count(why) == 1
        wait_for((agent.data_dir / ".agent.json").exists)
        node = json.loads((agent.data_dir / ".agent.json").read_text())["observers"]["node"]
    assert node["up"]
    assert why in node["reason"]
    assert "cpu_stall and memory_pressure are not available" in node["reason"]


def test_a_reload_keeps_what_needs_a_restart(tmp_path: Path) -> None:
    """It says so, and goes on as before; words that mean no event leave everything as it was."""
    counted = {**CLOCK_AND_FAULTS, "stalls": "software:major-faults", "interval_ms": 50, "sustained_intervals": 5}
    flags = config_file(tmp_path, **counted)
    with running_agent(tmp_path / "data", "--observer=node", flags) as agent, cpu_load.load("spin", CPU):
        changed = {"cycles": "auto", "instructions": "auto", "stalls": "software:cpu-clock", "interval_ms": 5000}
        config_file(tmp_path, **{**counted, **changed, "cpu_stall_percent": 50})
        agent.process.send_signal(signal.SIGHUP)
        line = "configuration reloaded; needs a restart: node.interval_ms, node.cycles, node.instructions, node.stalls"
        wait_for(lambda: line in agent.log.read_text())
        series = f'tapio_cpu_cycles_total{{cpu="{CPU}"}}'
        before = agent.metric(series)
        config_file(tmp_path, **{**counted, "cycles": "hardware:coffee", "cpu_stall_percent": 20})
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "there is no event 'hardware:coffee'" in agent.log.read_text())
        assert "the thresholds in force stay" in agent.log.read_text()
        wait_for(lambda: agent.metric(series) > before)
        agent.settle(2)
        assert agent.occurrences() == []  # of a load that is all clock and no major faults


def test_a_cpu_that_becomes_slow(tmp_path: Path) -> None:
    """It learns from a load of many page faults; the load after it has next to none."""
    flags = config_file(tmp_path, **CLOCK_AND_FAULTS, sustained_intervals=10, interval_ms=20, ipc_learning_s=1)
    with running_agent(tmp_path / "data", "--observer=node", flags) as agent:
        with cpu_load.load("fault", CPU):
            agent.settle(3)
        with cpu_load.load("spin", CPU):
            data = wait_for_anomaly(agent, "ipc_degradation")["data"]
    assert 0 <= data["instructions"] / data["cycles"] < 0.5 * data["baseline_ipc"] + 0.001
    assert "stall_pct" not in data


@without_pmu
def test_without_a_pmu_the_agent_runs_on(tmp_path: Path) -> None:
    """Off with a reason in the log, the heartbeat and /metrics; ready all the same."""
    with running_agent(tmp_path / "data") as agent:
        assert agent.get("/readyz") == (200, "ready\n")
        lines = [line for line in agent.log.read_text().splitlines() if "observer node" in line]
        assert len(lines) == 1
        assert "observer node is off: counting CPU cycles by hardware:cpu-cycles: this machine has no" in lines[0]
        assert agent.metric('tapio_observer_up{observer="node"}') == 0
        assert agent.metric('tapio_observer_up{observer="container"}') == 1
        assert agent.metric('tapio_observer_off_info{observer="node",reason="no_counters"}') == 1
        assert agent.get("/metrics")[1].count("tapio_observer_off_info{") == 1
        assert "tapio_cpu_" not in agent.get("/metrics")[1]
        wait_for((agent.data_dir / ".agent.json").exists)
        node = json.loads((agent.data_dir / ".agent.json").read_text())["observers"]["node"]
        assert (node["up"], node["hooks"]) == (False, [])
        assert "this machine has no performance counter for it" in node["reason"]


@without_pmu
def test_without_a_pmu_the_observer_alone_is_an_error(tmp_path: Path) -> None:
    before = samplers()
    command = [AGENT, "--observer=node", f"--data-dir={tmp_path / 'data'}", "--metrics-address="]
    for extra in ([], ["--check"]):
        ended = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert "counting CPU cycles by hardware:cpu-cycles: this machine has no" in ended.stdout + ended.stderr
    wait_for(lambda: samplers() <= before)
    every = subprocess.run([AGENT, "--check"], capture_output=True, text=True, check=False)
    assert every.returncode == 0
    assert "no performance counter" in next(line for line in every.stdout.splitlines() if line.startswith("node"))


@pytest.mark.parametrize(
    ("key", "words", "message"),
    [
        ("cycles", "hardware:coffee", "node: cycles: there is no event 'hardware:coffee': choose auto, a code"),
        ("stalls", "coffee", "node: stalls: there is no event 'coffee': choose auto"),
        ("busy_percent", 5e-324, "node.busy_percent: expected float >= 0.1"),
        ("memory_pressure_percent", 41, "cpu_stall_percent is below memory_pressure_percent"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, key: str, words: object, message: str) -> None:
    command = [AGENT, config_file(tmp_path, **{key: words}), f"--data-dir={tmp_path / 'data'}", "--metrics-address="]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert message in ended.stderr


def test_the_documented_capabilities_are_enough(tmp_path: Path) -> None:
    names = ("bpf", "perfmon", "setuid", "setgid", "setpcap", "chown")
    bounding = "--bounding-set=-all," + ",".join(f"+{name}" for name in names)
    command = ["setpriv", bounding, AGENT, "--check", "--observer=node", config_file(tmp_path, **CLOCK_AND_FAULTS)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "attached" in ended.stdout


def test_the_counters_leave_as_otel_metrics(tmp_path: Path) -> None:
    """As a receiver decodes them, without asking for the agent's own: cumulative, by CPU, what /metrics shows."""
    with receiver() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
        flags = ("--observer=node", "--sink=otlp", config_file(tmp_path, **CLOCK_AND_FAULTS))
        with (
            running_agent(tmp_path / "data", *flags, environment=environment) as agent,
            cpu_load.load("fault", CPU),
        ):
            agent.settle(3)
            shown = agent.metric(f'tapio_cpu_instructions_total{{cpu="{CPU}"}}')
            assert agent.stop() == 0  # with a last export
    exports = [request.metrics() for request in collector.requests if request.path == "/v1/metrics"]
    (group,) = exports[-1].resource_metrics
    metrics = {metric.name: metric for metric in group.scope_metrics[0].metrics}
    assert set(metrics) == {"tapio.cpu.cycles", "tapio.cpu.instructions", "tapio.cpu.ipc"}  # no event for stalls here
    faults = metrics["tapio.cpu.instructions"]
    assert (faults.unit, faults.sum.is_monotonic, faults.sum.aggregation_temporality) == ("{instruction}", True, 2)
    points = {point.attributes[0].value.int_value: point.as_int for point in faults.sum.data_points}
    assert faults.sum.data_points[0].attributes[0].key == "cpu.logical_number"
    assert points.keys() <= set(online_cpus())
    assert points[CPU] >= shown > 1000
    cycles = {
        point.attributes[0].value.int_value: point.as_int for point in metrics["tapio.cpu.cycles"].sum.data_points
    }
    ipc = {point.attributes[0].value.int_value: point.as_double for point in metrics["tapio.cpu.ipc"].gauge.data_points}
    assert cycles[CPU] > 1e9
    assert 0 < ipc[CPU] < 1
