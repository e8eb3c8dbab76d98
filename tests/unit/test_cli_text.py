"""Text on a terminal: made harmless, cut to a width by what it takes there, wrapped."""

from __future__ import annotations

import json
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapio.cli.text import fit, fit_middle, harmless, harmless_json, pad, width, wrap


@given(st.text())
def test_harmless_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = harmless(text)
    assert shown.isprintable()
    assert all(unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in ("Zl", "Zp") for c in shown)


# Each is invisible, reorders what stands around it, or moves the cursor.
UNSEEN = [
    "\x00", "\x1b", "\x7f", "\x85", "\xad", "\u034f", "\u061c", "\u115f", "\u1160", "\u17b4", "\u180b", "\u180e",
    "\u2003", "\u200b", "\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e", "\u2060", "\u2064",
    "\u2066", "\u2069", "\u206f", "\u2800", "\u3164", "\ufe0f", "\ufeff", "\uffa0", "\ufff9", "\ufffb", "\U0001bca0",
    "\U0001d173", "\U000e0001", "\U000e0041", "\U000e007f", "\U000e0100", "\U000e0fff", "\U000f0000", "\U0010ffff",
]  # fmt: skip


@pytest.mark.parametrize("character", UNSEEN, ids=lambda c: f"U+{ord(c):04X}")
def test_what_nobody_sees_is_written_out(character: str) -> None:
    code = ord(character)
    written = f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    assert harmless(f"a{character}b") == f"a{written}b"
    line = harmless_json(msgspec.json.encode({"comm": f"a{character}b"}).decode())
    assert line.isascii()
    assert json.loads(line) == {"comm": f"a{character}b"}
    # Also when the file itself had it as an escape, beyond U+FFFF as a pair of surrogates.
    escaped = json.dumps({"comm": f"a{character}b"}).encode()
    assert harmless_json(msgspec.json.encode(msgspec.json.decode(escaped)).decode()) == line


def test_escape_sequences_are_written_out() -> None:
    assert harmless("\x1b]0;pwned\a\x9b31mred\r\n\u202e") == "\\x1b]0;pwned\\x07\\x9b31mred\\x0d\\x0a\\u202e"
    assert harmless("größer → 漢字") == "größer → 漢字"
    assert len(harmless("x" * 10**6)) < 5000


@given(st.text())
def test_harmless_json_means_the_same(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    line = msgspec.json.encode({"comm": text}).decode()
    shown = harmless_json(line)
    assert msgspec.json.decode(shown) == {"comm": text}
    assert not any(0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in shown)


@given(st.text(alphabet="ab ü漢e\u0301…", max_size=40), st.integers(0, 30))
def test_text_fits(text: str, columns: int) -> None:
    assert width(fit(text, columns)) <= columns
    assert width(pad(text, columns)) == columns
    if columns >= 2:
        assert all(width(line) <= columns for line in wrap(text, columns))
        assert "".join(wrap(text, columns)).replace(" ", "") == text.replace(" ", "")


def test_the_ends_of_long_names_are_kept() -> None:
    assert fit_middle("checkout-api-7f8b9c6d5-x2x4v", 16) == "checkou…d5-x2x4v"
    assert [fit_middle("漢字漢字", columns) for columns in range(9)] == [
        "", "…", "…", "…字", "…字", "漢…字", "漢…字", "漢…漢字", "漢字漢字",
    ]  # fmt: skip
