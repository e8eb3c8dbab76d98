"""The short form of `make fuzz`: every target on random bytes and on damaged seeds."""

from __future__ import annotations

import pytest
from fuzz.targets import SEEDS, TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with a few bytes changed, put in, or cut out."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_harm(name: str) -> None:
    @settings(max_examples=200, database=None)
    @given(st.binary(max_size=4096) | damaged(SEEDS.get(name, [bytes(512)])))
    def attack(data: bytes) -> None:
        TARGETS[name](data)

    attack()
