"""A memo for functions of client-chosen text, bounded in number and in bytes (G7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Memo"]

K = TypeVar("K", bytes, str)
V = TypeVar("V")


class Memo(dict[K, V], Generic[K, V]):
    """``memo[key]`` is ``function(key)``, kept for at most ``count`` keys of at most ``length`` bytes
    (or characters) each.

    A full memo adds nothing and forgets nothing. The texts of ordinary requests come first, so a flood
    of others can't displace them.
    """

    __slots__ = ("_count", "_function", "_length")

    def __init__(self, function: Callable[[K], V], *, count: int, length: int) -> None:
        super().__init__()
        self._function: Callable[[K], V] = function
        self._count = count
        self._length = length

    def __missing__(self, key: K) -> V:
        value: V = self._function(key)
        if len(key) <= self._length and len(self) < self._count:
            self[key] = value
        return value
