"""Writing to stdout: tables that fit the terminal, colours where they are wanted, JSON lines."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import msgspec

from tapio.cli.text import fit_middle, harmless, harmless_json, pad, width, wrap

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
_WIDEST = 80
_LEAST_COLUMNS = 20
_LEAST_WRAPPED = 20  # narrower text is hard to read: then rows are stacked
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ENCODER = msgspec.json.Encoder()


class Column(msgspec.Struct, frozen=True):
    """One column. `shrinks`: may be cut in the middle, to `least` columns, where the terminal is too narrow.

    `wraps`: the last column of text; it goes on below itself. Everything else, above all figures (`right`), is never
    cut: where it does not fit the rows are stacked, with one row over several lines.
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
        if _NUMBER.fullmatch(wanted):
            self.columns = min(_UNLIMITED, max(_LEAST_COLUMNS, int(wanted)))
        elif is_terminal:
            self.columns = max(_LEAST_COLUMNS, _terminal_columns(stream))
        else:
            self.columns = _UNLIMITED

    def styled(self, text: str, style: str) -> str:
        """`text` in a style, where colours are wanted."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and style and text else text

    def line(self, text: str = "", style: str = "", *, indent: int = 0) -> None:
        """A line of text, wrapped at words where the terminal ends."""
        for part in wrap(harmless(text), self.columns - indent):
            self._stream.write(" " * (indent if part else 0) + self.styled(part.rstrip(" "), style) + "\n")

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]]) -> None:
        """A table with a title line. Columns are as wide as their content, and shrink where the terminal ends."""
        cells = [[_cell(value) for value in row] for row in rows]
        widths = [
            max([width(column.title), *(width(row[index].text) for row in cells)])
            for index, column in enumerate(columns)
        ]
        if self.columns == _UNLIMITED:  # one absurd name must not fill every line of a pipe with spaces
            widths = [min(wide, _WIDEST) for wide in widths]
        if not self._shrink(columns, widths):
            for row in cells:
                self.stack(columns, row)
            return
        self.row(columns, widths, [Cell(column.title, "dim") for column in columns])
        for row in cells:
            self.row(columns, widths, row)

    def _shrink(self, columns: Sequence[Column], widths: list[int]) -> bool:
        """Make the widths fit; whether they do. What may be cut gives way first, then the text that wraps."""
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - self.columns
        for index, column in sorted(enumerate(columns), key=lambda indexed: indexed[1].wraps):
            if excess > 0 and (column.wraps or column.shrinks):
                least = _LEAST_WRAPPED if column.wraps else max(column.least, width(column.title))
                given = min(excess, max(0, widths[index] - least))
                widths[index] -= given
                excess -= given
        return excess <= 0

    def row(self, columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell | str]) -> None:
        """One row with columns of given widths; a cell that is wider than its column moves those after it."""
        parts: list[str] = []
        more: list[str] = []
        indent, style = 0, ""
        for column, wide, value in zip(columns, widths, row, strict=True):
            cell = _cell(value)
            text, style = cell.text, cell.style
            if column.wraps:
                room = self.columns - indent
                text, *more = wrap(text, max(_LEAST_WRAPPED, room if self.columns == _UNLIMITED else min(wide, room)))
            elif column.shrinks and self.columns < _UNLIMITED:
                text = fit_middle(text, wide)
            if column is not columns[-1] or column.right:
                text = pad(text, max(wide, width(text)), right=column.right)
                indent += width(text) + len(_GAP)
            parts.append(self.styled(text, style))
        self._stream.write(_GAP.join(parts).rstrip(" ") + "\n")
        for line in more:
            self._stream.write(f"{' ' * indent}{self.styled(line, style)}\n")

    def stack(self, columns: Sequence[Column], row: Sequence[Cell | str]) -> None:
        """One row over several lines, for a narrow terminal: the names, then each figure after its title, the text."""
        cells = [(column, cell) for column, cell in zip(columns, map(_cell, row), strict=True) if cell.text]
        self._flow([cell for column, cell in cells if not column.right and not column.wraps], indent=0)
        figures = [Cell(f"{column.title} {cell.text}", cell.style) for column, cell in cells if column.right]
        self._flow(figures, indent=len(_GAP))
        for column, cell in cells:
            if column.wraps:
                self.line(cell.text, cell.style, indent=len(_GAP))

    def _flow(self, cells: Sequence[Cell], *, indent: int) -> None:
        """Cells one after the other; none is broken that fits into a line of its own."""
        line: list[Cell] = []
        for cell in cells:
            taken = sum(width(before.text) + len(_GAP) for before in line)
            if line and indent + taken + width(cell.text) > self.columns:
                self._write(line, indent)
                line = []
            line.append(cell)
        self._write(line, indent)

    def _write(self, cells: Sequence[Cell], indent: int) -> None:
        if len(cells) == 1:
            self.line(cells[0].text, cells[0].style, indent=indent)
        elif cells:
            text = _GAP.join(self.styled(cell.text, cell.style) for cell in cells)
            self._stream.write(" " * indent + text + "\n")

    def json(self, value: Any) -> None:
        """One line of JSON."""
        self._stream.write(harmless_json(_ENCODER.encode(value).decode()) + "\n")

    def flush(self) -> None:
        """Show what was written so far."""
        self._stream.flush()


def _cell(value: Cell | str) -> Cell:
    return Cell(harmless(value.text), value.style) if isinstance(value, Cell) else Cell(harmless(value))


def _terminal_columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def warn(text: str) -> None:
    """A line on stderr, beside what the command shows."""
    sys.stderr.write(f"tapio: {harmless(text)}\n")
    sys.stderr.flush()
