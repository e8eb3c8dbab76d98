"""TLS of the network sinks: which files, and the one context made of them.

The context is ours, so that nothing else (REQUESTS_CA_BUNDLE, a default of a library) has a say in whom we trust.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import certifi
import msgspec

from tapio import named_files
from tapio.errors import UsageError, describe_os_error


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files. ca: the only roots to trust, '' for the system's. certificate, key: who we are, or ''."""

    ca: str = ""
    certificate: str = ""
    key: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that are named."""
        return tuple(path for path in (self.ca, self.certificate, self.key) if path)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Changes whenever one of the files was replaced or written."""
        found = []
        for path in self.paths:
            try:
                status = os.stat(path)  # noqa: PTH116  # kept as text
            except OSError:
                found.append((0, 0))
            else:
                found.append((status.st_ino, status.st_mtime_ns))
        return tuple(found)


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """A client's context; UsageError names the file that is missing, unreadable for this user or not PEM."""
    for path in files.paths:
        try:
            named_files.check_regular(Path(path))
            with open(path, "rb"):  # noqa: PTH123  # kept as text
                pass
        except OSError as error:
            what = f"reading {path} as uid {os.geteuid()}: {describe_os_error(error)}"
            raise UsageError(f"{what}: make it readable for the agent's user") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    loading = files.ca or "the system's certificates"
    try:
        if files.ca:
            context.load_verify_locations(files.ca)
        else:
            _trust_the_system(context)
        if files.certificate:
            loading = f"{files.certificate} and its key"
            context.load_cert_chain(files.certificate, files.key or None, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = (error.reason or "not valid PEM") if isinstance(error, ssl.SSLError) else str(error)
        raise UsageError(f"loading {loading}: {reason.replace('_', ' ').lower()}: check the PEM files") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _trust_the_system(context: ssl.SSLContext) -> None:
    """The roots of the system (SSL_CERT_FILE and SSL_CERT_DIR change them), or certifi's where it has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        context.set_default_verify_paths()
    else:
        context.load_verify_locations(certifi.where())
