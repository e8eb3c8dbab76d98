"""Services by their addresses, and the cron jobs of jobs: what watches of the whole cluster tell, where asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tapio.clock import boot_ns
from tapio.enrich.api_objects import UNREADABLE, JobObject, ServiceObject


class Service(msgspec.Struct, frozen=True):
    """A service and since when it is known to have its addresses, on the boot clock."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    since_ns: int


class ServiceIndex:
    """Services by cluster address."""

    def __init__(self, now_ns: Callable[[], int] = boot_ns) -> None:
        self._now_ns = now_ns
        self._decoder = msgspec.json.Decoder(ServiceObject)
        self._by_uid: dict[str, Service] = {}
        self._by_address: dict[str, Service] = {}

    def at_address(self, address: str, when_ns: int) -> Service | None:
        """The service that has this address now and had it then."""
        found = self._by_address.get(address)
        return found if found is not None and found.since_ns <= when_ns else None

    def replace(self, objects: Iterable[bytes | msgspec.Raw]) -> int:
        """Take over a whole list; returns how many of it could not be read."""
        seen, unreadable = set(), 0
        for raw in objects:
            try:
                seen.add(self._store(raw))
            except UNREADABLE:
                unreadable += 1
        for uid in self._by_uid.keys() - seen:
            self._forget(uid)
        return unreadable

    def apply(self, kind: str, raw: bytes | msgspec.Raw) -> None:
        """Take over one change. One of UNREADABLE when it cannot be read."""
        uid = self._store(raw)
        if kind == "DELETED":
            self._forget(uid)

    def _store(self, raw: bytes | msgspec.Raw) -> str:
        found = self._decoder.decode(raw)
        addresses = found.spec.cluster_ips or ((found.spec.cluster_ip,) if found.spec.cluster_ip else ())
        addresses = tuple(address for address in addresses if address != "None")
        known = self._by_uid.get(found.metadata.uid)
        if known is None or known.addresses != addresses:
            self._forget(found.metadata.uid)
            service = Service(found.metadata.namespace, found.metadata.name, addresses, self._now_ns())
            self._by_uid[found.metadata.uid] = service
            self._by_address.update(dict.fromkeys(addresses, service))
        return found.metadata.uid

    def _forget(self, uid: str) -> None:
        service = self._by_uid.pop(uid, None)
        for address in service.addresses if service else ():
            if self._by_address.get(address) is service:
                del self._by_address[address]


class JobIndex:
    """The cron job of each job, by the job's uid."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(JobObject)
        self._cronjobs: dict[str, str] = {}

    def cronjob_of(self, uid: str) -> str:
        """The cron job's name; '' if there is none or it is not known."""
        return self._cronjobs.get(uid, "")

    def replace(self, objects: Iterable[bytes | msgspec.Raw]) -> int:
        """Take over a whole list; returns how many of it could not be read."""
        found: dict[str, str] = {}
        unreadable = 0
        for raw in objects:
            try:
                self._store(found, raw)
            except UNREADABLE:
                unreadable += 1
        self._cronjobs = found
        return unreadable

    def apply(self, kind: str, raw: bytes | msgspec.Raw) -> None:
        """Take over one change. One of UNREADABLE when it cannot be read."""
        uid = self._store(self._cronjobs, raw)
        if kind == "DELETED":
            self._cronjobs.pop(uid, None)

    def _store(self, table: dict[str, str], raw: bytes | msgspec.Raw) -> str:
        metadata = self._decoder.decode(raw).metadata
        controller = metadata.controller()
        if controller is not None and controller.kind == "CronJob":
            table[metadata.uid] = controller.name
        return metadata.uid
