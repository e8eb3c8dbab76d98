"""The otlp sink: OTel log records by OTLP/HTTP. The SDK's exporter encodes and sends, all else is `DeliverySink`'s."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from tapio.sinks.delivery import Backoff, DeliverySink, Outcome
from tapio.sinks.one_shot import OneShotSession
from tapio.sinks.otlp_environment import OtlpSettings
from tapio.sinks.otlp_record import RecordMaker
from tapio.sinks.spool import Spool

COMPRESSIONS = {"gzip": Compression.Gzip, "deflate": Compression.Deflate, "none": Compression.NoCompression}


class OtlpSink(DeliverySink):
    """Sends to an OpenTelemetry Collector or whatever else speaks OTLP/HTTP."""

    name = "otlp"

    def __init__(
        self,
        settings: OtlpSettings,
        resource: Mapping[str, str],
        directory: int,
        spool_bytes: int,
        backoff: Backoff | None = None,
        flush_s: float = 3.0,
    ) -> None:
        """UsageError when TLS files cannot be used. `directory` is the descriptor of the data directory."""
        self._records = RecordMaker(resource)
        self._session = OneShotSession(settings.endpoint, settings.tls, settings.timeout_s, read_logs_answer)
        self._exporter = OTLPLogExporter(
            endpoint=settings.endpoint,
            headers=settings.headers,
            timeout=settings.timeout_s,
            compression=COMPRESSIONS[settings.compression],
            session=self._session,
        )
        super().__init__(functools.partial(Spool, directory, self.name, spool_bytes), backoff, flush_s)

    def transmit(self, documents: Sequence[bytes]) -> Outcome:
        """One export. Whatever cannot be encoded is found by halving, and rejected alone."""
        poison = "sending to otlp: an occurrence that cannot be encoded: please report it"
        try:
            batch = [self._records.make(document) for document in documents]
        except (KeyError, TypeError, ValueError):
            return Outcome("split", message=poison)
        self._session.outcome = None
        self._exporter.export(batch)
        return self._session.outcome or Outcome("split", message=poison)


def read_logs_answer(content_type: str, body: bytes) -> tuple[int, str]:
    """How many log records the receiver rejected, and why; ValueError for what is no answer of OTLP/HTTP."""
    if not body:
        return 0, ""
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return read_json_answer(body, "rejectedLogRecords")
    try:
        success = ExportLogsServiceResponse.FromString(body).partial_success
    except DecodeError:
        raise ValueError("neither protobuf nor JSON") from None
    return max(0, success.rejected_log_records), success.error_message


def read_json_answer(body: bytes, rejected: str) -> tuple[int, str]:
    """The same from an answer in JSON; `rejected` is the field of the number."""
    try:
        success = json.loads(body).get("partialSuccess") or {}
        return max(0, int(success.get(rejected) or 0)), str(success.get("errorMessage") or "")
    except (AttributeError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError("not the JSON of OTLP") from error
