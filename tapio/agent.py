"""The agent: wiring, lifecycle, signals. The one module that knows all stages.

Order matters. As root: lock the data directory, load and attach. Then drop every privilege. Only then the first
thread and the first network socket.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from operator import attrgetter
from pathlib import Path
from types import FrameType

from tapio import prometheus
from tapio.anomalies import Anomaly
from tapio.clock import WallClock, boot_ns, rfc3339_ms
from tapio.config import Config
from tapio.enrich.chosen import ChosenEnrichment, is_chosen
from tapio.enrich.stage import Enriched, Enrichment
from tapio.episodes import Emitted, Episodes
from tapio.errors import KernelError, TapioError, UsageError
from tapio.heartbeat import HeartbeatWriter
from tapio.heartbeat_document import ENRICHMENT
from tapio.ids import IdSource
from tapio.kernel import allocator, privileges, sandbox
from tapio.kernel.channel import Failed
from tapio.occurrence import PROTOCOL_VERSION, Context, Error, Occurrence
from tapio.sinks.base import MultiSink
from tapio.sinks.chosen import ChosenSinks
from tapio.sinks.file import FileSink
from tapio.source import Source, attach_observers
from tapio.store import Store, lock_directory, open_directory
from tapio.telemetry import ObserverTelemetry, Telemetry
from tapio.web import PLAIN, Answer, WebServer
from tapio.web_access import WebAccess

log = logging.getLogger(__name__)

_DRAIN_WITHIN_S = 1.0  # at the end, as the time of the sinks' flush runs
_CLOSE_WITHIN_S = 0.5
_MAX_RECORDS_A_TURN = 4096
_CODECS = ("ascii", "idna", "latin-1", "utf-8")


class Agent:
    """One run of the agent, from start to stop."""

    def __init__(self, config: Config, reload: Callable[[], Config], config_path: Path | None, node: str) -> None:
        """`reload` reads the configuration anew for SIGHUP; `node` is the Kubernetes node's name or ''.

        UsageError when a file of [metrics] cannot be used.
        """
        self._config = config
        self._reload = reload
        self._config_path = config_path
        self._node = node
        self._context = Context(node=node) if node else None
        self._clock = WallClock()
        self._ids = IdSource()
        self._access = WebAccess(config.metrics)
        self._episodes = Episodes(config.episodes, self._ids.next)
        self._stopping = False
        self._reloading = False
        self._wake, self._wake_end = socket.socketpair()
        self._sources: list[Source] = []
        self._enrichment: Enrichment | None = None

    def run(self) -> None:
        """Observe until SIGTERM or SIGINT. TapioError when the start fails; nothing stays attached then."""
        allocator.keep_small()
        self._catch_signals()
        config = self._config
        chosen = ChosenSinks(config, os.environ, self._node)
        enrichment = None
        if is_chosen(config.kubernetes, self._node, os.environ):
            enrichment = ChosenEnrichment(config.kubernetes, self._node, os.environ)
        uid, gid = privileges.find_user(config.user)
        path = Path(config.data_dir)
        directory = open_directory(path, uid, gid)
        lock = lock_directory(directory, path, uid, gid)
        store = Store(directory)
        try:
            failed = self._attach(enrichment)
        except TapioError:
            if self._stopping:  # whoever ended us may have ended the loader too
                return
            raise
        if any(source.counts_cpus for source in self._sources):
            chosen.need_metric_export()
        for name in _CODECS:  # after the drop the interpreter's files may be out of reach
            codecs.lookup(name)
        privileges.drop(uid, gid)
        confinement = self._confine(directory)
        self._check_config_is_readable(uid)
        if enrichment is not None:
            self._enrichment = enrichment.start()

        with contextlib.ExitStack() as cleanup:
            sinks = MultiSink(chosen.make(store, directory))
            cleanup.callback(sinks.close)
            observers = [source.telemetry for source in self._sources]
            observers += [ObserverTelemetry(name, item.error, off=item.reason) for name, item in failed.items()]
            telemetry = Telemetry(observers, sinks.sinks)
            telemetry.sandbox = confinement
            telemetry.folded, telemetry.overflowed = self._episodes.folded, self._episodes.overflowed
            telemetry.enrichment = self._enrichment
            self._serve(telemetry, cleanup)
            export = chosen.make_metric_export()
            if export is not None and config.otlp.agent_metrics:
                export.add_agent_metrics(prometheus.AgentCollector(telemetry).collect)
            for source in self._sources:
                if export is not None and source.counts_cpus:
                    export.add_cpu_metrics(source.cpu_counters)
            heartbeat = HeartbeatWriter(store, telemetry)
            log.info("observing %s", ", ".join(source.telemetry.name for source in self._sources))
            self._loop(telemetry, sinks)
            deadline = time.monotonic() + max(sink.flush_s for sink in sinks.sinks) + _CLOSE_WITHIN_S
            self._stop(telemetry, sinks, deadline)
            if export is not None:
                export.close(max(_CLOSE_WITHIN_S, deadline - time.monotonic()))
            heartbeat.close(time.monotonic() + _CLOSE_WITHIN_S)
        os.close(lock)

    def _catch_signals(self) -> None:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stopping = True

        def reload(_number: int, _frame: FrameType | None) -> None:
            self._reloading = True

        self._wake.setblocking(False)
        self._wake_end.setblocking(False)
        signal.set_wakeup_fd(self._wake_end.fileno(), warn_on_full_buffer=False)
        for number, handler in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, reload)):
            signal.signal(number, handler)

    def _attach(self, enrichment: ChosenEnrichment | None) -> dict[str, Failed]:
        """Attach every observer; returns the reasons of those that are off."""
        outcome = attach_observers(self._config, cgroups=enrichment is not None)
        if all(attachment.observer == ENRICHMENT for attachment in outcome.attached):
            raise KernelError("; ".join(dict.fromkeys(failure.error for failure in outcome.failed.values())))
        for name, failure in outcome.failed.items():
            log.warning("observer %s is off: %s", name, failure.error)
        for attachment in outcome.attached:
            for hook in attachment.hooks:
                if hook.reason:
                    log.warning("observer %s is not complete: %s", attachment.observer, hook.reason)
            make = enrichment.make_observer if enrichment is not None and attachment.observer == ENRICHMENT else None
            self._sources.append(Source(attachment, self._config, make))
        if enrichment is not None:
            enrichment.scan()
        return outcome.failed

    def _confine(self, directory: int) -> dict[str, str]:
        """Put the sandbox in force: for each mechanism why it is not, '' if it is."""
        reasons = sandbox.confine(directory, with_seccomp=self._config.agent.seccomp == "on")
        for mechanism, reason in reasons.items():
            if reason:
                log.warning("running without %s: %s", mechanism, reason)
        return reasons

    def _check_config_is_readable(self, uid: int) -> None:
        if self._config_path is not None and not os.access(self._config_path, os.R_OK):
            raise UsageError(
                f"reading {self._config_path} as uid {uid}: permission denied: the agent reads it again on SIGHUP, "
                "so make it and its folders readable for that user"
            )

    def _serve(self, telemetry: Telemetry, cleanup: contextlib.ExitStack) -> None:
        endpoint = self._config.metrics_endpoint()
        if endpoint is None:
            return

        def ready() -> Answer:
            trouble = telemetry.unready()
            status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
            return status, PLAIN, (trouble or "ready").encode() + b"\n"

        def healthy() -> Answer:
            stalled = telemetry.is_stalled()
            status = HTTPStatus.SERVICE_UNAVAILABLE if stalled else HTTPStatus.OK
            return status, PLAIN, b"the loop is stuck\n" if stalled else b"alive\n"

        def metrics() -> Answer:
            return HTTPStatus.OK, prometheus.CONTENT_TYPE, prometheus.exposition(telemetry)

        routes = {"/metrics": metrics, "/healthz": healthy, "/readyz": ready}
        server = WebServer(*endpoint, routes, self._access, ("/healthz", "/readyz"))
        cleanup.callback(server.close)
        log.info("serving /metrics on %s:%d", endpoint[0], server.port)

    def _loop(self, telemetry: Telemetry, sinks: MultiSink) -> None:
        """Drain the rings on a timer, and at once when one is a quarter full."""
        interval_s = self._config.kernel.drain_interval_ms / 1000
        with select.epoll() as poll:
            poll.register(self._wake.fileno(), select.EPOLLIN)
            for source in self._sources:
                # Edge-triggered: level-triggered the ring would be ready as soon as it holds one record.
                poll.register(source.ring_descriptor, select.EPOLLIN | select.EPOLLET)
            timeout_s = 0.0
            while not self._stopping:
                ready = poll.poll(timeout_s)
                if any(descriptor == self._wake.fileno() for descriptor, _ in ready):
                    with contextlib.suppress(BlockingIOError):
                        self._wake.recv(4096)
                if self._reloading:
                    self._reloading = False
                    self._reload_thresholds(sinks)
                busy = self._drain(sinks, telemetry)
                timeout_s = 0.0 if busy else interval_s

    def _drain(self, sinks: MultiSink, telemetry: Telemetry) -> bool:
        """One turn over all rings; whether one of them holds more than a turn may take."""
        busy = False
        for source in self._sources:
            records = source.ring.read(_MAX_RECORDS_A_TURN)
            busy = busy or len(records) == _MAX_RECORDS_A_TURN
            source.telemetry.events += len(records)
            anomalies = source.observer.decode(records) if records else []
            now_ns = boot_ns()
            anomalies += source.observer.due(now_ns) + source.losses.due(now_ns)
            self._admit(anomalies, source, sinks, telemetry)
            source.watch_canary(caught_up=len(records) < _MAX_RECORDS_A_TURN)
        self._emit(self._episodes.due(boot_ns()), sinks, telemetry)
        if self._enrichment is not None:
            self._send(self._enrichment.due(boot_ns()), sinks, telemetry)
        telemetry.drained_at = time.monotonic()
        return busy

    def _admit(self, anomalies: list[Anomaly], source: Source, sinks: MultiSink, telemetry: Telemetry) -> None:
        for anomaly in anomalies:
            source.telemetry.anomalies[anomaly.type.name] += anomaly.count
            if anomaly.data.get("attribution") == "none":
                source.telemetry.unattributed += anomaly.count
        if anomalies and self._enrichment is not None:
            anomalies = self._enrichment.mark_expected(anomalies)
        if anomalies:
            self._emit(self._episodes.admit(anomalies, boot_ns()), sinks, telemetry)

    def _emit(self, leaving: list[Emitted], sinks: MultiSink, telemetry: Telemetry) -> None:
        if self._enrichment is not None:
            self._send(self._enrichment.admit(leaving, boot_ns()), sinks, telemetry)
        else:
            plain = [Enriched(emitted, self._context, {}) for emitted in leaving]
            self._send(plain, sinks, telemetry)

    def _send(self, leaving: list[Enriched], sinks: MultiSink, telemetry: Telemetry) -> None:
        if leaving:  # only then: 20 times a second it is what an idle agent does most
            self._clock.sync()
        for enriched in leaving:
            try:
                occurrence = self._occurrence(enriched)
            except (ValueError, OverflowError) as error:
                telemetry.invalid += enriched.emitted.count
                log.warning("describing a %s: %s: please report it", enriched.emitted.anomaly.type.name, error)
                continue
            telemetry.count_occurrence(occurrence)
            sinks.send(occurrence)

    def _occurrence(self, enriched: Enriched) -> Occurrence:
        emitted = enriched.emitted
        anomaly = emitted.anomaly
        unix_ns = self._clock.unix_ns(anomaly.boot_ns)
        data = {**anomaly.data, **enriched.data, "count": emitted.count, "timestamp_ns": unix_ns}
        if emitted.episode_id:
            data["episode"] = {
                "id": emitted.episode_id,
                "total": emitted.total,
                "first_seen": rfc3339_ms(self._clock.unix_ns(emitted.first_ns)),
                "last_seen": rfc3339_ms(self._clock.unix_ns(emitted.last_ns)),
                "state": emitted.state,
            }
        return Occurrence(
            id=self._ids.next(),
            timestamp=rfc3339_ms(unix_ns),
            source="tapio",
            type=anomaly.type.name,
            protocol_version=PROTOCOL_VERSION,
            severity=anomaly.severity,
            outcome=anomaly.type.outcome,
            error=Error(code=anomaly.type.code, message=anomaly.message),
            context=enriched.context,
            data=data,
        )

    def _reload_thresholds(self, sinks: MultiSink) -> None:
        """Take over what may change; a bad file keeps what is in force."""
        try:
            config = self._reload()
        except TapioError as error:
            log.error("%s; the thresholds in force stay", error)
            return
        except Exception as error:  # noqa: BLE001  # a stage boundary: no file may end a running agent
            log.error("reading the configuration: %r; the thresholds in force stay", error)
            return
        for source in self._sources:
            source.configure(config)
        self._episodes.config = config.episodes
        try:
            self._access.load(config.metrics)
        except TapioError as error:
            log.error("%s; the certificates and passwords in force stay", error)
        for sink in sinks.sinks:
            if isinstance(sink, FileSink):
                sink.config = config.file
        restart = [key for key in ("sinks", "observers", "data_dir", "ebpf_dir", "metrics_address", "user",
                                   "agent.seccomp", "kernel", "kubernetes", "otlp", "polku", "node.interval_ms",
                                   "node.cycles", "node.instructions", "node.stalls")
                   if attrgetter(key)(config) != attrgetter(key)(self._config)]  # fmt: skip
        if config.tables() != self._config.tables():
            restart.append("storage.max_in_flight")
        log.info("configuration reloaded%s", f"; needs a restart: {', '.join(restart)}" if restart else "")

    def _stop(self, telemetry: Telemetry, sinks: MultiSink, deadline: float) -> None:
        """Detach first, so that the rings come to an end; then read them out and flush."""
        for source in self._sources:
            source.attachment.detach()
        drained = time.monotonic() + _DRAIN_WITHIN_S
        while self._drain(sinks, telemetry) and time.monotonic() < drained:
            pass
        for source in self._sources:
            source.give_up_ring()
        for source in self._sources:
            self._admit(source.observer.due(None) + source.losses.due(boot_ns(), last=True), source, sinks, telemetry)
        self._emit(self._episodes.flush(), sinks, telemetry)
        if self._enrichment is not None:
            self._send(self._enrichment.due(None), sinks, telemetry)
        if sinks.flush(deadline):
            return
        for sink in sinks.sinks:
            if sink.backlog:
                fate = "wait in the spool for the next start" if sink.keeps_backlog else "could not be written"
                log.warning("stopping: %d occurrences of the sink %s %s", sink.backlog, sink.name, fate)
