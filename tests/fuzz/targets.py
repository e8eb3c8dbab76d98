"""What foreign bytes reach: each target takes any bytes, and must come back soon, without an error that nobody expects.

Kernel records go all the way through the observers, the episodes and the encodings of every sink.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from helpers.counters import KIND, make_observer
from helpers.records import make_layout, make_loaded
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

from tapio import agent, config, heartbeat_document, occurrence, web
from tapio.cli.text import harmless, harmless_json
from tapio.config import Config, MetricsConfig
from tapio.enrich import cgroup_paths, watch
from tapio.enrich.api_objects import UNREADABLE
from tapio.enrich.pods import PodIndex
from tapio.enrich.services import JobIndex, ServiceIndex
from tapio.enrich.stage import Enriched
from tapio.errors import HeartbeatError, OccurrenceError, UsageError
from tapio.kernel.layout import Layout
from tapio.kernel.ringbuf import RingBuffer
from tapio.observers import network_socket
from tapio.observers.base import Observer
from tapio.observers.container import _EXIT_FIELDS, ContainerObserver
from tapio.observers.container_oom import _OOM_FIELDS
from tapio.observers.network import NetworkObserver
from tapio.observers.node_deltas import FIELDS as _CPU_FIELDS
from tapio.observers.storage import _FIELDS as _REQUEST_FIELDS
from tapio.observers.storage import StorageObserver
from tapio.sinks import frames, one_shot, otlp
from tapio.sinks.otlp_record import RecordMaker
from tapio.sinks.polku import for_polku
from tapio.web_access import WebAccess

_NETWORK_FIELDS = {
    "connection_failed": ("error", "old_state", "retries"),
    "reset": ("state",),
    "retransmit": ("segments", "total_retrans", "segs_out", "snd_cwnd", "srtt_us"),
    "rtt": ("srtt_us", "rtt_us", "ack_delayed"),
}
_REQUEST_FLAGS = ("ISSUE_SEEN", "HAS_BIO", "BLKCG_KNOWN", "BLKCG_ROOT", "ISSUER_BLKCG", "FOR_OTHERS")
_MAX_INPUT = 1 << 16


def ring(data: bytes) -> None:
    """Positions and headers that no kernel writes."""
    reader, memory = _ring()
    head = data[:16].ljust(16, b"\0")
    memory[:8], memory[mmap.PAGESIZE : mmap.PAGESIZE + 8] = head[:8], head[8:]
    content = data[16 : 16 + reader.size].ljust(reader.size, b"\0")
    memory[2 * mmap.PAGESIZE :] = content
    for _ in range(3):
        assert sum(map(len, reader.read(4096))) <= reader.size


@functools.cache
def _ring() -> tuple[RingBuffer, mmap.mmap]:
    descriptor, size = os.memfd_create("ring"), 4096
    os.ftruncate(descriptor, 2 * mmap.PAGESIZE + size)
    return RingBuffer(descriptor, size, lambda: None), mmap.mmap(descriptor, 2 * mmap.PAGESIZE + size)


@functools.cache
def _agent() -> agent.Agent:
    return agent.Agent(Config(), Config, None, "")


_SINK_OTLP = RecordMaker({"service.name": "tapio"})


def _observe(observer: Observer, layouts: dict[int, Layout], data: bytes) -> None:
    """Records of all kinds from the bytes, through the observer, and what it finds into every sink's encoding."""
    kinds, records = list(layouts), []
    while data:
        kind = kinds[data[0] % len(kinds)]
        size = layouts[kind].size if data[0] < 250 else data[0] % 16  # now and then one that is too short
        records.append(kind.to_bytes(4, sys.byteorder) + data[1 : size - 3].ljust(max(0, size - 4), b"\0"))
        data = data[max(1, size - 3) :]
    anomalies = observer.decode([*records, b"", b"\xff" * 4]) + observer.due(None)
    whole = _agent()
    for emitted in whole._episodes.admit(anomalies, 1) + whole._episodes.flush():
        try:
            made = whole._occurrence(Enriched(emitted, None, {}))
        except (ValueError, OverflowError):  # counted by the agent: a field out of all bounds
            continue
        _check(occurrence.encode(made))


def _check(line: bytes) -> None:
    """A line that every sink can pass on, and that no terminal obeys."""
    assert min(line) >= 0x20
    text = line.decode()
    assert harmless(harmless_json(text)) == harmless_json(text) or len(text) > 4096
    known = occurrence.decode(line)
    assert harmless(known.error.message if known.error else "").isprintable()
    encode_logs([_SINK_OTLP.make(line)]).SerializeToString()
    msgspec.json.encode([for_polku(msgspec.json.decode(line))])


