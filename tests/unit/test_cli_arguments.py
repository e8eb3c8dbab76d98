"""The command line of `tapio`: what is refused in one line, where flags may stand, help and version."""

from __future__ import annotations

import json

import pytest
from helpers.data_dirs import DataDir, refuse, tapio

from tapio.cli import parser
from tapio.cli.filters import find_type
from tapio.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["recent", "--since", "banana"], "--since 'banana': not a duration: write it as 30s, 5m, 1h30m or 2d"),
        (["recent", "--since", "-5m"], "--since '-5m': not a duration"),
        (["recent", "--since=0"], "--since '0': not a duration"),
        (["watch", "--since", "0s"], "--since '0s': a duration must be more than nothing"),
        (["health", "--since", "x"], "--since 'x'"),
        (["recent", "--limit", "-3"], "--limit '-3': not a number of at least 1"),
        (["recent", "--severity", "bad"], "choose from debug, info, warning, error, critical"),
        (["recent", "--type", "oom"], "there is no such type"),
        (["health", "disk"], "observer disk: there is no such observer: choose from network, container, storage, node"),
        (["recent", "--gpu"], "unrecognized arguments: --gpu: see tapio --help"),
        (["recent", "--sinc", "5m"], "unrecognized arguments"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "the following arguments are required: COMMAND"),
        (["status", "--data-dir", ""], "--data-dir: it is empty"),
        (["selftest", "--timeout", "soon"], "--timeout 'soon': not a duration"),
    ],
)
def test_wrong_usage_is_one_line(data: DataDir, arguments: list[str], text: str) -> None:
    assert text in refuse(data, *arguments)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "9" * 30])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        parser.parse_limit(text)


def test_types_by_their_short_names() -> None:
    for text in ("oom_kill", "container.oom_kill", "kernel.container.oom_kill"):
        assert find_type(text) == "kernel.container.oom_kill"
    with pytest.raises(UsageError, match="--type oom: there is no such type: choose from connection_refused, "):
        find_type("oom")


def test_flags_may_stand_before_the_command(data: DataDir) -> None:
    identity = data.add("oom_kill", 5)
    ended = tapio(data.path, "--data-dir", str(data.path), "--json", "recent", TAPIO_DATA_DIR="/nowhere")
    assert json.loads(ended.stdout)["id"] == identity


def test_help_and_version(data: DataDir) -> None:
    assert tapio(data.path, "--version").stdout == "tapio 0.1.0\n"
    for command in ("status", "recent", "watch", "health", "selftest", "tune", "mcp", "completion"):
        ended = tapio(data.path, command, "--help")
        assert ended.returncode == 0
        assert "examples:" in ended.stdout
