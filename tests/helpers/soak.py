"""A soak: an agent under mixed faults, reloads and a collector that comes and goes, measured all the time.

`python -m helpers.soak SECONDS` (in tests/; root) prints the figures and fails where they are not good.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import fault_mix, victims
from helpers.cgroups import ScratchCgroup, scratch_cgroup
from helpers.loops import MIB, Loop, loop, tmpfs
from helpers.receiver import Receiver, receiver
from helpers.running_agent import RunningAgent, running_agent, wait_for

_STEP_S = 1.0
_RELOAD_EVERY, _SCRAPE_EVERY, _KILL_EVERY, _SAMPLE_EVERY = 17, 5, 23, 3  # steps
# What the collector does, and for how many seconds.
_WEATHER = (("ok", 20), ("down", 9), ("ok", 7), ("503", 6), ("ok", 5), ("hang", 4), ("reset", 4), ("429:1", 5))
_CONFIG = "[network]\nrst_storm_count = {0}\n[episodes]\nindividual = {0}\n[otlp]\nagent_metrics = true\n"


@dataclasses.dataclass
class Sample:
    """The agent at one moment."""

    at_s: float
    resident_mib: float
    descriptors: int
    threads: int


@dataclasses.dataclass
class Figures:
    """What a soak found. `made`, `shown`, `delivered`: anomalies by type, as made, on stdout and at the collector.

    `lost` and `told` are of the whole node, by observer: events that the kernel's counters call lost, and those that
    `tapio.agent.events_lost` told of. `nameless`: anomalies of no known disk or cgroup, as those are that were folded
    together when faults of others had used up the rate. `undelivered`: occurrences of anybody on stdout that the
    collector does not have.
    """

    samples: list[Sample] = dataclasses.field(default_factory=list)
    made: Counter[str] = dataclasses.field(default_factory=Counter)
    shown: Counter[str] = dataclasses.field(default_factory=Counter)
    delivered: Counter[str] = dataclasses.field(default_factory=Counter)
    lost: Counter[str] = dataclasses.field(default_factory=Counter)
    told: Counter[str] = dataclasses.field(default_factory=Counter)
    nameless: Counter[str] = dataclasses.field(default_factory=Counter)
    undelivered: int = 0
    reloads: int = 0
    outages: int = 0
    failed_scrapes: int = 0
    cpu_s: float = 0

    def slope(self, after_s: float) -> float:
        """How fast the resident memory grows, in MiB per 10 minutes: the least-squares line after `after_s`."""
        points = [(one.at_s, one.resident_mib) for one in self.samples if one.at_s >= after_s]
        mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        return 600 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread

    def check(self) -> None:
        """AssertionError unless every count is exact and nothing piles up."""
        assert self.told == self.lost
        for kind, made in self.made.items():
            # Others may overrun a ring or the rate with faults of theirs. On a quiet machine the limit is 0.
            missing, limit = made - self.shown[kind], self.lost[kind.split(".")[1]] + self.nameless[kind]
            assert 0 <= missing <= limit, f"{kind}: {missing} of {made} are missing"
        assert self.shown.keys() == self.made.keys()
        assert (self.delivered, self.undelivered) == (self.shown, 0)
        assert self.failed_scrapes == 0
        early, late = (self._quiet(half) for half in self._halves())
        assert late == early, f"descriptors and threads at rest: {early}, later {late}"

    def _halves(self) -> tuple[list[Sample], list[Sample]]:
        settled = self.samples[len(self.samples) // 6 :]
        return settled[: len(settled) // 2], settled[len(settled) // 2 :]

    @staticmethod
    def _quiet(samples: list[Sample]) -> tuple[int, int]:
        """Descriptors and threads while no file was being written and no connection open."""
        return min(one.descriptors for one in samples), min(one.threads for one in samples)

    def report(self) -> str:
        """All figures, for people."""
        first, last = self.samples[len(self.samples) // 6], self.samples[-1]
        return "\n".join(
            [
                f"{last.at_s:.0f} s, {self.reloads} reloads, {self.outages} outages of the collector, one restart",
                *(
                    f"{kind}: made {number}, on stdout {self.shown[kind]}, delivered {self.delivered[kind]}"
                    for kind, number in sorted(self.made.items())
                ),
                f"lost {dict(self.lost)}, told of as lost {dict(self.told)}",
                f"nameless {dict(self.nameless)}, undelivered {self.undelivered}, failed scrapes {self.failed_scrapes}",
                f"CPU {100 * self.cpu_s / last.at_s:.1f} %",
                f"resident memory {first.resident_mib:.1f} MiB at {first.at_s:.0f} s, {last.resident_mib:.1f} later",
                f"most resident memory {max(one.resident_mib for one in self.samples):.1f} MiB",
                "descriptors and threads at rest: {}, later {}".format(*map(self._quiet, self._halves())),
                f"most descriptors {max(one.descriptors for one in self.samples)}",
                f"most threads {max(one.threads for one in self.samples)}",
            ]
        )


class _Collector:
    """A receiver under changing weather."""

    def __init__(self, target: Receiver) -> None:
        self.target = target
        self.outages = 0
        target.patience_s = 3
        self._changes = itertools.cycle(_WEATHER)
        self._until = 0.0

    def turn(self, now: float) -> None:
        """Change the weather when it is time."""
        if now < self._until:
            return
        what, duration_s = next(self._changes)
        if what == "down":
            self.target.stop()
        elif self.target._server is None:
            self.target.start()
        self.target.otherwise = "ok" if what == "down" else what
        self.outages += what != "ok"
        self._until = now + duration_s

    def clear(self) -> None:
        """Fine weather from now on."""
        if self.target._server is None:
            self.target.start()
        self.target.otherwise = "ok"


def soak(duration_s: float) -> Figures:
    """Run for so many seconds and then restart the agent once; the figures, unchecked."""
    figures = Figures()
    with (
        tempfile.TemporaryDirectory(prefix="tapio-soak-") as path,
        scratch_cgroup() as cgroup,
        scratch_cgroup(cgroup) as small,
        receiver() as target,
        tmpfs(Path(path) / "disk", "1m") as folder,
        loop(folder / "image", 64 * MIB) as disk,
    ):
        Path(path).chmod(0o755)
        _fill(folder)
        small.limit_memory(24 * MIB)
        config = Path(path) / "tapio.toml"
        config.write_text(_CONFIG.format(5))
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": target.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}
        data = Path(path) / "data"
        flags = ("--sink=otlp", f"--config={config}")
        ids = {cgroup.id, small.id}
        with running_agent(data, *flags, environment=environment) as agent:
            collector = _Collector(target)
            with _faults(cgroup, disk, figures.made):
                _weather(agent, collector, small, config, figures, duration_s)
            agent.settle(1)
            target.stop()  # what is folded is flushed into the spool, for the next agent
            figures.cpu_s = _cpu_s(agent.pid)
            agent.stop()
            occurrences = agent.occurrences()
        figures.shown = _count(occurrences, ids, disk)
        figures.lost, figures.told, figures.nameless = _lost(data), _told(occurrences), _nameless(occurrences)
        shown = {one["id"] for one in occurrences}
        collector.clear()
        with running_agent(data, *flags, environment=environment), contextlib.suppress(AssertionError):
            wait_for(lambda: shown <= target.ids().keys(), 30)
        figures.undelivered = len(shown - target.ids().keys())
        figures.delivered = _delivered(target, ids, disk)
        figures.outages = collector.outages
    return figures


def _lost(data: Path) -> Counter[str]:
    """The events that the kernel's side counted as lost, as of the last heartbeat: after everything was detached."""
    beat = json.loads((data / ".agent.json").read_text())
    assert beat["state"] == "stopped"
    return +Counter({name: observer["lost"] for name, observer in beat["observers"].items()})


