"""Which perf events are opened where, and what is said when they cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from tapio import perf_events
from tapio.config import Config, NodeConfig
from tapio.errors import KernelError
from tapio.kernel import perf
from tapio.kernel.channel import Sampling
from tapio.kernel.perf_presets import GENERIC, CpuModel, read_model, stall_events
from tapio.kernel.sampling import Counters

CYCLES, INSTRUCTIONS, BACKEND = perf_events.Event(0, 0), perf_events.Event(0, 1), perf_events.Event(0, 8)
EPYC = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
NEOVERSE = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x0\nCPU part\t: 0xd49\n"


class Pmu:
    """A machine's events: those in `known` can be opened, a CPU takes `slots` of them as a group."""

    def __init__(
        self, *known: perf_events.Event, slots: int = 9, code: int = errno.ENOENT, atom: tuple[int, ...] = ()
    ) -> None:
        self.known, self.slots, self.code, self.atom = known, slots, code, atom
        self.opened: dict[int, tuple[perf_events.Event, int, int]] = {}
        self.grouped: dict[int, int] = {}

    def __call__(self, event: perf_events.Event, cpu: int, group: int = -1, _period: int = 0) -> int:
        core = perf_events.Event(event.type, event.config & 0xFFFFFFFF)
        if core not in self.known or (cpu in self.atom) != bool(event.config >> 32):
            raise OSError(self.code, "no")
        if group != -1:
            self.grouped[group] = self.grouped.get(group, 1) + 1
            if self.grouped[group] > self.slots:
                raise OSError(errno.EINVAL, "group")
        descriptor = os.open(os.devnull, os.O_RDONLY)
        self.opened[descriptor] = event, cpu, group
        return descriptor


def make_tree(tmp_path: Path, online: str = "0-1", cpuinfo: str = EPYC) -> Path:
    (tmp_path / "devices/system/cpu").mkdir(parents=True)
    (tmp_path / "devices/system/cpu/online").write_text(online + "\n")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    return tmp_path


def choose(root: Path, pmu: Pmu, **events: str) -> Counters:
    words = {"cycles": "auto", "instructions": "auto", "stalls": "auto", **events}
    counters = Counters(
        None,  # type: ignore[arg-type]  # not used before the attach
        Sampling(words, 100_000_000),
        open_event=pmu,
        sys_root=root,
        cpuinfo=root / "cpuinfo",
    )
    try:
        opened = counters.choose()
    except KernelError:
        assert not any(Path(f"/proc/self/fd/{descriptor}").exists() for descriptor in pmu.opened)
        raise
    for descriptors in opened.values():
        for descriptor in descriptors.values():
            os.close(descriptor)
    return counters


@pytest.mark.parametrize(
    ("words", "event"),
    [
        ("hardware:cpu-cycles", (0, 0)),
        ("hardware:stalled-cycles-frontend", (0, 7)),
        ("hardware:stalled-cycles-backend", (0, 8)),
        ("software:cpu-clock", (1, 0)),
        ("software:page-faults", (1, 2)),
        ("raw:0x140014a3", (4, 0x140014A3)),
    ],
)
def test_words(words: str, event: tuple[int, int]) -> None:
    assert perf_events.parse(words) == event
    assert msgspec.convert({"stalls": words}, NodeConfig).stalls == words


@pytest.mark.parametrize("words", ["hardware:coffee", "software:", "raw:0xg", "raw:1a3", "raw:0x" + 17 * "1", "cycles"])
def test_wrong_words(words: str) -> None:
    """Refused when the configuration is read, in words and with an example."""
    with pytest.raises(ValueError, match=r"choose auto, a code of this CPU model as raw:0x1a3, or hardware:cpu-"):
        perf_events.parse(words)
    with pytest.raises(msgspec.ValidationError, match=f"^stalls: there is no event '{words}': choose auto"):
        msgspec.convert({"stalls": words}, NodeConfig)


def test_the_attributes_that_the_kernel_gets() -> None:
    counting, sampling = perf.attribute(BACKEND), perf.attribute(perf_events.Event(1, 0), 97_000_000)
    assert len(counting) == 64
    assert counting[:24] == bytes([0, 0, 0, 0, 64, 0, 0, 0, 8]) + bytes(15)
    assert int.from_bytes(sampling[16:24], "little") == 97_000_000
    assert (counting[40], sampling[40]) == (0, 1)  # a sampler waits until it is attached


def test_lists_of_cpus() -> None:
    assert perf.cpu_list("0-3,8,10-11\n") == [0, 1, 2, 3, 8, 10, 11]
    assert perf.cpu_list("\n") == []


@pytest.mark.parametrize(
    ("cpu", "first"),
    [
        (CpuModel("GenuineIntel", 6, 0x3F), GENERIC),  # Haswell: nothing known
        (CpuModel("GenuineIntel", 6, 0x4F), "raw:0x60006a3"),  # Broadwell
        (CpuModel("GenuineIntel", 6, 0x55), "raw:0x140014a3"),  # Skylake server
        (CpuModel("GenuineIntel", 6, 0x6A), "raw:0x140014a3"),  # Ice Lake server
        (CpuModel("GenuineIntel", 6, 0x8F), "raw:0x50021a6"),  # Sapphire Rapids
        (CpuModel("AuthenticAMD", 0x17, 0x01), GENERIC),  # Zen 1
        (CpuModel("AuthenticAMD", 0x17, 0x31), "raw:0x2ae"),  # Zen 2
        (CpuModel("AuthenticAMD", 0x19, 0x01), "raw:0x2ae"),  # Zen 3
        (CpuModel("AuthenticAMD", 0x19, 0x11), "raw:0xa2d6"),  # Zen 4
        (CpuModel("AuthenticAMD", 0x1A, 0x02), "raw:0xa2d6"),  # Zen 5
        (CpuModel("Arm", 0x41, 0xD49), "raw:0x4005"),  # Neoverse N2
        (CpuModel("Arm", 0x41, 0xD0C), GENERIC),  # Neoverse N1
        (CpuModel("", 0, 0), GENERIC),
    ],
)
def test_the_preset_of_each_cpu_model(cpu: CpuModel, first: str) -> None:
    found = stall_events(cpu)
    assert (found[0], found[-1]) == (first, GENERIC)
    assert all(perf_events.parse(words) for words in found)


