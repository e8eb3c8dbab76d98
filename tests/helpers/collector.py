"""A real OpenTelemetry Collector, with the pipelines of otel/collector."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.running_agent import wait_for

ROOT = Path(__file__).parent.parent.parent
_PORTS = itertools.cycle(range(20_001 + os.getpid() % 5_000 * 2, 32_000, 2))
PIPELINES = ROOT / "otel" / "collector"


def collector_binary() -> Path:
    """Where it is; built when it is not there yet.

    Skips where it cannot be built; with TAPIO_REQUIRE_COLLECTOR=1 that is a failure.
    """
    done = subprocess.run([ROOT / "tools/build-collector"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Path(done.stdout.strip())
    reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if os.environ.get("TAPIO_REQUIRE_COLLECTOR") == "1":
        pytest.fail(f"TAPIO_REQUIRE_COLLECTOR=1, but: {reason}")
    pytest.skip(reason)


def free_port() -> int:
    """A port that nobody listens on right now, below the ephemeral ones; another one at every call."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@contextlib.contextmanager
def running_collector(
    binary: Path, folder: Path, *configs: Path, port: int, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A collector that takes OTLP on `port`, ready. Ended by SIGTERM at the end."""
    folder.mkdir(exist_ok=True)
    health = free_port()
    environment = {
        **os.environ, "OTLP_ENDPOINT": f"127.0.0.1:{port}", "HEALTH_ENDPOINT": f"127.0.0.1:{health}",
        "QUEUE_DIRECTORY": str(folder / "queue"), **variables,
    }  # fmt: skip
    log = folder / "log"
    with log.open("ab") as output:
        # Its own telemetry would listen on a fixed port.
        command = [binary, *(f"--config={path}" for path in configs), "--set=service::telemetry::metrics::level=none"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def is_healthy() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{health}", timeout=1) as answer:
            return bool(answer.status == 200)
        return False

    try:
        wait_for(is_healthy, 60, lambda: log.read_text()[-3000:])
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