def container(data: bytes) -> None:
    """Exits and OOM kills."""
    exits, kills = make_layout("exit_record", _EXIT_FIELDS), make_layout("oom_record", _OOM_FIELDS)
    enums = {"RECORD_EXIT": 1, "RECORD_OOM": 2, "LIMIT_HIT": 1, "LIMIT_NONE": 2, "LIMIT_UNKNOWN": 0}
    modern = len(data) % 2 == 0
    features = {"process_exit_passes_group_dead": modern, "mark_victim_passes_task": modern}
    observer = ContainerObserver(make_loaded("container", {"exit_record": exits, "oom_record": kills}, enums, features))
    observer.configure(Config())
    _observe(observer, {1: exits, 2: kills}, data)


def network(data: bytes) -> None:
    """Failed connects, resets, retransmits, round-trip times."""
    layouts = {
        f"{name}_record": make_layout(f"{name}_record", ("kind", "boot_ns", *fields, *network_socket.FIELDS))
        for name, fields in _NETWORK_FIELDS.items()
    }
    enums = {f"RECORD_{name.upper()}": number for number, name in enumerate(_NETWORK_FIELDS, 10)}
    sides = {"SIDE_UNKNOWN": 0, "SIDE_CONNECTED": 1, "SIDE_ACCEPTED": 2}
    observer = NetworkObserver(make_loaded("network", layouts, enums | sides, {}))
    observer.configure(Config())
    _observe(observer, dict(zip(enums.values(), layouts.values(), strict=True)), data)


def storage(data: bytes) -> None:
    """Block requests."""
    layout = make_layout("request_record", _REQUEST_FIELDS)
    enums = {"RECORD_REQUEST": 20} | {f"REQUEST_{name}": 1 << bit for bit, name in enumerate(_REQUEST_FLAGS)}
    observer = StorageObserver(make_loaded("storage", {"request_record": layout}, enums, {}), sys_root=Path("/none"))
    observer.configure(Config())
    _observe(observer, {20: layout}, data)


def node(data: bytes) -> None:
    """CPU counters."""
    _observe(make_observer(), {KIND: make_layout("cpu_record", _CPU_FIELDS)}, data)


