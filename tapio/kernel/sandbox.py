"""The limits of the agent once it has no rights left: what it may call, and where it may write."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

from tapio.kernel import landlock, seccomp


def load_libraries(nsswitch: Path = Path("/etc/nsswitch.conf")) -> None:
    """Load what libc would load on demand: later nothing can be mapped as code.

    libgcc_s is what ending a thread takes; the others resolve host names as the node's administrator wants it.
    """
    names = ["libgcc_s.so.1"]
    with contextlib.suppress(OSError):
        for line in nsswitch.read_text(errors="replace").splitlines():
            if line.startswith("hosts:"):
                names += [f"libnss_{word}.so.2" for word in line.split()[1:] if word.isalnum()]
    for name in names:
        with contextlib.suppress(OSError):  # libc does without what is not installed, too
            ctypes.CDLL(name)


def confine(directory: int, *, with_seccomp: bool = True) -> dict[str, str]:
    """Put both in force for good: for each, why it is not, '' if it is. `directory` is where files may be written.

    Call it after the drop of privileges and before the first thread.
    """
    load_libraries()
    reasons = {"landlock": landlock.restrict_writes(directory)}
    reasons["seccomp"] = seccomp.install() if with_seccomp else "switched off by [agent] seccomp"
    return reasons
