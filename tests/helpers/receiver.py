"""An OTLP/HTTP and POLKU receiver that misbehaves on request."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


def plain(value: AnyValue) -> Any:
    """An AnyValue as Python has it."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    content = getattr(value, kind)
    if kind == "kvlist_value":
        return plain_map(content.values)
    if kind == "array_value":
        return [plain(item) for item in content.values]
    return content


def plain_map(pairs: Any) -> dict[str, Any]:
    """Key-values as a dict."""
    return {pair.key: plain(pair.value) for pair in pairs}


class Request:
    """One request as it came in."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.at = time.monotonic()
        self.fault = ""
        encoding = headers.get("content-encoding", "")
        self.body = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body) if encoding else body

    def records(self) -> list[dict[str, Any]]:
        """The log records, each with its resource and scope."""
        return [
            {
                "resource": plain_map(group.resource.attributes),
                "scope": scope.scope.name,
                "schema_url": scope.schema_url,
                "time": record.time_unix_nano,
                "observed": record.observed_time_unix_nano,
                "severity": (record.severity_number, record.severity_text),
                "event_name": record.event_name,
                "body": plain(record.body),
                "attributes": plain_map(record.attributes),
            }
            for group in ExportLogsServiceRequest.FromString(self.body).resource_logs
            for scope in group.scope_logs
            for record in scope.log_records
        ]

    def documents(self) -> list[dict[str, Any]]:
        """The occurrences: bodies of log records, or the JSON array of POLKU."""
        if self.path.endswith("/v1/logs"):
            return [record["body"] for record in self.records()]
        return json.loads(self.body)  # type: ignore[no-any-return]

    def metrics(self) -> ExportMetricsServiceRequest:
        """The metrics."""
        return ExportMetricsServiceRequest.FromString(self.body)


class Receiver:
    """Answers each request with the next fault of `script`, then with `otherwise`. `stored` is what it accepted.

    Faults: ok; a status as 503 or 503:7 (Retry-After); 413>N (more than N documents); partial:N; reset (nothing
    stored); cut (stored, the answer is cut off in its body); hang, drip, drip-head, huge, bomb (stored, no usable
    answer); nonsense (200 with HTML); garbage (no HTTP).
    """

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.script: deque[str] = deque()
        self.otherwise = "ok"
        self.requests: list[Request] = []
        self.stored: list[dict[str, Any]] = []
        self.connections = 0
        self.patience_s = 30.0  # how long it hangs
        self._context = context
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = port
        self.start()

    def start(self) -> None:
        """Listen; on the same port as before."""
        receiver = self

        class Handler(_Handler):
            owner = receiver

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that go away are part of the tests."""

            def process_request_thread(self, request: Any, client_address: Any) -> None:
                if receiver._context is not None:
                    try:
                        request = receiver._context.wrap_socket(request, server_side=True)
                    except OSError:
                        request.close()
                        return
                super().process_request_thread(request, client_address)

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Nobody listens any more. Idle connections break at their next request."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def ids(self) -> Counter[str]:
        """How often each occurrence was stored, by id."""
        with self._lock:
            return Counter(document["id"] for document in self.stored)

    def faults(self) -> list[str]:
        """How each request was answered."""
        return [request.fault for request in self.requests]

    def next_fault(self, request: Request) -> str:
        """Remember the request, and take the next fault of the script."""
        with self._lock:
            request.fault = self.script.popleft() if self.script else self.otherwise
            self.requests.append(request)
            return request.fault

    def store(self, documents: list[dict[str, Any]]) -> None:
        """Accept documents."""
        with self._lock:
            self.stored += documents


class _Handler(BaseHTTPRequestHandler):
    owner: Receiver
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.owner.connections += 1
        super().setup()

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        if self.owner._server is None:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = Request(self.path, {key.lower(): value for key, value in self.headers.items()}, body)
        fault = self.owner.next_fault(request)
        kind, _, detail = fault.partition(":")
        documents = [] if request.path.endswith("/v1/metrics") else request.documents()
        if kind.startswith("413>"):
            if len(documents) > int(kind[4:]):
                self.answer(413)
                return
            kind = "ok"
        if kind.isdecimal():
            extra = {"Location": "http://[bad"} if kind == "302" else {}  # nobody may look at it
            self.answer(int(kind), headers={**extra, **({"Retry-After": detail} if detail else {})})
        elif kind == "partial":
            rejected = int(detail)
            self.owner.store(documents[rejected:])
            partial = ExportLogsPartialSuccess(rejected_log_records=rejected, error_message="too old\x1b[31m")
            self.answer(200, ExportLogsServiceResponse(partial_success=partial).SerializeToString())
        elif kind == "reset":
            self.reset()
        elif kind == "nonsense":
            self.answer(200, b"<html>log in first</html>", {"Content-Type": "text/html"})
        elif kind == "garbage":
            self.wfile.write(b"\x00\x01SSH-2.0-OpenSSH\r\n")
            self.close_connection = True
        else:
            self.owner.store(documents)
            getattr(self, f"do_{kind.replace('-', '_')}")()

    def do_ok(self) -> None:
        self.answer(200)

    def do_cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x")
        self.wfile.flush()
        self.reset()

    def do_hang(self) -> None:
        time.sleep(self.owner.patience_s)
        self.close_connection = True

    def do_drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.drip()

    def do_drip_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
        self.drip()

    def do_bomb(self) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
        self.answer(200, body, {"Content-Encoding": "gzip"})

    def do_huge(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(50 << 20))
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(50):
                self.wfile.write(b"\0" * (1 << 20))
        self.close_connection = True

    def drip(self) -> None:
        until = time.monotonic() + self.owner.patience_s
        self.close_connection = True
        with contextlib.suppress(OSError):
            while time.monotonic() < until:
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/x-protobuf", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def receiver(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Receiver]:
    """A receiver that listens, and is gone afterwards."""
    running = Receiver(context, port)
    try:
        yield running
    finally:
        running.patience_s = 0
        running.stop()
