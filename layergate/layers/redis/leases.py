"""Leases in Redis: the port `FencingLeaseStore`, on the scripts of `lease_scripts`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.errors import garbled, ported, reraise
from layergate.layers.redis.journal import release_channels
from layergate.layers.redis.keys import digest_of, waiters_key
from layergate.layers.redis.lease_scripts import (
    ACQUIRE,
    FENCED_SET,
    LOOK,
    MEND_LEASE,
    RELEASE,
    RENEW,
)
from layergate.layers.redis.script import Script
from layergate.shared.journal import Held, Observed, Release, Taken

__all__ = ["RedisLeaseStore"]

_logger = logging.getLogger("layergate")

_FREE = -2  # a reply of LOOK


class RedisLeaseStore:
    """`layergate.shared.journal.FencingLeaseStore` on one Redis."""

    def __init__(self, client: RedisClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._channels = release_channels(namespace)

    async def acquire(self, name: str, token: bytes, term: float, waiter: bytes) -> Taken | Held:
        granted, detail, holder = await self._run(
            ACQUIRE, self.keys(name), [token, _milliseconds(term), waiter]
        )
        return Taken(bool(detail)) if granted else Held(holder, max(0, detail) / 1000)

    async def look(self, name: str, holder: bytes, term: float, waiter: bytes) -> Observed:
        left = await self._run(LOOK, self.keys(name), [holder, _milliseconds(term), waiter])
        return Observed(None, left == _FREE) if left < 0 else Observed(left / 1000)

    async def renew(
        self, leases: Sequence[tuple[str, bytes]], term: float
    ) -> Sequence[bool | Exception]:
        milliseconds = _milliseconds(term)
        return await self._run_all(
            RENEW, [([name.encode()], [token, milliseconds]) for name, token in leases]
        )

    async def release(self, releases: Sequence[Release], term: float) -> Sequence[bool | Exception]:
        milliseconds = _milliseconds(term)
        calls = []
        for one in releases:
            message = digest_of(one.name) + ("!" if one.free else "")
            unsure = b"" if one.granted else b"1"
            free = b"1" if one.free else b""
            words = [one.token, milliseconds, self._channels, message, unsure, free]
            calls.append((self.keys(one.name), words))
        return await self._run_all(RELEASE, calls)

    async def fenced_set(
        self, name: str, token: bytes, blob: str, data: bytes, seconds: float
    ) -> bool:
        keys = [name.encode(), blob.encode()]
        return bool(await self._run(FENCED_SET, keys, [token, data, _milliseconds(seconds)]))

    def forked(self) -> None:
        self._client.forked()

    def keys(self, name: str) -> list[bytes]:
        """The keys of a lease and of those who wait for it."""
        return [name.encode(), waiters_key(self._namespace, digest_of(name))]

    async def _run(self, script: Script, keys: list[bytes], words: list[Any]) -> Any:
        try:
            try:
                return await self._client.run(script, keys, words)
            except RedisError as error:
                if not (garbled(error) and await self._mended(script, keys)):
                    raise
                return await self._client.run(script, keys, words)
        except RedisError as error:
            reraise(self._client.name, error)

    async def _mended(self, script: Script, keys: list[bytes]) -> bool:
        """Somebody has written into these keys, and they were removed."""
        of_lease = keys[:1] if script is FENCED_SET else keys
        try:
            return bool(await self._client.run(MEND_LEASE, of_lease))
        except RedisError as error:
            _logger.debug("the keys of a lease cannot be looked at: %r", error)
            return False

    async def _run_all(
        self, script: Script, calls: list[tuple[list[bytes], list[Any]]]
    ) -> list[bool | Exception]:
        name = self._client.name
        try:
            replies = await self._client.run_all(script, calls)
            for number, (keys, words) in enumerate(calls):
                if garbled(replies[number]):
                    replies[number] = await self._again(script, keys, words, replies[number])
            return ported(name, replies)
        except RedisError as error:
            reraise(name, error)

    async def _again(
        self, script: Script, keys: list[bytes], words: list[Any], error: Exception
    ) -> Any:
        """The reply, or the error, once the keys are mended; ``error`` if there is nothing to mend."""
        if not await self._mended(script, keys):
            return error
        try:
            return await self._client.run(script, keys, words)
        except RedisError as again:
            return again


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