def test_reading_cpuinfo() -> None:
    assert read_model(EPYC) == CpuModel("AuthenticAMD", 26, 2)
    assert read_model(NEOVERSE) == CpuModel("Arm", 0x41, 0xD49)
    assert read_model("processor: 0\nmodel: POWER9\n") == CpuModel("", 0, 0)


def test_auto_takes_the_preset_and_one_group_for_each_cpu(tmp_path: Path) -> None:
    pmu = Pmu(CYCLES, INSTRUCTIONS, perf_events.Event(4, 0xA2D6), BACKEND)
    counters = choose(make_tree(tmp_path), pmu)
    assert counters.chosen == {
        "cycles": "hardware:cpu-cycles",
        "instructions": "hardware:instructions",
        "stalls": "raw:0xa2d6",
    }
    assert counters.cpus == [0, 1]
    leaders = {cpu: fd for fd, (event, cpu, _) in pmu.opened.items() if event == CYCLES}
    assert all(group == (-1 if event == CYCLES else leaders[cpu]) for event, cpu, group in pmu.opened.values())


def test_auto_falls_back_step_by_step(tmp_path: Path) -> None:
    """From the preset to the generic event to none; a CPU model without a preset takes the generic one."""
    root = make_tree(tmp_path)
    assert choose(root, Pmu(CYCLES, INSTRUCTIONS, BACKEND)).chosen["stalls"] == GENERIC
    assert "stalls" not in choose(root, Pmu(CYCLES, INSTRUCTIONS)).chosen


def test_a_group_that_does_not_fit_is_counted_one_by_one(tmp_path: Path) -> None:
    pmu = Pmu(CYCLES, INSTRUCTIONS, BACKEND, slots=2)
    assert choose(make_tree(tmp_path), pmu).chosen["stalls"] == GENERIC
    assert {group for event, _, group in pmu.opened.values() if event == BACKEND} == {-1}


def test_without_a_pmu(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"counting CPU cycles by hardware:cpu-cycles: this .*ENOENT") as absent:
        choose(make_tree(tmp_path), Pmu())
    with pytest.raises(KernelError, match=r"permission denied: run as root, grant CAP_PERFMON, or lower k") as refused:
        choose(tmp_path, Pmu(code=errno.EACCES))
    assert (absent.value.reason, refused.value.reason) == ("no_counters", "refused")


def test_what_was_asked_for_is_not_replaced(tmp_path: Path) -> None:
    """Without the cycles or instructions that were named nothing is counted, without the stalls the rest; and why."""
    pmu = Pmu(CYCLES, INSTRUCTIONS, BACKEND)
    counters = choose(make_tree(tmp_path), pmu, stalls="raw:0x99")
    assert counters.chosen.keys() == {"cycles", "instructions"}
    assert counters.uncounted["stalls"].startswith("counting stalled cycles by raw:0x99: this machine has no")
    with pytest.raises(KernelError, match="counting CPU cycles by raw:0x99"):
        choose(tmp_path, pmu, cycles="raw:0x99")
    with pytest.raises(KernelError, match="counting instructions by hardware:instructions"):
        choose(tmp_path, Pmu(CYCLES))


def test_no_stalls_beside_something_that_is_not_cycles(tmp_path: Path) -> None:
    clock = perf_events.Event(1, 0)
    counters = choose(make_tree(tmp_path), Pmu(clock, INSTRUCTIONS, BACKEND), cycles="software:cpu-clock")
    assert "stalls" not in counters.chosen


def test_a_machine_with_two_kinds_of_cores(tmp_path: Path) -> None:
    """Intel's small cores know the generic events under the number of their own PMU; raw codes are not theirs."""
    root = make_tree(tmp_path, "0-3")
    for name, number, cpus in (("cpu_core", 4, "0-1"), ("cpu_atom", 10, "2-3")):
        folder = root / "bus/event_source/devices" / name
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{number}\n")
        (folder / "cpus").write_text(f"{cpus}\n")
    pmu = Pmu(CYCLES, INSTRUCTIONS, atom=(2, 3))
    assert choose(root, pmu).cpus == [0, 1, 2, 3]
    assert {event.config >> 32 for event, cpu, _ in pmu.opened.values() if cpu >= 2} == {10}
    assert {event.config >> 32 for event, cpu, _ in pmu.opened.values() if cpu < 2} == {0}


def test_cpus_that_cannot_be_counted_are_left_out(tmp_path: Path) -> None:
    counters = choose(make_tree(tmp_path, "0-2"), Pmu(CYCLES, INSTRUCTIONS, atom=(1,)))
    assert counters.cpus == [0, 2]


def test_the_object_of_the_node_observer_has_another_name() -> None:
    objects = Config(observers=("container", "node"), ebpf_dir="/x").find_objects()
    assert {name: str(path) for name, path in objects.items()} == {
        "container": "/x/container_monitor.o",
        "node": "/x/node_pmc_monitor.o",
    }
