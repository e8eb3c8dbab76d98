"""Decoders from layouts: what fits is decoded exactly, what does not fit is refused before the first record."""

from __future__ import annotations

import pytest
from helpers.records import make_layout, pack
from hypothesis import given
from hypothesis import strategies as st

from tapio.errors import ObjectError
from tapio.kernel.layout import Field, Layout, make_decoder

NAMES = ("kind", "pid", "start_ns", "comm")
LAYOUT = make_layout("some_record", NAMES)


@given(
    kind=st.integers(0, 2**32 - 1),
    pid=st.integers(-(2**63), 2**63 - 1),
    comm=st.binary(max_size=16),
    order=st.permutations(NAMES),
    extra=st.binary(max_size=40),
)
def test_values_survive_any_order_of_fields(kind: int, pid: int, comm: bytes, order: list[str], extra: bytes) -> None:
    layout = make_layout("some_record", order)
    record = make_decoder(layout, NAMES)(pack(layout, kind=kind, pid=pid, comm=comm) + extra)
    assert (record.kind, record.pid, record.start_ns) == (kind, pid, 0)
    assert record.comm == comm.ljust(16, b"\0")


@given(st.binary(max_size=LAYOUT.size - 1))
def test_a_short_record_is_a_value_error(record: bytes) -> None:
    with pytest.raises(ValueError, match="too short"):
        make_decoder(LAYOUT, NAMES)(record)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field("other", 0, "u", 4), "no field kind"),
        (Field("kind", 0, "u", 3), "3 bytes of kind u"),
        (Field("kind", 0, "u", 4, count=2), "array of 2"),
        (Field("kind", 100, "u", 4), "its fields take 104 bytes, the record 8"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(field: Field, message: str) -> None:
    with pytest.raises(ObjectError, match=message):
        make_decoder(Layout("some_record", 8, (field,)), ["kind"])


def test_overlapping_fields_are_refused() -> None:
    fields = (Field("kind", 0, "u", 8), Field("pid", 4, "u", 4))
    with pytest.raises(ObjectError, match="overlaps"):
        make_decoder(Layout("some_record", 8, fields), ["kind", "pid"])
