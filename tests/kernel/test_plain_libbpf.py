"""Loading without the distribution's bcc, as in the container image: libbpf.so.1 alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cgroups import ScratchCgroup
from helpers.running_agent import RunningAgent, running_agent, wait_for

from tapio.config import CHECKOUT_EBPF_DIR
from tapio.errors import KernelError
from tapio.kernel import attach, loader
from tapio.kernel.libbpf import Libbpf

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def python_without_bcc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with everything but bcc."""
    venv = tmp_path_factory.mktemp("without-bcc") / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", venv], check=True)
    (target,) = (venv / "lib").glob("python3*/site-packages")
    (source,) = (Path(sys.prefix) / "lib").glob("python3*/site-packages")
    for item in source.iterdir():
        if item.name != "bcc":
            (target / item.name).symlink_to(item)
    return venv / "bin/python"


@pytest.fixture(scope="module")
def agent(python_without_bcc: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    program = [python_without_bcc, "-m", "tapio.agent_main"]
    with running_agent(tmp_path_factory.mktemp("agent") / "data", program=program) as running:
        yield running


def test_the_interpreter_has_no_bcc(python_without_bcc: Path) -> None:
    done = subprocess.run([python_without_bcc, "-c", "import bcc"], capture_output=True, text=True, check=False)
    assert "No module named 'bcc'" in done.stderr


def test_every_hook_is_attached_and_every_exit_reported(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    codes = [cgroup.run(["sh", "-c", f"exit {number}"]).returncode for number in range(1, 24)]
    wait_for(lambda: sum(one["data"]["count"] for one in agent.of_cgroup(cgroup.id)) >= len(codes), 15)
    agent.settle()
    found = agent.of_cgroup(cgroup.id)
    assert sum(one["data"]["count"] for one in found) == 23
    assert {one["type"] for one in found} == {"kernel.container.abnormal_exit"}


def test_what_it_loads_is_what_bcc_loads(python_without_bcc: Path) -> None:
    objects = {name: CHECKOUT_EBPF_DIR / f"{name}_monitor.o" for name in ("network", "container", "storage")}
    plain = attach.attach(objects, 1 << 16, str(python_without_bcc))
    usual = attach.attach(objects, 1 << 16)
    try:
        assert not plain.failed
        assert not usual.failed
        for ours, theirs in zip(plain.attached, usual.attached, strict=True):
            assert ours.loaded.records == theirs.loaded.records
            assert ours.loaded.hooks == theirs.loaded.hooks
            assert ours.loaded.features == theirs.loaded.features
            assert ours.loaded.sizes == theirs.loaded.sizes
    finally:
        for attachment in plain.attached + usual.attached:
            attachment.close()


def test_without_any_libbpf_the_error_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)
    monkeypatch.setattr(loader, "_PLAIN_LIBBPF", "libbpf.so.none")
    pattern = r"opening libbpf by bcc: .*; by libbpf.so.none: .*python3-bpfcc.*never 'pip install bcc'"
    with pytest.raises(KernelError, match=pattern):
        loader.open_libbpf()


def test_a_libbpf_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ubuntu 22.04's bcc carries libbpf 0.5."""
    monkeypatch.setattr(loader, "_bcc_library", lambda: object())
    assert isinstance(loader.open_libbpf(), Libbpf)
