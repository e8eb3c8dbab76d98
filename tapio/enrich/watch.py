"""One list and one watch of a kind of object, for ever: what Kubernetes clients call a reflector.

List with resourceVersion 0 (the API server's cache; one object is kept at a time), watch from there, with bookmarks. A
watch that ends is taken up where it was; 410 Gone, by status or as an event, means a new list, and so does a watch that
stays silent. There is never more than one request in flight, none without a timeout, and after a failure a jittered
wait of up to half a minute.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec
import urllib3

from tapio.clock import boot_ns
from tapio.enrich.api_objects import UNREADABLE
from tapio.enrich.list_items import ListItems
from tapio.errors import ClusterError

if TYPE_CHECKING:
    from tapio.enrich.api_server import ApiServer

log = logging.getLogger(__name__)

_PAGE = 100
_LIST_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 90.0  # a bookmark comes about every minute
_WATCH_S = (240, 480)
_CHUNK = 1 << 16
_MAX_OBJECT_BYTES = 4 << 20  # etcd takes objects of 1.5 MiB
_BACKOFF_S = (0.5, 30.0)
_GONE = 410
# A server that was restored from a backup does not know our version yet: it says 504 (or 400), or nothing at all.
_LOST = (_GONE, 400, 504)


class Handler(Protocol):
    """Who keeps the objects."""

    def replace(self, objects: Iterable[bytes]) -> int:
        """Take over a whole list as it comes; returns how many of it could not be read.

        An error of the iterable goes through: then the list is not whole, and says nothing of what it lacks.
        """

    def apply(self, kind: str, raw: bytes | msgspec.Raw) -> None:
        """Take over one change; one of UNREADABLE when it cannot be read."""


class _ListMetadata(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="resourceVersion", default="")
    next_page: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMetadata


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Versioned(msgspec.Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()


class _Status(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


_EVENTS = msgspec.json.Decoder(_Event)
_LISTS = msgspec.json.Decoder(_List)
_VERSIONS, _STATUSES = msgspec.json.Decoder(_Versioned), msgspec.json.Decoder(_Status)


class Watch:
    """Keeps a handler in step with the API server, in a thread of its own once `start` is called."""

    def __init__(
        self,
        server: ApiServer,
        path: str,
        handler: Handler,
        parameters: Mapping[str, str] | None = None,
        *,
        read_timeout_s: float = _READ_TIMEOUT_S,
    ) -> None:
        """`path` is that of the resource, `parameters` select from it."""
        self.resource = path.rpartition("/")[2]
        self.up_since_ns = 0  # listed, and the watch is open, since then without a gap (boot clock); 0: it is not
        self.unreadable = 0  # objects and events
        self._server, self._path, self._handler = server, path, handler
        self._parameters = dict(parameters or {})
        self._read_timeout_s = read_timeout_s
        self._version = ""  # '': a list is needed
        self._failures = 0
        self._last_error = ""

    def start(self) -> None:
        """Begin. Not before privileges are dropped."""
        threading.Thread(target=self._run, name=f"watch{self._path.replace('/', '-')}", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(self.turn())

    def turn(self) -> float:
        """List if needed, then watch until that ends; returns how long to wait before the next turn, in seconds."""
        started = time.monotonic()
        try:
            if not self._version:
                self._list()
            self._follow()
        except ClusterError as error:
            return self._fail(error)
        except (urllib3.exceptions.HTTPError, OSError, *UNREADABLE) as error:
            return self._fail(ClusterError(f"watching {self._path}: {error}: it is tried again"))
        except Exception as error:  # noqa: BLE001  # a stage boundary: without its thread nothing is known any more
            self._version = ""
            return self._fail(ClusterError(f"watching {self._path}: {error!r}: please report it"))
        if time.monotonic() - started >= 1:
            self._failures = 0
            return 0.0
        return self._backoff()  # a server that ends every watch at once is not asked for ever more

    def _backoff(self, least_s: float = 0.0) -> float:
        first, longest = _BACKOFF_S
        wait_s: float = min(longest, first * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        self._failures += 1
        return max(wait_s, least_s)

    def _fail(self, error: ClusterError) -> float:
        if error.status in _LOST:
            self._version = ""
        self.up_since_ns = 0
        if error.status == _GONE:
            log.info("watching %s: what was last seen is gone from the API server's history: listing anew", self._path)
        else:
            if str(error) != self._last_error:
                log.warning("%s", error)
            self._last_error = str(error)
        return self._backoff(error.retry_after_s)

    def _list(self) -> None:
        listed = _ListMetadata()

        def objects() -> Iterator[bytes]:
            """Of all pages, one at a time."""
            nonlocal listed
            parameters = {"limit": str(_PAGE), "resourceVersion": "0"}
            while parameters:
                listed = yield from self._page(parameters)
                parameters = {"limit": str(_PAGE), "continue": listed.next_page} if listed.next_page else {}

        self.unreadable += self._handler.replace(objects())
        self._version = listed.version or "0"

    def _page(self, parameters: Mapping[str, str]) -> Generator[bytes, None, _ListMetadata]:
        answer = self._server.get(self._path, {**self._parameters, **parameters}, _LIST_TIMEOUT_S)
        try:
            items = ListItems()
            while chunk := answer.read(_CHUNK):  # whole ones: what is cut off is looked through again
                yield from items.feed(chunk)
                if items.waiting > _MAX_OBJECT_BYTES:
                    limit = f"an object of more than {_MAX_OBJECT_BYTES >> 20} MiB"
                    raise ClusterError(f"listing {self._path}: {limit}: it is tried again")
            return _LISTS.decode(items.frame()).metadata
        finally:
            answer.close()

    def _follow(self) -> None:
        """Watch until the server ends it."""
        parameters = {
            **self._parameters,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*_WATCH_S)),  # noqa: S311
        }
        answer = self._server.get(self._path, parameters, self._read_timeout_s)
        try:
            self.up_since_ns, self._last_error = self.up_since_ns or boot_ns(), ""
            for line in _lines(answer):
                self._take(line)
        except urllib3.exceptions.ReadTimeoutError:
            self._version = ""
            raise
        finally:
            answer.close()

    def _take(self, line: bytes) -> None:
        try:
            event = _EVENTS.decode(line)
            if event.type == "ERROR":
                status = _STATUSES.decode(event.object)
                message = f"watching {self._path}: {status.message or 'the API server ended it'}: it is tried again"
                raise ClusterError(message, status.code)
            if event.type != "BOOKMARK":
                self._handler.apply(event.type, event.object)
            self._version = _VERSIONS.decode(event.object).metadata.version or self._version
            self._failures = 0
        except UNREADABLE:
            self.unreadable += 1


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The lines of an answer as they come; one that was cut off is dropped."""
    begun = bytearray()  # grown in place: an event may come in pieces of a byte
    while chunk := answer.read1(_CHUNK):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = bytes(begun) + end
            begun.clear()
            if line.strip():
                yield line
        begun += rest
        if len(begun) > _MAX_OBJECT_BYTES:
            raise ClusterError(f"watching: an event of more than {_MAX_OBJECT_BYTES >> 20} MiB: it is tried again")
