"""`tapio selftest`: make harmless faults, and see whether each arrives, how soon, or why not."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

import msgspec

from tapio.anomalies import ABNORMAL_EXIT, CATALOGUE, OOM_KILL
from tapio.cli import faults, probe
from tapio.cli.agent_state import Agent, read_agent
from tapio.cli.directory import DataDirectory, find_directory
from tapio.cli.faults import SkippedFaultError
from tapio.cli.follow import Follower
from tapio.cli.screen import Cell, Column, Screen
from tapio.cli.times import parse_duration
from tapio.errors import TapioError
from tapio.occurrence import Occurrence

_REFUSED = CATALOGUE["kernel.network.connection_refused"]
_STYLES = {"arrived": "good", "missing": "critical", "skipped": "dim"}
_COLUMNS = (
    Column("FAULT"),
    Column("RESULT"),
    Column("LATENCY", right=True),
    Column("WHAT ARRIVED, OR WHY NOT", wraps=True),
)


class Check(msgspec.Struct, frozen=True):
    """One fault: its name for the reader, the type it must lead to, and how to make it in a process of a given name."""

    title: str
    type: str
    make: Callable[[str], object]
    filtered_by: str

    @property
    def observer(self) -> str:
        """The observer that must see it."""
        return CATALOGUE[self.type].observer


CHECKS = (
    Check("refused connect", _REFUSED.name, faults.refuse_connect, "ignore_ports or ignore_cidrs"),
    Check("exit with a code", ABNORMAL_EXIT.name, faults.exit_with_code,
          "exit_scope = \"main\", ignore_exit_codes or ignore_comm"),
    Check("OOM kill", OOM_KILL.name, faults.exhaust_memory, "nothing in the configuration"),
)  # fmt: skip


class Result(msgspec.Struct, frozen=True):
    """What came of a check. `latency_ms` is from the kernel's event to the readable file."""

    fault: str
    type: str
    result: Literal["arrived", "missing", "skipped"]
    latency_ms: float | None = None
    reason: str = ""
    occurrence: Occurrence | None = None


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """0 when everything that could be tried arrived, else 1."""
    timeout_s = parse_duration(arguments.timeout, "--timeout")
    directory = DataDirectory(find_directory(arguments.data_dir))
    agent = read_agent(directory, time.time())
    if not agent.is_live:
        raise TapioError(f"testing the agent: {agent.explanation}")
    if not agent.writes_files:
        raise TapioError("testing the agent: it writes no files: start it with --sink=file")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # what was made is removed then, too
        signal.signal(number, _interrupt)
    results = [_try(check, directory, timeout_s) for check in CHECKS]
    if arguments.json:
        for result in results:
            screen.json(_document(result))
    else:
        _draw(screen, results)
    tried = [result for result in results if result.result != "skipped"]
    return 0 if tried and all(result.result == "arrived" for result in tried) else 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _try(check: Check, directory: DataDirectory, timeout_s: float) -> Result:
    before = read_agent(directory, time.time())
    view = before.observer(check.observer)
    if view.condition == "off":
        reason = f"the {check.observer} observer is off: {view.reason}"
        return Result(check.title, check.type, "skipped", reason=reason)
    name = probe.new_name()
    follower = Follower(directory)
    try:
        try:
            made = check.make(name)
        except SkippedFaultError as error:
            return Result(check.title, check.type, "skipped", reason=str(error))
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            for occurrence in follower.next(left):
                if occurrence.type == check.type and _is_of(occurrence, name, made):
                    return _arrived(check, occurrence)
    finally:
        follower.close()
    return Result(check.title, check.type, "missing", reason=_why(check, before, directory, timeout_s))


def _is_of(occurrence: Occurrence, name: str, made: object) -> bool:
    """Whether it is about the process `name`, or about the port that `made` is."""
    data = occurrence.data
    return data.get("comm") == name or (
        isinstance(made, int) and data.get("dst_ip") == "127.0.0.1" and data.get("dst_port") == made
    )


def _arrived(check: Check, occurrence: Occurrence) -> Result:
    event_ns = occurrence.data.get("timestamp_ns")
    latency_ms = round((time.time_ns() - event_ns) / 1e6, 1) if isinstance(event_ns, int) else None
    return Result(check.title, check.type, "arrived", latency_ms, occurrence=occurrence)


def _why(check: Check, before: Agent, directory: DataDirectory, timeout_s: float) -> str:
    """The likely reason why a fault was not reported, from what the agent counted meanwhile."""
    time.sleep(1.2)  # the next heartbeat
    after = read_agent(directory, time.time())
    waited = f"nothing within {timeout_s:g} s"
    view = after.observer(check.observer)
    if view.condition != "up":
        return f"{waited}: the {check.observer} observer is {view.condition}: {view.reason}"
    old = before.observer(check.observer).state
    if view.state is None or old is None or after.heartbeat is None:
        return waited
    lost = view.state.lost - old.lost
    if lost:
        return f"{waited}: the kernel's ring was full, {lost} events were lost: raise ring_kib"
    sink = after.heartbeat.sinks.get("file")
    if sink is None:
        return f"{waited}: the agent was restarted without --sink=file"
    if sink.queue or sink.last_error:
        return f"{waited}: the file sink is behind (queue {sink.queue}): {sink.last_error or 'a slow disk'}"
    found = view.state.anomalies.get(check.type, 0) - old.anomalies.get(check.type, 0)
    grown = [name for name, count in view.state.suppressed.items() if count > old.suppressed.get(name, 0)]
    ignored = [name for name in grown if name.startswith("ignored")]
    if ignored:
        return f"{waited}: the agent saw it and left it out: {', '.join(ignored)}"
    if not found and not grown:
        return f"{waited}: it never left the kernel: filtered by {check.filtered_by}, or the hook does not fire here"
    others = f"the agent reported {found} others of this type meanwhile"
    if grown:
        others += f" and left some out ({', '.join(grown)})"
    return f"{waited}: {others}: filtered by {check.filtered_by}, or folded under the rate limit"


def _document(result: Result) -> dict[str, Any]:
    """What --json prints; tapio/cli/README.md documents it."""
    return {
        "kind": "selftest",
        "fault": result.fault,
        "type": result.type,
        "result": result.result,
        "latency_ms": result.latency_ms,
        "reason": result.reason,
        "occurrence": result.occurrence,
    }


def _draw(screen: Screen, results: list[Result]) -> None:
    screen.table(
        _COLUMNS,
        [
            [
                result.fault,
                Cell(result.result, _STYLES[result.result]),
                "-" if result.latency_ms is None else f"{result.latency_ms:.0f} ms",
                result.occurrence.error.message if result.occurrence else result.reason,
            ]
            for result in results
        ],
    )
    arrived = sum(result.result == "arrived" for result in results)
    tried = sum(result.result != "skipped" for result in results)
    screen.line(f"{arrived} of {tried} faults were reported, {len(results) - tried} could not be tried")
