"""The one tree of errors that Tapio raises on purpose.

    TapioError                a line for the user; exit code 1
    ├── UsageError            a flag, an environment variable or the configuration is wrong; exit code 2
    ├── PrivilegeError        not root, a capability is missing, or privileges could not be dropped
    ├── KernelError           the kernel cannot do what was asked, or refused it
    │   ├── NoCounterError    this machine's PMU does not count it
    │   ├── ObjectError       a BPF object is missing, damaged, foreign or does not fit the decoders
    │   └── LoaderError       the loader child failed in a way that has no better name
    ├── StoreError            the data directory cannot be used
    ├── ClusterError          the Kubernetes API server refused, or gave no answer
    ├── OccurrenceError       a document is not a valid occurrence
    └── HeartbeatError        the heartbeat is damaged, or of another version

Each message is one line: what was tried, what failed, what to do.
"""

from __future__ import annotations

import os


class TapioError(Exception):
    """Base of all: its text is the one line that the user sees."""

    exit_code = 1
    reason = "failed"  # one of few words, for /metrics


class UsageError(TapioError):
    """The user asked for something that does not exist or contradicts itself."""

    exit_code = 2


class PrivilegeError(TapioError):
    """Rights are missing, or could not be given up."""


class KernelError(TapioError):
    """The kernel cannot do it, or refused."""

    reason = "refused"


class NoCounterError(KernelError):
    """There is no performance counter for it, as in most virtual machines."""

    reason = "no_counters"


class ObjectError(KernelError):
    """A BPF object cannot be used."""


class LoaderError(KernelError):
    """The loader child ended without an answer."""


class StoreError(TapioError):
    """The data directory cannot be used."""


class ClusterError(TapioError):
    """The Kubernetes API server refused, or gave no answer. `status` is that of HTTP, 0 for none."""

    def __init__(self, message: str, status: int = 0, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class OccurrenceError(TapioError):
    """Bytes that are not a valid occurrence."""


class HeartbeatError(TapioError):
    """Bytes that are not a heartbeat this version can read."""


def one_line(text: str) -> str:
    """The text with line ends, control characters and what is not UTF-8 escaped: safe on any terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_utf8(text: str) -> bool:
    """Whether a flag or an environment variable was UTF-8: Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def describe_os_error(error: OSError) -> str:
    """The kernel's words for `error` without Python's decoration: 'no space left on device'."""
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]
