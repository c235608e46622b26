"""Entries in Redis: the port `Blobs`, for `SystemLayer`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from redis.exceptions import RedisError

from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.errors import reraise
from layergate.shared.names import blob_prefix
from layergate.shared.ports import Limits

__all__ = ["RedisBlobs"]

_LIMITS: Final = Limits()


class RedisBlobs:
    """`layergate.shared.ports.Blobs`."""

    limits: Final = _LIMITS

    def __init__(self, client: RedisClient, namespace: str) -> None:
        self._client = client
        self._prefix = blob_prefix(namespace).encode()

    async def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """One round trip for each 512 names; in a Cluster one per node, where the values of a node that
        does not answer count as missing."""
        try:
            if len(names) == 1:  # under asyncio it travels with what else is asked
                return (await self._client.get(names[0].encode()),)
            return await self._client.get_many([name.encode() for name in names])
        except RedisError as error:
            reraise(self._client.name, error)

    async def set(self, name: str, data: bytes, seconds: float) -> None:
        try:
            await self._client.call("SET", name, data, "PX", math.ceil(seconds * 1000))
        except RedisError as error:
            reraise(self._client.name, error)

    async def delete(self, name: str) -> bool:
        try:
            return bool(await self._client.call("UNLINK", name))
        except RedisError as error:
            reraise(self._client.name, error)

    async def clear(self) -> None:
        """Takes a round trip for each 500 keys of the whole Redis."""
        try:
            await self._client.unlink_prefix(self._prefix)
        except RedisError as error:
            reraise(self._client.name, error)
