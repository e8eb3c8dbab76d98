"""What each occurrence type means, as text for readers of `tapio mcp`. Facts: when it fires and when it does not."""

from __future__ import annotations

from tapio.anomalies import CATALOGUE

_NETWORK = "pid, comm, src_ip, src_port (the local end), dst_ip, dst_port, family, protocol, cgroup_id"
_PROCESS = "pid, tid, ppid, uid, comm, exit_code (128 + signal when signalled), signal (0: none), cgroup_id"
_STORAGE = "device, dev_major, dev_minor, operation, sector, bytes, latency_ms, pid, comm, cgroup_id"
_NODE = "cpu, cycles, instructions, stall_cycles, ipc, stall_pct, interval_ms"

_OOM = (
    "memory_usage_bytes (the victim's), memory_limit_bytes (0: unknown or none), oom_scope (whose limit), "
    "trigger_pid and trigger_comm (who asked for memory), victims (of a group kill, after the first)"
)

# By type: when it fires, when it does not, and the fields of `data`.
_DOCS: dict[str, tuple[str, str, str]] = {
    "connection_refused": (
        "a TCP connect was answered with a reset, or with ICMP port unreachable: nobody listens there",
        "a reset of a connection that was established; a connect that succeeded",
        f"{_NETWORK}, errno",
    ),
    "connection_timeout": (
        "a TCP connect had no answer (phase connect), or an established connection was given up (phase established)",
        "the application itself gave up a pending connect",
        f"{_NETWORK}, errno, phase",
    ),
    "retransmit_spike": (
        "many segments of one cgroup to one peer were sent again within a window",
        "a single lost segment; repeated SYNs, which belong to connection_timeout",
        f"{_NETWORK}, retransmits",
    ),
    "rtt_degradation": (
        "the round-trip time of a path is far above its learned baseline",
        "the path is still being learned; a slow application whose peer delays its ACKs",
        f"{_NETWORK}, baseline_ms, current_ms",
    ),
    "rst_storm": (
        "many resets from one peer were received by one cgroup within a window",
        "refused connects, which have a type of their own",
        f"{_NETWORK}, rst_count",
    ),
    "oom_kill": (
        "the kernel killed a process for want of memory; once for each process",
        "a process that was killed by hand, also one that ended with code 137",
        f"{_PROCESS}, {_OOM}",
    ),
    "abnormal_exit": (
        "a process ended with a code other than 0, or by a signal",
        "an exit with 0; the end of a thread; the victim of a reported oom_kill. Expected ends have the severity info",
        _PROCESS,
    ),
    "io_error": (
        "a block request completed with an error",
        "a discard or flush that the device does not support",
        f"{_STORAGE}, errno",
    ),
    "latency_spike": (
        "a block request took long between the driver and its completion",
        "time spent in a queue before that",
        f"{_STORAGE}, threshold_ms",
    ),
    "cpu_stall": (
        "a busy CPU spent much of its cycles stalled, for several samples on end",
        "an idle CPU; a single sample",
        _NODE,
    ),
    "memory_pressure": (
        "a busy CPU spent a good part of its cycles waiting for memory, for several samples on end",
        "an idle CPU; a single sample",
        _NODE,
    ),
    "ipc_degradation": (
        "a busy CPU completes fewer than one instruction per cycle and far fewer than it normally does",
        "a low rate that is normal for this CPU's work",
        _NODE,
    ),
    "events_lost": (
        "Tapio itself lost events of an observer: what the other types say of that time is not complete",
        "an event that a program filtered out",
        "observer, reason (ring_full, program_busy, unseen, not_read); count is the number of lost events",
    ),
}


def describe(name: str) -> str:
    """The documentation of the type with this full name."""
    kind = CATALOGUE[name]
    fires, silent, data = _DOCS[name.rsplit(".", 1)[-1]]
    return (
        f"{name}\n\nfires when: {fires}.\nnot when: {silent}.\n"
        f"severity: {kind.severity} mostly. outcome: {kind.outcome}. error.code: {kind.code}.\n"
        f"data: {data}. Also count (anomalies that the occurrence stands for), timestamp_ns (Unix), attribution (how "
        "cgroup_id was obtained), episode (of a burst: id, total, first_seen, last_seen, state). "
        "A value that is not known is absent.\n"
    )