def configuration(data: bytes) -> None:
    """A configuration file."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(UsageError):
            config.load(Path(file.name), {}, {})


def cli_file(data: bytes) -> None:
    """A file of the data directory, as the CLI reads it: an occurrence or a heartbeat."""
    with contextlib.suppress(OccurrenceError):
        known = occurrence.decode(data)
        assert harmless(known.type).isprintable()
        _check(occurrence.encode(known))
    with contextlib.suppress(HeartbeatError):
        heartbeat_document.decode(data)


def spool_segment(data: bytes) -> None:
    """A segment of a spool that a crash or a disk has damaged."""
    descriptor = os.memfd_create("segment")
    try:
        os.write(descriptor, data)
        assert sum(len(document) for _, document, _ in frames.read_frames(descriptor, 0, len(data))) <= len(data)
        assert frames.count_remains(descriptor, 0, len(data)) <= len(data)
    finally:
        os.close(descriptor)


def collector_answer(data: bytes) -> None:
    """What a collector answers."""
    for content_type in ("application/x-protobuf", "application/json"):
        with contextlib.suppress(ValueError):
            rejected, why = otlp.read_logs_answer(content_type, data)
            assert rejected >= 0
            assert one_shot._plain(why).isprintable()
    wait_s = one_shot._retry_after_s(data.decode("latin-1"))
    assert wait_s is None or 0 <= wait_s <= 3600


def http_request(data: bytes) -> None:
    """The head of a request to /metrics, with and without passwords."""
    for server in _servers():
        connection = web._Connection(None, "", 0.0)  # type: ignore[arg-type]
        connection.take(data)
        answer = server._answer(connection)
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"\r\n\r\n" in answer


@functools.cache
def _servers() -> tuple[web.WebServer, ...]:
    users = Path(tempfile.mkdtemp()) / "users"
    users.write_text("a:b\n")
    users.chmod(0o600)
    made = []
    for settings in (MetricsConfig(), MetricsConfig(users_file=str(users))):
        server = web.WebServer.__new__(web.WebServer)
        server._routes = {"/metrics": lambda: (web.HTTPStatus.OK, web.PLAIN, b"")}
        server._access, server._open_to_all = WebAccess(settings), ()
        made.append(server)
    users.unlink()
    users.parent.rmdir()
    return tuple(made)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (ring, container, network, storage, node, configuration, cli_file, spool_segment, collector_answer,
                   http_request)
}  # fmt: skip

_OCCURRENCE = (
    b'{"id":"01M82HHQ1T7W583K6RS0KMASS1","timestamp":"2026-11-22T21:10:45.044Z","source":"tapio",'
    b'"type":"kernel.container.abnormal_exit","protocol_version":"1.0","severity":"warning","outcome":"failure",'
    b'"error":{"code":"ABNORMAL_EXIT","message":"m"},"data":{"pid":1,"comm":"sh","count":1,"timestamp_ns":1}}'
)
# Where mutation begins.
SEEDS: dict[str, list[bytes]] = {
    "ring": [struct.pack("=QQ", 0, 64) + (struct.pack("=II", 24, 0) + bytes(24)) * 2],
    "container": [bytes(400), b"\1" + bytes(400)],
    "network": [bytes([number]) + bytes(300) for number in range(4)],
    "configuration": [config.DOCUMENTED.read_bytes()],
    "cli_file": [_OCCURRENCE, b'{"schema_version":1,"observers":{}}'],
    "spool_segment": [b"".join(frames.frame(number, b"document") for number in range(3))],
    "collector_answer": [
        b'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"x"}}',
        b"\x0a\x04\x08\x03\x12\x00",
    ],
    "http_request": [b"GET /metrics HTTP/1.1\r\nAuthorization: Basic YTpi\r\nHost: x\r\n\r\n"],
}

_POD_UID = "0f3d9c1a-5c1f-4c7e-9a55-d3bb1b1f3c55"


def cgroup_path(data: bytes) -> None:
    """A cgroup's path, as the kernel or a container's processes name it."""
    for pod in cgroup_paths.read_path(data.decode("utf-8", "replace")):
        assert pod.uid
        assert len(pod.container_id) in (0, 64)


def pod_object(data: bytes) -> None:
    """One object of the Kubernetes watch."""
    index = PodIndex("node")
    for kind in ("ADDED", "MODIFIED", "DELETED"):
        with contextlib.suppress(*UNREADABLE):
            index.apply(kind, data)
    assert len(index) <= 1


class _Answer:
    """An answer of the API server, in pieces."""

    def __init__(self, body: bytes, piece: int) -> None:
        self._pieces = [body[start : start + piece] for start in range(0, len(body), piece)]

    def read1(self, _most: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    read = read1

    def close(self) -> None:
        pass

    release_conn = close


class _Server:
    """Its first answer is to a list, its second to a watch."""

    def __init__(self, *answers: _Answer) -> None:
        self._answers = list(answers)

    def get(self, _path: str, _parameters: object, _read_timeout_s: float) -> _Answer:
        return self._answers.pop(0) if self._answers else _Answer(b"", 1)


def watch_stream(data: bytes) -> None:
    """A list, NUL NUL and the stream of a watch, in pieces of as many bytes as the first byte says."""
    piece, (body, _, stream) = max(1, data[0] if data else 1), data[1:].partition(b"\0\0")
    for index in (PodIndex("node"), ServiceIndex(), JobIndex()):
        following = watch.Watch(_Server(_Answer(body, piece), _Answer(stream, piece)), "/pods", index)  # type: ignore[arg-type]
        assert 0 <= following.turn() <= 300
        assert "please report it" not in following._last_error
        assert following.unreadable <= len(data)
    _check_lines(data, piece)


def _check_lines(data: bytes, piece: int) -> None:
    """However they are cut, the lines are the same; what has no end is dropped."""
    lines = [line for line in data.split(b"\n")[:-1] if line.strip()]
    assert list(watch._lines(_Answer(data, piece))) == lines  # type: ignore[arg-type]


TARGETS |= {"cgroup_path": cgroup_path, "pod_object": pod_object, "watch_stream": watch_stream}
_POD = b'{"metadata":{"uid":"%s","name":"a","namespace":"b","resourceVersion":"8"}}' % _POD_UID.encode()
_LISTED = b'\x40{"metadata":{"resourceVersion":"7"},"items":[' + _POD + b"]}"
_EVENTS = b"".join(b'{"type":"%s","object":%s}\n' % (kind, _POD) for kind in (b"ADDED", b"DELETED", b"BOOKMARK"))
_EVENTS += b'{"type":"ERROR","object":{"code":410,"message":"gone"}}\n'
SEEDS |= {
    "cgroup_path": [f"/kubepods/burstable/pod{_POD_UID}/{'ab' * 32}".encode()],
    "watch_stream": [
        _LISTED + b"\0\0" + _EVENTS,
        _LISTED + b'\0\0{"type":"ADDED","object":{"metadata":{"name":"\xff"}}}\n',
        b'\xff{"metadata":{},"items":[{"metadata":{"name":"\xff"}}]}',
        b'\xff{"metadata":{},"items":[]}\0\0{"type":"ADDED","object":' + b"[" * 3000 + b"]" * 3000 + b"}\n",
    ],
    "pod_object": [
        b'{"metadata":{"uid":"%s","name":"a","namespace":"b"},"spec":{"nodeName":"node"},"status":{"podIP":'
        b'"10.0.0.1","containerStatuses":[{"name":"c","containerID":"containerd://x"}]}}' % _POD_UID.encode()
    ],
}
