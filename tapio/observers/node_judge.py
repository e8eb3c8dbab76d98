"""Which CPU is in trouble: sustained, on a busy CPU, and against what this CPU has learned.

A condition holds for an interval when its value is beyond the threshold, or on the good side of it by no more than
the hysteresis. It is an anomaly when it held for `sustained` samples in a row, the CPU was busy, and the value over
all of them together is beyond the threshold. It ends when samples without it, or of a CPU that is not busy,
outnumber the others by as many.
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
        self.samples = 0
        self.idle_samples = 0
        self.start_ns = 0
        self.end_ns = 0
        self.cycles = 0
        self.instructions = 0
        self.stalls: int | None = 0

    def add(self, delta: Delta) -> None:
        """One interval more."""
        if not self.samples:
            self.start_ns = delta.start_ns
        self.samples += delta.samples
        self.idle_samples += delta.idle_samples
        self.end_ns = delta.end_ns
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
    """Thresholds as shares and numbers of samples."""

    busy: float
    cpu_stall: float
    memory_pressure: float
    ipc_floor: float
    ipc_drop_ratio: float
    learning: int
    sustained: int
    hysteresis: float

    @classmethod
    def of(cls, config: NodeConfig, interval_ms: float) -> Rules:
        """Those of the configuration; `interval_ms` is the one that is in force, which a reload does not change."""
        return cls(
            busy=config.busy_percent / 100,
            cpu_stall=config.cpu_stall_percent / 100,
            memory_pressure=config.memory_pressure_percent / 100,
            ipc_floor=config.ipc_floor,
            ipc_drop_ratio=config.ipc_drop_ratio,
            learning=max(1, round(config.ipc_learning_s * 1000 / interval_ms)),
            sustained=config.sustained_intervals,
            hysteresis=config.hysteresis_percent / 100,
        )

    def is_idle(self, samples: int, idle_samples: int) -> bool:
        """Whether a CPU with so many idle ones of its samples was not busy."""
        return samples - idle_samples < self.busy * samples


class Condition:
    """One kind of trouble of one CPU."""

    def __init__(self, excess: Excess) -> None:
        self.is_on = False
        self._excess = excess
        self._window = Window()
        self._quiet = 0

    def step(self, delta: Delta, limit: float, rules: Rules) -> Window | None:
        """The window that fired, when the condition begins."""
        holds = self._excess(delta, limit) >= 1 - rules.hysteresis
        if self.is_on:
            self._end(delta, holds=holds, rules=rules)
            return None
        idle = rules.is_idle(delta.samples, delta.idle_samples)
        if not holds or (idle and not self._window.samples):
            self._window = Window()
            return None
        self._window.add(delta)
        if self._window.idle_samples > (1 - rules.busy) * rules.sustained:
            self._window = Window()
        if self._window.samples < rules.sustained:
            return None
        window, self._window = self._window, Window()
        if rules.is_idle(window.samples, window.idle_samples) or self._excess(window, limit) < 1:
            return None
        self.is_on, self._quiet = True, 0
        return window

    def _end(self, delta: Delta, *, holds: bool, rules: Rules) -> None:
        if holds and not rules.is_idle(delta.samples, delta.idle_samples):
            self._quiet = max(0, self._quiet - delta.samples)
        else:
            self._quiet += delta.samples
        self.is_on = self._quiet < rules.sustained

    def cover(self) -> None:
        """It began together with something worse that was told."""
        self.is_on, self._quiet, self._window = True, 0, Window()

    def interrupt(self) -> None:
        """Nothing is known of an interval: what was not sustained so far is forgotten."""
        self._window = Window()


class LearnedIpc:
    """What a CPU usually reaches when it is busy: a mean over time, weighted by cycles, that fades."""

    def __init__(self) -> None:
        self._samples = 0
        self._cycles = 0.0
        self._instructions = 0.0

    def learn(self, delta: Delta, rules: Rules) -> None:
        """Take a busy interval in."""
        self._samples += delta.samples
        weight = delta.samples / min(self._samples, _LEARNING_SPANS * rules.learning)
        weight = min(1.0, weight)
        self._cycles += (delta.cycles / delta.samples - self._cycles) * weight
        self._instructions += (delta.instructions / delta.samples - self._instructions) * weight

    def value(self, rules: Rules) -> float | None:
        """Instructions per cycle; None until enough was learned."""
        if self._samples < rules.learning or not self._cycles:
            return None
        return self._instructions / self._cycles


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
            self._stall.interrupt()
            self._pressure.interrupt()
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
        if not rules.is_idle(delta.samples, delta.idle_samples):
            self._learned.learn(delta, rules)
        return found

    def interrupt(self) -> None:
        """Nothing is known of an interval."""
        for condition in (self._stall, self._pressure, self._ipc):
            condition.interrupt()
