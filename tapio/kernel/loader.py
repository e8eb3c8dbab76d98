"""The loader child: opens, checks, loads and attaches the BPF objects, hands their descriptors over, and exits.

It is the only process that imports `bcc`, or opens libbpf without it. The agent keeps the descriptors, and with them
everything attached.

    python -I -m tapio.kernel.loader FD JSON        (FD: one end of a socketpair, JSON: a `Request`)
"""

from __future__ import annotations

import ctypes
import errno
import platform
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tapio.errors import KernelError, ObjectError, TapioError, describe_os_error
from tapio.kernel import channel, features, privileges
from tapio.kernel.btf import Btf
from tapio.kernel.channel import Done, Failed, Hook, Loaded, Request, Sampling
from tapio.kernel.layout import Variable
from tapio.kernel.libbpf import Libbpf
from tapio.kernel.oom_counts import oom_kill_counts
from tapio.kernel.sampling import Counters

VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")
_PLAIN_LIBBPF = "libbpf.so.1"
_RING = "events"
_MAX_CPUS = 1024  # MAX_CPUS of ebpf/headers/events.h
_EM_BPF = 247
_PROG_TYPE_PERF_EVENT = 7


def check_object(path: Path) -> None:
    """ObjectError unless `path` is a complete little-endian ELF file for BPF."""
    doing = f"opening {path}"
    if path.exists() and not path.is_file():
        raise ObjectError(f"{doing}: not a file: build it with 'make setup' or set --ebpf-dir")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        if error.errno == errno.EMFILE:  # it says nothing of the file
            raise
        raise ObjectError(f"{doing}: {error.strerror}: build it with 'make setup' or set --ebpf-dir") from error
    if len(head) < 64 or head[:4] != b"\x7fELF":
        raise ObjectError(f"{doing}: not an ELF file: rebuild it with 'make setup'")
    machine = int.from_bytes(head[18:20], "little")
    if head[4:6] != b"\x02\x01" or machine != _EM_BPF:
        raise ObjectError(f"{doing}: built for another architecture, not for little-endian BPF: rebuild it here")


def possible_cpus(path: Path = Path("/sys/devices/system/cpu/possible")) -> int:
    """The highest CPU that can come online, and one: '0-3,8-11' gives 12. Counters are indexed by CPU."""
    return int(path.read_text().strip().rpartition(",")[2].rpartition("-")[2]) + 1


class UnwatchableError(KernelError):
    """An object that watches kernel functions was refused, perhaps because of that."""


