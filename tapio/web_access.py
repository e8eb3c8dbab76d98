"""Who may read /metrics: TLS, client certificates, names with passwords.

The files are read before privileges are dropped, so that only root needs to be able to read them; for SIGHUP to take
over renewed ones, the agent's user must be able to, too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import socket
import ssl
from http import HTTPStatus
from pathlib import Path

from tapio import named_files
from tapio.config import MetricsConfig
from tapio.errors import UsageError, describe_os_error


class WebAccess:
    """The rules in force. UsageError names the file that cannot be used."""

    def __init__(self, config: MetricsConfig) -> None:
        self.load(config)

    def load(self, config: MetricsConfig) -> None:
        """Take over new rules and files, or with a UsageError nothing of them."""
        tls = _context(config) if config.tls_cert else None
        passwords = _read_passwords(Path(config.users_file)) if config.users_file else None
        self.tls, self._passwords, self._wants_certificate = tls, passwords, bool(config.client_ca)

    def refusal(self, head: bytes, client: socket.socket) -> HTTPStatus | None:
        """The status with which to refuse a request with this head, None to answer it."""
        if self._wants_certificate and not (isinstance(client, ssl.SSLSocket) and client.getpeercert()):
            return HTTPStatus.FORBIDDEN
        if self._passwords is not None and not self._knows(_credentials(head)):
            return HTTPStatus.UNAUTHORIZED
        return None

    def _knows(self, credentials: bytes) -> bool:
        # Every entry is compared, and each in constant time: how long it takes tells nothing.
        given = _digest(credentials)
        return any([hmac.compare_digest(entry, given) for entry in self._passwords or ()])  # noqa: C419


def _context(config: MetricsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _check_secret(Path(config.tls_key))
    try:
        loading = f"{config.tls_cert} and {config.tls_key}"
        named_files.check_regular(Path(config.tls_cert))
        context.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
        if config.client_ca:
            loading = config.client_ca
            named_files.check_regular(Path(config.client_ca))
            context.load_verify_locations(config.client_ca)
            # A kubelet's probe has no certificate: the handshake lets it in, `refusal` keeps it from /metrics.
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        if isinstance(error, ssl.SSLError):
            reason = (error.reason or "not valid PEM").replace("_", " ").lower()
        else:
            reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise UsageError(f"loading {loading} for /metrics: {reason}: check the PEM files of [metrics]") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _read_passwords(path: Path) -> list[bytes]:
    """The digests of the lines of the file, each `name:password`."""
    _check_secret(path)
    try:
        lines = named_files.read(path).splitlines()
    except OSError as error:
        raise UsageError(
            f"reading {path} for /metrics: {describe_os_error(error)}: check [metrics] users_file"
        ) from error
    entries = [line for line in lines if line.strip() and not line.startswith(b"#")]
    for number, entry in enumerate(entries, 1):
        name, _, password = entry.partition(b":")
        if not name or not password:
            raise UsageError(
                f"reading {path} for /metrics: entry {number} is not name:password: write one in each line"
            )
    if not entries:
        raise UsageError(f"reading {path} for /metrics: it names nobody: write name:password, one in each line")
    return [_digest(entry) for entry in entries]


def _digest(entry: bytes) -> bytes:
    """Of one length for all, so that comparing tells nothing about it; and what is kept is no password."""
    return hashlib.sha256(entry).digest()


def _check_secret(path: Path) -> None:
    """UsageError for a file that everybody can read."""
    try:
        mode = named_files.check_regular(path).st_mode
    except OSError as error:
        what = f"reading {path} for /metrics as uid {os.geteuid()}: {describe_os_error(error)}"
        raise UsageError(f"{what}: check [metrics] and the file's permissions") from error
    if mode & 0o007:
        raise UsageError(f"reading {path} for /metrics: everybody can read or write it: chmod 600 {path}")


def _credentials(head: bytes) -> bytes:
    """What the Authorization header says as name:password, nothing if it does not."""
    for line in head.split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        scheme, _, encoded = value.strip().partition(b" ")
        if name.strip().lower() == b"authorization" and scheme.lower() == b"basic":
            try:
                return base64.b64decode(encoded.strip(), validate=True)
            except binascii.Error:
                return b""
    return b""
