"""Statements with the types of their parameters, and what is read from an answer.

All values travel in PostgreSQL's binary format where that is the bytes themselves (text, bytea), and as
text elsewhere. A statement that is asked often is prepared once for each connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

__all__ = ["Answer", "Kind", "Row", "Statement", "array"]

_BINARY: Final = 1
_TEXT: Final = 0


class Kind(IntEnum):
    """The type of a parameter, by its OID."""

    BYTES = 17
    COUNT = 20
    TEXT = 25
    NUMBER = 701
    TEXTS = 1009


class Statement(NamedTuple):
    """``name``: under which it is prepared; b"" for one that is not."""

    name: bytes
    sql: bytes
    kinds: tuple[Kind, ...] = ()

    @classmethod
    def of(cls, name: str, sql: str, *kinds: Kind) -> Statement:
        """A statement that is prepared under ``name``."""
        return cls(b"layergate_" + name.encode(), " ".join(sql.split()).encode(), kinds)

    @property
    def formats(self) -> tuple[int, ...]:
        """Of the parameters."""
        return tuple(_BINARY if kind in (Kind.BYTES, Kind.TEXT) else _TEXT for kind in self.kinds)


Row: TypeAlias = tuple[bytes | None, ...]


class Answer(NamedTuple):
    """``rows``: with text and bytea as their bytes. ``changed``: how many rows were written."""

    rows: Sequence[Row]
    changed: int


def array(names: Iterable[str]) -> bytes:
    """A parameter of the kind `Kind.TEXTS`. Raises ValueError for a name with a quote or a backslash,
    which the names of entries never have."""
    quoted = []
    for name in names:
        if '"' in name or "\\" in name:
            raise ValueError(f"a name of an entry has a quote: {name!r}")
        quoted.append(f'"{name}"')
    return ("{" + ",".join(quoted) + "}").encode()
