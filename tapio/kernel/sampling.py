"""The loader's part of counting: a set of perf events for each CPU, and the program's timer on each CPU.

The counters go into the program's perf-event arrays, which hold them from then on. All of a CPU form a group, so
that the kernel counts them at the same time even when it has to share the counters with others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tapio import perf_events
from tapio.errors import KernelError
from tapio.kernel import perf, perf_presets
from tapio.kernel.channel import Sampling
from tapio.kernel.libbpf import Libbpf

STALLS = "stalls"  # the one array that may stay empty
_WORDS = {"cycles": "CPU cycles", "instructions": "instructions", STALLS: "stalled cycles"}
_AUTO = {"cycles": "hardware:cpu-cycles", "instructions": "hardware:instructions"}
_TIMER = perf_events.parse("software:cpu-clock")  # its period is in nanoseconds


Open = Callable[..., int]


class Counters:
    """The perf events of one object."""

    def __init__(
        self,
        libbpf: Libbpf,
        sampling: Sampling,
        *,
        open_event: Open = perf.open_event,
        sys_root: Path = Path("/sys"),
        cpuinfo: Path = Path("/proc/cpuinfo"),
    ) -> None:
        self._libbpf = libbpf
        self._sampling = sampling
        self._open = open_event
        self._sys_root = sys_root
        self._cpuinfo = cpuinfo
        self.chosen: dict[str, str] = {}  # by array
        self.uncounted: dict[str, str] = {}  # why not, by array
        self.cpus: list[int] = []  # that are counted

    def choose(self) -> dict[int, dict[str, int]]:
        """Open the counters of every CPU that is online: descriptors by CPU and array.

        KernelError when cycles or instructions cannot be counted on any CPU. Without stalled cycles the rest works.
        """
        opened: dict[int, dict[str, int]] = {cpu: {} for cpu in perf.online_cpus(self._sys_root)}
        for array, words in self._sampling.events.items():
            failure: KernelError | None = None
            for candidate in self._candidates(array, words):
                try:
                    self._open_everywhere(array, candidate, opened)
                except OSError as error:
                    failure = failure or perf.explain(_WORDS.get(array, array), candidate, error)
                else:
                    self.chosen[array] = candidate
                    break
            if array in self.chosen or failure is None:
                continue
            if array != STALLS:
                self._close(opened.values())
                raise failure
            if words != perf_events.AUTO:
                self.uncounted[array] = str(failure)
        self._drop_incomplete(opened)
        return opened

    def _candidates(self, array: str, words: str) -> tuple[str, ...]:
        if words != perf_events.AUTO:
            return (words,)
        if array != STALLS:
            return (_AUTO[array],)
        # Stalled cycles are a share of cycles: beside an event that counts something else they mean nothing.
        if self.chosen.get("cycles") != _AUTO["cycles"]:
            return ()
        return perf_presets.stall_events(perf_presets.read_model(self._cpuinfo.read_text()))

    def _open_everywhere(self, array: str, words: str, opened: Mapping[int, dict[str, int]]) -> None:
        """Open on every CPU that can; OSError when none can."""
        failure: OSError | None = None
        for cpu, descriptors in opened.items():
            try:
                descriptors[array] = self._open_one(perf_events.parse(words), cpu, next(iter(descriptors.values()), -1))
            except OSError as error:
                if error.errno == errno.EMFILE:
                    raise
                failure = failure or error
        if not any(array in descriptors for descriptors in opened.values()):
            raise failure or OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def _open_one(self, event: perf_events.Event, cpu: int, group: int) -> int:
        """In the group of the CPU's other counters; alone if they do not all fit."""
        failure: OSError | None = None
        for variant in perf.variants(event, cpu, self._sys_root):
            for leader in dict.fromkeys((group, -1)):
                try:
                    return self._open(variant, cpu, leader)
                except OSError as error:
                    failure = failure or error
        raise failure or OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def _drop_incomplete(self, opened: dict[int, dict[str, int]]) -> None:
        """Forget CPUs that lack cycles or instructions: they count as not observed."""
        for cpu in list(opened):
            if any(array not in opened[cpu] for array in self.chosen if array != STALLS):
                self._close([opened.pop(cpu)])
        self.cpus = sorted(opened)

    @staticmethod
    def _close(opened: Iterable[Mapping[str, int]]) -> None:
        for descriptors in opened:
            for descriptor in descriptors.values():
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def attach(self, program: int, hook: str, arrays: Mapping[str, int]) -> dict[int, int]:
        """Put the counters into the arrays (descriptors by name) and start the timers: descriptors of links by CPU."""
        links: dict[int, int] = {}
        for cpu, descriptors in self.choose().items():
            for array, descriptor in descriptors.items():
                key, value = ctypes.c_uint32(cpu), ctypes.c_uint32(descriptor)
                self._libbpf.number(
                    "bpf_map_update_elem",
                    arrays[array],
                    ctypes.byref(key),
                    ctypes.byref(value),
                    0,
                    doing=f"counting {_WORDS.get(array, array)} on CPU {cpu}",
                )
            self._close([descriptors])  # the arrays hold them
            try:
                timer = self._open(_TIMER, cpu, -1, self._sampling.interval_ns)
            except OSError as error:
                raise perf.explain("time", "software:cpu-clock", error) from error
            doing = f"attaching {hook} on CPU {cpu}"
            link = self._libbpf.pointer("bpf_program__attach_perf_event", program, timer, doing=doing)
            links[cpu] = self._libbpf.bpf_link__fd(link)
        return links
