"""Tables: how they shrink and are stacked, which widths are believed, when there is colour."""

from __future__ import annotations

import io

import pytest

from tapio.cli.screen import Cell, Column, Screen


def test_a_table_shrinks_to_the_terminal() -> None:
    stream = io.StringIO()
    screen = Screen(stream, {"COLUMNS": "34"})
    columns = (Column("NAME", shrinks=True, least=6), Column("N", right=True), Column("TEXT", wraps=True))
    screen.table(columns, [["a-rather-long-name", "7", "several words that wrap"], ["b", "11", Cell("", "error")]])
    assert stream.getvalue().splitlines() == [
        "NAME     N  TEXT",
        "a-…ame   7  several words that",
        "            wrap",
        "b       11",
    ]


def test_rows_are_stacked_where_a_table_has_no_room() -> None:
    """No figure is cut, nothing is left out."""
    stream = io.StringIO()
    columns = (Column("OBSERVER"), Column("STATE"), Column("EVENTS/S", right=True), Column("LOST", right=True),
               Column("WHY", wraps=True))  # fmt: skip
    rows = [["network", Cell("up", "good"), "123456789.0", "7", ""],
            ["a-name-wider-than-twenty", "blind", "-", "9" * 30, "the hook is detached"]]  # fmt: skip
    Screen(stream, {"COLUMNS": "20"}).table(columns, rows)
    assert stream.getvalue().splitlines() == [
        "network  up",
        "  EVENTS/S",
        "  123456789.0",
        "  LOST 7",
        "a-name-wider-than-tw",
        "enty",
        "blind",
        "  EVENTS/S -",
        "  LOST",
        "  999999999999999999",
        "  999999999999",
        "  the hook is",
        "  detached",
    ]


@pytest.mark.parametrize("columns", ["9" * 5000, "0" * 5000 + "80", "-1", "x", "٣", "80.5", " 80", "1e3", ""])
def test_a_width_that_makes_no_sense_is_no_width(columns: str) -> None:
    assert Screen(io.StringIO(), {"COLUMNS": columns}).columns == 1 << 16


@pytest.mark.parametrize(("columns", "used"), [("1", 20), ("40", 40), ("999999999", 1 << 16)])
def test_widths(columns: str, used: int) -> None:
    assert Screen(io.StringIO(), {"COLUMNS": columns}).columns == used


def test_an_absurd_name_does_not_widen_every_line_of_a_pipe() -> None:
    stream = io.StringIO()
    rows = [["x" * 500, "7", "m" * 300], ["b", "11", "short"]]
    Screen(stream, {}).table((Column("NAME", shrinks=True), Column("N", right=True), Column("TEXT", wraps=True)), rows)
    title, long, short = stream.getvalue().splitlines()
    assert long == f"{'x' * 500}   7  {'m' * 300}"
    assert short == f"{'b':80}  11  short"
    assert title.split() == ["NAME", "N", "TEXT"]


def test_no_colour_where_it_is_not_wanted() -> None:
    class FakeTerminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert Screen(FakeTerminal(), {"TERM": "xterm"}).colour
    assert not Screen(FakeTerminal(), {"NO_COLOR": "1", "TERM": "xterm"}).colour
    assert not Screen(FakeTerminal(), {"TERM": "dumb"}).colour
    assert not Screen(io.StringIO(), {"TERM": "xterm"}).colour
