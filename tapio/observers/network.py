"""Network observer: connections that fail, retransmit, are reset or get slow.

Failures are anomalies at once (network_failures), resets and retransmits are counted over a window
(network_windows), round-trip times are held against a learned baseline (network_rtt).
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from tapio.anomalies import CONNECTION_REFUSED, RETRANSMIT_SPIKE, RST_STORM, Anomaly
from tapio.config import Config
from tapio.kernel.channel import Loaded
from tapio.kernel.layout import make_decoder, make_twin_key
from tapio.observers import network_failures, network_socket
from tapio.observers.base import Canary, Observer, Settings, own_process
from tapio.observers.network_rtt import Baselines
from tapio.observers.network_twins import Twins, bundled
from tapio.observers.network_windows import Windows

_CLOCK_MONOTONIC_COARSE = 6

_Handler = Callable[[Any], list[Anomaly]]


class NetworkObserver(Observer):
    """One anomaly for each connection that fails, for each window of resets or retransmits, for each slow path."""

    name = "network"

    def __init__(self, loaded: Loaded) -> None:
        self.evicted: dict[str, int] = {}
        unified = network_socket.has_unified_hierarchy()
        self._sockets = network_socket.Sockets(loaded, self.evicted, unified=unified)
        self._retransmits = Windows(RETRANSMIT_SPIKE, "retransmits", "segments sent again to", self.evicted)
        self._resets = Windows(RST_STORM, "rst_count", "resets received from", self.evicted)
        self._baselines = Baselines(self.evicted)
        self.canary = Canary()
        reasons = ("own_process", "ignored", "unreachable_at_once", "no_path", "no_rtt", "undecodable")
        self.suppressed = dict.fromkeys(reasons, 0)
        self._twin_key = make_twin_key(loaded.record("connection_failed_record"), ("boot_ns", "socket_local_port"))
        self._handlers: dict[int, tuple[Callable[[bytes], Any], _Handler]] = {}
        for kind, handler, fields in (
            ("connection_failed", self._failure, ("error", "old_state", "retries")),
            ("reset", self._reset, ("state",)),
            ("retransmit", self._retransmit, ("segments", "total_retrans", "segs_out", "snd_cwnd", "srtt_us")),
            ("rtt", self._rtt, ("srtt_us", "rtt_us", "ack_delayed")),
        ):
            needs = ("kind", "boot_ns", *fields, *network_socket.FIELDS)
            decode = make_decoder(loaded.record(f"{kind}_record"), needs)
            self._handlers[loaded.enum(f"RECORD_{kind.upper()}")] = decode, handler

    def configure(self, config: Config) -> Settings:
        """Thresholds are kept here; the kernel side samples and recognises the agent."""
        network = config.network
        self._individual = config.episodes.individual
        self._sockets.ignore(network.ignore_ports, network.ignore_cidrs)
        self._retransmits.configure(network.retransmit_spike_count, network.window_s)
        self._resets.configure(network.rst_storm_count, network.window_s)
        self._baselines.configure(network)
        tick_s = time.clock_getres(_CLOCK_MONOTONIC_COARSE)
        return {
            **own_process(),
            "samples_per_s": network.rtt_samples_per_s,
            "sample_interval_jiffies": round(network.rtt_sample_interval_ms / 1000 / tick_s),
            "jiffies_per_s": round(1 / tick_s),
            "jiffy_ns": round(tick_s * 1e9),
        }

    def decode(self, records: Iterable[bytes]) -> list[Anomaly]:
        """The anomalies in a batch of records, in the order of the events."""
        found: list[Anomaly] = []
        twins = Twins(self._twin_key, self._individual)
        for raw in records:
            if twins.takes(raw):
                continue
            anomalies = self._decode(raw)
            found += anomalies
            if anomalies and anomalies[0].type is CONNECTION_REFUSED:
                twins.expect(raw)
        for raw, count in twins.taken():
            found += [bundled(anomaly, count) for anomaly in self._decode(raw)]
        return found

    def _decode(self, raw: bytes) -> list[Anomaly]:
        try:
            decode, handler = self._handlers[int.from_bytes(raw[:4], sys.byteorder)]
            record = decode(raw)
            if record.socket_own:
                self.suppressed["own_process"] += 1
                if getattr(record, "error", 0) == errno.ECONNREFUSED:
                    self.canary.notice((record.socket_local_port, record.socket_peer_port))
            elif self._sockets.is_ignored(record):
                self.suppressed["ignored"] += 1
            else:
                return handler(record)
        except (KeyError, ValueError):
            self.suppressed["undecodable"] += 1
        return []

    def due(self, boot_ns: int | None) -> list[Anomaly]:
        """The windows that are over."""
        return self._retransmits.due(boot_ns) + self._resets.due(boot_ns)

    def _failure(self, record: Any) -> list[Anomaly]:
        if network_failures.is_unreachable_at_once(record):
            self.suppressed["unreachable_at_once"] += 1
            return []
        return [network_failures.anomaly(record, self._sockets.data(record), self._sockets.service_port(record))]

    def _reset(self, record: Any) -> list[Anomaly]:
        return self._resets.add(self._sockets.peer_key(record), record.boot_ns, 1, self._sockets.data(record), {})

    def _retransmit(self, record: Any) -> list[Anomaly]:
        connection = {
            "total_retrans": record.total_retrans,
            "segs_out": record.segs_out,
            "snd_cwnd": record.snd_cwnd,
            "srtt_ms": record.srtt_us / 1000,
        }
        key, data = self._sockets.peer_key(record), self._sockets.data(record)
        return self._retransmits.add(key, record.boot_ns, record.segments, data, connection)

    def _rtt(self, record: Any) -> list[Anomaly]:
        key = self._sockets.path_key(record)
        if key is None or not record.srtt_us:
            self.suppressed["no_path" if key is None else "no_rtt"] += 1
            return []
        # Each of the two alone misleads: the smoothed one by ACKs that were delayed before, the latest by a hiccup.
        current_ms = min(record.srtt_us, record.rtt_us or record.srtt_us) / 1000
        delayed = bool(record.ack_delayed)
        degradation = self._baselines.add(key, record.boot_ns, current_ms, ack_delayed=delayed)
        return (
            []
            if degradation is None
            else [degradation.anomaly(self._sockets.data(record), self._sockets.service_port(record))]
        )