def _told(occurrences: list[dict[str, Any]]) -> Counter[str]:
    """The events that occurrences call lost."""
    found: Counter[str] = Counter()
    for one in occurrences:
        if one["type"] == "tapio.agent.events_lost":
            found[one["data"]["observer"]] += one["data"]["count"]
    return found


def _nameless(occurrences: list[dict[str, Any]]) -> Counter[str]:
    """The anomalies that can be anybody's."""
    found: Counter[str] = Counter()
    for one in occurrences:
        if ("device" if one["type"].endswith("io_error") else "cgroup_id") not in one["data"]:
            found[one["type"]] += one["data"]["count"]
    return found


def _fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)) == 4096:
            pass


@contextlib.contextmanager
def _faults(cgroup: ScratchCgroup, disk: Loop, made: Counter[str]) -> Iterator[None]:
    """The mix of faults at work; what it made is added to `made`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] | 1
    process = cgroup.start(fault_mix.command(port, disk.path), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield
        output, _ = process.communicate(b"\n", timeout=30)
        made.update(json.loads(output))
    finally:
        process.kill()
        process.wait()


def _weather(
    agent: RunningAgent, collector: _Collector, small: ScratchCgroup, config: Path, figures: Figures, duration_s: float
) -> None:
    """Reload, scrape, kill, sample, each at its own pace."""
    started = time.monotonic()
    for step in itertools.count(1):
        now = time.monotonic() - started
        if now >= duration_s:
            break
        collector.turn(now)
        if step % _RELOAD_EVERY == 0:
            figures.reloads += 1
            config.write_text(_CONFIG.format(5 + figures.reloads % 2))
            agent.process.send_signal(signal.SIGHUP)
        if step % _SCRAPE_EVERY == 0:
            figures.failed_scrapes += agent.get("/metrics")[0] != 200
        if step % _KILL_EVERY == 0 and small.run(victims.command("eat_memory", 2)).returncode == -signal.SIGKILL:
            figures.made["kernel.container.oom_kill"] += 1
        if step % _SAMPLE_EVERY == 0:
            figures.samples.append(_sample(agent.pid, now))
        assert agent.process.poll() is None, agent.log.read_text()
        time.sleep(_STEP_S)


def _sample(pid: int, at_s: float) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Sample(at_s, int(status["VmRSS"].split()[0]) / 1024, descriptors, int(status["Threads"]))


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / 100


def _count(occurrences: list[dict[str, Any]], cgroups: set[int], disk: Loop) -> Counter[str]:
    """The anomalies that these occurrences stand for, of our cgroups and our disk, by type."""
    counts: Counter[str] = Counter()
    for one in occurrences:
        data, kind = one["data"], str(one["type"])
        ours = data.get("device") == disk.name if kind.endswith("io_error") else data.get("cgroup_id") in cgroups
        if ours and not kind.endswith("latency_spike"):
            counts[kind] += data["count"]
    return +counts


def _delivered(target: Receiver, cgroups: set[int], disk: Loop) -> Counter[str]:
    """The same, of what the collector accepted; what came twice counts once."""
    return _count(list({one["id"]: one for one in list(target.stored)}.values()), cgroups, disk)


if __name__ == "__main__":
    seconds = float(sys.argv[1])
    result = soak(seconds)
    print(result.report())
    print(f"growth after the first {seconds / 6:.0f} s: {result.slope(seconds / 6):+.2f} MiB per 10 minutes")
    result.check()
    assert result.slope(seconds / 6) < 1
