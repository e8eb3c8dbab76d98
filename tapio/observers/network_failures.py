"""Connections that the kernel ended: refused, or given up because nobody answered."""

from __future__ import annotations

import errno
from typing import Any

from tapio.anomalies import CONNECTION_REFUSED, CONNECTION_TIMEOUT, Anomaly

STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    11: "CLOSING",
}
_SYN_SENT = 2


def is_unreachable_at_once(record: Any) -> bool:
    """Whether an ICMP message ended it before anything was sent again: nothing timed out and nobody refused."""
    return record.error not in (errno.ECONNREFUSED, errno.ETIMEDOUT) and not record.retries


def anomaly(record: Any, data: dict[str, Any], service_port: int | None) -> Anomaly:
    """What became of the connection. `data` describes its socket and is completed."""
    connecting = record.old_state == _SYN_SENT
    kind = CONNECTION_REFUSED if record.error == errno.ECONNREFUSED else CONNECTION_TIMEOUT
    name = errno.errorcode[record.error]
    data["errno"] = name
    data["phase"] = "connect" if connecting else "established"
    data["old_state"] = STATES[record.old_state]
    data["new_state"] = "CLOSE"
    peer = endpoint(data["dst_ip"], data["dst_port"])
    if kind is CONNECTION_REFUSED:
        message = f"Connection refused by {peer} ({name})"
    else:
        message = f"{'Connecting' if connecting else 'Connection'} to {peer} timed out ({name})"
    return Anomaly(kind, record.boot_ns, message, data, kind.severity, (data["dst_ip"], service_port))


def endpoint(address: str, port: int | None) -> str:
    """'10.0.0.1:80', '[::1]:80', or the address alone."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
