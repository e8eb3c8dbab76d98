"""Reads the records of `ebpf/cgroup_monitor.c` into the index of cgroups: an observer that finds no anomalies."""

from __future__ import annotations

from collections.abc import Iterable

from tapio.anomalies import Anomaly
from tapio.config import Config
from tapio.enrich.cgroups import CgroupIndex
from tapio.enrich.hierarchies import Hierarchy
from tapio.kernel.channel import Loaded
from tapio.kernel.layout import make_decoder
from tapio.observers.base import Observer, Settings


class CgroupObserver(Observer):
    """Keeps an index in step with the kernel."""

    name = "enrichment"

    def __init__(self, loaded: Loaded, index: CgroupIndex, hierarchies: Iterable[Hierarchy]) -> None:
        """`hierarchies` are those that the kernel side tells of."""
        fields = ("kind", "hierarchy", "boot_ns", "cgroup_id", "path")
        self._decode = make_decoder(loaded.record("cgroup_record"), fields)
        self._made, self._removed = loaded.enum("RECORD_CGROUP_MADE"), loaded.enum("RECORD_CGROUP_REMOVED")
        self._index = index
        self._settings: Settings = {"hierarchies": sum(1 << hierarchy.number for hierarchy in hierarchies)}
        self.suppressed = {"undecodable": 0}
        self.evicted = index.evicted

    def configure(self, config: Config) -> Settings:  # noqa: ARG002
        """Nothing of it may change."""
        return self._settings

    def decode(self, records: Iterable[bytes]) -> list[Anomaly]:
        """No anomalies: the index takes it all."""
        for raw in records:
            try:
                record = self._decode(raw)
            except ValueError:
                self.suppressed["undecodable"] += 1
                continue
            key = record.hierarchy, record.cgroup_id
            if record.kind == self._made:
                path = record.path.split(b"\0", 1)[0].decode("utf-8", "replace")
                self._index.add(key, path, record.boot_ns)
            elif record.kind == self._removed:
                self._index.remove(key, record.boot_ns)
            else:
                self.suppressed["undecodable"] += 1
        return []

    def due(self, boot_ns: int | None) -> list[Anomaly]:  # noqa: ARG002  # nothing is held back
        """Nothing."""
        return []
