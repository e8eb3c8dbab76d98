"""Node observer: what each CPU counts (`cpu_record`), and CPUs that wait for memory or have become slow."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tapio.anomalies import CPU_STALL, IPC_DEGRADATION, MEMORY_PRESSURE, Anomaly
from tapio.config import Config, NodeConfig
from tapio.cpus import CpuCounters, CpuReport, together
from tapio.kernel.channel import Loaded
from tapio.kernel.layout import make_decoder
from tapio.kernel.perf import online_cpus
from tapio.observers.base import Canary, Observer, Settings
from tapio.observers.node_deltas import FIELDS, Delta, ImplausibleError, difference
from tapio.observers.node_judge import CpuJudge, Finding, Rules, Window

log = logging.getLogger(__name__)

_KINDS = {"cpu_stall": CPU_STALL, "memory_pressure": MEMORY_PRESSURE, "ipc_degradation": IPC_DEGRADATION}
_CHECK_EVERY_NS = 1_000_000_000
_RECENT_NS = 2_000_000_000
_MOST_CPUS_ONE_BY_ONE = 64
_STANDSTILL_SAMPLES = 100


class _Cpu:
    """One CPU: its latest totals, what it has counted, and its judge."""

    def __init__(self) -> None:
        self.latest: Any = None
        self.delta: Delta | None = None  # the latest interval, while there is one
        self.judge = CpuJudge()
        self.cycles = self.instructions = self.stalls = 0

    def counters(self, number: int, *, counts_stalls: bool) -> CpuCounters:
        """As others see it. Any thread may ask: each value only grows, or is replaced as a whole."""
        delta = self.delta
        ipc = delta.instructions / delta.cycles if delta is not None and delta.cycles else None
        return CpuCounters(number, self.cycles, self.instructions, self.stalls if counts_stalls else None, ipc)


class NodeObserver(Observer):
    """Anomalies of single CPUs, and the counters of all of them."""

    name = "node"

    def __init__(self, loaded: Loaded, online: Callable[[], list[int]] = online_cpus) -> None:
        """`online` tells which CPUs are online now."""
        self._decode = make_decoder(loaded.record("cpu_record"), FIELDS)
        self._kind = loaded.enum("RECORD_CPU")
        self._counts_stalls = "stalls" in loaded.events
        self._period_ns = loaded.interval_ns
        self._online = online
        self._cpus: dict[int, _Cpu] = {}
        self._counted_cpus = set(loaded.counted_cpus)
        self._are_few = len(self._counted_cpus) <= _MOST_CPUS_ONE_BY_ONE
        self._config = NodeConfig()
        self._interval_ms = 0
        self._rules = Rules.of(self._config, self._config.interval_ms)
        self._check_at_ns = 0
        self._standstill = 0
        self._uncounted: tuple[int, ...] = ()
        self.suppressed = dict.fromkeys(("not_counted", "implausible", "undecodable"), 0)
        self.evicted: dict[str, int] = {}
        self.canary = Canary()
        self._tell()

    def configure(self, config: Config) -> Settings:
        """Thresholds; what is counted stays as it is until the next start."""
        self._config = config.node
        self._interval_ms = self._interval_ms or config.node.interval_ms
        self._rules = Rules.of(config.node, self._interval_ms)
        return {"counts_stalls": int(self._counts_stalls)}

    def decode(self, records: Iterable[bytes]) -> list[Anomaly]:
        """The anomalies that begin with a batch of samples."""
        found: list[Anomaly] = []
        for raw in records:
            try:
                if int.from_bytes(raw[:4], sys.byteorder) != self._kind:
                    raise ValueError
                found += self._sample(self._decode(raw))
                self.canary.notice("sample")
            except ImplausibleError:
                self.suppressed["implausible"] += 1
            except ValueError:
                self.suppressed["undecodable"] += 1
        return found

    def _sample(self, record: Any) -> list[Anomaly]:
        cpu = self._cpus.get(record.cpu)
        if cpu is None:
            cpu = self._cpus[record.cpu] = _Cpu()
        before, cpu.latest = cpu.latest, record
        if before is None:
            return []
        try:
            cpu.delta = difference(before, record, self._period_ns)
        except ImplausibleError:
            cpu.judge.interrupt()
            raise
        if cpu.delta is None:
            self.suppressed["not_counted"] += 1
            cpu.judge.interrupt()
            return []
        self._count(cpu, cpu.delta)
        return [_anomaly(record.cpu, finding) for finding in cpu.judge.step(cpu.delta, self._rules)]

    def _count(self, cpu: _Cpu, delta: Delta) -> None:
        cpu.cycles += delta.cycles
        cpu.instructions += delta.instructions
        cpu.stalls += delta.stalls or 0
        if delta.cycles:
            self._standstill = 0
        else:
            self._standstill += delta.samples - delta.idle_samples

    def cpu_report(self) -> CpuReport:
        """What each CPU has counted, or all of them together. Any thread may ask."""
        return CpuReport(self._counters(), len(self._uncounted))

    def _counters(self) -> list[CpuCounters]:
        cpus = dict(self._cpus)
        counters = [cpu.counters(number, counts_stalls=self._counts_stalls) for number, cpu in sorted(cpus.items())]
        if self._are_few if self._config.per_cpu == "auto" else self._config.per_cpu:
            return counters
        deltas = [delta for cpu in cpus.values() if (delta := cpu.delta) is not None]
        since_ns = max((delta.end_ns for delta in deltas), default=0) - _RECENT_NS
        deltas = [delta for delta in deltas if delta.end_ns > since_ns]
        cycles = sum(delta.cycles for delta in deltas)
        return together(counters, sum(delta.instructions for delta in deltas) / cycles if cycles else None)

    def due(self, boot_ns: int | None) -> list[Anomaly]:
        """Nothing is held back; once a second this is when CPUs that come and go are looked for."""
        if boot_ns is not None and boot_ns >= self._check_at_ns:
            self._check_at_ns = boot_ns + _CHECK_EVERY_NS
            online = set(self._online())
            for number in self._counted_cpus - online:
                self._forget(number)
            # What the loader did not open, or went with its CPU, cannot be opened without privileges.
            self._uncounted = tuple(sorted(online - self._counted_cpus))
            self._tell()
        return []

    def _forget(self, number: int) -> None:
        """A CPU went offline, and its events with it. What it has counted stays."""
        self._counted_cpus.discard(number)
        if number in self._cpus:
            self._cpus[number].delta = None

    def _tell(self) -> None:
        """Say what does not work although the observer does."""
        notes = []
        if not self._counts_stalls:
            notes.append("no event for stalled cycles on this CPU: cpu_stall and memory_pressure are not available")
        if self._standstill >= _STANDSTILL_SAMPLES:
            notes.append("the CPU counters stand still though CPUs are busy: this machine's PMU does not count")
        if self._uncounted:
            numbers = ", ".join(map(str, self._uncounted[:16])) + (", …" if len(self._uncounted) > 16 else "")
            notes.append(f"not counted although online: CPU {numbers}: restart the agent to count them")
        reason = "; ".join(notes)
        if reason != self.reason:
            log.warning("observer node: %s", reason or "all CPUs that are online are counted again")
        self.reason = reason


def _anomaly(cpu: int, finding: Finding) -> Anomaly:
    kind, window = _KINDS[finding.kind], finding.window
    data = _data(cpu, window)
    seconds = data["interval_ms"] / 1000
    if finding.learned_ipc is not None:
        data["baseline_ipc"] = round(finding.learned_ipc, 3)
        message = f"CPU {cpu} runs at {data['ipc']} instructions per cycle for {seconds:.1f} s"
        message += f", it used to reach {data['baseline_ipc']}"
    else:
        message = f"CPU {cpu} is stalled in {data['stall_pct']} % of its cycles for {seconds:.1f} s"
    return Anomaly(kind, window.end_ns, message, data, kind.severity)


def _data(cpu: int, window: Window) -> dict[str, Any]:
    data: dict[str, Any] = {"cpu": cpu, "cycles": window.cycles, "instructions": window.instructions}
    if window.stalls is not None:
        data["stall_cycles"] = window.stalls
        # An estimate by multiplexing can come out above the cycles, which cannot be.
        data["stall_pct"] = min(100.0, round(100 * window.stalls / window.cycles, 1))
    data["ipc"] = round(window.instructions / window.cycles, 3)
    data["busy_pct"] = round(100 * (1 - window.idle_samples / window.samples), 1)
    data["interval_ms"] = round((window.end_ns - window.start_ns) / 1e6, 1)
    return data
