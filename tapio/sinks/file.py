"""The file sink: `<data-dir>/<ULID>.json` for each occurrence, for the `tapio` CLI."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tapio.config import FileConfig
from tapio.errors import describe_os_error
from tapio.occurrence import Occurrence, encode
from tapio.sinks.base import QueuedSink
from tapio.store import Retention, Store

_QUEUE_LIMIT = 10_000
_DAY_MS = 86_400_000


class FileSink(QueuedSink):
    """Writes and retains files in a thread of its own, so that a frozen disk stops nothing else."""

    name = "file"

    def __init__(self, store: Store, config: FileConfig) -> None:
        self._store = store
        self.config = config  # replaced as a whole on reload
        self._retention: Retention | None = None
        super().__init__(limit=_QUEUE_LIMIT, batch=64)

    def write(self, batch: Sequence[Occurrence]) -> int:
        """Write each occurrence on its own: one that cannot be written does not cost the others."""
        written = 0
        for occurrence in batch:
            name, document = f"{occurrence.id}.json", encode(occurrence)
            try:
                self._store.write(name, document)
            except OSError as error:
                self.fail(
                    f"writing occurrence files: {describe_os_error(error)}: free space or check the data directory"
                )
                continue
            written += 1
            if self._retention is not None:
                self._retention.add(name, len(document))
        self.idle()
        return written

    def idle(self) -> None:
        """Retain. Files also grow too old while nothing happens."""
        try:
            if self._retention is None:
                self._store.remove_leftovers()
                self._retention = Retention(self._store)
            trouble = self._retention.apply(
                max_files=self.config.max_files,
                max_bytes=self.config.max_mib << 20,
                min_emission_ms=time.time_ns() // 1_000_000 - int(self.config.max_age_days * _DAY_MS),
            )
        except OSError as error:
            trouble = describe_os_error(error)
        if trouble:
            self.fail(f"removing old occurrence files: {trouble}: remove it by hand, or check the data directory")
