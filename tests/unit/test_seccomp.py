"""The filter of both architectures, run by a small interpreter, and the numbers in it against Linux's headers."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapio.kernel import seccomp
from tapio.kernel.syscalls import numbers, rules

ALLOWED, EPERM, ENOSYS = "allowed", "EPERM", "ENOSYS"
MACHINES = ("x86_64", "aarch64")
HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
PID = 4711
PROGRAMS = {machine: seccomp.build(machine, rules(machine, PID)) for machine in MACHINES}


def decide(machine: str, number: int, arguments: tuple[int, ...] = (), arch: int | None = None) -> str:
    """What the filter answers, as the kernel would run it."""
    program = PROGRAMS[machine]
    words = {0: number, 4: seccomp._AUDIT_ARCH[machine] if arch is None else arch}
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        words[16 + 8 * index], words[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
    accumulator = position = 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        if code == 0x06:
            action = operand & 0xFFFF0000
            return {0x7FFF0000: ALLOWED, 0x80000000: "killed"}.get(action) or errno.errorcode[operand & 0xFFFF]
        elif code == 0x20:
            accumulator = words[operand]
        elif code == 0x54:
            accumulator &= operand
        else:
            holds = accumulator == operand if code == 0x15 else accumulator >= operand
            position += if_true if holds else if_false


def answer(machine: str, call: str, *arguments: int) -> str:
    return decide(machine, numbers(machine)[call], arguments)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("read", (0, 1 << 40, 5), ALLOWED),
        ("futex", (), ALLOWED),
        ("membarrier", (64,), ALLOWED),
        ("socket", (2, 1 | 0x80800, 6), ALLOWED),
        ("socket", (10, 2, 0), ALLOWED),
        ("socket", (1, 1, 0), ALLOWED),
        ("socket", (2, 3, 1), EPERM),
        ("socket", (16, 3, 0), EPERM),
        ("socket", (17, 2, 0), EPERM),
        ("socket", (2 | 1 << 32, 1), ALLOWED),  # the kernel, too, looks at the lower half alone
        ("socketpair", (2, 1), EPERM),
        ("setsockopt", (3, 1, 2), ALLOWED),
        ("setsockopt", (3, 6, 18), ALLOWED),
        ("setsockopt", (3, 41, 26), ALLOWED),
        ("setsockopt", (3, 1, 26), EPERM),
        ("setsockopt", (3, 6, 2), EPERM),
        ("mmap", (0, 4096, 3), ALLOWED),
        ("mmap", (0, 4096, 5), EPERM),
        ("mprotect", (0, 4096, 4), EPERM),
        ("clone", (0x3D0F00,), ALLOWED),
        ("clone", (0x10000000,), EPERM),
        ("clone", (0x40000011,), EPERM),
        ("clone3", (), ENOSYS),
        ("prctl", (15,), ALLOWED),
        ("prctl", (4, 1), EPERM),
        ("tgkill", (PID, 1, 6), ALLOWED),
        ("tgkill", (1, 1, 6), EPERM),
        ("prlimit64", (0, 7), ALLOWED),
        ("prlimit64", (1, 7), EPERM),
        ("ioctl", (1, 0x5421), ALLOWED),
        ("ioctl", (1, 0x5412), EPERM),
        ("fcntl", (1, 8), EPERM),
        ("seccomp", (1, 0, 0), EPERM),
        ("landlock_restrict_self", (), ENOSYS),
    ],
)
def test_arguments_decide(machine: str, call: str, arguments: tuple[int, ...], expected: str) -> None:
    assert answer(machine, call, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_ends_the_process(machine: str) -> None:
    assert decide(machine, 1, arch=0x40000003) == "killed"
    assert decide("x86_64", 0x40000000 | 1) == "killed"


@given(st.sampled_from(MACHINES), st.integers(0, 1023), st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_every_call_ends_in_an_answer(machine: str, number: int, arguments: tuple[int, ...]) -> None:
    """Whatever the arguments, only what is on the list is allowed; what is newer looks absent."""
    found = decide(machine, number, arguments)
    if number not in numbers(machine).values():
        assert found == (ENOSYS if number >= 424 else EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_linux(machine: str) -> None:
    header = Path("/usr/include") / HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    linux = {name: int(number) for name, number in defined}
    if machine == "aarch64":
        linux["newfstatat"] = linux["fstatat"]
    assert {name: linux.get(name) for name in numbers(machine)} == numbers(machine)


def test_an_unknown_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "sparc64")
    assert seccomp.install() == "there is no filter for sparc64"
