"""Blobs that keep a time budget and a breaker, made of blobs that do not.

The author of a system writes plain `Blobs`; this wraps them for `SystemLayer`. (A system whose client
counts round trips itself, as Redis does, needs no wrapper.)
"""

from __future__ import annotations

from collections.abc import Sequence

from layergate.shared.guard import Guard
from layergate.shared.ports import MORE, Blobs, Limits

__all__ = ["GuardedBlobs"]


class GuardedBlobs:
    """`Blobs`, each call through the `Guard`."""

    def __init__(self, blobs: Blobs, guard: Guard) -> None:
        self._blobs = blobs
        self._guard = guard

    @property
    def limits(self) -> Limits:
        return self._blobs.limits

    async def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        return await self._guard.call(self._blobs.get_many, names)

    async def set(self, name: str, data: bytes, seconds: float) -> object:
        return await self._guard.call(self._blobs.set, name, data, seconds)

    async def delete(self, name: str) -> bool:
        return await self._guard.call(self._blobs.delete, name)

    async def clear(self) -> object:
        while await self._guard.call(self._blobs.clear) is MORE:
            pass
        return None
