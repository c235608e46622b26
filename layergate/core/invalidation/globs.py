"""Patterns in which ``*`` stands for any run of characters.

They are matched without regular expressions, in time linear in the length of the text, so no
pattern can make a hit slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from layergate.errors import KeyRefused

__all__ = [
    "MAX_PATTERN_LENGTH",
    "MAX_PATTERN_STARS",
    "Glob",
    "glob",
    "path_glob",
    "path_of",
    "prefix_glob",
]

MAX_PATTERN_LENGTH: Final = 2048
"""Characters in a pattern."""
MAX_PATTERN_STARS: Final = 16

Glob: TypeAlias = Callable[[str], bool]
"""A compiled pattern: whether a text matches it."""


def glob(pattern: str) -> Glob:
    """Compile ``pattern``. Only ``*`` is special.

    Raises KeyRefused if the pattern is empty, longer than `MAX_PATTERN_LENGTH`, or has more than
    `MAX_PATTERN_STARS` stars.
    """
    if not pattern:
        raise KeyRefused("pattern must not be empty; use '*' to match everything")
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise KeyRefused(
            f"pattern must be at most {MAX_PATTERN_LENGTH} characters, got {len(pattern)}"
        )
    head, *rest = pattern.split("*")
    if not rest:
        return pattern.__eq__
    if len(rest) > MAX_PATTERN_STARS:
        raise KeyRefused(f"pattern must have at most {MAX_PATTERN_STARS} '*', got {len(rest)}")
    tail = rest.pop()
    middle = [part for part in rest if part]
    shortest = len(head) + len(tail)

    def matches(text: str) -> bool:
        if len(text) < shortest or not text.startswith(head) or not text.endswith(tail):
            return False
        start, end = len(head), len(text) - len(tail)
        for part in middle:
            found = text.find(part, start, end)
            if found < 0:
                return False
            start = found + len(part)
        return True

    return matches


def path_of(label: str) -> str:
    """The part of a URI label that follows the authority."""
    authority = label.find("://")
    path = label.find("/", authority + 3) if authority >= 0 else 0
    return label[path:] if path >= 0 else "/"


def path_glob(pattern: str) -> Glob:
    """Compile a pattern that is matched against the path of a URI label. Raises as `glob`."""
    matches = glob(pattern)

    def matches_path(label: str) -> bool:
        return matches(path_of(label))

    return matches_path


def prefix_glob(prefix: str) -> Glob:
    """A pattern for the texts that begin with ``prefix``."""

    def matches(text: str) -> bool:
        return text.startswith(prefix)

    return matches
