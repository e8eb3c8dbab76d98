"""What every observer offers, and small helpers that several need."""

from __future__ import annotations

import abc
import os
import signal
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from tapio.anomalies import Anomaly
from tapio.clock import boot_ns
from tapio.config import Config
from tapio.cpus import CpuReport
from tapio.kernel.channel import Loaded

Settings = dict[str, int | tuple[int, ...]]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
_INITIAL_PIDNS_INODE = 0xEFFFFFFC  # PROC_PID_INIT_INO


def own_process(namespace: Path = Path("/proc/self/ns/pid")) -> Settings:
    """How the kernel side knows the agent: by its pid, in its own pid namespace if that is not the initial one."""
    status = namespace.stat()
    nested = status.st_ino != _INITIAL_PIDNS_INODE
    return {
        "own_tgid": os.getpid(),
        "own_pidns_inode": status.st_ino if nested else 0,
        "own_pidns_device": os.minor(status.st_dev) if nested else 0,  # nsfs has the major number 0
    }


class Canary:
    """The detector's end of the agent's own test events (tapio/canary.py): by exact facts, never by a guess."""

    def __init__(self) -> None:
        self.expected: Hashable | None = None  # what tells the event that is on its way; None: it came
        self.returned_ns = 0  # when, on the boot clock

    def notice(self, facts: Hashable) -> None:
        """An event of the agent's own reached the detector."""
        if self.expected is not None and facts == self.expected:
            self.returned_ns = boot_ns()
            self.expected = None


class Observer(abc.ABC):
    """Turns records into anomalies. Runs in the agent's loop: it never blocks and its memory is bounded."""

    name: str
    suppressed: dict[str, int]  # records that were no anomaly of their own, by reason; only grows
    reason: str = ""  # what does not work although the observer does; replaced as a whole
    evicted: dict[str, int]  # entries that tables gave up for newer ones, by table; only grows
    canary: Canary  # of observers that have one: tapio/canary.py

    @abc.abstractmethod
    def __init__(self, loaded: Loaded) -> None:
        """Build decoders from the layouts of the loaded object; ObjectError when they do not fit."""

    @abc.abstractmethod
    def configure(self, config: Config) -> Settings:
        """Take over thresholds; returns the fields of the kernel side's `settings`."""

    @abc.abstractmethod
    def decode(self, records: Iterable[bytes]) -> list[Anomaly]:
        """The anomalies in a batch of records."""

    @abc.abstractmethod
    def due(self, boot_ns: int | None) -> list[Anomaly]:
        """Anomalies that were held back until `boot_ns` on the boot clock; None: all, the agent is stopping."""

    def cpu_report(self) -> CpuReport | None:
        """What the CPUs have counted, of an observer that counts. Any thread may ask."""
        return None


class RecentMap(Generic[Key, Value]):
    """A mapping that forgets its oldest entries beyond `limit`, and counts them in `evicted` under `table`."""

    def __init__(self, table: str, evicted: dict[str, int], limit: int = 4096) -> None:
        self._table, self._evicted, self._limit = table, evicted, limit
        evicted.setdefault(table, 0)
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __setitem__(self, key: Key, value: Value) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
            self._evicted[self._table] += 1

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Value | None:
        """The value of `key`, None if it is not there or was forgotten."""
        return self._entries.get(key)


def comm_text(comm: bytes) -> str:
    """A task's name. The kernel allows any bytes in it: what is not UTF-8 becomes U+FFFD."""
    return comm.split(b"\0", 1)[0].decode("utf-8", "replace")


def signal_name(number: int) -> str:
    """'SIGKILL' for 9; real-time signals have only numbers."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
