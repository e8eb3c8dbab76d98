"""`tapio-agent` as a subprocess, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.schema import DATA

AGENT = Path(sys.executable).parent / "tapio-agent"
PATIENCE = float(os.environ.get("TAPIO_PATIENCE", "1"))  # a machine under emulation takes its time


class RunningAgent:
    """An agent with the stdout and file sinks, on a free port, in a data directory of its own."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        environment: dict[str, str] | None = None,
        output_dir: Path | None = None,
        program: Sequence[str | Path] = (AGENT,),
    ) -> None:
        """`program` is how the agent is started, where that is not as a user does it here."""
        self.data_dir = data_dir
        self.output = (output_dir or data_dir.parent) / f"{data_dir.name}.out"
        self.log = self.output.with_suffix(".log")
        command = [*program, "--sink=stdout", "--sink=file", f"--data-dir={data_dir}", "--metrics-address=127.0.0.1:0"]
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *flags], stdout=output, stderr=log, env={**os.environ, **(environment or {})}
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self, timeout_s: float = 15) -> None:
        """Until /readyz says yes; fails with the agent's log if it does not."""
        wait_for(self.is_ready, timeout_s, lambda: f"the agent is not ready: {self.log.read_text()}")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"the agent ended: {self.log.read_text()}"
        return "serving" in self.log.read_text() and self.get("/readyz")[0] == 200

    def port(self) -> int:
        """The port of /metrics, as the agent logged it."""
        line = next(line for line in self.log.read_text().splitlines() if "serving" in line)
        return int(line.rsplit(":", 1)[1])

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, series: str) -> float:
        """The value of one series of /metrics, written as there; 0 if it is absent."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(series + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def occurrences(self) -> list[dict[str, Any]]:
        """What stdout holds so far, whole lines only."""
        lines = self.output.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def of_cgroup(self, cgroup_id: int) -> list[dict[str, Any]]:
        """The occurrences of one cgroup: other tests and the machine itself make faults too."""
        return [found for found in self.occurrences() if found["data"].get("cgroup_id") == cgroup_id]

    def settle(self, quiet_s: float = 0.4) -> None:
        """Until everything that the kernel has reported so far has left the agent."""
        time.sleep(quiet_s)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 10) -> int:
        """End the agent; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def running_agent(
    data_dir: Path,
    *flags: str,
    environment: dict[str, str] | None = None,
    output_dir: Path | None = None,
    program: Sequence[str | Path] = (AGENT,),
) -> Iterator[RunningAgent]:
    """A ready agent; killed at the end if it still runs."""
    agent = RunningAgent(data_dir, *flags, environment=environment, output_dir=output_dir, program=program)
    try:
        agent.wait_ready()
        yield agent
    finally:
        if agent.process.poll() is None:
            agent.process.kill()
        agent.process.wait()


UNFOLDED = "[episodes]\nindividual = 100000\nrate_per_s = 100000\nburst = 100000\n"


@contextlib.contextmanager
def configured_agent(
    folder: Path, config: str, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[RunningAgent]:
    """A ready agent with this configuration, whose file the unprivileged agent can read again."""
    file = folder / "tapio.toml"
    file.write_text(config)
    for directory in (folder, folder.parent, folder.parent.parent):
        directory.chmod(0o755)
    with running_agent(folder / "data", f"--config={file}", *flags, environment=environment) as running:
        yield running
        emitted = {name for one in running.occurrences() for name in one["data"]}
        assert emitted <= DATA, "describe it in otel/schema/data.yaml"


def wait_for(condition: Callable[[], object], timeout_s: float = 5, failure: Callable[[], str] = lambda: "") -> None:
    """Poll until `condition` is true; AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, failure() or f"not within {timeout_s} s"
        time.sleep(0.02)
