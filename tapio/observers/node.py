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
from tapio.observers.node_deltas import COUNTERS, FIELDS, Delta, ImplausibleError, Standstill, difference
from tapio.observers.node_judge import CpuJudge, Finding, Rules, Window

log = logging.getLogger(__name__)

_KINDS = {"cpu_stall": CPU_STALL, "memory_pressure": MEMORY_PRESSURE, "ipc_degradation": IPC_DEGRADATION}
_CHECK_EVERY_NS = 1_000_000_000
_RECENT_INTERVALS = 20  # an idle CPU has a record every ten
_MOST_CPUS_ONE_BY_ONE = 64
_STANDSTILL_INTERVALS = 100


class _Cpu:
    """One CPU: its latest totals, what it has counted, and its judge."""

    def __init__(self) -> None:
        self.latest: Any = None
        self.delta: Delta | None = None  # the latest interval, while there is one
        self.judge = CpuJudge()
        self.standstill = Standstill()
        self.cycles = self.instructions = 0
        self.stalls: int | None = None  # never counted

    def counters(self, number: int, since_ns: int, *, with_stalls: bool) -> CpuCounters:
        """As others see it, with an IPC that is not older. Any thread may ask: values grow, or are replaced."""
        delta = self.delta
        is_fresh = delta is not None and delta.cycles and delta.end_ns > since_ns
        ipc = delta.instructions / delta.cycles if delta is not None and is_fresh else None
        return CpuCounters(number, self.cycles, self.instructions, self.stalls if with_stalls else None, ipc)


