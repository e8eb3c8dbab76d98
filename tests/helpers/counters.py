"""Made-up samples of CPU counters for unit tests of the node observer."""

from __future__ import annotations

from typing import Any

from helpers.records import make_layout, make_loaded, pack
from tapio.config import Config, NodeConfig
from tapio.kernel.channel import Loaded
from tapio.observers.node import NodeObserver
from tapio.observers.node_deltas import COUNTERS, FIELDS

KIND = 30
INTERVAL_NS = 100_000_000
CYCLES = 300_000_000  # in one interval, at 3 GHz
ALL_COUNTED = {"cycles": 0, "instructions": 0, "stalls": 0}  # CPUs that do not count each
_LAYOUT = make_layout("cpu_record", FIELDS)


def make_observer(
    *, stalls: bool = True, online: list[int] | None = None, counted: list[int] | None = None, **config: Any
) -> NodeObserver:
    """An observer with windows of 5 samples that has learned after 10, unless said otherwise."""
    events = {"cycles": "hardware:cpu-cycles", "instructions": "hardware:instructions"}
    loaded = make_loaded("node", {"cpu_record": _LAYOUT}, {"RECORD_CPU": KIND}, {})
    fields = {name: getattr(loaded, name) for name in Loaded.__struct_fields__}
    fields |= {
        "events": events | ({"stalls": "raw:0x1"} if stalls else {}),
        "counted_cpus": tuple(counted or online or [0]),
    }
    fields["interval_ns"] = INTERVAL_NS
    observer = NodeObserver(Loaded(**fields), lambda: [0] if online is None else online)
    observer.configure(Config(node=NodeConfig(**{"sustained_intervals": 5, "ipc_learning_s": 1, **config})))
    return observer


class Cpu:
    """One CPU's totals as they grow."""

    def __init__(self, number: int = 0, boot_ns: int = 0, **totals: int) -> None:
        opened = {f"{name}_{part}_ns": 1 for name in COUNTERS for part in ("enabled", "running")}
        self.totals = {"cpu": number, "boot_ns": boot_ns, "busy_samples": 0, **opened, **totals}

    def record(self, *unread: str) -> bytes:
        """The totals now; counters named in `unread` as the kernel leaves them when it cannot read them."""
        totals = {name: 0 if name.partition("_")[0] in unread else value for name, value in self.totals.items()}
        signed = {name: (value + (1 << 63)) % (1 << 64) - (1 << 63) for name, value in totals.items()}
        return pack(_LAYOUT, kind=KIND, **signed)

    def sample(
        self,
        ipc: float = 2.0,
        stalled: float = 0.0,
        *,
        cycles: int = CYCLES,
        idle: bool = False,
        samples: int = 1,
        after_ns: int = 0,
        running: float = 1.0,
        stalls_running: float | None = None,
    ) -> bytes:
        """The record after one more interval. `running` is the share of it in which the events had a counter.

        `after_ns`: how long it was, if the timer was not exact.
        """
        interval_ns = after_ns or INTERVAL_NS * samples
        stalls_running = running if stalls_running is None else stalls_running
        shares = dict(zip(COUNTERS, (running, running, stalls_running), strict=True))
        counts = dict(zip(COUNTERS, (cycles, cycles * ipc, cycles * stalled), strict=True))
        self._grow("boot_ns", interval_ns)
        self._grow("busy_samples", 0 if idle else samples)
        for name in COUNTERS:
            self._grow(f"{name}_value", round(counts[name] * shares[name]))
            self._grow(f"{name}_enabled_ns", interval_ns)
            self._grow(f"{name}_running_ns", round(interval_ns * shares[name]))
        return self.record()

    def _grow(self, name: str, by: int) -> None:
        self.totals[name] = self.totals.get(name, 0) + by


def busy(cpu: Cpu, number: int = 40, **sample: Any) -> list[bytes]:
    """The records of the next `number` intervals, all alike."""
    return [cpu.sample(**sample) for _ in range(number)]


def kinds(observer: NodeObserver, records: list[bytes]) -> list[str]:
    """The anomalies that an observer finds in records, as 'cpu_stall'."""
    return [anomaly.type.name.removeprefix("kernel.node.") for anomaly in observer.decode(records)]
