"""/metrics as an agent with performance counters answers it, for machines without any: real code, made-up counts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tapio import prometheus
from tapio.cpus import CpuCounters, CpuReport
from tapio.telemetry import Hook, ObserverTelemetry, Telemetry

_HZ = 3_000_000_000


def _report() -> CpuReport:
    """Two CPUs since the epoch: one busy and stalled, one half idle."""
    cycles = int(time.time() % 1e6 * _HZ)
    busy = CpuCounters(0, cycles, int(cycles * 0.6), int(cycles * 0.45), 0.6)
    return CpuReport([busy, CpuCounters(1, cycles // 2, cycles, cycles // 20, 2.0)], {})


@contextlib.contextmanager
def made_up_cpus() -> Iterator[str]:
    """HOST:PORT of the server."""
    observer = ObserverTelemetry("node", read_hooks=lambda: [Hook("cpu_timer", attached=True)])
    observer.read_cpus = _report
    telemetry = Telemetry([observer], [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            observer.anomalies["kernel.node.cpu_stall"] = int(time.time() % 1e6 / 10)
            body = prometheus.exposition(telemetry)
            self.send_response(200)
            self.send_header("Content-Type", prometheus.CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
