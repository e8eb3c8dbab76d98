"""README's table of kernels, made from what the machines found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kernels import KERNELS

BEGIN, END = "<!-- kernels: made by `make matrix` -->", "<!-- kernels: end -->"
COLUMNS = {
    "exits": "kernel.container.abnormal_exit",
    "OOM kills": "kernel.container.oom_kill",
    "refused": "kernel.network.connection_refused",
    "timeouts": "kernel.network.connection_timeout",
    "RST storms": "kernel.network.rst_storm",
    "I/O errors": "kernel.storage.io_error",
    "slow I/O": "kernel.storage.latency_spike",
}
OBSERVERS = ("network", "container", "storage", "node")


def observer_state(check: list[str], observer: str) -> str:
    """`4/4`: hooks that are attached, of all; `off` where none is."""
    states = [line.split()[2] for line in check[1:] if line.split()[:1] == [observer]]
    attached = states.count("attached")
    return f"{attached}/{len(states)}" if attached else "off"


def row(result: dict[str, Any]) -> str:
    outcomes = list(result["tests"].values())
    cells = [re.split(r"[-~]", result["version"])[0], result["architecture"]]
    cells += [observer_state(result["check"], observer) for observer in OBSERVERS]
    cells += [f"{outcomes.count('passed')}/{len(outcomes)}"]
    cells += [str(result["counts"].get(kind, 0)) for kind in COLUMNS.values()]
    return "| " + " | ".join(cells) + " |"


def table(folder: Path) -> str:
    """A row for each kernel that was run."""
    heads = ["Linux", "", *OBSERVERS, "tests", *COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    results = [folder / f"{kernel.name}.json" for kernel in KERNELS]
    return "\n".join([*lines, *(row(json.loads(path.read_text())) for path in results if path.exists())])


def write(readme: Path, folder: Path) -> None:
    """Replace the table in README."""
    text = readme.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    readme.write_text(f"{text[:begin]}\n{table(folder)}\n{text[end:]}")
