"""How a purge of many things becomes records of the log, none larger than the system takes."""

from __future__ import annotations

from typing import Final

from layergate.core.codec import MAX_INVALIDATIONS
from layergate.core.invalidation import Invalidation

__all__ = ["parts_of"]

_FRAME: Final = 64  # bytes of a record without its invalidations, at most
_FRAME_EACH: Final = 8  # bytes of an invalidation without its value, at most


def parts_of(
    invalidations: tuple[Invalidation, ...], largest: int | None
) -> list[tuple[Invalidation, ...]]:
    """As many as one record of at most ``largest`` bytes holds, each; one part even if there are none."""
    parts: list[list[Invalidation]] = [[]]
    size = _FRAME
    for one in invalidations:
        more = _FRAME_EACH + len(one.value.encode("utf-8", "surrogatepass"))
        full = largest is not None and size + more > largest and parts[-1]
        if full or len(parts[-1]) == MAX_INVALIDATIONS:
            parts.append([])
            size = _FRAME
        parts[-1].append(one)
        size += more
    return [tuple(part) for part in parts]
