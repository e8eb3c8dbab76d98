"""Where the host's cgroup hierarchies are mounted, and which number the kernel gives them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Those whose ids records carry, besides cgroup v2: a process's memory cgroup, a request's block cgroup.
_CONTROLLERS = ("memory", "blkio")


class Hierarchy(NamedTuple):
    """A mounted hierarchy: `number` is 0 for cgroup v2; `root` is the path of what is mounted."""

    number: int
    folder: Path
    root: str


def find_hierarchies(host_proc: Path, host_cgroup: Path) -> list[Hierarchy]:
    """The hierarchies that matter, each once. Where a folder of the host is not there, the agent's own is taken."""
    proc = host_proc if (host_proc / "self/mountinfo").exists() else Path("/proc")
    below = host_cgroup if host_cgroup.is_dir() else Path("/sys/fs/cgroup")
    numbers = _numbers(proc)
    found: dict[int, Hierarchy] = {}
    for line in (proc / "self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        filesystem, _, options = kind.split(" ", 2)
        root, target = (word.encode().decode("unicode_escape") for word in place.split()[3:5])
        if not Path(target).is_relative_to(below):
            continue
        number = 0 if filesystem == "cgroup2" else None
        if filesystem == "cgroup":
            number = next((numbers[name] for name in options.split(",") if name in numbers), None)
        if number is not None:
            found.setdefault(number, Hierarchy(number, Path(target), root.rstrip("/")))
    return list(found.values())


def _numbers(proc: Path) -> dict[str, int]:
    """The v1 hierarchy of each controller that matters; a controller of cgroup v2 is left out."""
    rows = [line.split() for line in (proc / "cgroups").read_text().splitlines()]
    return {row[0]: int(row[1]) for row in rows if row[0] in _CONTROLLERS and int(row[1])}


def walk(hierarchy: Hierarchy) -> Iterator[tuple[int, str]]:
    """Id and path of every cgroup; those that vanish meanwhile are left out."""
    try:
        yield hierarchy.folder.stat().st_ino, hierarchy.root or "/"
    except OSError:
        return
    waiting = [(str(hierarchy.folder), hierarchy.root)]
    while waiting:
        folder, path = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                below = [(entry.inode(), entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        for inode, name in below:
            yield inode, f"{path}/{name}"
            waiting.append((f"{folder}/{name}", f"{path}/{name}"))
