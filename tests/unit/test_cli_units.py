"""Parts of the CLI: durations, text made harmless, tables, filters, rules."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path

import msgspec
import pytest
from helpers.data_dirs import FACTS, DataDir
from hypothesis import given
from hypothesis import strategies as st

from tapio.cli import lines, parser
from tapio.cli.agent_state import read_agent
from tapio.cli.directory import DataDirectory, first
from tapio.cli.filters import Filter, find_type
from tapio.cli.follow import Follower
from tapio.cli.health import sparkline
from tapio.cli.judgement import judge, overall, worst_places
from tapio.cli.probe import is_own
from tapio.cli.screen import Cell, Column, Screen
from tapio.cli.seen import Seen
from tapio.cli.text import fit, fit_middle, harmless, harmless_json, pad, width, wrap
from tapio.cli.times import TimeFormat, format_duration, parse_duration
from tapio.errors import UsageError
from tapio.occurrence import Occurrence, decode
from tapio.store import emission_ms, name_at

NOW_S = 1_795_376_000.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), ("1w", 604800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["banana", "-5m", "0", "0s", "5", "", " 5m", "5 m", "m", "1e9d", "99999d", "\u0665m", "5M", "1h-5m", "5m\n", "nan"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"--since .*: write it as 30s, 5m, 1h30m or 2d"):
        parse_duration(text)


def test_durations_for_people() -> None:
    assert [format_duration(s) for s in (0, 0.44, 9.94, 59, 61, 7990, 90_061, 10**6)] == [
        "0.0 s", "0.4 s", "9.9 s", "59 s", "1 m 1 s", "2 h 13 m", "1 d 1 h", "11 d 13 h",
    ]  # fmt: skip


def test_times_show_the_date_where_it_is_not_today() -> None:
    times = TimeFormat(1_775_226_181, utc=True)  # 2026-04-03
    assert times.timestamp("2026-04-03T14:23:01.042Z") == "14:23:01.042"
    assert times.timestamp("2026-04-02T14:23:01.042Z") == "04-02 14:23:01"
    assert times.timestamp("2025-12-31T14:23:01.042Z") == "2025-12-31 14:23"


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


def test_a_stream_in_a_narrow_terminal_is_stacked(tmp_path: Path) -> None:
    stream = io.StringIO()
    rows = lines.Rows(Screen(stream, {"COLUMNS": "40"}), utc=True, stream=True)
    rows.titles()
    rows.row(make(tmp_path, "oom_kill", timestamp="2025-04-03T14:23:01.042Z", pod="shop/checkout-api-7f8b9c6d5-x2x4v"))
    assert stream.getvalue().splitlines() == [
        "2025-04-03 14:23  critical  oom_kill",
        "  shop/checkout-api-7f8b9c6d5-x2x4v: OOM",
        "  kill pid=1234 (usage=512MB,",
        "  limit=512MB)",
    ]


def test_a_time_of_another_year_is_not_cut_in_a_stream(tmp_path: Path) -> None:
    stream = io.StringIO()
    rows = lines.Rows(Screen(stream, {"COLUMNS": "100"}), utc=True, stream=True)
    rows.row(make(tmp_path, "oom_kill", timestamp="2025-04-03T14:23:01.042Z"))
    assert stream.getvalue().startswith("2025-04-03 14:23  critical  oom_kill ")


def test_an_absurd_name_does_not_widen_every_line_of_a_pipe() -> None:
    stream = io.StringIO()
    rows = [["x" * 500, "7", "m" * 300], ["b", "11", "short"]]
    Screen(stream, {}).table((Column("NAME", shrinks=True), Column("N", right=True), Column("TEXT", wraps=True)), rows)
    title, long, short = stream.getvalue().splitlines()
    assert long == f"{'x' * 500}   7  {'m' * 300}"
    assert short == f"{'b':80}  11  short"
    assert title.split() == ["NAME", "N", "TEXT"]


def test_the_ends_of_long_names_are_kept() -> None:
    assert fit_middle("checkout-api-7f8b9c6d5-x2x4v", 16) == "checkou…d5-x2x4v"
    assert [fit_middle("漢字漢字", columns) for columns in range(9)] == [
        "", "…", "…", "…字", "…字", "漢…字", "漢…字", "漢…漢字", "漢字漢字",
    ]  # fmt: skip


def test_no_colour_where_it_is_not_wanted() -> None:
    class FakeTerminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert Screen(FakeTerminal(), {"TERM": "xterm"}).colour
    assert not Screen(FakeTerminal(), {"NO_COLOR": "1", "TERM": "xterm"}).colour
    assert not Screen(FakeTerminal(), {"TERM": "dumb"}).colour
    assert not Screen(io.StringIO(), {"TERM": "xterm"}).colour


def make(tmp_path: Path, what: str, **changes: object) -> Occurrence:
    return decode(msgspec.json.encode(DataDir(tmp_path).document(what, **changes)))  # type: ignore[arg-type]


def test_every_type_makes_a_row_and_a_place(tmp_path: Path) -> None:
    times = TimeFormat(NOW_S, utc=True)
    for what in FACTS:
        row = lines.cells(make(tmp_path, what), times)
        assert row[2] == what
        assert row[3] not in ("", "-")
    assert lines.where(make(tmp_path, "oom_kill", pod="shop/api-1")) == "shop/api-1"
    assert lines.where(make(tmp_path, "cpu_stall")) == "cpu 3"
    assert lines.where(make(tmp_path, "oom_kill", comm="[kworker/0:1]", pid=7)) == "[kworker/0:1][7]"
    assert lines.where(make(tmp_path, "oom_kill", comm="", pid=7)) == "cgroup 8430"
    assert lines.where(make(tmp_path, "io_error")) == "sda"


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
    assert lines.place(decode(msgspec.json.encode(document))) == place


def test_folded_occurrences_say_so(tmp_path: Path) -> None:
    episode = {"id": "x", "total": 40, "first_seen": "", "last_seen": "", "state": "closed"}
    row = lines.cells(make(tmp_path, "connection_refused", count=17, episode=episode), TimeFormat(NOW_S, utc=True))
    assert row[4] == "Connection refused by 10.0.0.9:5432 (17 of them) (over after 40)"
    said = {"code": "CONNECTION_REFUSED", "message": "Connection refused by 10.0.0.9:5432 (17 more)"}
    row = lines.cells(make(tmp_path, "connection_refused", count=17, error=said), TimeFormat(NOW_S, utc=True))
    assert row[4] == said["message"]


def test_filters(tmp_path: Path) -> None:
    oom = make(tmp_path, "oom_kill", pod="shop/api-7f")
    exit_, refused = make(tmp_path, "abnormal_exit"), make(tmp_path, "connection_refused", severity="info")

    def passing(**rules: object) -> list[bool]:
        wanted = Filter(**rules)  # type: ignore[arg-type]
        return [wanted.passes(found) for found in (oom, exit_, refused)]

    assert passing() == [True, True, True]
    assert passing(observers=frozenset({"container"})) == [True, True, False]
    assert passing(types=frozenset({find_type("oom_kill")})) == [True, False, False]
    assert passing(least_severity="warning") == [True, True, False]
    assert passing(namespaces=("shop",)) == [True, False, False]
    assert passing(pods=("api-*",)) == [True, False, False]
    assert passing(pods=("shop/api-7f",)) == [True, False, False]
    assert passing(pods=("api",)) == [False, False, False]


def test_types_by_their_short_names() -> None:
    for text in ("oom_kill", "container.oom_kill", "kernel.container.oom_kill"):
        assert find_type(text) == "kernel.container.oom_kill"
    with pytest.raises(UsageError, match="--type oom: there is no such type: choose from connection_refused, "):
        find_type("oom")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "9" * 30])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        parser.parse_limit(text)


@given(st.integers(0, 2**48 - 1))
def test_names_hold_their_time(unix_ms: int) -> None:
    assert emission_ms(name_at(unix_ms)) == unix_ms


def verdicts(path: Path, *occurrences: str, **heartbeat: object) -> dict[str, str]:
    data = DataDir(path)
    data.heartbeat(now_s=NOW_S, **heartbeat)  # type: ignore[arg-type]
    for what in occurrences:
        data.add(what, 60, now_s=NOW_S)
    directory = DataDirectory(path)
    start_ms = int(NOW_S - 3600) * 1000
    judged = judge(read_agent(directory, NOW_S), directory.occurrences(start_ms), start_ms, int(NOW_S) * 1000, 60)
    return {"all": overall(judged), **{found.name: found.verdict for found in judged}} | {"-": "-"}


def test_quiet_is_healthy(tmp_path: Path) -> None:
    assert set(verdicts(tmp_path).values()) == {"healthy", "-"}


def test_anomalies_degrade_and_criticals_are_critical(tmp_path: Path) -> None:
    found = verdicts(tmp_path, "connection_refused", "oom_kill", "connection_timeout")
    assert (found["network"], found["container"], found["storage"]) == ("degraded", "critical", "healthy")


def test_a_detached_hook_degrades(tmp_path: Path) -> None:
    assert verdicts(tmp_path, detached="storage")["storage"] == "degraded"


def test_observers_that_are_off_do_not_count(tmp_path: Path) -> None:
    found = verdicts(tmp_path, observers=["container"])
    assert (found["all"], found["network"], found["container"]) == ("healthy", "off", "healthy")


@pytest.mark.parametrize("heartbeat", [{"age_s": 11}, {"age_s": -11}, {"state": "stopped"}, {"sinks": {}},
                                       {"trouble": "something new"},
                                       {"trouble": "the rings were not drained within the last 5 s"}])  # fmt: skip
def test_blind_is_never_healthy(tmp_path: Path, heartbeat: dict[str, object]) -> None:
    assert verdicts(tmp_path, **heartbeat)["container"] == "unknown"


def test_the_end_of_an_episode_alone_does_not_degrade(tmp_path: Path) -> None:
    DataDir(tmp_path).add("connection_refused", 60, now_s=NOW_S, count=0)
    assert verdicts(tmp_path)["network"] == "healthy"


def test_an_expected_exit_does_not_degrade(tmp_path: Path) -> None:
    DataDir(tmp_path).add("abnormal_exit", 60, now_s=NOW_S, severity="info", expected=True)
    assert verdicts(tmp_path)["container"] == "healthy"


def test_what_tapio_causes_itself_does_not_degrade(tmp_path: Path) -> None:
    """`tapio health --exit-code` that ends with 10 must not be the reason for the next 10."""
    data = DataDir(tmp_path)
    data.add("abnormal_exit", 60, now_s=NOW_S, comm="tapio", exit_code=10)
    data.add("oom_kill", 60, now_s=NOW_S, comm="tapio-st-0a1b2c", memory_limit_bytes=32 << 20)
    assert verdicts(tmp_path)["container"] == "healthy"
    data.add("oom_kill", 60, now_s=NOW_S, comm="tapio")
    assert verdicts(tmp_path)["container"] == "critical"


PROBE, LOOPBACK = "tapio-st-0a1b2c", "127.0.0.1"
SHOP = {"node": "n", "namespace": "shop", "entities": [{"kind": "pod", "id": "shop/a", "name": "a"}]}


@pytest.mark.parametrize(
    ("what", "changes", "own"),
    [
        # the command's own ends
        ("abnormal_exit", {"comm": "tapio", "exit_code": 1}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 10}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 130, "signal": 2}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 129, "signal": 1}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 141, "signal": 13}, True),
        ("abnormal_exit", {"comm": "tapio", "exit_code": 139, "signal": 11}, False),  # it crashed
        ("abnormal_exit", {"comm": "tapio", "exit_code": 137, "signal": 9}, False),  # somebody killed it
        ("abnormal_exit", {"comm": "tapio", "exit_code": 3}, False),
        ("abnormal_exit", {"comm": "tapio-agent", "exit_code": 1}, False),
        ("oom_kill", {"comm": "tapio"}, False),
        # the faults of a selftest
        ("abnormal_exit", {"comm": PROBE, "exit_code": 97}, True),
        ("abnormal_exit", {"comm": PROBE, "exit_code": 143, "signal": 15}, True),
        ("abnormal_exit", {"comm": PROBE, "exit_code": 3}, False),
        ("oom_kill", {"comm": PROBE, "memory_limit_bytes": 32 << 20}, True),
        ("oom_kill", {"comm": PROBE, "memory_limit_bytes": 64 << 20}, False),
        ("connection_refused", {"comm": PROBE, "dst_ip": LOOPBACK}, True),
        ("connection_refused", {"comm": PROBE, "dst_ip": "10.0.0.9"}, False),
        ("connection_timeout", {"comm": PROBE, "dst_ip": LOOPBACK}, False),
        ("io_error", {"comm": PROBE}, False),
        # a name alone hides nothing
        ("abnormal_exit", {"comm": PROBE + "d", "exit_code": 97}, False),
        ("abnormal_exit", {"comm": "tapio-st-XYZXYZ", "exit_code": 97}, False),
        ("abnormal_exit", {"comm": PROBE, "exit_code": 97, "context": SHOP}, False),  # a pod's always counts
    ],
)
def test_what_counts_as_tapios_own(tmp_path: Path, what: str, changes: dict[str, object], own: bool) -> None:
    document = DataDir(tmp_path).document(what)
    for name, value in changes.items():
        (document if name == "context" else document["data"])[name] = value
    assert is_own(decode(msgspec.json.encode(document))) is own


def test_the_worst_place_comes_first(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.heartbeat(now_s=NOW_S)
    data.add("connection_refused", 60, now_s=NOW_S, pod="shop/web-1", count=1000)
    data.add("oom_kill", 60, now_s=NOW_S, pod="shop/api-1")
    directory = DataDirectory(tmp_path)
    judged = judge(read_agent(directory, NOW_S), directory.occurrences(), 0, 1, 1)
    assert list(worst_places(judged)) == [("shop/api-1", "critical", 1), ("shop/web-1", "warning", 1000)]


def test_sparklines_show_whatever_is_not_zero() -> None:
    assert sparkline([0, 1, 500, 1000]) == "▕ ▁▄█▏"
    assert sparkline([0, 0]) == "▕  ▏"
    assert sparkline([0, 1, 500, 1000], plain=True) == "| .=@|"


@given(st.lists(st.text("abc", min_size=1), unique=True), st.integers(1, 5), st.booleans())
def test_the_first_names(names: list[str], size: int, newest: bool) -> None:
    assert first(iter(names), size, newest=newest) == sorted(names, reverse=newest)[:size]


def test_names_that_were_seen_take_little() -> None:
    seen, names = Seen(), [f"{name_at(index)}{index % 7:016d}.json" for index in range(20_011)]
    for name in names[::2] * 2:
        seen.add(name)
    assert len(seen) == 10_006
    assert all(name in seen for name in names[::2])
    assert not any(name in seen for name in names[1::2])
    assert seen._slots.itemsize * len(seen._slots) <= 32 * len(seen)


def test_what_retention_removed_is_forgotten(tmp_path: Path) -> None:
    """However many files pass, only those that are there are remembered, and nothing is shown twice."""
    data = DataDir(tmp_path)
    stays = data.add("oom_kill", 500)
    directory = DataDirectory(tmp_path)
    follower = Follower(directory)
    shown, kept = [found.id for found in follower.next(0)], []
    for _ in range(130):
        kept += [data.add("io_error") for _ in range(97)]
        while len(kept) > 200:
            (tmp_path / f"{kept.pop(0)}.json").unlink()
        shown += [found.id for found in follower.next(0)]
    late = data.add("oom_kill", 100_000)
    shown += [found.id for found in follower.next(0)]
    data.write(f"{stays}.json", (tmp_path / f"{stays}.json").read_bytes())
    data.write(f"{kept[0]}.json", (tmp_path / f"{kept[0]}.json").read_bytes())
    assert list(follower.next(0.1)) == []
    follower.close()
    assert len(shown) == len(set(shown))
    assert stays not in shown
    assert late in shown
    assert len(shown) + directory.gone == 130 * 97 + 1
    assert len(follower._seen) < 10_000


def documents(tmp_path: Path) -> list[Occurrence]:
    """One of each type, with and without a pod."""
    return [make(tmp_path, what, pod=pod) for what in FACTS for pod in ("", "shop/api-1", "größe/api-2*")]


RULES: list[dict[str, object]] = [
    {}, {"observers": frozenset({"network", "node"})}, {"types": frozenset({"kernel.container.oom_kill"})},
    {"least_severity": "error"}, {"least_severity": "debug"}, {"namespaces": ("sh*p",)}, {"pods": ("*-[12]",)},
    {"namespaces": ("größe",)}, {"pods": ("none", "api-?")}, {"pods": ("*",)}, {"pods": ("größe/*",)},
    {"pods": ("",)}, {"pods": ("\udcff",)}, {"least_severity": "warning", "pods": ("api-1",), "namespaces": ("shop",)},
]  # fmt: skip


TAKES_ALL: list[dict[str, object]] = [
    {}, {"least_severity": "debug"}, {"pods": ("*",)}, {"pods": ("*-[12]",)}, {"pods": ("",)},
]  # fmt: skip


def test_lost_events_are_found_by_the_observer_that_lost_them(tmp_path: Path) -> None:
    """Its name is not in their type."""
    document = DataDir(tmp_path).document("io_error")
    document |= {"type": "tapio.agent.events_lost", "data": {"observer": "network", "reason": "ring_full", "count": 3}}
    wanted, other = Filter(observers=frozenset({"network"})), Filter(observers=frozenset({"node"}))
    for written in (msgspec.json.encode(document), json.dumps(document, indent=2).encode()):
        assert wanted.passes(decode(written))
        assert (byte_test := wanted.byte_test()) is not None
        assert byte_test(written)
        assert (byte_test := other.byte_test()) is not None
        assert not byte_test(written)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_the_byte_test_loses_nothing(tmp_path: Path, rules: dict[str, object]) -> None:
    """Whatever passes the filter passes the byte test too, however its JSON is written."""
    wanted = Filter(**rules)  # type: ignore[arg-type]
    byte_test, left_out = wanted.byte_test(), 0
    for occurrence in documents(tmp_path):
        plain = msgspec.to_builtins(occurrence)
        every = "".join(f"\\u{ord(c):04x}" for c in occurrence.type)
        for written in (
            msgspec.json.encode(occurrence),
            json.dumps(plain).encode(),  # ü as an escape
            json.dumps(plain, indent=1, ensure_ascii=False).encode(),
            json.dumps(plain, ensure_ascii=False).replace("/", "\\/").encode(),
            json.dumps(plain).replace(occurrence.type, every).encode(),
        ):
            assert decode(written) == occurrence
            if byte_test is None or byte_test(written):
                continue
            assert not wanted.passes(occurrence)
            left_out += 1
    assert (byte_test is None) == (rules == {})
    assert left_out or rules in TAKES_ALL


def test_damaged_files_are_counted_behind_a_filter(tmp_path: Path) -> None:
    """What was cut short or bears another name is not passed over as unwanted."""
    data = DataDir(tmp_path)
    whole = msgspec.json.encode(data.document("oom_kill"))
    for content in (whole[:200], b"", b"\0" * 400, b"\xff" + whole):
        data.write(f"{data.document('oom_kill')['id']}.json", content)
    data.write(f"{data.document('oom_kill')['id']}.json", whole)
    directory = DataDirectory(tmp_path)
    wanted = Filter(types=frozenset({"kernel.storage.io_error"}))
    assert list(directory.occurrences(0, wanted.byte_test())) == []
    assert directory.skipped == {"damaged": 4, "foreign": 1}
