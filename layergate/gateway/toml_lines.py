"""On which line of a TOML text a key is. `tomllib` gives the values, and no places."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Final, TypeAlias

__all__ = ["Place", "key_lines"]

# Of a key, from the root: names of tables, and positions in arrays.
Place: TypeAlias = tuple[str | int, ...]

_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INDENT: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# What is quoted. A closing run of three to five quotes has up to two that belong to the text.
_QUOTED: Final = re.compile(
    r'"""(?:\\.|[^\\])*?""""{0,2}'
    r"|'''.*?''''{0,2}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
# Numbers, booleans, dates (which may have a space in them): what ends before a delimiter.
_OTHER: Final = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[Place, int]:
    """The line, from 1, of every key and of every element of an array, by its place.

    A table has the line that first names it, an element of an array of tables that of its header.

    ``text`` must be TOML that `tomllib` accepts. Raises RecursionError if it is nested too deeply.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {}
        self._text = text
        self._at = 0
        self._breaks = [found.start() for found in re.finditer("\n", text)]
        self._counts: dict[Place, int] = {}  # of the elements of arrays of tables

    def document(self) -> None:
        table: Place = ()
        self._take(_SPACE)
        while self._at < len(self._text):
            if self._next("[["):
                table = self._header(array=True)
            elif self._next("["):
                table = self._header(array=False)
            else:
                self._pair(table)
            self._take(_SPACE)

    def _header(self, *, array: bool) -> Place:
        """The place of the table that a header opens."""
        line = self._line()
        self._take(_INDENT)
        *outer, last = self._key()
        self._take(_INDENT)
        self._at += 2 if array else 1  # what closes it
        place: Place = ()
        for name in outer:
            place = self._name((*place, name), line)
            if place in self._counts:
                place = (*place, self._counts[place] - 1)  # the newest of them is meant
        place = self._name((*place, last), line)
        if array:
            number = self._counts.get(place, 0)
            self._counts[place] = number + 1
            place = self._name((*place, number), line)
        return place

    def _pair(self, table: Place) -> None:
        line = self._line()
        place = table
        for name in self._key():
            place = self._name((*place, name), line)
        self._take(_INDENT)
        self._at += 1  # "="
        self._take(_INDENT)
        self._value(place)

    def _key(self) -> list[str]:
        names: list[str] = []
        while True:
            if self._text[self._at] in "\"'":
                # Its escapes are read by who knows them.
                names += tomllib.loads(f"{self._take(_QUOTED)} = 0")
            else:
                names.append(self._take(_BARE_KEY))
            self._take(_INDENT)
            if not self._next("."):
                return names
            self._take(_INDENT)

    def _value(self, place: Place) -> None:
        if self._next("["):
            number = 0
            self._take(_SPACE)
            while not self._next("]"):
                self._value(self._name((*place, number), self._line()))
                number += 1
                self._separator()
        elif self._next("{"):
            self._take(_SPACE)
            while not self._next("}"):
                self._pair(place)
                self._separator()
        elif self._text[self._at] in "\"'":
            self._take(_QUOTED)
        else:
            self._take(_OTHER)

    def _separator(self) -> None:
        self._take(_SPACE)
        self._next(",")
        self._take(_SPACE)

    def _name(self, place: Place, line: int) -> Place:
        self.lines.setdefault(place, line)
        return place

    def _line(self) -> int:
        return bisect_right(self._breaks, self._at) + 1

    def _next(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"no TOML that tomllib accepts, at line {self._line()}")
        self._at = found.end()
        return found.group()
