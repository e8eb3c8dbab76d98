"""How the faults that `tapio selftest` makes are recognised: by the name of the process that makes them."""

from __future__ import annotations

import re
import secrets

from tapio.occurrence import Occurrence

# At most 15 characters: the kernel cuts a process's name there.
_NAME = re.compile(r"tapio-st-[0-9a-f]{6}")


def new_name() -> str:
    """The name of a new process."""
    return f"tapio-st-{secrets.token_hex(3)}"


def is_probe(occurrence: Occurrence) -> bool:
    """Whether a selftest provoked the occurrence."""
    comm = occurrence.data.get("comm")
    return isinstance(comm, str) and _NAME.fullmatch(comm) is not None
