"""The node observer on a real PMU: emulated arm64 machines, on which `pmu_guest.py` runs."""

from __future__ import annotations

from typing import Any

import image
import machine
from kernels import KERNELS, Kernel

KERNEL = next(kernel for kernel in KERNELS if kernel.architecture == "arm64")


def boot(kernel: Kernel, what: str, *flags: str) -> dict[str, Any]:
    """What the guest found."""
    _, file, modules = image.kernel(kernel)
    archives = [image.userland(kernel.architecture), modules, image.project()]
    log = image.CACHE / f"vm/pmu-{what}.log"
    found: dict[str, Any] = {}
    for item in machine.boot(kernel.architecture, file, archives, f"guest=pmu_guest.py what={what}", log, *flags):
        found |= item
    return found


def count_loops(kernel: Kernel) -> None:
    """Loops of a known length, counted; AssertionError when a figure is wrong."""
    counted = boot(kernel, "count", "-smp", "1", "-accel", "tcg", "-icount", "shift=1")
    # shift=1: two nanoseconds an instruction, and a clock of 1 GHz: half an instruction a cycle.
    for known, instructions, cycles in counted["loops"]:
        assert known <= instructions <= known + 200_000_000, counted
        assert abs(instructions / cycles - 0.5) < 0.005, counted
    assert counted["events"]["cycles"] == "hardware:cpu-cycles", counted
    assert counted["metrics"]['tapio_cpu_ipc{cpu="0"}'] == 0.5, counted
    assert (counted["ready"], counted["exit"]) == (200, 0), counted


def unplug_a_cpu(kernel: Kernel) -> None:
    """A CPU that goes and comes back is no longer counted, and that is said; the other goes on."""
    found = boot(kernel, "hotplug", "-smp", "2", "-accel", "tcg,thread=multi")
    assert "not counted although online: CPU 1" in found["log"], found
    assert found["metrics"]['tapio_uncounted_cpus{counter="cycles"}'] == 1, found
    assert not [name for name in found["metrics"] if 'cpu="1"' in name], found
    assert [item["type"] for item in found["occurrences"]] == ["kernel.node.cpu_stall"], found
    data = found["occurrences"][0]["data"]
    assert abs(data["stall_cycles"] / data["cycles"] - 1) < 0.02, data  # the same event twice
    assert (found["ready"], found["exit"]) == (200, 0), found
