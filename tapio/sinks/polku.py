"""The polku sink: JSON arrays of occurrences, POSTed to POLKU's ingestor.

Its types differ from the protocol's in three places: an error must have `what_failed`, an entity must have `type`,
and the outcome in_progress is spelled `inprogress`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec

from tapio import __version__
from tapio.sinks.delivery import Backoff, DeliverySink, Outcome
from tapio.sinks.one_shot import OneShotSession, RequestEndedError
from tapio.sinks.spool import Spool
from tapio.sinks.tls import TlsFiles

_TIMEOUT_S = 10.0
_HEADERS = {"Content-Type": "application/json", "User-Agent": f"tapio/{__version__}"}


class PolkuSink(DeliverySink):
    """Sends to one POLKU."""

    name = "polku"

    def __init__(
        self,
        endpoint: str,
        tls: TlsFiles,
        directory: int,
        spool_bytes: int,
        backoff: Backoff | None = None,
        flush_s: float = 3.0,
    ) -> None:
        """UsageError when TLS files cannot be used. `directory` is the descriptor of the data directory."""
        self._endpoint = endpoint
        self._session = OneShotSession(endpoint, tls, _TIMEOUT_S, _read_answer)
        super().__init__(functools.partial(Spool, directory, self.name, spool_bytes), backoff, flush_s)

    def transmit(self, documents: Sequence[bytes]) -> Outcome:
        """One POST. A document that is no occurrence is found by halving, and rejected alone."""
        self._session.outcome = None
        try:
            body = msgspec.json.encode([for_polku(msgspec.json.decode(document)) for document in documents])
            self._session.request("POST", self._endpoint, data=body, headers=_HEADERS)
        except (AttributeError, KeyError, TypeError, ValueError):
            return Outcome("split", message="sending to polku: an occurrence that cannot be encoded: please report it")
        except RequestEndedError:
            pass
        return self._session.outcome or Outcome("retry", message="sending to polku: no outcome: please report it")


def for_polku(occurrence: dict[str, Any]) -> dict[str, Any]:
    """The occurrence as POLKU's types want it; everything else stays as it is."""
    occurrence["error"]["what_failed"] = occurrence["error"]["message"]
    occurrence["outcome"] = occurrence["outcome"].replace("_", "")
    for entity in occurrence.get("context", {}).get("entities", ()):
        entity["type"] = entity["kind"]
    return occurrence


def _read_answer(content_type: str, _body: bytes) -> tuple[int, str]:
    """POLKU answers a batch as a whole: a status of 2xx says it all, unless it comes with a page to log in."""
    if content_type.partition(";")[0].strip().lower() == "text/html":
        raise ValueError("HTML")
    return 0, ""
