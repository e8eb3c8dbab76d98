"""Records and layouts made up for unit tests; the real ones come from the object's BTF."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from tapio.kernel.channel import Loaded
from tapio.kernel.layout import Field, Layout

_TEXT = ("comm", "address")


def make_layout(name: str, fields: Sequence[str]) -> Layout:
    """`kind` as u32, names that end in `comm` or `address` as 16 characters, everything else as i64."""
    made, offset = [], 0
    for field in fields:
        kind, size, count = ("u", 4, 1) if field == "kind" else ("c", 1, 16) if field.endswith(_TEXT) else ("i", 8, 1)
        offset = -(-offset // size) * size
        made.append(Field(field, offset, kind, size, count))
        offset += size * count
    return Layout(name, -(-offset // 8) * 8, tuple(made))


def pack(layout: Layout, **values: Any) -> bytes:
    """The bytes of a record; fields that are not named are zero."""
    record = bytearray(layout.size)
    for name, value in values.items():
        field = layout.field(name)
        code = f"{field.count}s" if field.kind == "c" else {4: "I", 8: "q"}[field.size]
        struct.pack_into("=" + code, record, field.offset, value)
    return bytes(record)


def make_loaded(observer: str, records: dict[str, Layout], enums: dict[str, int], features: dict[str, bool]) -> Loaded:
    """What the loader would hand over, without any descriptor."""
    return Loaded(
        observer=observer,
        hooks=(),
        descriptors=(),
        records=records,
        enums=enums,
        variables={},
        sizes={},
        features=features,
        cpus=1,
    )
