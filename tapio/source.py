"""An attached observer at work: where the kernel's side and the detector meet."""

from __future__ import annotations

from tapio.config import Config
from tapio.disks import disk_io
from tapio.kernel import memory
from tapio.kernel.attach import Attachment
from tapio.kernel.programs import Program, ProgramInfo
from tapio.kernel.ringbuf import RingBuffer
from tapio.observers import OBSERVERS
from tapio.telemetry import DiskIo, Hook, ObserverTelemetry


class Source:
    """An attached observer: its ring, its counters, its settings and its detector."""

    def __init__(self, attachment: Attachment, config: Config) -> None:
        self.attachment = attachment
        self.observer = OBSERVERS[attachment.observer](attachment.loaded)
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
        self.telemetry.suppressed = self.observer.suppressed
        if "disks" in attachment.loaded.variables:
            self.telemetry.read_disks = self.disks
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Put thresholds in force, here and in the kernel."""
        self._config = config
        self._settings.write("settings", self.observer.configure(config))

    def hooks(self) -> list[Hook]:
        """State and counters of every hook."""
        counters = self._counters.read()
        found = []
        for hook in self.attachment.hooks:
            counts = counters[hook.name]
            program = self._programs[hook.name].info() if hook.name in self._programs else ProgramInfo()
            found.append(
                Hook(
                    name=hook.name,
                    attached=f"link:{hook.name}" in self.attachment.descriptors,
                    reason=hook.reason,
                    hits=counts["hits"],
                    submitted=counts["submitted"],
                    lost=counts["lost"] + program.missed,
                    filtered=counts["filtered"],
                    unreadable=counts["unreadable"],
                    overwritten=counts["overwritten"],
                    limited=counts["limited"],
                    missed=self._counters.missed(hook.name),
                    run_ns=program.run_ns,
                )
            )
        return found

    def disks(self) -> list[DiskIo]:
        """What each disk did, without those that the settings ignore."""
        found = disk_io(self._counters.section.rows("disks"))
        return [disk for disk in found if not self._config.storage.ignores(disk.device)]

    def close(self) -> None:
        """Detach, and let go of everything."""
        self.ring.close()
        self._counters.close()
        self._settings.close()
        for program in self._programs.values():
            program.close()
        self.attachment.close()
