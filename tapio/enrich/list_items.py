"""The items of a list in JSON, cut out as the bytes come.

The API server answers a list from its cache in one piece, whatever page was asked for, and a pod may have 1.5 MiB: kept
whole, the list of a node with large pods would be what the agent takes most memory for.
"""

from __future__ import annotations

import re

# To the next bracket that is in no string. Possessive: what does not match is found out in one pass.
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+[{}\[\]]', re.DOTALL)
_OPENING = b"{["


class ListItems:
    """One list. The items are those of the array that is directly in it."""

    def __init__(self) -> None:
        self._frame = b""  # what came before the items, and then what came after
        self._rest = b""  # not given out yet
        self._seen = 0  # so much of it is understood
        self._depth = 0
        self._in_items = False

    @property
    def waiting(self) -> int:
        """How many bytes are kept."""
        return len(self._frame) + len(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The items that are complete with this chunk."""
        rest, seen, start = self._rest + chunk, self._seen, 0
        found = []
        while match := _TO_BRACKET.match(rest, seen):
            seen = match.end()
            if rest[seen - 1] in _OPENING:
                self._depth += 1
                if self._in_items and self._depth == 3:
                    start = seen - 1
                elif self._depth == 2 and rest[seen - 1 : seen] == b"[":
                    self._in_items = True
                    self._frame += rest[start:seen]
                    start = seen
                continue
            self._depth -= 1
            if self._in_items and self._depth == 2:
                found.append(rest[start:seen])
                start = seen
            elif self._in_items and self._depth == 1:
                self._in_items = False
                start = seen - 1
        self._rest, self._seen = rest[start:], seen - start
        return found

    def frame(self) -> bytes:
        """The list without its items, once all of it was fed."""
        return self._frame + self._rest
