"""Messages of some channels, on a connection of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError

from layergate.layers.redis.connection import Connection, pack
from layergate.layers.redis.errors import raise_first

__all__ = ["Subscription"]

_QUIET: Final = 5.0  # seconds without a message after which it asks for a sign of life


class Subscription:
    """Subscribed to some channels. When the connection is lost, `next` raises: messages were lost then,
    and the listener must look at their source again, and subscribe anew."""

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._heard = time.monotonic()
        self._asked = False

    async def begin(self, channels: Sequence[bytes]) -> None:
        """Subscribe. Raises redis-py's errors, with the connection closed."""
        replies: list[Any] = []
        try:
            packed = pack([("SUBSCRIBE", *channels)])
            await self._connection.exchange(packed, len(channels), replies, self._timeout)
            raise_first(replies)
        except BaseException:
            await self._connection.drop()
            raise

    async def next(self, timeout: float) -> tuple[bytes, bytes] | None:
        """(channel, payload); None if there was no message for ``timeout`` seconds.

        Raises ConnectionError (of redis.exceptions) when the connection is lost. If it vanished
        without a sign, that takes about ten seconds of calls. It stays lost.
        """
        until = time.monotonic() + timeout
        while True:
            message = await self._connection.receive(max(0.0, until - time.monotonic()))
            if message is None:
                await self._check()
                return None
            self._heard = time.monotonic()
            self._asked = False
            kind = message[0] if isinstance(message, list) and message else None
            if kind == b"message":
                return message[1], message[2]
            if kind not in {b"pong", b"subscribe"}:
                await self._connection.drop()
                raise RedisConnectionError(f"not a message: {message!r:.100}")

    async def _check(self) -> None:
        """Nothing came: ask for a sign of life, and give up if the last one did not come."""
        now = time.monotonic()
        if now - self._heard < _QUIET:
            return
        if self._asked:
            await self._connection.drop()
            raise RedisConnectionError("the server has gone quiet")
        self._heard = now
        self._asked = True
        await self._connection.exchange(pack([("PING",)]), 0, [], self._timeout)

    async def close(self) -> None:
        await self._connection.drop(gently=True)

    def abandon(self) -> None:
        """Its loop is closed."""
        self._connection.abandon()
