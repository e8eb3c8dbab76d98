"""The words of the configuration for perf events, and what they are to the kernel.

`auto` is what fits this machine (see kernel/perf_presets.py), `hardware:NAME` one of the kernel's generic hardware
events, `raw:0x…` the CPU's own code (perf_event_attr.config of PERF_TYPE_RAW), `software:NAME` one of the kernel's
software events, which need no PMU.
"""

from __future__ import annotations

import re
from typing import NamedTuple

AUTO = "auto"
HARDWARE: tuple[str, ...] = (
    *("cpu-cycles", "instructions", "cache-references", "cache-misses", "branch-instructions", "branch-misses"),
    *("bus-cycles", "stalled-cycles-frontend", "stalled-cycles-backend", "ref-cycles"),
)
SOFTWARE: tuple[str, ...] = (
    *("cpu-clock", "task-clock", "page-faults", "context-switches", "cpu-migrations", "minor-faults"),
    "major-faults",
)
TYPES = {"hardware": 0, "software": 1, "raw": 4}


class Event(NamedTuple):
    """A perf event by `type` and `config` of perf_event_attr."""

    type: int
    config: int


def parse(words: str) -> Event:
    """The event that is meant by the configuration's words; ValueError when there is none."""
    kind, _, what = words.partition(":")
    if kind == "raw" and re.fullmatch("0x[0-9a-fA-F]{1,16}", what):
        return Event(TYPES[kind], int(what, 16))
    names = {"hardware": HARDWARE, "software": SOFTWARE}.get(kind, ())
    if what not in names:
        known = [f"hardware:{name}" for name in HARDWARE] + [f"software:{name}" for name in SOFTWARE]
        raise ValueError(
            f"there is no event {words!r}: choose auto, a code of this CPU model as raw:0x1a3, or {', '.join(known)}"
        )
    return Event(TYPES[kind], names.index(what))
