"""A Kubernetes API server of the tests' own, over HTTPS: it lists and watches, and misbehaves on request.

It keeps a history of changes like the real one: a watch that asks for what was compacted away gets 410. Faults are
taken one for each request, from `faults`: a number is an HTTP status, other words are in `_Handler._misbehave`.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import ssl
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from helpers.certificates import Authority

PATHS = {"/api/v1/pods": "pods", "/api/v1/services": "services", "/apis/batch/v1/jobs": "jobs"}
_FIRST = "first-token"


class Asked:
    """One request as it came in."""

    def __init__(self, path: str, query: dict[str, str], token: str) -> None:
        self.path, self.query, self.token = path, query, token
        self.at = time.monotonic()
        self.is_watch = query.get("watch") == "1"


class ApiServerDouble:
    """Objects by resource and uid, and everybody who watches. `asked` holds all requests so far."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", name: str = "") -> None:
        """Listens at the address `host`; clients are told `name`, if it is to have one."""
        self._host, self._name = host, name or host
        self.authority = Authority(folder / "api-ca")
        self.account = folder / "account"
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes(self.authority.ca.read_bytes())
        (self.account / "token").write_text(_FIRST)
        for path in (folder, self.account):
            path.chmod(0o755)
        self.tokens = {_FIRST}
        self.asked: list[Asked] = []
        self.faults: deque[int | str] = deque()
        self.page = 0  # objects a page; 0: what the client asks for, but all of a list of the cache, as the real one
        self.future: int | None = 504  # how a version that is still to come is refused; None: by silence
        self.selects = True  # whether field selectors are honoured
        self.version = 1000
        self.oldest = 0  # changes up to this one were compacted away
        self.objects: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in PATHS.values()}
        self._history: list[tuple[int, str, str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        self._watchers: list[tuple[str, str, queue.Queue[Any]]] = []
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.closed = False
        self.start()

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        double = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in double._host else socket.AF_INET
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        class Handler(_Handler):
            api = double

        self._server = Server((self._host, self.port), Handler)
        self._server.socket = self.authority.server_context(self._host).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Listen no more and drop everybody."""
        assert self._server is not None
        self.drop_watches()
        self._server.shutdown()
        self._server.server_close()

    def restart_with_new_history(self) -> None:
        """Version numbers begin anew, far below those of before, and nothing of the past can be watched."""
        self.stop()
        with self._lock:
            self._history.clear()
            self.version = self.oldest = 10
            for objects in self.objects.values():
                for item in objects.values():
                    item["metadata"]["resourceVersion"] = "10"
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a pod's environment says of the API server."""
        return {"KUBERNETES_SERVICE_HOST": self._name, "KUBERNETES_SERVICE_PORT": str(self.port)}

    def put(self, resource: str, item: dict[str, Any]) -> dict[str, Any]:
        """Add or change an object, by its uid."""
        uid = item["metadata"]["uid"]
        return self._change("MODIFIED" if uid in self.objects[resource] else "ADDED", resource, item)

    def delete(self, resource: str, uid: str) -> None:
        """The object is gone."""
        self._change("DELETED", resource, self.objects[resource].pop(uid))

    def compact(self) -> None:
        """Forget all changes so far."""
        with self._lock:
            self.oldest = self.version
            self._history.clear()

    def _change(self, kind: str, resource: str, item: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.version += 1
            item = json.loads(json.dumps(item))
            item["metadata"]["resourceVersion"] = str(self.version)
            if kind != "DELETED":
                self.objects[resource][item["metadata"]["uid"]] = item
            self._history.append((self.version, kind, resource, item))
            self._tell(resource, {"type": kind, "object": item})
        return item

    def _tell(self, resource: str, event: dict[str, Any]) -> None:
        for name, node, waiting in self._watchers:
            if name == resource and _selected(event["object"], node):
                waiting.put(event)

    def bookmark(self) -> None:
        """Tell every watch how far it is."""
        with self._lock:
            for name, _, waiting in self._watchers:
                version = {"metadata": {"resourceVersion": str(self.version)}}
                waiting.put({"type": "BOOKMARK", "object": {"kind": name, **version}})

    def expire_watches(self) -> None:
        """End every watch with an ERROR event that says 410, and forget the past."""
        self.compact()
        self.send({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}})

    def send(self, event: Any) -> None:
        """Send an event, or bytes as they are, to every watch; None ends it in order, 'drop' resets the connection."""
        with self._lock:
            for _, _, waiting in self._watchers:
                waiting.put(event)

    def drop_watches(self) -> None:
        """Reset the connections of all watches."""
        self.send("drop")

    @property
    def watchers(self) -> int:
        """Watches that are open."""
        return len(self._watchers)

    def watch(self, resource: str, node: str, version: int) -> tuple[queue.Queue[Any], list[dict[str, Any]]] | None:
        """A queue of what is to come, and what came since `version`; None: that is compacted away."""
        with self._lock:
            if version < self.oldest:
                return None
            waiting: queue.Queue[Any] = queue.Queue()
            past = [
                {"type": kind, "object": item}
                for number, kind, name, item in self._history
                if name == resource and number > version and _selected(item, node)
            ]
            self._watchers.append((resource, node, waiting))
            return waiting, past

    def leave(self, waiting: queue.Queue[Any]) -> None:
        """A watch is over."""
        with self._lock:
            self._watchers = [watcher for watcher in self._watchers if watcher[2] is not waiting]

    def list(self, resource: str, node: str) -> list[dict[str, Any]]:
        """All objects that a selector lets through."""
        with self._lock:
            found = list(self.objects[resource].values())
        return [item for item in found if not self.selects or _selected(item, node)]


def _selected(item: dict[str, Any], node: str) -> bool:
    return not node or item.get("spec", {}).get("nodeName") == node


class _Handler(BaseHTTPRequestHandler):
    api: ApiServerDouble
    protocol_version = "HTTP/1.1"
    timeout = 60
    _half = False

    def log_message(self, *_: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.api.asked.append(Asked(place.path, query, token))
        if self.api.faults and self._misbehave(self.api.faults.popleft()):
            return
        if token not in self.api.tokens:
            self._refuse(401, "Unauthorized")
        elif place.path not in PATHS:
            self._refuse(404, "not found")
        elif query.get("watch") == "1":
            self._watch(PATHS[place.path], query)
        else:
            self._list(PATHS[place.path], query)

    def _misbehave(self, fault: int | str) -> bool:
        if isinstance(fault, int):
            self._refuse(fault, f"fault {fault}")
        elif fault == "retry-after":
            self._refuse(429, "too many", {"Retry-After": "3"})
        elif fault == "reset":
            self.close_connection = True
            _reset(self.connection)
        elif fault == "hang":
            time.sleep(30)
        elif fault == "garbage":
            self._answer(b"<html>this is no JSON</html>")
        elif fault == "half":
            self._half = True
            return False
        elif fault == "ok":
            return False
        return True

    def _refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"kind": "Status", "code": status, "message": message}).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, body: bytes) -> None:
        """Or half of it, and then nothing more."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self._half else body)
        if self._half:
            self.wfile.flush()
            time.sleep(1)
            self.close_connection = True
            _reset(self.connection)

    @staticmethod
    def _node(query: dict[str, str]) -> str:
        return query.get("fieldSelector", "").removeprefix("spec.nodeName=")

    def _list(self, resource: str, query: dict[str, str]) -> None:
        found = self.api.list(resource, self._node(query))
        page = self.api.page or (len(found) if query.get("resourceVersion") == "0" else int(query.get("limit", "500")))
        start = int(query.get("continue", "0"))
        metadata = {"resourceVersion": str(self.api.version)}
        if start + page < len(found):
            metadata["continue"] = str(start + page)
        self._answer(json.dumps({"kind": "List", "metadata": metadata, "items": found[start : start + page]}).encode())

    def _watch(self, resource: str, query: dict[str, str]) -> None:
        if int(query["resourceVersion"]) > self.api.version:
            if self.api.future is None:
                time.sleep(30)
            else:
                self._refuse(self.api.future, "Too large resource version")
            return
        begun = self.api.watch(resource, self._node(query), int(query["resourceVersion"]))
        if begun is None:
            self._refuse(410, "too old resource version")
            return
        waiting, past = begun
        self.close_connection = True
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in past:
                self._chunk(event)
            while (event := waiting.get()) is not None:
                if event == "drop":
                    _reset(self.connection)
                    return
                self._chunk(event)
            self.wfile.write(b"0\r\n\r\n")
        finally:
            self.api.leave(waiting)

    def _chunk(self, event: Any) -> None:
        body = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        self.wfile.flush()


def _reset(connection: ssl.SSLSocket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def api_server(folder: Path, host: str = "127.0.0.1", name: str = "") -> Iterator[ApiServerDouble]:
    """An API server at work."""
    double = ApiServerDouble(folder, host, name)
    try:
        yield double
    finally:
        double.closed = True
        double.stop()


def make_pod(
    name: str = "checkout-api-7f8b9-x2x4z",
    uid: str = "",
    *,
    node: str = "worker-3",
    namespace: str = "default",
    owner: tuple[str, str] | None = ("ReplicaSet", "checkout-api-7f8b9"),
    labels: dict[str, str] | None = None,
    containers: dict[str, str] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A pod as the API server shows it, with what a real one has besides. `containers`: runtime ids by name."""
    uid = uid or str(uuid.uuid4())
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "creationTimestamp": "2026-04-03T14:00:00Z",
        "labels": {"app": "checkout", "pod-template-hash": "7f8b9"} if labels is None else labels,
        "managedFields": [{"manager": "kubelet", "fieldsV1": {f"f:{index}": {} for index in range(40)}}],
    }
    if owner is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Node", "name": "other", "uid": "0"},
            {
                "apiVersion": "batch/v1" if owner[0] == "Job" else "apps/v1",
                "kind": owner[0],
                "name": owner[1],
                "uid": f"uid-{owner[1]}",
                "controller": True,
            },
        ]
    statuses = [
        {"name": key, "containerID": f"containerd://{value}", "ready": True, "state": {"running": {}}, "lastState": {}}
        for key, value in (containers or {}).items()
    ]
    return {
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [{"name": key, "image": "x"} for key in containers or {"api": ""}]},
        "status": {"phase": "Running", "containerStatuses": statuses, **status},
    }
