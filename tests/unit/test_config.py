"""Configuration: defaults, layers, and what a mistake is answered with."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapio
from tapio.config import Config, load
from tapio.errors import UsageError, one_line

PACKAGED = Path(tapio.__file__).parent / "tapio.toml"


def read(tmp_path: Path, text: str, **flags: Any) -> Config:
    path = tmp_path / "tapio.toml"
    path.write_text(text)
    return load(path, flags, {})


def test_the_packaged_file_holds_every_key_with_its_default() -> None:
    assert tomllib.loads(PACKAGED.read_text()) == msgspec.json.decode(msgspec.json.encode(Config()))


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert load(None, {}, {}, default_path=tmp_path / "none") == Config()


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tapio.toml"
    path.write_text('data_dir = "file"\n')
    assert load(path, {}, {}).data_dir == "file"
    assert load(path, {}, {"TAPIO_DATA_DIR": "environment"}).data_dir == "environment"
    assert load(path, {"data_dir": "flag"}, {"TAPIO_DATA_DIR": "environment"}).data_dir == "flag"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "colour: there is no such key"),
        ("[container]\ncolour = 1", "container.colour: there is no such key"),
        ("[network]\nwindow = 2", "network.window: there is no such key, perhaps window_s is meant: "),
        ('[file]\nmax_files = "many"', "file.max_files: expected int, got str"),
        ("[file]\nmax_files = 0", "file.max_files: expected int >= 1"),
        ("[file]\nmax_age_days = nan", "file.max_age_days: expected float"),
        ("[container]\nignore_exit_codes = [1, 256]", r"container.ignore_exit_codes\[1\]: expected int <= 255"),
        ('[container]\nexit_scope = "some"', "container.exit_scope: invalid enum value 'some'"),
        ('sinks = ["stdout", "paper"]', r"sinks\[1\]: invalid enum value 'paper'"),
        ("[kernel]\nring_kib = 100", "kernel.ring_kib: invalid enum value 100"),
        ("[storage]\nwarning_ms = 300", "storage: critical_ms is below warning_ms"),
        ('[storage.devices."sd*"]\ncritical_ms = 10', r'storage: critical_ms is below warning_ms for devices."sd\*"'),
        ('[storage.devices."sd*"]\nwarning = 10', "no such key"),
        ("[storage]\nmax_in_flight = 0", "storage.max_in_flight: expected int >= 1"),
        ("container = 5", "container: expected object, got int"),
        ("sinks = [", "not valid TOML"),
        ('metrics_address = "nowhere"', "expected HOST:PORT"),
        ('metrics_address = "a..b:1"', "expected HOST:PORT"),
        (f"[file]\nmax_files = {'1' * 5000}", "not valid TOML: Exceeds the limit"),
        ('data_dir = "a\\u0000b"', "data_dir: a path cannot have a NUL character"),
        ("sinks = []", "sinks: expected array of length >= 1"),
        ('"a\\nb\\u001b" = 1', "there is no such key"),
        ('[container]\nignore_comm = ["a-very-long-name"]', "ignore_comm.*can match no name|can match no name"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in one_line(str(caught.value))
    if "HOST:PORT" not in message:
        assert str(tmp_path / "tapio.toml") in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "tapio.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        load(path, {}, {})


@pytest.mark.parametrize("path", ["missing.toml", "missing/tapio.toml"])
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match=r"reading .*: no such file"):
        load(tmp_path / path, {}, {})


_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "huge"])
def test_what_is_no_file_of_a_sane_size(tmp_path: Path, kind: str) -> None:
    """It is read again on SIGHUP: nothing may hold the agent there, or fill its memory. Links are fine."""
    path = tmp_path / "tapio.toml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(UsageError, match=r"reading .*: it is (not a regular file|larger than 1 MiB): check the path"):
        load(path, {}, {})


@given(st.dictionaries(st.sampled_from([*msgspec.to_builtins(Config()), "other"]), _VALUES))
def test_any_value_is_taken_or_refused(values: dict[str, Any]) -> None:
    try:
        load(None, values, {}, default_path=Path("/nonexistent"))
    except UsageError as error:
        assert "\n" not in one_line(str(error))  # noqa: PT017  # a value may also be taken
