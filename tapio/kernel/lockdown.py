"""Whether the kernel's lockdown is what keeps BPF programs out.

Lockdown has two steps (kernel_lockdown(7)). `integrity`, which distributions switch on with Secure Boot, leaves alone
what Tapio does. `confidentiality` takes bpf_probe_read_kernel away, and with it every program that looks at a kernel
structure.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, cast

State = Literal["", "none", "integrity", "confidentiality"]

_FILE = Path("/sys/kernel/security/lockdown")
# The verifier on a helper that lockdown took away; libbpf tries the older bpf_probe_read where the newer is missing.
_NO_HELPER = re.compile(r"(unknown func|cannot use helper) bpf_probe_read")


def state(path: Path | None = None) -> State:
    """The state in force; '' where the kernel has no lockdown or does not show it here (securityfs is not mounted)."""
    try:
        text = (path or _FILE).read_text()
    except OSError:
        return ""
    chosen = re.search(r"\[(none|integrity|confidentiality)\]", text)
    return cast("State", chosen[1]) if chosen else ""


def explain(verdict: str, path: Path | None = None) -> str:
    """What to do where lockdown forbids BPF; '' where it does not. `verdict` is what libbpf or the verifier said."""
    now = state(path)
    if now == "confidentiality":
        return (
            "the kernel is locked down (confidentiality), which forbids BPF programs to read kernel memory: "
            "boot with lockdown=integrity or without lockdown"
        )
    if now == "" and _NO_HELPER.search(verdict):
        return (
            "the kernel forbids BPF programs to read its memory, as it does when locked down (confidentiality): "
            "see /sys/kernel/security/lockdown on the node and boot with lockdown=integrity or without lockdown"
        )
    return ""
