"""Messages with file descriptors between the loader child and the agent.

Each packet is one JSON document and at most 200 descriptors: the kernel refuses more than 253 in one message.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from tapio.errors import LoaderError, ObjectError, TapioError
from tapio.kernel.layout import Layout, Variable

_MAX_BYTES = 1 << 17
_MAX_DESCRIPTORS = 200
_Value = TypeVar("_Value")


class Sampling(msgspec.Struct, frozen=True):
    """What to count and how often: perf events by the array of the object, in the words of `perf`."""

    events: dict[str, str]
    interval_ns: int


class Request(msgspec.Struct, frozen=True):
    """What to load: observers and their object files, how large each ring is, and what differs between observers."""

    objects: dict[str, str]
    ring_bytes: int
    tables: dict[str, dict[str, int]] = {}  # observer → map → entries, for those that are not as compiled
    sampling: dict[str, Sampling] = {}  # by observer, for programs that run on a timer


class Hook(msgspec.Struct, frozen=True):
    """A program: attached, or the reason why not."""

    name: str
    reason: str = ""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """An observer's object, loaded. `descriptors` names the file descriptors that come with it, in their order."""

    observer: str
    hooks: tuple[Hook, ...]
    descriptors: tuple[str, ...]
    records: dict[str, Layout]
    enums: dict[str, int]
    variables: dict[str, Variable]
    sizes: dict[str, int]  # of the ring and the sections, in bytes
    features: dict[str, bool]
    cpus: int  # rows of the per-CPU counters: the highest possible CPU and one
    oom_kills: dict[int, int] = {}  # see oom_counts.py; taken before the programs were attached
    events: dict[str, str] = {}  # the perf events that are counted, by array
    uncounted: dict[str, str] = {}  # why one that was asked for is not, by array
    counted_cpus: tuple[int, ...] = ()  # the CPUs on which they are
    interval_ns: int = 0  # between two samples of a CPU
    missing: tuple[Hook, ...] = ()  # hooks that the observer can do without, and why this kernel does not offer them

    def record(self, name: str) -> Layout:
        """The layout of a record; ObjectError when the object has none of that name."""
        return self._need(self.records, f"record {name}", name)

    def enum(self, name: str) -> int:
        """The value of an enumerator; ObjectError when the object has none of that name."""
        return self._need(self.enums, f"enumerator {name}", name)

    def feature(self, name: str) -> bool:
        """What was found out about the kernel; ObjectError when the object does not ask for it."""
        return self._need(self.features, f"global {name}", name)

    def _need(self, table: Mapping[str, _Value], what: str, name: str) -> _Value:
        if name not in table:
            raise ObjectError(f"reading the object of {self.observer}: it has no {what}: rebuild it with 'make setup'")
        return table[name]


class More(msgspec.Struct, frozen=True, tag="more"):
    """Further descriptors of the observer that was announced last."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Loading an observer failed; no observer named: nothing can be loaded at all."""

    error: str
    observer: str = ""
    reason: str = TapioError.reason  # the kind of error, in one word


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The loader has said everything."""


Message = Loaded | More | Failed | Done
_DECODER = msgspec.json.Decoder(Message)


def send(channel: socket.socket, message: Message, descriptors: list[int]) -> None:
    """Send `message` with `descriptors`, those beyond 200 in `More` messages after it."""
    socket.send_fds(channel, [msgspec.json.encode(message)], descriptors[:_MAX_DESCRIPTORS])
    for start in range(_MAX_DESCRIPTORS, len(descriptors), _MAX_DESCRIPTORS):
        socket.send_fds(channel, [msgspec.json.encode(More())], descriptors[start : start + _MAX_DESCRIPTORS])


def receive(channel: socket.socket) -> tuple[Message, list[int]]:
    """The next message and its descriptors, which are close-on-exec; LoaderError when the peer is gone."""
    width = array.array("i").itemsize
    data, ancillary, flags, _ = channel.recvmsg(
        _MAX_BYTES, socket.CMSG_SPACE(_MAX_DESCRIPTORS * width), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % width])
    if not data:
        raise LoaderError("loading the BPF programs: the loader process ended without an answer")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise LoaderError(
            "loading the BPF programs: the loader's answer was cut off: raise the limit of open files (ulimit -n)"
        )
    return _DECODER.decode(data), list(descriptors)
