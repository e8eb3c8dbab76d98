r"""Text on a terminal: what a kernel or a container can put into a name must not steer the terminal.

A process may call itself `\x1b]0;pwned\a`; shown as it is, it would rename the reader's window, hide lines, or worse.
"""

from __future__ import annotations

import re
import unicodedata

# C0 and C1 controls, DEL, and what reorders or hides text: marks of direction, zero-width characters, line separators.
_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
# In JSON the C0 controls inside strings are escaped already; newlines end the line.
_HARMFUL_IN_JSON = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_MAX_TEXT = 4096


def harmless(text: str) -> str:
    r"""`text` with everything that a terminal would obey written out: '\x1b[31m'. Very long text is cut."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "…"
    if text.isascii() and text.isprintable():
        return text
    return _HARMFUL.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def harmless_json(line: str) -> str:
    """A line of JSON with the same meaning that no terminal obeys."""
    if line.isascii() and "\x7f" not in line:
        return line
    return _HARMFUL_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def width(text: str) -> int:
    """The columns that harmless text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """`text`, cut with an ellipsis where it is wider than `columns`."""
    if width(text) <= columns:
        return text
    return text[: _fitting(text, columns - 1)] + "…" if columns > 0 else ""


def _fitting(text: str, columns: int) -> int:
    """How many of the first characters fit."""
    for index, character in enumerate(text):
        columns -= _columns(character)
        if columns < 0:
            return index
    return len(text)


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """`text` cut or filled with spaces to exactly `columns`."""
    text = fit(text, columns)
    filling = " " * (columns - width(text))
    return filling + text if right else text + filling


def wrap(text: str, columns: int) -> list[str]:
    """`text` broken at spaces into lines of at most `columns`; a word that is wider than that is broken too."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if width(longer) <= columns:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while width(line) > columns:
            head = max(1, _fitting(line, columns))
            lines.append(line[:head])
            line = line[head:]
    return [*lines, line]
