"""Names that processes gave themselves: any bytes but NUL. They must be harmless wherever they come out."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cgroups import ScratchCgroup
from helpers.no_folding import no_folding
from helpers.receiver import receiver
from helpers.running_agent import running_agent, wait_for

from tapio.cli.main import main

pytestmark = pytest.mark.kernel

PR_SET_NAME = 15
DIE = f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_NAME}, bytes.fromhex(sys.argv[1])); os._exit(3)"
NAMES = (
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;title\x07",
    b"\xff\xfe\x80\x81",
    b"\xed\xa0\x80half",  # half of a surrogate pair
    b'a"b\\c"}',
    b"one\r\ntwo\ttab",
    b"</script>&amp;",
    b"\xe2\x80\xae\xe2\x81\xa6bidi",
    b"\xf0\x9f\x92\xa9\xf0\x9f\x92\xa9\xf0\x9f\x92",  # cut in the middle of a character
    b"%s%n{0}$(id)",
    b"\x01\x02\x7f\xc2\x85",
)


@pytest.fixture
def plain() -> Iterator[str]:
    with no_folding() as flag:
        yield flag


def expected(name: bytes) -> str:
    """The kernel keeps 15 bytes; what is no UTF-8 is replaced."""
    return name[:15].decode("utf-8", "replace")


def test_hostile_names_come_out_harmless(
    tmp_path: Path, plain: str, cgroup: ScratchCgroup, capsys: pytest.CaptureFixture[str]
) -> None:
    with receiver() as collector, receiver() as polku:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        flags = ("--observer=container", "--sink=otlp", "--sink=polku", f"--polku-endpoint={polku.url}", plain)
        with running_agent(tmp_path / "data", *flags, environment=environment) as agent:
            pids = {cgroup.run([sys.executable, "-S", "-E", "-c", DIE, name.hex()]).pid: name for name in NAMES}
            wait_for(lambda: len(agent.of_cgroup(cgroup.id)) == len(NAMES), 10)
            for sink in (collector, polku):
                wait_for(lambda sink=sink: len(of(sink.stored, cgroup)) == len(NAMES), 10)
            page = agent.get("/metrics")[1]
            assert agent.stop() == 0

    assert agent.output.read_bytes().decode()  # UTF-8; of_cgroup() below reads a document a line
    files = [json.loads(path.read_text()) for path in (tmp_path / "data").glob("0*.json")]
    for where in (
        agent.of_cgroup(cgroup.id),
        of(files, cgroup),
        of(collector.stored, cgroup),
        of(polku.stored, cgroup),
    ):
        assert {one["data"]["pid"]: one["data"]["comm"] for one in where} == {
            pid: expected(name) for pid, name in pids.items()
        }
    assert "[31m" not in page  # no label is a name

    for command in (["recent", "--limit=100"], ["health", "container"], ["status"]):
        main([*command, f"--data-dir={tmp_path / 'data'}"])
        shown = capsys.readouterr().out
        assert not [c for c in shown if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]


def of(documents: list[dict[str, Any]], cgroup: ScratchCgroup) -> list[dict[str, Any]]:
    """Those of the cgroup."""
    return [one for one in documents if one["data"].get("cgroup_id") == cgroup.id]
