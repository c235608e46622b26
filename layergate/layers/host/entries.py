"""The encoded entries that the processes of one host share: small ones in one ring, large ones in another.

One file could hold both, but then each large entry would push out hundreds of small ones. The rings are
the same code, so a large entry needs no file, descriptor, or scan of a folder of its own, and its bytes are
bounded as those of the small ones are. See `layergate.layers.host.ring`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from layergate.core.ports import Runtime
from layergate.layers.host.ring import Ring

__all__ = ["LARGE", "LEAST", "SMALL", "Entries"]

SMALL: Final = "entries"
LARGE: Final = "large"
"""The names of the two files."""
LEAST: Final = 1024 * 1024
"""Bytes; a ring that would be smaller keeps nothing."""

_SMALL_MOST: Final = 256 * 1024  # bytes of an entry that goes to the small ones, at most
_LARGE_MOVES: Final = (
    8 * 1024 * 1024
)  # bytes of large entries that one write moves, at most: some 10 ms
_SHARE: Final = 8  # an entry takes no more than one part in eight of a ring


class Entries:
    """The entries in ``folder``: ``size`` bytes of small ones, and ``large`` bytes of large ones. Nothing is
    opened before it is used, and nothing raises an exception."""

    def __init__(self, folder: Path, *, size: int, large: int, runtime: Runtime) -> None:
        rings = (
            _ring(folder / SMALL, size, _small_most(size), runtime),
            # A large entry that is read has to fit into what one write moves, or it is lost at its turn.
            _ring(folder / LARGE, large, large // _SHARE, runtime, moves=_LARGE_MOVES),
        )
        self._rings: Final = tuple(ring for ring in rings if ring is not None)
        self._rejections = 0

    @staticmethod
    def largest_of(size: int, large: int) -> int:
        """Bytes of the largest entry that rings of these sizes keep."""
        return max(
            _small_most(size) if size >= LEAST else 0, large // _SHARE if large >= LEAST else 0
        )

    @property
    def largest(self) -> int:
        """Bytes of the largest entry that is kept."""
        return max((ring.largest for ring in self._rings), default=0)

    def get(self, name: bytes) -> bytes | None:
        """The entry, or None. ``name``: a digest of `ring.NAME_SIZE` bytes."""
        for ring in self._rings:
            data = ring.get(name)
            if data is not None:
                return data
        return None

    def set(self, name: bytes, data: bytes, expires: float) -> bool:
        """Keep the entry until ``expires`` (seconds since the epoch). False if it is not kept; then another
        one may still be under the name."""
        fitting = next((ring for ring in self._rings if len(data) <= ring.largest), None)
        for ring in self._rings:
            # First: a larger or smaller entry of the same name must not come back when the new one goes.
            if ring is not fitting:
                ring.delete(name)
        kept = fitting is not None and fitting.set(name, data, expires)
        if not kept:
            self._rejections += 1
        return kept

    def delete(self, name: bytes) -> bool:
        """Remove the entry. True if there was one."""
        there = False
        for ring in self._rings:
            there |= ring.delete(name)
        return there

    def clear(self) -> None:
        """Remove all entries."""
        for ring in self._rings:
            ring.clear()

    def close(self) -> None:
        """Close the files. Using the entries again opens them anew."""
        for ring in self._rings:
            ring.close()

    def stats(self) -> Mapping[str, int | float]:
        """``bytes`` of ``budget`` in use, by all processes. Since construction, in this process:
        ``evictions``; ``moved`` (kept beyond their turn, for they are read); ``rejections``, some of them
        because another process was writing (``contended``); ``failures`` of the file system."""
        rings = self._rings
        return {
            "bytes": sum(ring.used for ring in rings),
            "budget": sum(ring.size for ring in rings),
            "evictions": sum(ring.evictions for ring in rings),
            "moved": sum(ring.moved for ring in rings),
            "rejections": self._rejections,
            "contended": sum(ring.contended for ring in rings),
            "failures": sum(ring.failures for ring in rings),
        }


def _small_most(size: int) -> int:
    return min(_SMALL_MOST, size // _SHARE)


def _ring(path: Path, size: int, largest: int, runtime: Runtime, **options: int) -> Ring | None:
    if size < LEAST:
        return None
    return Ring(
        path,
        size,
        largest=largest,
        **options,
        lock=runtime.lock(),
        now=runtime.now,
        monotonic=runtime.monotonic,
    )