class NodeObserver(Observer):
    """Anomalies of single CPUs, and the counters of all of them."""

    name = "node"

    def __init__(self, loaded: Loaded, online: Callable[[], list[int]] = online_cpus) -> None:
        """`online` tells which CPUs are online now."""
        self._decode = make_decoder(loaded.record("cpu_record"), FIELDS)
        self._kind = loaded.enum("RECORD_CPU")
        self._counts_stalls = "stalls" in loaded.events
        self._no_stalls = loaded.uncounted.get("stalls", "no event for stalled cycles on this CPU")
        self._period_ns = loaded.interval_ns
        self._online = online
        self._cpus: dict[int, _Cpu] = {}
        self._counted_cpus = set(loaded.counted_cpus)
        self._are_few = len(self._counted_cpus) <= _MOST_CPUS_ONE_BY_ONE
        self._config = NodeConfig()
        self._rules = Rules.of(self._config, self._period_ns)
        self._now_ns = self._check_at_ns = 0
        self._standstill_ns = 0
        self._unopened: set[int] = set()
        self._stopped = self._look()
        self.suppressed = dict.fromkeys(("not_counted", "stalls_not_counted", "implausible", "undecodable"), 0)
        self.evicted: dict[str, int] = {}
        self.canary = Canary()
        self._tell()

    def configure(self, config: Config) -> Settings:
        """Thresholds; what is counted, and how often, stays as it is until the next start."""
        self._config = config.node
        self._rules = Rules.of(config.node, self._period_ns)
        return {"counts_stalls": int(self._counts_stalls)}

    def decode(self, records: Iterable[bytes]) -> list[Anomaly]:
        """The anomalies that begin with a batch of samples."""
        found: list[Anomaly] = []
        for raw in records:
            try:
                if int.from_bytes(raw[:4], sys.byteorder) != self._kind:
                    raise ValueError
                record = self._decode(raw)
            except ValueError:
                self.suppressed["undecodable"] += 1
                continue
            found += self._sample(record)
            self.canary.notice("sample")
        return found

    def _sample(self, record: Any) -> list[Anomaly]:
        cpu = self._cpus.get(record.cpu)
        if cpu is None:
            cpu = self._cpus[record.cpu] = _Cpu()
        before, cpu.latest = cpu.latest, record
        if before is None:
            return []
        delta, reason = None, "not_counted"
        try:
            delta = difference(before, record, self._period_ns)
        except ImplausibleError:
            reason = "implausible"
        cpu.delta = delta
        if delta is None:
            self.suppressed[reason] += 1
            cpu.judge.interrupt(max(0, record.boot_ns - before.boot_ns), self._rules)
            return []
        self._count(cpu, delta)
        return [_anomaly(record.cpu, finding) for finding in cpu.judge.step(delta, self._rules)]

    def _count(self, cpu: _Cpu, delta: Delta) -> None:
        cpu.cycles += delta.cycles
        cpu.instructions += delta.instructions
        if delta.stalls is not None:
            cpu.stalls = (cpu.stalls or 0) + delta.stalls
        elif self._counts_stalls:
            self.suppressed["stalls_not_counted"] += 1
        self._standstill_ns = 0 if delta.cycles else self._standstill_ns + delta.busy_ns

    def cpu_report(self) -> CpuReport:
        """What each CPU has counted, or all of them together. Any thread may ask."""
        uncounted = {counter: len(numbers | self._unopened) for counter, numbers in self._stopped.items()}
        return CpuReport(self._counters(), uncounted)

    def _counters(self) -> list[CpuCounters]:
        stopped, since_ns = self._stopped, self._now_ns - _RECENT_INTERVALS * self._period_ns
        cpus = {number: cpu for number, cpu in sorted(self._cpus.copy().items()) if cpu.cycles}
        counters = [
            cpu.counters(number, since_ns, with_stalls=number not in stopped["stalls"]) for number, cpu in cpus.items()
        ]
        if self._are_few if self._config.per_cpu == "auto" else self._config.per_cpu:
            # A total that stays because nobody counts would look like no cycles at all.
            unknown = self._unopened | stopped["cycles"] | stopped["instructions"]
            return [cpu for cpu in counters if cpu.cpu not in unknown]
        # A sum must not fall: it keeps what those CPUs have counted.
        deltas = [delta for cpu in cpus.values() if (delta := cpu.delta) is not None and delta.end_ns > since_ns]
        cycles = sum(delta.cycles for delta in deltas)
        return together(counters, sum(delta.instructions for delta in deltas) / cycles if cycles else None)

    def due(self, boot_ns: int | None) -> list[Anomaly]:
        """Nothing is held back; once a second this is when CPUs that come and go are looked for."""
        self._now_ns = boot_ns or self._now_ns
        if boot_ns is not None and boot_ns >= self._check_at_ns:
            self._check_at_ns = boot_ns + _CHECK_EVERY_NS
            online = set(self._online())
            for number in self._counted_cpus - online:
                self._forget(number)
            # What the loader did not open, or went with its CPU, cannot be opened without privileges.
            self._unopened = online - self._counted_cpus
            self._stopped = self._look()
            self._tell()
        return []

    def _forget(self, number: int) -> None:
        """A CPU went offline, and its events with it. What it has counted stays."""
        self._counted_cpus.discard(number)
        if number in self._cpus:
            self._cpus[number].delta = None

    def _look(self) -> dict[str, set[int]]:
        """The counted CPUs on which a counter stands still, by counter."""
        found: dict[str, set[int]] = {counter: set() for counter in COUNTERS}
        for number in self._counted_cpus & self._cpus.keys():
            for counter in self._cpus[number].standstill.look(self._cpus[number].latest):
                found[counter].add(number)
        if self._is_dead:
            found["cycles"] = found["instructions"] = self._counted_cpus.copy()
        if not self._counts_stalls:
            found["stalls"] = self._counted_cpus.copy()
        return found

    @property
    def _is_dead(self) -> bool:
        return self._standstill_ns >= _STANDSTILL_INTERVALS * self._period_ns

    def _tell(self) -> None:
        """Say what does not work although the observer does."""
        notes = []
        if not self._counts_stalls:
            notes.append(f"{self._no_stalls}: cpu_stall and memory_pressure are not available")
        if self._is_dead:
            notes.append("the CPU counters stand still though CPUs are busy: this machine's PMU does not count")
        if self._unopened:
            notes.append(f"not counted although online: {_list(self._unopened)}: restart the agent to count them")
        for counter in COUNTERS if not self._is_dead else ():
            numbers = self._stopped[counter]
            if numbers and (counter != "stalls" or self._counts_stalls):
                text = f"{counter} are not counted on {_list(numbers)}"
                notes.append(f"{text}: others hold the counters (the NMI watchdog, perf) or there is none")
        reason = "; ".join(notes)
        if reason != self.reason:
            log.warning("observer node: %s", reason or "all CPUs that are online are counted again")
        self.reason = reason


def _list(numbers: set[int]) -> str:
    first = ", ".join(map(str, sorted(numbers)[:16]))
    return f"CPU {first}" + (", …" if len(numbers) > 16 else "")


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
    data["busy_pct"] = round(100 * window.busy_ns / window.duration_ns, 1)
    data["interval_ms"] = round(window.duration_ns / 1e6, 1)
    return data
