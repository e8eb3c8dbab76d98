"""How the kernel side lays out memory, as read from an object's BTF, and decoders built from it.

A `Layout` travels from the loader child to the agent, so it is a plain message. `Record` types are made at run
time from the layout: the C struct in ebpf/headers/events.h is the only place where a record is described.
"""

from __future__ import annotations

import collections
import operator
import struct
from collections.abc import Callable, Hashable, Iterable
from typing import Any, cast

import msgspec

from tapio.errors import ObjectError

_FORMATS = {("u", 1): "B", ("u", 2): "H", ("u", 4): "I", ("u", 8): "Q"}
_FORMATS |= {("i", size): code.lower() for (_, size), code in _FORMATS.items()}


class Field(msgspec.Struct, frozen=True):
    """One member: `kind` is u (unsigned), i (signed) or c (characters); `size` is of one element, in bytes."""

    name: str
    offset: int
    kind: str
    size: int
    count: int = 1


class Layout(msgspec.Struct, frozen=True):
    """A C struct: nested members are flattened, `victim.pid` becomes `victim_pid`."""

    name: str
    size: int
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        """The member called `name`; ObjectError when there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise ObjectError(f"reading {self.name}: the object has no field {name}: rebuild it with 'make setup'")


class Variable(msgspec.Struct, frozen=True):
    """A global of the object: where it is in its section, and the layout of one element if it is a struct."""

    name: str
    section: str
    offset: int
    size: int
    layout: Layout | None = None


def field_format(field: Field) -> str:
    """The `struct` code of a field; ObjectError for a size that no decoder knows."""
    if field.kind == "c":
        return f"{field.size * field.count}s"
    code = _FORMATS.get((field.kind, field.size))
    if code is None:
        raise ObjectError(f"reading field {field.name}: {field.size} bytes of kind {field.kind} cannot be decoded")
    return code if field.count == 1 else f"{field.count}{code}"


def make_twin_key(layout: Layout, differing: Iterable[str]) -> Callable[[bytes], Hashable]:
    """A function to a key that is the same for records which are equal in all bytes but those of `differing`."""
    slices, position = [], 0
    for field in sorted((layout.field(name) for name in differing), key=lambda field: field.offset):
        slices.append(slice(position, field.offset))
        position = field.offset + field.size * field.count
    return operator.itemgetter(*slices, slice(position, None))


def make_row(layout: Layout, fields: Iterable[Field]) -> struct.Struct:
    """Reads these fields, which come by their offsets, in one go. ObjectError when two overlap or one is outside."""
    format_string, position = "=", 0
    for field in fields:
        if field.offset < position:
            raise ObjectError(f"reading {layout.name}: {field.name} overlaps another field")
        format_string += f"{field.offset - position}x" + field_format(field)
        position = field.offset + field.size * field.count
    if position > layout.size:
        raise ObjectError(f"reading {layout.name}: its fields take {position} bytes, the record {layout.size}")
    return struct.Struct(format_string)


def make_decoder(layout: Layout, needs: Iterable[str]) -> Callable[[bytes], Any]:
    """A function from the bytes of one record to a named tuple of its fields.

    `needs` are the fields that the caller will use: one that is missing, or an array where a value is expected,
    raises ObjectError now and not when the first record comes. Other fields are skipped.
    """
    fields = sorted((layout.field(name) for name in set(needs)), key=lambda field: field.offset)
    for field in fields:
        if field.kind != "c" and field.count != 1:
            raise ObjectError(f"reading {layout.name}: {field.name} is an array of {field.count}, expected one value")
    row = make_row(layout, fields)
    unpack_from, position = row.unpack_from, row.size
    make = cast(Any, collections.namedtuple(layout.name, [field.name for field in fields]))._make

    def decode(record: bytes) -> Any:
        if len(record) < position:
            raise ValueError(f"a {layout.name} of {len(record)} bytes is too short")
        return make(unpack_from(record))

    return decode
