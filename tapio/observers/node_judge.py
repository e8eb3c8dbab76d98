"""Which CPU is in trouble: sustained, on a busy CPU, and against what this CPU has learned.

A condition holds for an interval when its value is beyond the threshold, or on the good side of it by no more than
the hysteresis. A run is consecutive intervals for which it holds. When at some point all of them together are on the
good side of the threshold, or of a CPU that was not busy, the run begins anew after that point. A run that has lasted
for `sustained_intervals`, by the clock and not by the number of records, is an anomaly with the run's values. It ends
when the time without the condition, on a CPU that is not busy, or of which nothing is known, outlasts the rest by as
much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from tapio.config import NodeConfig
from tapio.observers.node_deltas import Delta

_LEARNING_SPANS = 5  # what was learned fades over so many times the time of learning


class Window:
    """Consecutive intervals of one CPU, added up."""

    def __init__(self) -> None:
        self.start_ns = 0
        self.end_ns = 0
        self.busy_ns = 0
        self.cycles = 0
        self.instructions = 0
        self.stalls: int | None = 0

    @property
    def duration_ns(self) -> int:
        """How long they were together."""
        return self.end_ns - self.start_ns

    def add(self, delta: Delta) -> None:
        """One interval more."""
        if not self.end_ns:
            self.start_ns = delta.start_ns
        self.end_ns = delta.end_ns
        self.busy_ns += delta.busy_ns
        self.cycles += delta.cycles
        self.instructions += delta.instructions
        self.stalls = None if self.stalls is None or delta.stalls is None else self.stalls + delta.stalls


Excess = Callable[[Delta | Window, float], float]


def stall_excess(counts: Delta | Window, limit: float) -> float:
    """The share of stalled cycles, 1 at the limit (a share)."""
    if not counts.cycles or counts.stalls is None:
        return 0.0
    return counts.stalls / counts.cycles / limit


def ipc_excess(counts: Delta | Window, limit: float) -> float:
    """How far instructions per cycle are below the limit, 1 at the limit, more below it."""
    if not counts.cycles:
        return 0.0
    return limit * counts.cycles / max(counts.instructions, 1)


class Rules(msgspec.Struct, frozen=True):
    """Thresholds as shares and times."""

    busy: float
    cpu_stall: float
    memory_pressure: float
    ipc_floor: float
    ipc_drop_ratio: float
    learning_ns: float
    sustained_ns: float
    hysteresis: float

    @classmethod
    def of(cls, config: NodeConfig, period_ns: int) -> Rules:
        """Those of the configuration; `period_ns` is between two samples in truth, which a reload does not change."""
        return cls(
            busy=config.busy_percent / 100,
            cpu_stall=config.cpu_stall_percent / 100,
            memory_pressure=config.memory_pressure_percent / 100,
            ipc_floor=config.ipc_floor,
            ipc_drop_ratio=config.ipc_drop_ratio,
            learning_ns=config.ipc_learning_s * 1e9,
            # Timers are not exact: half an interval less is so many intervals too.
            sustained_ns=(config.sustained_intervals - 0.5) * period_ns,
            hysteresis=config.hysteresis_percent / 100,
        )

    def is_busy(self, counts: Delta | Window) -> bool:
        """Whether the CPU was, for enough of that time."""
        return counts.busy_ns >= self.busy * counts.duration_ns


class Condition:
    """One kind of trouble of one CPU."""

    def __init__(self, excess: Excess) -> None:
        self.is_on = False
        self._excess = excess
        self._run: Window | None = None
        self._quiet_ns = 0

    def step(self, delta: Delta, limit: float, rules: Rules) -> Window | None:
        """The run of intervals that fired, when the condition begins."""
        holds = self._excess(delta, limit) >= 1 - rules.hysteresis
        if self.is_on:
            self._end(delta.duration_ns, holds=holds and rules.is_busy(delta), rules=rules)
            return None
        run, self._run = self._run, None
        if not holds:
            return None
        run = run or Window()
        run.add(delta)
        if not rules.is_busy(run) or self._excess(run, limit) < 1:
            return None  # what goes on after these intervals did not begin with them
        if run.duration_ns < rules.sustained_ns:
            self._run = run
            return None
        self.cover()
        return run

    def _end(self, duration_ns: int, *, holds: bool, rules: Rules) -> None:
        self._quiet_ns = max(0, self._quiet_ns - duration_ns) if holds else self._quiet_ns + duration_ns
        self.is_on = self._quiet_ns < rules.sustained_ns

    def cover(self) -> None:
        """It began, by itself or together with something worse that was told."""
        self.is_on, self._quiet_ns, self._run = True, 0, None

    def interrupt(self, duration_ns: int, rules: Rules) -> None:
        """Nothing is known of an interval: what was not sustained so far is forgotten, what was is not confirmed."""
        self._run = None
        if self.is_on:
            self._end(duration_ns, holds=False, rules=rules)


class LearnedIpc:
    """What a CPU usually reaches when it is busy: a mean over time, weighted by cycles, that fades."""

    def __init__(self) -> None:
        self._learned_ns = 0
        self._cycles_per_ns = 0.0
        self._instructions_per_ns = 0.0

    def learn(self, delta: Delta, rules: Rules) -> None:
        """Take a busy interval in."""
        duration_ns = delta.duration_ns
        self._learned_ns += duration_ns
        weight = min(1.0, duration_ns / min(self._learned_ns, _LEARNING_SPANS * rules.learning_ns))
        self._cycles_per_ns += (delta.cycles / duration_ns - self._cycles_per_ns) * weight
        self._instructions_per_ns += (delta.instructions / duration_ns - self._instructions_per_ns) * weight

    def value(self, rules: Rules) -> float | None:
        """Instructions per cycle; None until enough was learned."""
        if self._learned_ns < rules.learning_ns or not self._cycles_per_ns:
            return None
        return self._instructions_per_ns / self._cycles_per_ns


class Finding(NamedTuple):
    """What fired, with the window over which it did; `learned_ipc` only where it was compared with."""

    kind: str
    window: Window
    learned_ipc: float | None = None


class CpuJudge:
    """All that is judged of one CPU."""

    def __init__(self) -> None:
        self._stall = Condition(stall_excess)
        self._pressure = Condition(stall_excess)
        self._ipc = Condition(ipc_excess)
        self._learned = LearnedIpc()

    def step(self, delta: Delta, rules: Rules) -> list[Finding]:
        """What begins with this interval. A stall is not reported as memory pressure too."""
        found: list[Finding] = []
        if delta.stalls is None:
            self._stall.interrupt(delta.duration_ns, rules)
            self._pressure.interrupt(delta.duration_ns, rules)
        else:
            stall = self._stall.step(delta, rules.cpu_stall, rules)
            pressure = self._pressure.step(delta, rules.memory_pressure, rules)
            if stall is not None:
                self._pressure.cover()
                found.append(Finding("cpu_stall", stall))
            elif pressure is not None and not self._stall.is_on:
                found.append(Finding("memory_pressure", pressure))
        learned = self._learned.value(rules)
        if learned is not None:
            limit = min(rules.ipc_floor, rules.ipc_drop_ratio * learned)
            low = self._ipc.step(delta, limit, rules)
            if low is not None:
                found.append(Finding("ipc_degradation", low, learned))
        else:
            self._ipc.interrupt(delta.duration_ns, rules)
        if rules.is_busy(delta):
            self._learned.learn(delta, rules)
        return found

    def interrupt(self, duration_ns: int, rules: Rules) -> None:
        """Nothing is known of an interval."""
        for condition in (self._stall, self._pressure, self._ipc):
            condition.interrupt(duration_ns, rules)
