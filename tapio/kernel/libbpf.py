"""The part of libbpf that the loader child uses.

It comes with the distribution's `bcc` (its `bcc.lib` exports libbpf), or is `libbpf.so.1` itself where there is no
`bcc`, as in the container image. Only the loader child imports this module: with `bcc` it brings LLVM's memory.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

from tapio.errors import KernelError
from tapio.kernel import lockdown

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_MAP_TYPE_ARRAY, _MAP_TYPE_RINGBUF = 2, 27

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__btf": (c_void_p, [c_void_p]),
    "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_map__name": (c_char_p, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, ctypes.POINTER(c_size_t)]),
    "bpf_map_create": (c_int, [c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__type": (c_int, [c_void_p]),
    "bpf_program__section_name": (c_char_p, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, c_bool]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_perf_event": (c_void_p, [c_void_p, c_int]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "btf__load_vmlinux_btf": (c_void_p, []),
    "btf__type_cnt": (c_uint32, [c_void_p]),
    "btf__type_by_id": (c_void_p, [c_void_p, c_uint32]),
    "btf__name_by_offset": (c_char_p, [c_void_p, c_uint32]),
    "btf__find_by_name_kind": (c_int, [c_void_p, c_char_p, c_uint32]),
    "libbpf_probe_bpf_map_type": (c_int, [c_int, c_void_p]),
    "libbpf_set_print": (c_void_p, [_PRINT]),
}


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts of libbpf 1.0, as far as it is used; `sz` tells libbpf where it ends."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", c_char_p),
        ("removed", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    )


class Libbpf:
    """libbpf's functions with their types, its error convention turned into KernelError, its log kept."""

    def __init__(self, library: Any) -> None:
        """`library` is `bcc.lib` or libbpf.so.1, a ctypes library opened with use_errno."""
        self._log: list[str] = []
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library
        vsnprintf = ctypes.CDLL(None).vsnprintf
        vsnprintf.argtypes = [c_char_p, c_size_t, c_char_p, c_void_p]

        def keep(level: int, template: bytes, arguments: int) -> int:
            if level <= 1:  # LIBBPF_WARN, LIBBPF_INFO
                line = ctypes.create_string_buffer(65536)
                vsnprintf(line, len(line), template, arguments)
                self._log += line.value.decode(errors="replace").splitlines()
            return 0

        self._keep = _PRINT(keep)  # libbpf holds no reference
        library.libbpf_set_print(self._keep)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _SIGNATURES:
            raise AttributeError(name)
        function: Callable[..., Any] = getattr(self._library, name)
        return function

    def pointer(self, name: str, *arguments: Any, doing: str) -> int:
        """Call a function that returns a pointer; NULL raises KernelError with errno's text and libbpf's last words."""
        self._log.clear()
        ctypes.set_errno(0)
        result = getattr(self, name)(*arguments)
        if not result:
            raise self._error(doing, ctypes.get_errno())
        return int(result)

    def number(self, name: str, *arguments: Any, doing: str) -> int:
        """Call a function that returns a negative errno on failure, which raises KernelError."""
        self._log.clear()
        result = int(getattr(self, name)(*arguments))
        if result < 0:
            raise self._error(doing, -result)
        return result

    def open_object(self, path: str, kernel_btf: str) -> int:
        """Open a BPF object. With a `kernel_btf` libbpf takes types from that file alone.

        Else it searches the BTF of all modules for a type that the kernel proper lacks, which takes CAP_SYS_ADMIN.
        """
        options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), btf_custom_path=kernel_btf.encode() or None)
        return self.pointer("bpf_object__open_file", path.encode(), ctypes.byref(options), doing=f"opening {path}")

    def has_ring_buffer(self) -> bool:
        """Whether this kernel knows the ring buffer map (5.8); KernelError where it takes no map at all from us."""
        if self.libbpf_probe_bpf_map_type(_MAP_TYPE_RINGBUF, None) == 1:
            return True
        os.close(self.number("bpf_map_create", _MAP_TYPE_ARRAY, None, 4, 4, 1, None, doing="creating a BPF map"))
        return False

    def each(self, iterator: str, handle: int) -> list[int]:
        """All maps or programs of an object: `iterator` is 'bpf_object__next_map' or 'bpf_object__next_program'."""
        found: list[int] = []
        item = getattr(self, iterator)(handle, None)
        while item:
            found.append(item)
            item = getattr(self, iterator)(handle, item)
        return found

    def _error(self, doing: str, code: int) -> KernelError:
        words = [line.removeprefix("libbpf: ").strip() for line in self._log]
        # libbpf ends a verifier log with a summary; the line before it is the verifier's verdict.
        telling = [line for line in words if line and not line.startswith(("processed ", "-- ", "verification time"))]
        hint = lockdown.explain("\n".join(words)) if code in (errno.EPERM, errno.EINVAL, errno.EACCES) else ""
        hint = hint or {
            errno.EPERM: "run as root or grant CAP_BPF and CAP_PERFMON (before Linux 5.11 CAP_SYS_RESOURCE, too), "
            "and see that no seccomp profile forbids bpf()",
            errno.ENOSYS: "see that no seccomp profile forbids bpf()",
            errno.EACCES: "this kernel's tracepoint differs from what the program expects: please report it",
            errno.ENOMEM: "raise the locked-memory limit (ulimit -l) or give the node more memory",
        }.get(code, "")
        text = os.strerror(code) if code < 4000 else "not a usable BPF object"
        parts = [f"{doing}: {text[:1].lower()}{text[1:]}"]
        if telling:
            parts.append(f"({telling[-1][:200]})")
        return KernelError(" ".join(parts) + (f": {hint}" if hint else ""))
