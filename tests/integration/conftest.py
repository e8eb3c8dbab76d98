"""A data directory, and servers that misbehave: receivers, the API server of a cluster."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.api_server import ApiServerDouble, api_server
from helpers.receiver import Receiver, receiver

from tapio.kernel import sandbox, seccomp


class ConfinedThread(threading.Thread):
    """A thread of the agent may make the agent's system calls only; so may the threads that it starts."""

    def run(self) -> None:
        ours = getattr(self._target, "__module__", "").startswith(("tapio.", "opentelemetry."))  # type: ignore[attr-defined]
        if ours and "Seccomp:\t0" in Path("/proc/thread-self/status").read_text():
            ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no_new_privs, of this thread
            assert seccomp.install(every_thread=False) == ""
        super().run()


@pytest.fixture(autouse=True)
def confined_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sink of these tests works under the agent's seccomp filter; receivers and tools of the tests do not."""
    sandbox.load_libraries()
    monkeypatch.setattr(threading, "Thread", ConfinedThread)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a data directory."""
    path = tmp_path / "data"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServerDouble]:
    with api_server(tmp_path) as double:
        yield double
