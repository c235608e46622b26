"""Header sections as HTTP has them: ordered lines, names in lower case, duplicates kept.

RFC 9110 section 5. Nothing here interprets a field; see `cache_control`, `dates`, `etags`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

__all__ = ["Fields", "Line", "Lines", "split_list"]

Line: TypeAlias = tuple[bytes, bytes]
Lines: TypeAlias = list[Line]


class Fields:
    """One header section. ``lines`` are (lower-case name, value) pairs in the order received."""

    __slots__ = ("_index", "lines")

    def __init__(self, lines: Iterable[Iterable[bytes]]) -> None:
        self.lines: Lines = [
            (name if name.islower() else name.lower(), value) for name, value in lines
        ]
        self._index: dict[bytes, list[bytes]] | None = None

    def _values(self) -> dict[bytes, list[bytes]]:
        index = self._index
        if index is None:
            index = {}
            for name, value in self.lines:
                index.setdefault(name, []).append(value)
            self._index = index
        return index

    def __contains__(self, name: object) -> bool:
        return name in self._values()

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def all(self, name: bytes) -> list[bytes]:
        """The values of every line with this (lower-case) name, in order. Empty if absent."""
        return self._values().get(name, [])

    def get(self, name: bytes) -> bytes | None:
        """The combined field value (RFC 9110 5.2: lines joined with ", "), or None if absent."""
        values = self._values().get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else b", ".join(values)

    def first(self, name: bytes) -> bytes | None:
        """The value of the first line with this name, or None if absent."""
        values = self._values().get(name)
        return None if values is None else values[0]

    def names(self) -> Iterable[bytes]:
        return self._values().keys()

    def __repr__(self) -> str:
        return f"Fields({self.lines!r})"


def split_list(value: bytes) -> list[bytes]:
    """The members of a ``#element`` list (RFC 9110 5.6.1): split at commas outside of quoted
    strings, trimmed, empty members dropped. An unterminated quote runs to the end."""
    if b'"' not in value:
        return [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    members: list[bytes] = []
    start = 0
    quoted = escaped = False
    for position, char in enumerate(value):
        if escaped:
            escaped = False
        elif quoted:
            if char == 0x5C:  # backslash
                escaped = True
            elif char == 0x22:
                quoted = False
        elif char == 0x22:
            quoted = True
        elif char == 0x2C:
            members.append(value[start:position].strip(b" \t"))
            start = position + 1
    members.append(value[start:].strip(b" \t"))
    return [member for member in members if member]
