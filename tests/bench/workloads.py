"""How fast a workload is beside Tapio and beside others, against the same alone in the same round."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.running_agent import running_agent
from loads import Loads

_SECONDS_TO_ATTACH = 2
# The tools find their tracepoints by tracefs, which is not mounted everywhere.
_WITH_TRACEFS = ["unshare", "-m", "sh", "-c", 'mount -t tracefs bench /sys/kernel/tracing && exec "$@"', "sh"]
_CONNECTS, _SPAWNS, _ONE_READ, _MANY_READS = "refused connects", "failing processes", "reads, 1 at a time", "reads, 32"
_ONE_LINERS = {
    "bpftrace, connects": 'tracepoint:sock:inet_sock_set_state { printf("%d %s %d %d\\n", pid, comm, args->oldstate, '
    "args->newstate); }",
    "bpftrace, exits": 'tracepoint:sched:sched_process_exit { printf("%d %s\\n", pid, comm); }',
    "bpftrace, block": "tracepoint:block:block_rq_issue { @at[args->dev, args->sector] = nsecs; } "
    "tracepoint:block:block_rq_complete /@at[args->dev, args->sector]/ "
    '{ printf("%d %d\\n", args->sector, nsecs - @at[args->dev, args->sector]); '
    "delete(@at[args->dev, args->sector]); }",
}
_TOOLS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "tcpstates": (["tcpstates"], (_CONNECTS,)),
    "exitsnoop": (["exitsnoop"], (_SPAWNS,)),
    "biosnoop": (["biosnoop"], (_ONE_READ, _MANY_READS)),
    "bpftrace, connects": (["bpftrace", "-e", _ONE_LINERS["bpftrace, connects"]], (_CONNECTS,)),
    "bpftrace, exits": (["bpftrace", "-e", _ONE_LINERS["bpftrace, exits"]], (_SPAWNS,)),
    "bpftrace, block": (["bpftrace", "-e", _ONE_LINERS["bpftrace, block"]], (_ONE_READ, _MANY_READS)),
}


@contextlib.contextmanager
def tool(name: str, folder: Path) -> Iterator[bool]:
    """The tool at work, its output in a file; False where it does not run on this kernel."""
    command = _TOOLS[name][0]
    if shutil.which(command[0]) is None:
        yield False
        return
    with (folder / "tool.out").open("wb") as output:
        process = subprocess.Popen([*_WITH_TRACEFS, *command], stdout=output, stderr=subprocess.STDOUT)
    try:
        time.sleep(_SECONDS_TO_ATTACH)
        yield process.poll() is None
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def compare(loads: Loads, rounds: int, folder: Path) -> list[str]:
    """A Markdown table: the speed of each workload beside each, as the median of the rounds' ratios."""
    makers: dict[str, Callable[[], float]] = {
        _CONNECTS: loads.connects,
        _SPAWNS: loads.spawns,
        _ONE_READ: lambda: loads.reads(1),
        _MANY_READS: lambda: loads.reads(32),
    }
    speeds: dict[tuple[str, str], list[float]] = {}

    def measure(beside: str, names: tuple[str, ...]) -> None:
        for name in names:
            speeds.setdefault((beside, name), []).append(makers[name]())

    for name in makers:  # warm
        makers[name]()
    absent = set()
    for number in range(rounds):
        order = ["", "tapio", *_TOOLS]
        for beside in order if number % 2 else reversed(order):
            if not beside:
                measure("", tuple(makers))
            elif beside == "tapio":
                with running_agent(folder / f"beside{number}"):
                    measure(beside, tuple(makers))
            elif beside not in absent:
                with tool(beside, folder) as runs:
                    if runs:
                        measure(beside, _TOOLS[beside][1])
                    else:
                        absent.add(beside)
    lines = ["| workload, speed alone = 1 | alone, a second | Tapio | libbpf-tools | bpftrace one-liner |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name in makers:
        alone = speeds["", name]
        cells = [name, f"{statistics.median(alone):,.0f}", _ratio(speeds["tapio", name], alone)]
        for is_tool in (lambda other: "bpftrace" not in other, lambda other: "bpftrace" in other):
            (other,) = (other for other, (_, names) in _TOOLS.items() if name in names and is_tool(other))
            found = speeds.get((other, name))
            short = "" if "bpftrace" in other else f" ({other})"
            cells.append(_ratio(found, alone) + short if found else f"{other} does not load here")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ratio(beside: list[float], alone: list[float]) -> str:
    ratios = sorted(value / other for value, other in zip(beside, alone, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