class LoadedObject:
    """One object on its way from the file to attached programs."""

    def __init__(self, libbpf: Libbpf, observer: str, path: Path, unwatchable: str = "") -> None:
        """`unwatchable`: why programs that watch the entry of a kernel function are to be left out."""
        check_object(path)
        self._unwatchable = unwatchable
        self._libbpf = libbpf
        self._observer = observer
        self._path = path
        try:
            # Types of modules, such as loop's, are a nicety: without them one disk is told from another less well.
            modules = privileges.holds("CAP_SYS_ADMIN")
            self._handle = libbpf.open_object(str(path), "" if modules else str(VMLINUX_BTF))
            self._btf = Btf(libbpf, libbpf.pointer("bpf_object__btf", self._handle, doing=f"reading BTF of {path}"))
        except KernelError as error:
            raise ObjectError(f"{error}: rebuild it with 'make setup'") from error
        self._variables = self._btf.variables()
        self._maps = {
            libbpf.bpf_map__name(item).decode(): item for item in libbpf.each("bpf_object__next_map", self._handle)
        }
        self._features: dict[str, bool] = {}
        self._missing: list[Hook] = []

    def configure(self, kernel: Btf, ring_bytes: int, tables: Mapping[str, int]) -> None:
        """Check what the object was built for, set its read-only globals and the sizes of its ring and tables."""
        architecture = self._global("target_arch").rstrip(b"\0").decode(errors="replace")
        if architecture != platform.machine():
            raise ObjectError(
                f"opening {self._path}: built for {architecture}, this machine is {platform.machine()}: rebuild it here"
            )
        cpus = possible_cpus()
        if cpus > _MAX_CPUS:
            raise KernelError(f"loading {self._path}: {cpus} possible CPUs: raise MAX_CPUS ({_MAX_CPUS}) and rebuild")
        self._features = features.detect(list(self._variables), kernel)
        for name, value in self._features.items():
            self._global(name, bytes([value]))
        for program in self._watching():
            function = self._watched_function(program)
            reason = self._unwatchable or ("" if kernel.has_function(function) else "this kernel has no such function")
            if reason:  # loading it would fail the whole object
                self._libbpf.bpf_program__set_autoload(program, False)
                hook = self._libbpf.bpf_program__name(program).decode()
                self._missing.append(Hook(hook, f"watching {function}(): {reason}"))
        for name, entries in {_RING: ring_bytes, **tables}.items():
            self._libbpf.number(
                "bpf_map__set_max_entries", self._map(name), entries, doing=f"sizing {name} of {self._path}"
            )
        self._global("ring_quarter_bytes", (ring_bytes // 4).to_bytes(4, sys.byteorder))

    def load(self) -> None:
        """Load every program and map into the kernel. UnwatchableError when it may work without some of them."""
        try:
            self._libbpf.number("bpf_object__load", self._handle, doing=f"loading {self._path}")
        except KernelError as error:
            if self._unwatchable or not self._watching():
                raise
            raise UnwatchableError(str(error)) from error

    def attach(self, sampling: Sampling | None) -> tuple[Loaded, list[int]]:
        """Attach every program; the answer for the agent and the descriptors that keep it all alive.

        A program of the type perf_event counts what `sampling` asks for, and has a link for each CPU.
        """
        oom_kills = oom_kill_counts()
        hooks: list[Hook] = []
        named = {name: self._libbpf.bpf_map__fd(item) for name, item in self._maps.items()}
        failures: list[KernelError] = []
        counters = Counters(self._libbpf, sampling) if sampling is not None else None
        for program in self._libbpf.each("bpf_object__next_program", self._handle):
            hook = self._libbpf.bpf_program__name(program).decode()
            if any(hook == missing.name for missing in self._missing):
                continue
            try:
                if counters is not None and self._libbpf.bpf_program__type(program) == _PROG_TYPE_PERF_EVENT:
                    for cpu, descriptor in counters.attach(program, hook, named).items():
                        named[f"link:{hook}:{cpu}"] = descriptor
                else:
                    link = self._libbpf.pointer("bpf_program__attach", program, doing=f"attaching {hook}")
                    named[f"link:{hook}"] = self._libbpf.bpf_link__fd(link)
            except KernelError as error:
                failures.append(error)
                (self._missing if self._watched_function(program) else hooks).append(Hook(hook, str(error)))
                continue
            hooks.append(Hook(hook))
            named[f"program:{hook}"] = self._libbpf.bpf_program__fd(program)
        if all(hook.reason for hook in hooks):
            kind = type(failures[0]) if failures else KernelError
            raise kind("; ".join(hook.reason for hook in hooks) or f"loading {self._path}: it has no program")
        answer = Loaded(
            observer=self._observer,
            hooks=tuple(hooks),
            descriptors=tuple(named),
            records=self._btf.records(),
            enums=self._btf.enum_values(),
            variables={name: v for name, v in self._variables.items() if v.section in (".bss", ".data")},
            sizes=self._sizes(),
            features=self._features,
            cpus=possible_cpus(),
            oom_kills=oom_kills,
            events=counters.chosen if counters is not None else {},
            uncounted=counters.uncounted if counters is not None else {},
            counted_cpus=tuple(counters.cpus) if counters is not None else (),
            interval_ns=sampling.interval_ns if sampling is not None else 0,
            missing=tuple(self._missing),
        )
        return answer, list(named.values())

    def _watching(self) -> list[int]:
        """The programs that watch the entry of a kernel function."""
        programs = self._libbpf.each("bpf_object__next_program", self._handle)
        return [program for program in programs if self._watched_function(program)]

    def _watched_function(self, program: int) -> str:
        """The kernel function whose entry the program watches, '' for a tracepoint.

        Not every kernel does that (arm64 only since 6.4; some forbid it), so observers do without where it fails.
        """
        section = self._libbpf.bpf_program__section_name(program).decode()
        return str(section.removeprefix("fentry/")) if section.startswith("fentry/") else ""

    def _sizes(self) -> dict[str, int]:
        sizes = {_RING: int(self._libbpf.bpf_map__max_entries(self._map(_RING)))}
        for name, item in self._maps.items():
            length = ctypes.c_size_t()
            if self._libbpf.bpf_map__initial_value(item, ctypes.byref(length)):
                sizes[name] = length.value
        return sizes

    def _map(self, name: str) -> int:
        if name not in self._maps:
            raise ObjectError(f"opening {self._path}: it has no map {name}: rebuild it with 'make setup'")
        return self._maps[name]

    def _global(self, name: str, value: bytes | None = None) -> bytes:
        """Read, and with a `value` set, a read-only global before the load."""
        variable: Variable | None = self._variables.get(name)
        section = next((item for key, item in self._maps.items() if key.endswith(".rodata")), None)
        if variable is None or section is None:
            raise ObjectError(f"opening {self._path}: it has no global {name}: rebuild it with 'make setup'")
        length = ctypes.c_size_t()
        base = self._libbpf.bpf_map__initial_value(section, ctypes.byref(length))
        if value is not None:
            if len(value) != variable.size:
                raise ObjectError(f"opening {self._path}: {name} has {variable.size} bytes: rebuild it")
            ctypes.memmove(base + variable.offset, value, len(value))
        return ctypes.string_at(base + variable.offset, variable.size)


def open_libbpf() -> Libbpf:
    """Libbpf by way of the distribution's `bcc`; the plain library where there is no `bcc` or its libbpf is too old."""
    problems = []
    for name, find in (("bcc", _bcc_library), (_PLAIN_LIBBPF, lambda: ctypes.CDLL(_PLAIN_LIBBPF, use_errno=True))):
        try:
            return Libbpf(find())
        except (ImportError, OSError) as error:
            problems.append(f"{name}: {error}")
        except AttributeError as error:
            problems.append(f"{name}: it lacks a function of libbpf 1.0 ({error})")
    raise KernelError(
        f"opening libbpf by {'; by '.join(problems)}: install Debian's or Ubuntu's python3-bpfcc and run 'make setup', "
        "or install libbpf1 (never 'pip install bcc': another project)"
    )


def _bcc_library() -> ctypes.CDLL:
    from bcc.libbcc import lib  # type: ignore[import-untyped]  # not on PyPI, so no stubs and no guarantee

    return lib  # type: ignore[no-any-return]


def check_kernel(libbpf: Libbpf, vmlinux_btf: Path = VMLINUX_BTF) -> Btf:
    """The kernel's BTF; KernelError on a kernel without BTF or without ring buffers."""
    if not vmlinux_btf.exists():
        raise KernelError(
            f"reading {vmlinux_btf}: this kernel has no BTF: use one built with CONFIG_DEBUG_INFO_BTF=y (5.8 or later)"
        )
    if not libbpf.has_ring_buffer():
        raise KernelError("creating a ring buffer: this kernel has none: use 5.8 or later")
    return Btf(libbpf, libbpf.pointer("btf__load_vmlinux_btf", doing=f"reading {vmlinux_btf}"))


def load_object(libbpf: Libbpf, kernel: Btf, request: Request, observer: str) -> LoadedObject:
    """The observer's object in the kernel; without what watches functions where the kernel takes the rest alone."""

    def attempt(unwatchable: str) -> LoadedObject:
        item = LoadedObject(libbpf, observer, Path(request.objects[observer]), unwatchable)
        item.configure(kernel, request.ring_bytes, request.tables.get(observer, {}))
        item.load()
        return item

    try:
        return attempt("")
    except UnwatchableError as error:
        # If the functions were not what is wrong, this attempt says what is.
        return attempt(str(error).partition(": ")[2].partition(" (")[0])


def run(request: Request, answers: socket.socket) -> None:
    """Load what `request` names and tell the agent of each success and failure."""
    try:
        libbpf = open_libbpf()
        kernel = check_kernel(libbpf)
    except TapioError as error:
        channel.send(answers, Failed(str(error)), [])
        return
    for observer, path in request.objects.items():
        try:
            item = load_object(libbpf, kernel, request, observer)
            answer, descriptors = item.attach(request.sampling.get(observer))
        except ObjectError as error:  # a broken installation, not a kernel that cannot do it
            channel.send(answers, Failed(str(error)), [])
            return
        except TapioError as error:
            channel.send(answers, Failed(str(error), observer, error.reason), [])
        except OSError as error:
            line = f"loading {path}: {describe_os_error(error)}: raise the limit of open files (ulimit -n)"
            channel.send(answers, Failed(line, observer), [])
        else:
            channel.send(answers, answer, descriptors)
    channel.send(answers, Done(), [])


if __name__ == "__main__":
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # meant for the agent, which will end us
        signal.signal(number, signal.SIG_IGN)
    run(msgspec.json.decode(sys.argv[2].encode(), type=Request), socket.socket(fileno=int(sys.argv[1])))
