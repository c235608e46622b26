"""Which variants of a target are kept, when there are more of them than ``max_variants``.

Who varies a request field makes variants at will, so what is read must not give way to what has only
come. In a full index a new variant takes the place of one that is gone, of a marker, or of one that
nobody has read since it was stored, the oldest first. If all are read, it is not kept.

A variant that comes back after it gave way, or was not kept, is more than a passer-by: it takes the
place of the *youngest* unread one, and counts as read itself. So of forty variants that are asked for in
turn, thirty-two are soon hits, where the oldest would give way to the next for ever. Those that are read
no more lose their standing in time: while others are turned away, one read a minute.

In a fleet a variant that this instance's memory does not hold may be one that others read. It gives way
only to one that has been turned away here again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from layergate.core.stack import Stack
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.message.stored import StoredResponse
from layergate.http.privacy.forwarding import Forwarding
from layergate.http.rfc9111.selecting import vary_names

__all__ = ["Admission", "Room"]

T = TypeVar("T")

_REMEMBERED: Final = 16_384  # variants that gave way or were not kept
_INSISTENT: Final = 4  # sights after which it may displace what this instance does not hold
_FADING: Final = 60.0  # seconds


class Room(NamedTuple):
    """``victim``: the variant that gives way; None: there is room as it is."""

    victim: bytes | None


class Admission:
    """What one process remembers of variants that are not, or no more, in their target's index."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._lock = stack.runtime.lock()
        self._sights: dict[int, int] = {}  # by hash; oldest first
        self._faded: dict[int, float] = {}  # when a target's reads were last lowered; oldest first

    def forked(self) -> None:
        """In the child of a fork: a thread of the parent may hold the lock."""
        self._lock = self._stack.runtime.lock()

    def sighted(self, variant: bytes) -> int:
        """Note that ``variant`` has come and is not in its index; returns how often it has, this time
        included."""
        invalidation = hash(variant)
        with self._lock:
            sights = self._sights.pop(invalidation, 0) + 1
            self._put(self._sights, invalidation, sights)
        return sights

    def gave_way(self, variant: bytes) -> None:
        """Note that ``variant`` was there, and is not any more."""
        invalidation = hash(variant)
        with self._lock:
            self._put(self._sights, invalidation, max(1, self._sights.pop(invalidation, 0)))

    def room(
        self,
        index: VariantIndex,
        variant: bytes,
        cap: int,
        *,
        sights: int,
        hit_for_miss: bool = False,
    ) -> Room | None:
        """The room for a ``variant`` in the ``index``; None if there is none. Changes nothing.

        ``sights``: see `sighted`. ``hit_for_miss``: it is one for what is not shareable, and displaces no
        response."""
        if variant in index.variants or len(index.variants) < cap:
            return Room(None)
        unread: list[bytes] = []
        elsewhere: bytes | None = None
        now = self._stack.runtime.now()
        for position, other in enumerate(index.variants):
            if position < len(index.expires) and index.expires[position] <= now:
                return Room(other)
            reads = self._stack.reads(other)
            if reads is None:
                if self._stack.peek_is_enough:
                    return Room(other)
                elsewhere = elsewhere or other
            elif self._is_marker(other):
                return Room(other)
            elif not reads:
                unread.append(other)
        if hit_for_miss:
            return None
        if unread:
            return Room(unread[-1] if sights > 1 else unread[0])
        return Room(elsewhere) if elsewhere is not None and sights >= _INSISTENT else None

    def _is_marker(self, variant: bytes) -> bool:
        entry = self._stack.inspect_top(variant)
        return entry is not None and isinstance(entry.value, HitForMiss)

    def fade(self, primary: bytes, index: VariantIndex) -> None:
        """A variant was turned away since all are read: those that are so no more shall not be in its
        way for ever."""
        invalidation, now = hash(primary), self._stack.runtime.now()
        with self._lock:
            if now - self._faded.get(invalidation, 0.0) < _FADING:
                return
            first = invalidation not in self._faded
            self._faded.pop(invalidation, None)
            self._put(self._faded, invalidation, now)
        if not first:
            for variant in index.variants:
                self._stack.fade(variant)

    def idle_names(
        self, index: VariantIndex, names: Sequence[tuple[bytes, ...]], forwarding: Forwarding
    ) -> tuple[bytes, ...] | None:
        """Of the sets of field ``names`` that select variants, the last whose variants nobody reads;
        None if all are read."""
        read: set[tuple[bytes, ...]] = set()
        for variant in index.variants:
            if self._stack.reads(variant):
                entry = self._stack.inspect_top(variant)
                if entry is not None and isinstance(entry.value, StoredResponse):
                    read |= forwarding.all_selecting(vary_names(entry.value.fields) or ())
        return next((one for one in reversed(names) if one and one not in read), None)

    @staticmethod
    def _put(memory: dict[int, T], invalidation: int, value: T) -> None:
        if len(memory) >= _REMEMBERED:
            del memory[next(iter(memory))]
        memory[invalidation] = value
