"""How a cell of the ledger looks: versioned, data only, bounded.

    cell      "lgl" | version (1 byte) | kind (1 byte) | msgpack list of integers, floats and bytes

`head`, `pages` and `leasing` say what their lists hold, and check every item. Whatever the bytes are,
reading them raises `WireError` and nothing else. `LaterVersion` is the special case in which a later
version of LayerGate wrote the cell: then it must be left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from importlib import import_module
from math import isfinite
from typing import Any, Final

from layergate.errors import ConfigError, WireError

__all__ = ["Kind", "LaterVersion", "Reader", "packed", "unpacked"]

VERSION: Final = 1
_MAGIC: Final = b"lgl"
_PREFIX: Final = len(_MAGIC) + 2
_LARGEST: Final = 16 * 1024 * 1024  # bytes of a cell that is looked into at all


class Kind(IntEnum):
    HEAD = 1
    PAGE = 2
    ACKNOWLEDGEMENT = 3
    LEASES = 4


class LaterVersion(WireError):
    """A later version wrote the cell."""


@cache
def _msgpack() -> Any:
    try:
        return import_module("msgpack")
    except ImportError as error:
        raise ConfigError(
            "a shared layer needs msgpack, which is not installed;"
            " run: pip install 'layergate[redis]'"
        ) from error


def packed(kind: Kind, items: Sequence[Any]) -> bytes:
    """A cell of this kind."""
    body: bytes = _msgpack().packb(items, strict_types=False)
    return b"%b%c%c%b" % (_MAGIC, VERSION, kind, body)


def unpacked(kind: Kind, data: bytes) -> Reader:
    """What a cell of this kind holds. Raises WireError."""
    if data[: len(_MAGIC)] != _MAGIC or len(data) < _PREFIX:
        raise WireError("this is no cell of a ledger")
    if data[3] > VERSION:
        raise LaterVersion(f"a later version of LayerGate wrote this cell (format {data[3]})")
    if data[3] != VERSION or data[4] != kind:
        raise WireError("this is a cell of another kind")
    if len(data) > _LARGEST:
        raise WireError("this cell is too large")
    try:
        items = _msgpack().unpackb(
            data[_PREFIX:],
            use_list=False,
            max_array_len=len(data),
            max_bin_len=len(data),
            max_str_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
    except Exception as error:
        raise WireError(f"this cell is not readable ({type(error).__name__})") from None
    if type(items) is not tuple:
        raise WireError("this cell is no list")
    return Reader(items)


class Reader:
    """Takes checked items off a list, one after the other. Raises WireError."""

    __slots__ = ("_at", "_items")

    def __init__(self, items: tuple[Any, ...]) -> None:
        self._items = items
        self._at = 0

    def _next(self, kind: type) -> Any:
        if self._at >= len(self._items):
            raise WireError("this cell is too short")
        item = self._items[self._at]
        self._at += 1
        if type(item) is not kind:
            raise WireError(f"this cell has a {type(item).__name__} for a {kind.__name__}")
        return item

    def integer(self, least: int, most: int) -> int:
        item: int = self._next(int)
        if not least <= item <= most:
            raise WireError(f"this cell has a number that is not from {least} to {most}")
        return item

    def flag(self) -> bool:
        item: bool = self._next(bool)
        return item

    def seconds(self, least: float, most: float) -> float:
        item: float = self._next(float)
        if not isfinite(item) or not least <= item <= most:
            raise WireError(f"this cell has a duration that is not from {least} to {most} seconds")
        return item

    def octets(self, most: int, least: int = 0) -> bytes:
        item: bytes = self._next(bytes)
        if not least <= len(item) <= most:
            raise WireError(f"this cell has {len(item)} bytes for {least} to {most}")
        return item

    @property
    def more(self) -> bool:
        """There are items left."""
        return self._at < len(self._items)

    def nested(self) -> Reader:
        """The items of a list in the list."""
        return Reader(self._next(tuple))

    def end(self) -> None:
        if self.more:
            raise WireError("this cell is too long")
