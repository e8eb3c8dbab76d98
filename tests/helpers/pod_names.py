"""A relay on the way of OTLP logs that names pods, for tests in which no cluster is there to name them.

Stands where enrichment stands: what it adds to a record is what the agent adds for an occurrence of a pod.
"""

from __future__ import annotations

import contextlib
import gzip
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Pods = Mapping[int, Mapping[str, str]]


def named(body: bytes, pods: Pods) -> bytes:
    """An export request in which the records of the cgroups in `pods` have the resource attributes given there."""
    request, result = ExportLogsServiceRequest.FromString(body), ExportLogsServiceRequest()
    for group in request.resource_logs:
        for scope in group.scope_logs:
            for record in scope.log_records:
                cgroups = [a.value.int_value for a in record.attributes if a.key == "tapio.cgroup.id"]
                pod = pods.get(cgroups[0], {}) if cgroups else {}
                new = result.resource_logs.add(resource=group.resource, schema_url=group.schema_url)
                for name, value in pod.items():
                    new.resource.attributes.append(KeyValue(key=name, value=AnyValue(string_value=value)))
                new.scope_logs.add(scope=scope.scope, schema_url=scope.schema_url).log_records.append(record)
    return result.SerializeToString()


@contextlib.contextmanager
def naming_relay(target: str, pods: Pods) -> Iterator[str]:
    """The URL to export to; what arrives goes on to the OTLP receiver at `target`, its answer back."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.endswith("/v1/logs"):
                body = named(body, pods)
            onward = urllib.request.Request(target + self.path, body, {"Content-Type": "application/x-protobuf"})
            try:
                with urllib.request.urlopen(onward, timeout=20) as answer:
                    status, content = answer.status, answer.read()
            except OSError:
                status, content = 503, b""
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
