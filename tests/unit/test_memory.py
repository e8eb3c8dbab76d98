"""Counters that the agent shares with the kernel, on memory shaped like a section."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from helpers.records import make_loaded

from tapio.kernel.attach import Attachment
from tapio.kernel.layout import Field, Layout, Variable
from tapio.kernel.memory import Section

CPUS = 5
ROW = Layout(
    "hook_counters",
    24,
    (Field("hits", 0, "u", 8), Field("pair", 8, "u", 4, 2), Field("level", 20, "i", 2), Field("lost", 16, "u", 4)),
)


@pytest.fixture
def section() -> Iterator[Section]:
    """Rows behind 16 other bytes: one for each CPU, and one more that no CPU owns."""
    descriptor = os.memfd_create("bss")
    rows = [struct.pack("=Q2IIhxx", 2**40 + cpu, 7, 7, 100 * cpu, -cpu) for cpu in range(CPUS + 1)]
    content = bytes(16) + b"".join(rows)
    os.write(descriptor, content.ljust(mmap.PAGESIZE, b"\0"))
    loaded = make_loaded("network", {}, {}, {})
    loaded.variables["rows"] = Variable("rows", ".bss", 16, len(content) - 16, ROW)
    loaded.sizes[".bss"] = len(content)
    attachment = Attachment(loaded, {".bss": descriptor})
    mapped = Section(attachment, ".bss", writable=False)
    yield mapped
    mapped.close()
    attachment.close()


def test_rows_of_all_cpus_are_added_up(section: Section) -> None:
    assert section.sums("rows", CPUS) == {"hits": CPUS * 2**40 + 10, "lost": 1000, "level": -10}


def test_there_are_no_more_cpus_than_rows(section: Section) -> None:
    assert section.sums("rows", 1000) == section.sums("rows", CPUS + 1)
