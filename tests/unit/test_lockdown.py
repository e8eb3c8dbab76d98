"""Lockdown is named where it is what forbids BPF, and only there."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tapio.kernel import lockdown
from tapio.kernel.libbpf import _SIGNATURES, Libbpf

# What Linux 6.18's and 5.10's verifiers say when the helper is not there.
VERDICTS = ("program of this type cannot use helper bpf_probe_read#4", "unknown func bpf_probe_read_kernel#113")


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lockdown"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("[none] integrity confidentiality\n", "none"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("", ""),
        ("none something [else]\n", ""),
    ],
)
def test_state(tmp_path: Path, text: str, state: str) -> None:
    assert lockdown.state(file(tmp_path, text)) == state


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert lockdown.state(tmp_path / "none") == ""


def test_confidentiality_explains_any_refusal(tmp_path: Path) -> None:
    path = file(tmp_path, "none integrity [confidentiality]\n")
    assert "locked down (confidentiality)" in lockdown.explain("", path)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_missing_helper_tells_where_the_file_cannot_be_read(tmp_path: Path, verdict: str) -> None:
    assert "as it does when locked down" in lockdown.explain(verdict, tmp_path / "none")


@pytest.mark.parametrize("text", ["[none] integrity confidentiality\n", "none [integrity] confidentiality\n"])
@pytest.mark.parametrize("verdict", ["", *VERDICTS])
def test_must_not_fire_where_lockdown_allows_bpf(tmp_path: Path, text: str, verdict: str) -> None:
    assert lockdown.explain(verdict, file(tmp_path, text)) == ""


def test_must_not_fire_on_another_refusal(tmp_path: Path) -> None:
    assert lockdown.explain("R1 invalid mem access 'scalar'", tmp_path / "none") == ""


class Function:
    """A function of libbpf that refuses."""

    def __init__(self, answer: int) -> None:
        self.answer = answer

    def __call__(self, *_arguments: Any) -> int:
        return self.answer


class Library:
    def __init__(self, answer: int) -> None:
        for name in _SIGNATURES:
            setattr(self, name, Function(answer))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EINVAL, errno.EACCES])
def test_the_error_of_a_load_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(lockdown, "_FILE", file(tmp_path, "none integrity [confidentiality]\n"))
    error = Libbpf(Library(-code))._error("loading network_monitor.o", code)
    assert str(error).startswith("loading network_monitor.o: ")
    assert "the kernel is locked down (confidentiality)" in str(error)
    assert "\n" not in str(error)
