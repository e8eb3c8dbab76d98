"""Scratch cgroups for faults: in the v2 hierarchy, and in the v1 memory hierarchy where that one owns memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path


def mount_point(kind: str, option: str = "") -> Path | None:
    """Where a cgroup hierarchy is mounted: kind 'cgroup2', or 'cgroup' with the controller as `option`."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, filesystem, options, *_ = line.split()
        if filesystem == kind and (not option or option in options.split(",")):
            return Path(target)
    return None


class ScratchCgroup:
    """A cgroup that lives in every hierarchy a test needs, under one name."""

    def __init__(self, directories: Sequence[Path], memory: Path | None) -> None:
        self._directories = directories
        self._memory = memory
        self.id = directories[0].stat().st_ino
        self.memory_v1_id = memory.stat().st_ino if memory is not None and memory not in directories[:1] else None

    def limit_memory(self, limit_bytes: int) -> None:
        """Set the memory limit, by cgroup v1 or v2."""
        assert self._memory is not None, "no memory controller on this machine"
        if self.memory_v1_id is not None:
            (self._memory / "memory.limit_in_bytes").write_text(str(limit_bytes))
        else:
            (self._memory / "memory.max").write_text(str(limit_bytes))

    def enter(self) -> None:
        """Move the calling process in. For preexec_fn."""
        for directory in self._directories:
            (directory / "cgroup.procs").write_text(str(os.getpid()))

    def start(self, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a command inside."""
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        return subprocess.Popen(command, preexec_fn=self.enter, **options)  # type: ignore[call-overload,no-any-return]

    def run(self, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Run a command inside and wait for it; returns it with pid and returncode."""
        process = self.start(command, **options)
        process.wait()
        return process


@contextlib.contextmanager
def scratch_cgroup(parent: ScratchCgroup | None = None) -> Iterator[ScratchCgroup]:
    """A cgroup of the test's own, removed with everything in it."""
    name = f"tapio-test-{uuid.uuid4().hex[:8]}"
    if parent is not None:
        roots, memory = list(parent._directories), parent._memory
        if parent.memory_v1_id is None and memory is not None:
            (memory / "cgroup.subtree_control").write_text("+memory")
    else:
        unified = mount_point("cgroup2")
        assert unified is not None, "no cgroup v2 mount on this machine"
        memory = mount_point("cgroup", "memory")
        roots = [unified, *([memory] if memory else [])]
        memory = memory or unified
    directories = [root / name for root in roots]
    made: list[Path] = []
    try:
        for directory in directories:
            directory.mkdir()
            made.append(directory)
        yield ScratchCgroup(directories, None if memory is None else memory / name)
    finally:
        for directory in reversed(made):
            _remove(directory)


def _remove(directory: Path) -> None:
    deadline = time.monotonic() + 5
    while True:
        for pid in (directory / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        try:
            directory.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
