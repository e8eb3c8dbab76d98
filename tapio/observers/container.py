"""Container observer: processes that end badly (`exit_record`) and processes killed for memory (`oom_record`)."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterable
from typing import Any

from tapio.anomalies import ABNORMAL_EXIT, Anomaly, Severity
from tapio.config import Config
from tapio.kernel.channel import Loaded
from tapio.kernel.layout import make_decoder
from tapio.observers.base import Canary, Observer, RecentMap, Settings, comm_text, own_process, signal_name
from tapio.observers.container_oom import OomKills, identity_data, identity_fields

CANARY_STATUS = 113 << 8  # how a child of the agent ends that is one
_EXIT_FIELDS = (
    *("kind", "status", "boot_ns", "kills", "oom_victim", "ignored", "own_child"),
    *("task_ns_pid", *identity_fields("task")),
)


class ContainerObserver(Observer):
    """One anomaly for each process that was killed or failed, none for its threads."""

    name = "container"

    def __init__(self, loaded: Loaded) -> None:
        self._decode_exit = make_decoder(loaded.record("exit_record"), _EXIT_FIELDS)
        self._exit_kind, self._oom_kind = loaded.enum("RECORD_EXIT"), loaded.enum("RECORD_OOM")
        self._exits_come_once = loaded.feature("process_exit_passes_group_dead")
        self._marks_name_victims = loaded.feature("mark_victim_passes_task")
        self.evicted: dict[str, int] = {}
        self._exited: RecentMap[tuple[int, int], None] = RecentMap("exits", self.evicted)
        self._ignored_comm: tuple[str, ...] = ()
        reasons = ("duplicate", "oom_victim", "already_exiting", "ignored_code", "ignored_comm", "own_process")
        self.suppressed = dict.fromkeys((*reasons, "undecodable"), 0)
        self.canary = Canary()
        self._oom = OomKills(loaded, self.suppressed, self.evicted)
        if not self._marks_name_victims:
            self.reason = "this kernel marks OOM victims by pid alone: memory and limit are not known for all of them"
        elif loaded.missing:
            self.reason = f"{loaded.missing[0].reason}: whose memory limit was hit is not known for every OOM kill"

    def configure(self, config: Config) -> Settings:
        """Exit codes and scope are filtered in the kernel, patterns here."""
        self._ignored_comm = config.container.ignore_comm
        words = [0, 0, 0, 0]
        for code in config.container.ignore_exit_codes:
            words[code // 64] |= 1 << code % 64
        main_only = config.container.exit_scope == "main"
        return {**own_process(), "ignored_exit_codes": tuple(words), "main_process_only": int(main_only)}

    def decode(self, records: Iterable[bytes]) -> list[Anomaly]:
        """The anomalies in a batch of records, in the order of the events."""
        found: list[Anomaly] = []
        for record in records:
            kind = int.from_bytes(record[:4], sys.byteorder)
            try:
                if kind == self._exit_kind:
                    found += self._exit(self._decode_exit(record))
                elif kind == self._oom_kind:
                    found += self._oom.mark(record)
                else:
                    self.suppressed["undecodable"] += 1
            except ValueError:
                self.suppressed["undecodable"] += 1
        return found

    def due(self, boot_ns: int | None) -> list[Anomaly]:
        """Group kills whose victims are all counted."""
        return self._oom.due(boot_ns)

    def _exit(self, record: Any) -> list[Anomaly]:
        process = record.task_pid, record.task_start_boot_ns
        if not self._exits_come_once:
            if process in self._exited:
                self.suppressed["duplicate"] += 1
                return []
            self._exited[process] = None
        if record.own_child and record.status == CANARY_STATUS:
            self.suppressed["own_process"] += 1
            self.canary.notice((record.task_ns_pid, record.status))
            return []
        if record.oom_victim and self._oom.has_reported(process):
            self.suppressed["oom_victim"] += 1
            return []
        if record.oom_victim and not self._marks_name_victims and self._oom.was_killed(record):
            return [self._oom.from_exit(record)]
        if record.ignored:
            self.suppressed["ignored_code"] += 1
            return []
        comm = comm_text(record.task_comm)
        if any(fnmatch.fnmatchcase(comm, pattern) for pattern in self._ignored_comm):
            self.suppressed["ignored_comm"] += 1
            return []

        signal, code = record.status & 0x7F, record.status >> 8 & 0xFF
        data = identity_data(record, "task", "task") | {"exit_code": 128 + signal if signal else code, "signal": signal}
        if record.status & 0x80:
            data["core_dumped"] = True
        if record.oom_victim:
            data["oom_victim"] = True
        ending = f"exit_code={data['exit_code']}" + (f", signal={signal_name(signal)}" if signal else "")
        message = f"Abnormal exit pid={record.task_pid} ({ending})"
        severity: Severity = "error" if signal else "warning"
        return [Anomaly(ABNORMAL_EXIT, record.boot_ns, message, data, severity, (comm, record.status & 0xFF7F))]
