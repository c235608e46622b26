"""Header sections as ordered lines, with lower-case names and duplicates (RFC 9110 section 5).

Nothing here interprets a field; see `cache_control`, `dates` and `etags`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias

__all__ = ["Fields", "Line", "Lines", "split_list"]

Line: TypeAlias = tuple[bytes, bytes]
Lines: TypeAlias = list[Line]


class Fields:
    """One header section. ``lines``: (lower-case name, value) pairs, in the order received.

    ``get(name)``: the combined value of a field (RFC 9110 5.2: lines joined with ", "), or None if it is
    absent. If no name occurs twice, this is the ``get`` of a dict, which is faster than a method.
    """

    __slots__ = ("_several", "_values", "get", "lines")

    def __init__(self, lines: Iterable[Iterable[bytes]]) -> None:
        self.lines: Lines = [
            (name if name.islower() else name.lower(), value) for name, value in lines
        ]
        self._values = dict(self.lines)
        self.get: Callable[[bytes], bytes | None] = self._values.get
        # Values by name, if any name occurs more than once. In most sections no name does.
        self._several: dict[bytes, list[bytes]] | None = None
        if len(self._values) != len(self.lines):
            several: dict[bytes, list[bytes]] = {}
            self._several = several
            # A bound method would make a reference cycle.
            self.get = partial(_combined, several)
            for name, value in self.lines:
                several.setdefault(name, []).append(value)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def all(self, name: bytes) -> list[bytes]:
        """The values of every line with this (lower-case) name, in order. Empty if absent."""
        if self._several is not None:
            return self._several.get(name, [])
        value = self._values.get(name)
        return [] if value is None else [value]

    def first(self, name: bytes) -> bytes | None:
        """The value of the first line with this name, or None if absent."""
        if self._several is None:
            return self._values.get(name)
        return next(iter(self._several.get(name, ())), None)

    def names(self) -> Iterable[bytes]:
        return self._values.keys()

    def __repr__(self) -> str:
        return f"Fields({self.lines!r})"


def _combined(several: dict[bytes, list[bytes]], name: bytes) -> bytes | None:
    values = several.get(name)
    return None if values is None else b", ".join(values)


def split_list(value: bytes) -> list[bytes]:
    """The members of a ``#element`` list (RFC 9110 5.6.1), trimmed, without empty members.

    Commas within quoted strings do not split. An unterminated quote extends to the end.
    """
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
