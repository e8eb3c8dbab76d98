"""The CLI's filters, and their test on bytes: it may let too much pass, never too little."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from helpers.data_dirs import FACTS, DataDir, make_occurrence

from tapio.cli.directory import DataDirectory
from tapio.cli.filters import Filter, find_type
from tapio.occurrence import Occurrence, decode


def test_filters(tmp_path: Path) -> None:
    oom = make_occurrence(tmp_path, "oom_kill", pod="shop/api-7f")
    exit_ = make_occurrence(tmp_path, "abnormal_exit")
    refused = make_occurrence(tmp_path, "connection_refused", severity="info")

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


def documents(tmp_path: Path) -> list[Occurrence]:
    """One of each type, with and without a pod."""
    return [make_occurrence(tmp_path, what, pod=pod) for what in FACTS for pod in ("", "shop/api-1", "größe/api-2*")]


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
