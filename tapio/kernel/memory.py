"""Mapped memory that the agent shares with the kernel: counters in `.bss`, settings in `.data`, and the fence."""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Callable, Mapping
from typing import Any

from tapio.errors import KernelError, ObjectError
from tapio.kernel.attach import Attachment
from tapio.kernel.layout import Layout, Variable, field_format, make_row

_NR_MEMBARRIER = {"aarch64": 283, "x86_64": 324}
# SYNC_CORE, because plain PRIVATE_EXPEDITED does nothing in a process of one thread.
_REGISTER_SYNC_CORE, _SYNC_CORE = 64, 32


def fence(machine: str = "") -> Callable[[], None]:
    """A full memory barrier for this machine.

    x86-64 never reorders two loads, nor a store before an earlier load, so nothing is needed there. Elsewhere
    membarrier(2) is the one barrier that Python can reach; the ring reader needs three per batch, not per record.
    """
    machine = machine or platform.machine()
    if machine == "x86_64":
        return lambda: None
    syscall, number = ctypes.CDLL(None, use_errno=True).syscall, _NR_MEMBARRIER.get(machine, 283)
    if syscall(number, _REGISTER_SYNC_CORE, 0, 0) != 0:
        raise KernelError("registering for membarrier(2): the kernel refused: use one built with CONFIG_MEMBARRIER=y")
    return lambda: syscall(number, _SYNC_CORE, 0, 0)


class Section:
    """A mapped `.bss` or `.data` section."""

    def __init__(self, attachment: Attachment, suffix: str, *, writable: bool) -> None:
        descriptor, size = attachment.section(suffix)
        length = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(descriptor, length, mmap.MAP_SHARED, protection)
        self._variables = {v.name: v for v in attachment.loaded.variables.values() if v.section == suffix}

    def _variable(self, name: str) -> tuple[Variable, Layout]:
        variable = self._variables.get(name)
        if variable is None or variable.layout is None:
            raise ObjectError(f"mapping {name}: the object has no such global: rebuild it with 'make setup'")
        return variable, variable.layout

    def has(self, name: str) -> bool:
        """Whether the section holds a global of this name."""
        return name in self._variables

    def sums(self, name: str, rows: int) -> dict[str, int]:
        """Each field of the first `rows` elements of the array `name`, added up."""
        variable, layout = self._variable(name)
        fields = sorted((field for field in layout.fields if field.count == 1), key=lambda field: field.offset)
        unpack_from = make_row(layout, fields).unpack_from
        bases = range(variable.offset, variable.offset + min(rows * layout.size, variable.size), layout.size)
        columns = zip(*(unpack_from(self._map, base) for base in bases), strict=True)
        return {field.name: sum(column) for field, column in zip(fields, columns, strict=True)}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Each element of the array `name` as a dict of its fields; arrays are tuples, characters bytes."""
        variable, layout = self._variable(name)
        rows = []
        for base in range(variable.offset, variable.offset + variable.size, layout.size):
            row = {}
            for field in layout.fields:
                values = struct.unpack_from("=" + field_format(field), self._map, base + field.offset)
                row[field.name] = values if field.count > 1 and field.kind != "c" else values[0]
            rows.append(row)
        return rows

    def write(self, name: str, values: Mapping[str, int | bytes | tuple[int, ...]], row: int = 0) -> None:
        """Set fields of the struct `name`, or of a row of that array, in this order; programs see it at once."""
        variable, layout = self._variable(name)
        base = variable.offset + row * layout.size
        for key, value in values.items():
            field = layout.field(key)
            numbers = value if isinstance(value, tuple) else (value,)
            struct.pack_into("=" + field_format(field), self._map, base + field.offset, *numbers)

    def close(self) -> None:
        """Unmap the section."""
        self._map.close()


class HookCounters:
    """The per-CPU counters of each hook of an attachment, added up."""

    def __init__(self, attachment: Attachment) -> None:
        # Whole: mapping it twice would count twice. Written are only rows of disks that are gone.
        self.section = Section(attachment, ".bss", writable="disks" in attachment.loaded.variables)
        self._cpus = attachment.loaded.cpus
        self._hooks = [hook.name for hook in attachment.hooks]

    def read(self) -> dict[str, dict[str, int]]:
        """For each hook: hits, submitted, lost, filtered, unreadable since the start of the agent."""
        return {hook: self.section.sums(f"{hook}_counters", self._cpus) for hook in self._hooks}

    def missed(self, hook: str) -> dict[str, int]:
        """What the hook could not put together with another event, by reason; nothing for most hooks."""
        return self.section.sums(f"{hook}_misses", 1) if self.section.has(f"{hook}_misses") else {}

    def check(self) -> None:
        """ObjectError when a hook has no counters, or not those that the agent reads."""
        for hook, counts in self.read().items():
            missing = {"hits", "submitted", "lost", "filtered", "unreadable"} - counts.keys()
            if missing:
                raise ObjectError(f"reading {hook}_counters: the object lacks {', '.join(sorted(missing))}: rebuild it")

    def close(self) -> None:
        """Unmap the counters."""
        self.section.close()
