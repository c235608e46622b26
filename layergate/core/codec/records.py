"""Log records as flat lists: ``[time, kind, value, soft, kind, value, soft, ...]``."""

from __future__ import annotations

from typing import Any, Final, get_args

from layergate.core.codec.entries import FAR
from layergate.core.invalidation import Invalidation, InvalidationKind, glob
from layergate.errors import KeyRefused, WireError

__all__ = [
    "MAX_INVALIDATIONS",
    "MAX_INVALIDATION_LENGTH",
    "MAX_ITEMS",
    "MAX_RECORD",
    "read_record",
    "record_document",
]

MAX_INVALIDATIONS: Final = 1000
"""Invalidations in one record."""
MAX_INVALIDATION_LENGTH: Final = 8192
"""Characters in the value of an invalidation."""
MAX_ITEMS: Final = 1 + 3 * MAX_INVALIDATIONS
"""Items in the list."""
MAX_RECORD: Final = 64 + MAX_INVALIDATIONS * (16 + 4 * MAX_INVALIDATION_LENGTH)
"""Bytes of a record."""

_KINDS: Final[tuple[InvalidationKind, ...]] = get_args(InvalidationKind)


def record_document(invalidations: tuple[Invalidation, ...], time: float) -> list[Any]:
    """The list for a record made at ``time`` (seconds since the epoch).

    A key or prefix that is too long becomes a shorter prefix, which purges no less. Raises
    WireError for any other invalidation that is too long, for too many of them, and for a malformed
    one.
    """
    if len(invalidations) > MAX_INVALIDATIONS:
        raise WireError(
            f"a record holds at most {MAX_INVALIDATIONS} invalidations, got {len(invalidations)};"
            " split them into several records"
        )
    document: list[Any] = [float(time)]
    for kind, value, soft in invalidations:
        if kind in ("key", "prefix") and len(value) > MAX_INVALIDATION_LENGTH:
            document += _KINDS.index("prefix"), value[:MAX_INVALIDATION_LENGTH], bool(soft)
        else:
            document += _KINDS.index(kind), value, bool(soft)
    read_record(document)
    return document


def read_record(document: Any) -> tuple[tuple[Invalidation, ...], float]:
    """The invalidations and the time of a record. `Invalidations.apply` accepts the result.

    Raises WireError, and any exception if ``document`` is not a list.
    """
    time, *flat = document
    if type(time) is not float or not -FAR <= time <= FAR:
        raise WireError("the time of a record is not a finite number of seconds")
    if len(flat) % 3 or len(flat) > 3 * MAX_INVALIDATIONS:
        raise WireError("the invalidations of a record are not triples, or too many")
    invalidations = []
    for at in range(0, len(flat), 3):
        code, value, soft = flat[at : at + 3]
        if type(code) is not int or not 0 <= code < len(_KINDS):
            raise WireError("an invalidation is of an unknown kind")
        if type(value) is not str or len(value) > MAX_INVALIDATION_LENGTH or type(soft) is not bool:
            raise WireError("an invalidation is malformed, or too long")
        kind = _KINDS[code]
        if kind in ("glob", "path"):
            try:
                glob(value)
            except KeyRefused as error:
                raise WireError(f"an invalidation cannot be applied: {error}") from None
        invalidations.append(Invalidation(kind, value, soft))
    return tuple(invalidations), time
