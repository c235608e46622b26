"""The protocol of a layer: one place where entries are kept.

A layer may answer at once (memory) or with an awaitable (a client library); the stack awaits what
is awaitable. So one class can serve asyncio and threads alike. `layergate.testing.layers` is the
conformance suite that every layer's tests subclass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from layergate.core.entry import Entry

__all__ = ["Key", "Layer", "MaybeAwaitable", "PeekableLayer"]

T = TypeVar("T")

Key: TypeAlias = str | bytes
MaybeAwaitable: TypeAlias = T | Awaitable[T]


@runtime_checkable
class Layer(Protocol):
    """What the stack needs from a layer. Any method may raise; the stack turns that into a miss.

    ``name`` is unique within a stack; it is the key of per-layer TTLs and of metrics.

    Optional attributes, all in seconds, None for none: ``ttl``, ``stale_while_revalidate``,
    ``stale_if_error`` cap what the stack writes here; with a ``timeout`` the layer ends its own
    operations, and the stack's ``layer_timeout`` is not for it. ``largest``: the most bytes of an
    entry that it ever keeps.

    Optional methods: ``inspect``, as `get`, for an observer: it leaves no trace in ``stats``, nor in
    what is evicted next. ``takes(key, size, tags)``: would an entry of ``size`` bytes be kept, as
    things are now? It answers at once, without I/O; a layer that has no such method is taken to
    keep everything. ``reads`` and ``fade``, of a top layer: how often something has been read of
    late, for what bounds the number of entries of one kind; see `MemoryLayer.reads`. ``scan``, as
    in `MemoryLayer`: without it nobody can tell what a purge meets here.
    """

    @property
    def name(self) -> str: ...

    def get(self, key: Key) -> MaybeAwaitable[Entry | None]:
        """The entry, or None when there is none or its ``expires`` has passed."""
        ...

    def get_many(self, keys: Sequence[Key]) -> MaybeAwaitable[Mapping[Key, Entry]]:
        """The entries found, in one round trip. Missing keys are left out."""
        ...

    def set(self, key: Key, entry: Entry) -> MaybeAwaitable[None]:
        """Keep the entry until its ``expires``, replacing any other under this key.

        A layer may decline (too large, over budget): then nothing is under the key afterwards.
        """
        ...

    def delete(self, key: Key) -> MaybeAwaitable[bool]:
        """Remove the key. True if there was an entry."""
        ...

    def clear(self) -> MaybeAwaitable[None]:
        """Remove every entry."""
        ...

    def stats(self) -> Mapping[str, int | float]:
        """Counters and gauges, cheap, no I/O. Keys in use: entries, bytes, budget, evictions,
        expirations, rejections."""
        ...


@runtime_checkable
class PeekableLayer(Layer, Protocol):
    """A layer that can be read without I/O, lock or await: the L1."""

    def peek(self, key: Key) -> Entry | None:
        """The entry as it stands, even past its ``expires`` (the caller looks at the times)."""
        ...
