"""Writing to stdout: tables that fit the terminal, colours where they are wanted, JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import msgspec

from tapio.cli.text import fit, harmless, harmless_json, pad, width, wrap

_STYLES = {
    "bold": "1",
    "dim": "2",
    "good": "32",
    "info": "36",
    "debug": "2",
    "warning": "33",
    "error": "31",
    "critical": "1;31",
}
_GAP = "  "
_UNLIMITED = 1 << 16
_LEAST_WRAPPED = 12
_ENCODER = msgspec.json.Encoder()


class Column(msgspec.Struct, frozen=True):
    """One column. `shrinks`: may be cut to `least` columns where the terminal is too narrow; the last may always.

    `wraps`: as the last column it goes on below itself instead of being cut.
    """

    title: str
    right: bool = False
    shrinks: bool = False
    least: int = 8
    wraps: bool = False


class Cell(msgspec.Struct, frozen=True):
    """Text with a style."""

    text: str
    style: str = ""


class Screen:
    """Where a command draws. `columns` is the terminal's width; a pipe has no limit unless COLUMNS says one."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        is_terminal = stream.isatty()
        self.has_unicode = (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")
        self.colour = is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        wanted = environment.get("COLUMNS", "")
        if wanted.isascii() and wanted.isdecimal() and int(wanted) > 0:
            self.columns = max(20, int(wanted))
        elif is_terminal:
            self.columns = max(20, _terminal_columns(stream))
        else:
            self.columns = _UNLIMITED

    def styled(self, text: str, style: str) -> str:
        """`text` in a style, where colours are wanted."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def line(self, text: str = "", style: str = "") -> None:
        """One line, cut to the terminal's width."""
        self._stream.write(self.styled(fit(harmless(text), self.columns), style).rstrip(" ") + "\n")

    def paragraph(self, text: str) -> None:
        """Text wrapped at words to the terminal's width."""
        for line in wrap(harmless(text), self.columns):
            self._stream.write(line + "\n")

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]]) -> None:
        """A table with a title line. Columns are as wide as their content, and shrink where the terminal ends."""
        cells = [[self._cell(value) for value in row] for row in rows]
        widths = [
            max([width(column.title), *(width(row[index].text) for row in cells)])
            for index, column in enumerate(columns)
        ]
        self._shrink(columns, widths)
        self.row(columns, widths, [Cell(column.title, "dim") for column in columns])
        for row in cells:
            self.row(columns, widths, row)

    def _shrink(self, columns: Sequence[Column], widths: list[int]) -> None:
        last = len(columns) - 1
        for index in [*(i for i, column in enumerate(columns) if column.shrinks), last]:
            excess = sum(widths) + len(_GAP) * last - self.columns
            if excess > 0:
                least = 1 if index == last else min(columns[index].least, widths[index])
                widths[index] = max(least, widths[index] - excess)

    @staticmethod
    def _cell(value: Cell | str) -> Cell:
        return Cell(harmless(value.text), value.style) if isinstance(value, Cell) else Cell(harmless(value))

    def row(self, columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell | str]) -> None:
        """One row with columns of given widths."""
        parts, indent = [], 0
        more: list[str] = []
        for column, wanted, value in zip(columns, widths, row, strict=True):
            cell, wide = self._cell(value), min(wanted, self.columns - indent)
            if wide <= 0:
                break
            text = cell.text
            if column.wraps and wide >= _LEAST_WRAPPED:
                text, *more = wrap(text, wide)
            if column is not columns[-1] or width(text) > wide or column.right:
                text = pad(text, wide, right=column.right)
            parts.append(self.styled(text, cell.style))
            if not more:
                indent += wide + len(_GAP)
        self._stream.write(_GAP.join(parts).rstrip(" ") + "\n")
        for line in more:
            self._stream.write(f"{' ' * indent}{line}\n")

    def json(self, value: Any) -> None:
        """One line of JSON."""
        self._stream.write(harmless_json(_ENCODER.encode(value).decode()) + "\n")

    def flush(self) -> None:
        """Show what was written so far."""
        self._stream.flush()


def _terminal_columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def warn(text: str) -> None:
    """A line on stderr, beside what the command shows."""
    sys.stderr.write(f"tapio: {harmless(text)}\n")
    sys.stderr.flush()
