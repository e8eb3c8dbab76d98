"""Reading BTF: record layouts and globals of an object, tracepoint prototypes of the running kernel.

The format is described in the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

from tapio.errors import ObjectError
from tapio.kernel.layout import Field, Layout, Variable
from tapio.kernel.libbpf import Libbpf

INT, PTR, ARRAY, STRUCT, ENUM, TYPEDEF, VOLATILE, CONST, RESTRICT = 1, 2, 3, 4, 6, 8, 9, 10, 11
FUNC, FUNC_PROTO, VAR, DATASEC = 12, 13, 14, 15
_MODIFIERS = (TYPEDEF, VOLATILE, CONST, RESTRICT)
_SIGNED, _CHAR = 1, 2


class BtfType(NamedTuple):
    """One type: `size_or_type` is what the kernel's union of that name means for the kind."""

    name: str
    kind: int
    vlen: int
    has_bitfields: bool
    size_or_type: int
    details: int  # the address of what follows the common header


class Btf:
    """Types by id and by name, of an object (`bpf_object__btf`) or of the kernel (`btf__load_vmlinux_btf`)."""

    def __init__(self, libbpf: Libbpf, handle: int) -> None:
        self._libbpf = libbpf
        self._handle = handle

    def _name(self, offset: int) -> str:
        name = self._libbpf.btf__name_by_offset(self._handle, offset)
        return name.decode() if name else ""

    def type(self, type_id: int) -> BtfType:
        """The type with this id."""
        address = self._libbpf.pointer("btf__type_by_id", self._handle, type_id, doing="reading BTF")
        name, info, size_or_type = (ctypes.c_uint32 * 3).from_address(address)
        return BtfType(self._name(name), info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31), size_or_type, address + 12)

    def resolve(self, type_id: int) -> BtfType:
        """The type behind typedefs, const and volatile."""
        found = self.type(type_id)
        while found.kind in _MODIFIERS:
            found = self.type(found.size_or_type)
        return found

    def find(self, name: str, kind: int) -> BtfType | None:
        """The type with this name and kind, if there is one."""
        type_id = self._libbpf.btf__find_by_name_kind(self._handle, name.encode(), kind)
        return self.type(type_id) if type_id > 0 else None

    def __iter__(self) -> Iterator[BtfType]:
        for type_id in range(1, self._libbpf.btf__type_cnt(self._handle)):
            yield self.type(type_id)

    def layout(self, struct: BtfType) -> Layout:
        """A C struct as a Layout; ObjectError for bit fields and unions, which no record has."""
        return Layout(struct.name, struct.size_or_type, tuple(self._members(struct, "", 0)))

    def _members(self, struct: BtfType, prefix: str, base: int) -> Iterator[Field]:
        for index in range(struct.vlen):
            name, type_id, offset_bits = (ctypes.c_uint32 * 3).from_address(struct.details + 12 * index)
            if struct.has_bitfields and offset_bits >> 24:
                raise ObjectError(f"reading struct {struct.name}: bit fields cannot be decoded")
            member, offset = prefix + self._name(name), base + offset_bits // 8
            found = self.resolve(type_id)
            if found.kind == STRUCT:
                yield from self._members(found, member + "_", offset)
            else:
                yield self._field(member, offset, found)

    def _field(self, name: str, offset: int, found: BtfType) -> Field:
        count = 1
        if found.kind == ARRAY:
            element, _, count = (ctypes.c_uint32 * 3).from_address(found.details)
            found = self.resolve(element)
        if found.kind == INT:
            encoding = ctypes.c_uint32.from_address(found.details).value >> 24 & 0x0F
            # Plain char arrays are text; clang marks `char` as signed, and `signed char` arrays do not occur.
            kind = "c" if count > 1 and found.size_or_type == 1 else "i" if encoding & _SIGNED else "u"
            return Field(name, offset, kind, found.size_or_type, count)
        if found.kind == ENUM:
            return Field(name, offset, "u", found.size_or_type, count)
        raise ObjectError(f"reading field {name}: only integers, characters and structs can be decoded")

    def records(self) -> dict[str, Layout]:
        """The layouts of all structs whose name ends in `_record`."""
        return {found.name: self.layout(found) for found in self if self._is_record(found)}

    @staticmethod
    def _is_record(found: BtfType) -> bool:
        return found.kind == STRUCT and found.name.endswith("_record")

    def enum_values(self) -> dict[str, int]:
        """Every enumerator of the object by its name."""
        values: dict[str, int] = {}
        for found in self:
            for index in range(found.vlen if found.kind == ENUM else 0):
                name, value = (ctypes.c_uint32 * 2).from_address(found.details + 8 * index)
                values[self._name(name)] = value
        return values

    def variables(self) -> dict[str, Variable]:
        """Every global of the object. Offsets are those of the loaded sections: libbpf fills them in on open."""
        found: dict[str, Variable] = {}
        for section in self:
            for index in range(section.vlen if section.kind == DATASEC else 0):
                type_id, offset, size = (ctypes.c_uint32 * 3).from_address(section.details + 12 * index)
                variable = self.type(type_id)
                layout = self._element_layout(self.resolve(variable.size_or_type))
                found[variable.name] = Variable(variable.name, section.name, offset, size, layout)
        return found

    def _element_layout(self, found: BtfType) -> Layout | None:
        if found.kind == ARRAY:
            found = self.resolve(ctypes.c_uint32.from_address(found.details).value)
        return self.layout(found) if found.kind == STRUCT and found.name else None

    def has_function(self, name: str) -> bool:
        """Whether the kernel has a function of this name whose entry can be watched, as far as BTF tells."""
        return self.find(name, FUNC) is not None

    def tracepoint_arguments(self, name: str) -> list[int] | None:
        """The kinds (PTR, INT, ...) of a tracepoint's arguments, or None where the kernel has no such tracepoint."""
        typedef = self.find(f"btf_trace_{name}", TYPEDEF)
        if typedef is None:
            return None
        prototype = self.resolve(self.resolve(typedef.size_or_type).size_or_type)
        if prototype.kind != FUNC_PROTO:
            return None
        arguments = (ctypes.c_uint32 * (2 * prototype.vlen)).from_address(prototype.details)
        return [self.resolve(type_id).kind for type_id in arguments[3::2]]  # the first is the hook's own `void *`
