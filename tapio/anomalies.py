"""The catalogue of anomaly types: what an SRE can be told, how severe it is, and under which code.

The names are the contract of the FALSE Protocol occurrences; observers make `Anomaly` values of these kinds.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

Severity = Literal["debug", "info", "warning", "error", "critical"]
Outcome = Literal["success", "failure", "timeout", "in_progress", "unknown"]

SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # from the mildest to the worst


class AnomalyType(msgspec.Struct, frozen=True):
    """One row of the catalogue. `severity` is what most anomalies of the type have; an anomaly can say otherwise."""

    name: str
    code: str
    severity: Severity
    outcome: Outcome

    @property
    def observer(self) -> str:
        """The observer that finds it: the middle of `kernel.<observer>.<what>`; `agent` for the agent's own type."""
        return self.name.split(".")[1]


_ROWS: tuple[tuple[str, Severity, Outcome], ...] = (
    ("kernel.network.connection_refused", "warning", "failure"),
    ("kernel.network.connection_timeout", "error", "timeout"),
    ("kernel.network.retransmit_spike", "warning", "in_progress"),
    ("kernel.network.rtt_degradation", "warning", "in_progress"),
    ("kernel.network.rst_storm", "warning", "failure"),
    ("kernel.container.oom_kill", "critical", "failure"),
    ("kernel.container.abnormal_exit", "warning", "failure"),
    ("kernel.storage.io_error", "critical", "failure"),
    ("kernel.storage.latency_spike", "warning", "in_progress"),
    ("kernel.node.cpu_stall", "critical", "in_progress"),
    ("kernel.node.memory_pressure", "warning", "in_progress"),
    ("kernel.node.ipc_degradation", "warning", "in_progress"),
    ("tapio.agent.events_lost", "warning", "failure"),
)

CATALOGUE = {
    name: AnomalyType(name, name.split(".")[2].upper(), severity, outcome) for name, severity, outcome in _ROWS
}

CONNECTION_REFUSED = CATALOGUE["kernel.network.connection_refused"]
CONNECTION_TIMEOUT = CATALOGUE["kernel.network.connection_timeout"]
RETRANSMIT_SPIKE = CATALOGUE["kernel.network.retransmit_spike"]
RTT_DEGRADATION = CATALOGUE["kernel.network.rtt_degradation"]
RST_STORM = CATALOGUE["kernel.network.rst_storm"]
OOM_KILL = CATALOGUE["kernel.container.oom_kill"]
ABNORMAL_EXIT = CATALOGUE["kernel.container.abnormal_exit"]
IO_ERROR = CATALOGUE["kernel.storage.io_error"]
LATENCY_SPIKE = CATALOGUE["kernel.storage.latency_spike"]
CPU_STALL = CATALOGUE["kernel.node.cpu_stall"]
MEMORY_PRESSURE = CATALOGUE["kernel.node.memory_pressure"]
IPC_DEGRADATION = CATALOGUE["kernel.node.ipc_degradation"]
EVENTS_LOST = CATALOGUE["tapio.agent.events_lost"]  # of any observer: `data.observer`


class Anomaly(msgspec.Struct, frozen=True):
    """Something that went wrong, as an observer saw it.

    `boot_ns` is the time of the event on the boot clock. `data` holds facts only: what is not known is left out.
    """

    type: AnomalyType
    boot_ns: int
    message: str
    data: dict[str, Any]
    severity: Severity
    key: tuple[Any, ...] = ()  # what makes it one story with others of its type and cgroup

    @property
    def count(self) -> int:
        """How many anomalies it stands for."""
        return int(self.data.get("count", 1))
