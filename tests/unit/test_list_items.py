"""The items of a list, cut out as the bytes come, whatever the chunks are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapio.enrich.list_items import ListItems

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def cut(body: bytes, size: int) -> tuple[list[bytes], bytes]:
    items, found = ListItems(), []
    for at in range(0, len(body), size):
        found += items.feed(body[at : at + size])
    return found, items.frame()


@given(st.lists(st.dictionaries(st.text(max_size=8), _JSON, max_size=4)), st.integers(1, 99), st.booleans())
def test_any_list_comes_out_whole(items: list[Any], size: int, indented: bool) -> None:
    """In whatever order its fields are, with brackets and quotes in strings, in chunks of any size."""
    document = {"kind": 'L"[{', "metadata": {"resourceVersion": "7", "x": [{}]}, "items": items, "after": "]}"}
    found, frame = cut(json.dumps(document, indent=1 if indented else None).encode(), size)
    assert [json.loads(item) for item in found] == items
    assert json.loads(frame) == {**document, "items": []}


@pytest.mark.parametrize("items", ["null", "[]", '[1, null, "{", true]'])
def test_lists_without_objects(items: str) -> None:
    found, frame = cut(f'{{"items": {items}, "metadata": {{}}}}'.encode(), 3)
    assert found == []
    assert b'"metadata": {}' in frame


@given(st.binary(max_size=300), st.integers(1, 50))
def test_what_is_no_list_harms_nobody(body: bytes, size: int) -> None:
    cut(body, size)


def test_only_the_item_that_is_coming_is_kept() -> None:
    """A string that goes on over many chunks is not looked through from the start of the list."""
    items = ListItems()
    item = b'{"name": "' + b'x\\"' * 1000 + b'"}'
    items.feed(b'{"items": [')
    for _ in range(100):
        assert items.feed(item + b", ") == [item]
        assert items.waiting < 100
