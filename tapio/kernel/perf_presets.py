"""Which event counts the cycles in which this CPU waits for memory.

The kernel's generic event for stalled cycles is missing on Intel since Haswell and on AMD since Zen 2; these codes
come from the vendors' event lists. All count cycles, so that they can be compared with cycles.
"""

from __future__ import annotations

from typing import NamedTuple

GENERIC = "hardware:stalled-cycles-backend"

_MEMORY_SKYLAKE = "raw:0x140014a3"  # CYCLE_ACTIVITY.STALLS_MEM_ANY, umask 0x14, cmask 20
_MEMORY_BROADWELL = "raw:0x60006a3"  # the same, umask 0x06, cmask 6
_BOUND_ON_LOADS = "raw:0x50021a6"  # EXE_ACTIVITY.BOUND_ON_LOADS, umask 0x21, cmask 5
_L3_MISS = "raw:0x60006a3"  # CYCLE_ACTIVITY.STALLS_L3_MISS, umask 0x06, cmask 6

_INTEL_MODELS: dict[int, tuple[str, ...]] = {
    **dict.fromkeys((0x3D, 0x47, 0x4F, 0x56), (_MEMORY_BROADWELL,)),
    **dict.fromkeys((0x55,), (_MEMORY_SKYLAKE,)),  # Skylake, Cascade Lake and Cooper Lake servers
    **dict.fromkeys((0x6A, 0x6C), (_MEMORY_SKYLAKE,)),  # Ice Lake servers
    **dict.fromkeys((0x8F, 0xCF, 0xAD, 0xAE), (_BOUND_ON_LOADS, _L3_MISS)),  # Sapphire, Emerald, Granite Rapids
}
_AMD_LOADS = "raw:0xa2d6"  # no retirement because a load is not complete; Zen 4, Zen 5
_AMD_LOAD_QUEUE = "raw:0x2ae"  # no dispatch because the load queue is full; Zen 2, Zen 3
_ARM_MEMORY = "raw:0x4005"  # STALL_BACKEND_MEM
_ARM, _NEOVERSE = 0x41, (0xD40, 0xD49, 0xD4F)  # V1, N2, V2


class CpuModel(NamedTuple):
    """Who made the CPU and which it is; for Arm the implementer's and the part's number."""

    vendor: str
    family: int
    model: int


def read_model(cpuinfo: str) -> CpuModel:
    """The first CPU of /proc/cpuinfo; zeros where it does not say."""
    values: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())

    def number(key: str) -> int:
        try:
            return int(values.get(key, "0"), 0)
        except ValueError:
            return 0

    if "CPU implementer" in values:
        return CpuModel("Arm", number("CPU implementer"), number("CPU part"))
    return CpuModel(values.get("vendor_id", ""), number("cpu family"), number("model"))


def stall_events(cpu: CpuModel) -> tuple[str, ...]:
    """Events to try for stalled cycles, the best one first."""
    if cpu.vendor == "GenuineIntel" and cpu.family == 6:
        own = _INTEL_MODELS.get(cpu.model, ())
    elif cpu.vendor == "AuthenticAMD":
        own = _amd(cpu.family, cpu.model)
    elif cpu.vendor == "Arm" and cpu.family == _ARM and cpu.model in _NEOVERSE:
        own = (_ARM_MEMORY,)
    else:
        own = ()
    return (*own, GENERIC)


def _amd(family: int, model: int) -> tuple[str, ...]:
    if family == 0x1A or (family == 0x19 and (0x10 <= model <= 0x1F or 0x60 <= model <= 0x7F or model >= 0xA0)):
        return (_AMD_LOADS,)
    if family == 0x19 or (family == 0x17 and model >= 0x30):
        return (_AMD_LOAD_QUEUE,)
    return ()
