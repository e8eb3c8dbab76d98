"""A real OpenTelemetry Collector, with the pipelines of otel/collector."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from helpers.programs import ROOT, answers, built, running

_PORTS = itertools.cycle(range(20_001 + os.getpid() % 5_000 * 2, 32_000, 2))
PIPELINES = ROOT / "otel" / "collector"


def collector_binary() -> Path:
    """Where it is; built when it is not there yet. TAPIO_REQUIRE_COLLECTOR=1 makes a skip a failure."""
    return built("TAPIO_REQUIRE_COLLECTOR", "build-collector")


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
    # Its own telemetry would listen on a fixed port.
    command = [binary, *(f"--config={path}" for path in configs), "--set=service::telemetry::metrics::level=none"]
    with running(command, folder / "log", answers(f"http://127.0.0.1:{health}"), environment=environment) as process:
        yield process
