"""What the running kernel's tracepoints look like, as the read-only globals of the BPF objects want to know it.

Detected from the kernel's BTF, never from its version: distributions backport these changes (Debian's 5.10.262
and 6.1.192 carry the mark_victim of 6.9). One row for each `const volatile bool` in ebpf/*.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

PTR = 2  # BTF_KIND_PTR


class Prototypes(Protocol):
    """Where tracepoint prototypes come from: `tapio.kernel.btf.Btf` of the kernel, or a table in tests."""

    def tracepoint_arguments(self, name: str) -> list[int] | None:
        """The kinds of the arguments, None where there is no such tracepoint."""


_Test = Callable[[Sequence[int]], bool]

_FEATURES: dict[str, tuple[str, _Test]] = {
    # 6.16 appends `bool group_dead`.
    "process_exit_passes_group_dead": ("sched_process_exit", lambda kinds: len(kinds) >= 2),
    # `int pid` until 6.9, then `struct task_struct *task, uid_t uid`.
    "mark_victim_passes_task": ("mark_victim", lambda kinds: bool(kinds) and kinds[0] == PTR),
    # 6.17 appends `int err` and reports failed attempts too.
    "retransmit_passes_error": ("tcp_retransmit_skb", lambda kinds: len(kinds) >= 3),
    # `struct request_queue *q, struct request *rq` until 5.11, then `struct request *rq`.
    "issue_passes_queue": ("block_rq_issue", lambda kinds: len(kinds) >= 2),
}


def _memory_controller_disabled(proc_root: Path) -> bool:
    """cgroup_disable=memory. A kernel that does not list the controller leaves the question open: enabled."""
    try:
        lines = (proc_root / "cgroups").read_text().splitlines()
    except OSError:
        return False
    return any(words[0] == "memory" and words[-1] == "0" for words in map(str.split, lines) if words)


def detect(names: Sequence[str], kernel: Prototypes, proc_root: Path = Path("/proc")) -> dict[str, bool]:
    """The value of each known feature in `names`; names that are no feature are left out."""
    found: dict[str, bool] = {}
    for name in names:
        if name == "memory_controller_disabled":
            found[name] = _memory_controller_disabled(proc_root)
        if name in _FEATURES:
            tracepoint, test = _FEATURES[name]
            found[name] = test(kernel.tracepoint_arguments(tracepoint) or [])
    return found
