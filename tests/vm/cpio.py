"""Archives in the format that the kernel unpacks as its first file system (newc). Several in a row add up."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO


class Writer:
    """An archive that is being written."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._number = 0

    def put(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """One entry; `mode` with the bits of its type."""
        self._number += 1
        words = (self._number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name.encode()) + 1, 0)
        head = b"070701" + "".join(f"{word:08X}" for word in words).encode() + name.encode() + b"\0"
        self._output.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

    def put_tree(self, tree: Path, prefix: str = "") -> None:
        """Everything below `tree`."""
        for path in sorted(tree.rglob("*")):
            mode, name = path.lstat().st_mode, prefix + str(path.relative_to(tree))
            if path.is_symlink():
                self.put(name, mode, str(path.readlink()).encode())
            elif path.is_dir():
                self.put(name, mode)
            elif path.is_file():
                self.put(name, mode, path.read_bytes())

    def close(self) -> None:
        """The end; the archive's length is a multiple of four, so that another may follow."""
        self.put("TRAILER!!!", 0)
