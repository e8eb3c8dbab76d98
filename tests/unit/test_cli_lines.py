"""One occurrence as a row of `tapio recent` and `tapio watch`: its place, its time, folded ones."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from helpers.data_dirs import FACTS, DataDir, as_read, make_occurrence

from tapio.cli import lines
from tapio.cli.screen import Screen
from tapio.cli.times import TimeFormat

NOW_S = 1_795_376_000.0


def test_every_type_makes_a_row_and_a_place(tmp_path: Path) -> None:
    times = TimeFormat(NOW_S, utc=True)
    for what in FACTS:
        row = lines.cells(make_occurrence(tmp_path, what), times)
        assert row[2] == what
        assert row[3] not in ("", "-")
    assert lines.where(make_occurrence(tmp_path, "oom_kill", pod="shop/api-1")) == "shop/api-1"
    assert lines.where(make_occurrence(tmp_path, "cpu_stall")) == "cpu 3"
    assert lines.where(make_occurrence(tmp_path, "oom_kill", comm="[kworker/0:1]", pid=7)) == "[kworker/0:1][7]"
    assert lines.where(make_occurrence(tmp_path, "oom_kill", comm="", pid=7)) == "cgroup 8430"
    assert lines.where(make_occurrence(tmp_path, "io_error")) == "sda"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"comm": "[kworker/0:1]", "device": "sda"}, "sda"),
        ({"comm": "[kworker/0:1]"}, "[kworker/0:1] in cgroup 8430"),
        ({"comm": "[", "cgroup_id": None}, "["),
        ({"comm": "[x][y]", "cgroup_id": None}, "[x][y]"),
        ({"comm": "", "cgroup_id": None}, "-"),
        ({"comm": ""}, "cgroup 8430"),
    ],
)
def test_a_place_always_has_a_name(tmp_path: Path, changes: dict[str, object], place: str) -> None:
    document = DataDir(tmp_path).document("abnormal_exit")
    document["data"] = {name: v for name, v in (document["data"] | changes).items() if v is not None}
    assert lines.place(as_read(document)) == place


def test_folded_occurrences_say_so(tmp_path: Path) -> None:
    episode = {"id": "x", "total": 40, "first_seen": "", "last_seen": "", "state": "closed"}
    times = TimeFormat(NOW_S, utc=True)
    row = lines.cells(make_occurrence(tmp_path, "connection_refused", count=17, episode=episode), times)
    assert row[4] == "Connection refused by 10.0.0.9:5432 (17 of them) (over after 40)"
    said = {"code": "CONNECTION_REFUSED", "message": "Connection refused by 10.0.0.9:5432 (17 more)"}
    row = lines.cells(make_occurrence(tmp_path, "connection_refused", count=17, error=said), times)
    assert row[4] == said["message"]


def test_a_stream_in_a_narrow_terminal_is_stacked(tmp_path: Path) -> None:
    stream = io.StringIO()
    rows = lines.Rows(Screen(stream, {"COLUMNS": "40"}), utc=True, stream=True)
    rows.titles()
    pod = "shop/checkout-api-7f8b9c6d5-x2x4v"
    rows.row(make_occurrence(tmp_path, "oom_kill", timestamp="2025-04-03T14:23:01.042Z", pod=pod))
    assert stream.getvalue().splitlines() == [
        "2025-04-03 14:23  critical  oom_kill",
        "  shop/checkout-api-7f8b9c6d5-x2x4v: OOM",
        "  kill pid=1234 (usage=512MB,",
        "  limit=512MB)",
    ]


def test_a_time_of_another_year_is_not_cut_in_a_stream(tmp_path: Path) -> None:
    stream = io.StringIO()
    rows = lines.Rows(Screen(stream, {"COLUMNS": "100"}), utc=True, stream=True)
    rows.row(make_occurrence(tmp_path, "oom_kill", timestamp="2025-04-03T14:23:01.042Z"))
    assert stream.getvalue().startswith("2025-04-03 14:23  critical  oom_kill ")
