"""An attached observer at work: where the kernel's side and the detector meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tapio.canary import CanaryWatch, make_bird
from tapio.config import Config
from tapio.cpus import CpuCounters
from tapio.disks import DiskRows
from tapio.heartbeat_document import ENRICHMENT
from tapio.kernel import memory
from tapio.kernel.attach import Attachment, Outcome, attach
from tapio.kernel.channel import Loaded, Sampling
from tapio.kernel.programs import Program, ProgramInfo
from tapio.kernel.ringbuf import RingBuffer
from tapio.losses import Losses
from tapio.observers import OBSERVERS
from tapio.observers.base import Observer
from tapio.telemetry import DiskIo, Hook, ObserverTelemetry

# Shorter than the interval by so much, so that the samples drift through everything that has a round period:
# CPU limits of containers are enforced every 100 ms, and always the same moment of it would be no sample.
_DEPHASED = 0.97

_MANY = 1 << 14  # records


def attach_observers(config: Config, *, cgroups: bool = False) -> Outcome:
    """Load and attach what is to be observed, with `cgroups` also what enrichment needs.

    LoaderError when nothing could be loaded at all.
    """
    node = config.node
    sampling = {"node": Sampling(node.events, round(node.interval_ms * 1e6 * _DEPHASED))}
    objects = {ENRICHMENT: config.find_ebpf_dir() / "cgroup_monitor.o"} if cgroups else {}
    return attach(
        objects | config.find_objects(), config.kernel.ring_kib * 1024, tables=config.tables(), sampling=sampling
    )


class Source:
    """An attached observer: its ring, its counters, its settings and its detector."""

    def __init__(
        self, attachment: Attachment, config: Config, make: Callable[[Loaded], Observer] | None = None
    ) -> None:
        """`make` gives an observer that is not in `OBSERVERS`."""
        self.attachment = attachment
        self.observer = (make or OBSERVERS[attachment.observer])(attachment.loaded)
        self.ring_descriptor = attachment.descriptors["events"]
        self.ring = RingBuffer(self.ring_descriptor, attachment.loaded.sizes["events"], memory.fence())
        self._programs = {
            name.removeprefix("program:"): Program(descriptor)
            for name, descriptor in attachment.descriptors.items()
            if name.startswith("program:")
        }
        self._counters = memory.HookCounters(attachment)
        self._counters.check()
        self._settings = memory.Section(attachment, ".data", writable=True)
        self.telemetry = ObserverTelemetry(attachment.observer, read_hooks=self.hooks)
        self.telemetry.suppressed, self.telemetry.evicted = self.observer.suppressed, self.observer.evicted
        self.observer.suppressed["damaged_ring"] = 0
        if "disks" in attachment.loaded.variables:
            section = self._counters.section
            self._disks = DiskRows(
                read_rows=lambda: section.rows("disks"),
                write_row=lambda values, row: section.write("disks", values, row),
                evicted=self.observer.evicted,
            )
            self.telemetry.read_disks = self.disks
        self.telemetry.read_reason = lambda: self.observer.reason
        self.telemetry.read_cpus = self.observer.cpu_report
        self.losses = Losses(attachment.observer, self._lost)
        self._canary: CanaryWatch | None = None
        bird = make_bird(attachment.observer, config.node.interval_ms / 1000)
        if bird is not None:
            lost = lambda: sum(self._lost().values())  # noqa: E731
            self._canary = CanaryWatch(bird, self.observer.canary, self.telemetry, lost, config.agent.canary_interval_s)
            self.telemetry.has_canary = True
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Put thresholds in force, here and in the kernel."""
        self._config = config
        if self._canary is not None:
            self._canary.interval_s = config.agent.canary_interval_s
        self._settings.write("settings", self.observer.configure(config))

    def hooks(self) -> list[Hook]:
        """State and counters of every hook."""
        self.observer.suppressed["damaged_ring"] = self.ring.damaged
        counters = self._counters.read()
        found = []
        for hook in self.attachment.hooks:
            counts = counters[hook.name]
            program = self._programs[hook.name].info() if hook.name in self._programs else ProgramInfo()
            missed = self._counters.missed(hook.name)
            found.append(
                Hook(
                    name=hook.name,
                    attached=self.attachment.is_attached(hook.name),
                    reason=hook.reason,
                    hits=counts["hits"],
                    submitted=counts["submitted"],
                    lost=counts["lost"] + program.missed + _unseen(missed, program),
                    filtered=counts["filtered"],
                    unreadable=counts["unreadable"],
                    overwritten=counts["overwritten"],
                    limited=counts["limited"],
                    missed=missed,
                    run_ns=program.run_ns,
                )
            )
        return found

    def watch_canary(self, *, caught_up: bool) -> None:
        """Once for each turn of the loop, after the ring was read; `caught_up`: to its end."""
        if self._canary is not None:
            self._canary.turn(caught_up=caught_up)

    def _lost(self) -> dict[str, int]:
        """Events that nobody will see, so far, by reason."""
        counters = self._counters.read()
        programs = {name: program.info() for name, program in self._programs.items()}
        return {
            "ring_full": sum(counts["lost"] for counts in counters.values()),
            "program_busy": sum(program.missed for program in programs.values()),
            "unseen": sum(_unseen(self._counters.missed(name), program) for name, program in programs.items()),
            "not_read": self.telemetry.unread,
        }

    def give_up_ring(self) -> None:
        """What is in the ring is lost, and counted: the agent has no time left to look at it."""
        while records := self.ring.read(_MANY):
            self.telemetry.unread += len(records)

    def disks(self) -> list[DiskIo]:
        """What each disk did, without those that the settings ignore."""
        return [disk for disk in self._disks.read() if not self._config.storage.ignores(disk.device)]

    @property
    def counts_cpus(self) -> bool:
        """Whether this observer counts what CPUs do."""
        return self.observer.cpu_report() is not None

    def cpu_counters(self) -> list[CpuCounters]:
        """What they have counted; nothing for an observer that does not count. Any thread may ask."""
        report = self.observer.cpu_report()
        return report.counters if report is not None else []

    def close(self) -> None:
        """Detach, and let go of everything."""
        self.ring.close()
        self._counters.close()
        self._settings.close()
        for program in self._programs.values():
            program.close()
        self.attachment.close()


def _unseen(missed: Mapping[str, int], program: ProgramInfo) -> int:
    """Runs that later events reveal as left out, beyond those that the kernel itself has told of as missed."""
    return max(missed.get("unseen", 0) - program.missed, 0)
