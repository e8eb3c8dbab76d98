r"""Text on a terminal: what a kernel or a container can put into a name must not steer the terminal.

A process may call itself `\x1b]0;pwned\a`; shown as it is, it would rename the reader's window, hide lines, or worse.
"""

from __future__ import annotations

import re
import unicodedata

# Letters and marks by their category, but nothing is seen of them (Default_Ignorable_Code_Point, fillers, the blank
# braille cell). Whatever else a terminal obeys or does not show is not printable for Python: controls, marks of
# direction, zero-width characters, tags, soft hyphens, odd spaces, surrogates, what Unicode does not know.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_MAX_TEXT = 4096
_MAX_TAIL = 1024


def harmless(text: str) -> str:
    r"""`text` with everything that a terminal would obey written out: '\x1b[31m'. Of very long text the middle goes."""
    if len(text) > _MAX_TEXT:
        text = f"{text[: _MAX_TEXT - _MAX_TAIL]}…{text[-_MAX_TAIL:]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_seen(c) else _written_out(ord(c)) for c in text)


def _is_seen(character: str) -> bool:
    return character.isprintable() and not _UNSEEN.match(character)


def _written_out(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def harmless_json(line: str) -> str:
    """A line of JSON with the same meaning that no terminal obeys."""
    if line.isascii() and "\x7f" not in line:
        return line
    return "".join(c if c < "\x7f" or _is_seen(c) else _json_escape(c) for c in line)


def _json_escape(character: str) -> str:
    """Beyond U+FFFF JSON knows only pairs of surrogates."""
    encoded = character.encode("utf-16-be").hex()
    return "".join(f"\\u{encoded[at : at + 4]}" for at in range(0, len(encoded), 4))


def width(text: str) -> int:
    """The columns that harmless text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit_middle(text: str, columns: int) -> str:
    """`text`, cut in its middle where it is wider than `columns`: the ends of long names tell them apart."""
    if width(text) <= columns:
        return text
    head = _fitting(text, (columns - 1) // 2)
    tail = _fitting(text[::-1], columns - 1 - width(text[:head]))
    return text[:head] + "…" + text[len(text) - tail :] if columns > 0 else ""


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
    if width(text) <= columns:
        return [text]
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
