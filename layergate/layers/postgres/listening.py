"""Being told of changes: LISTEN, on a connection of its own for each place.

`PostgresCells.wait` calls it. A notification may be missed while nothing listens. So whoever begins to
listen looks at the cell once, after the server has taken the LISTEN.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Final

from layergate.layers.postgres.client import PostgresClient
from layergate.layers.postgres.connection import Connection
from layergate.layers.postgres.statements import Statement
from layergate.remote.places import PerPlace

__all__ = ["Listening"]

_ALIVE: Final = Statement(b"", b"SELECT")


class _Ear:
    """The connection of one place. ``waiting``: the same, while a call waits on it. ``channel``: the one that it
    listens on. ``tag``: of the cell when a call last began to wait. ``heard``: something, since then."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.waiting: Connection | None = None
        self.closed = False
        self.channel = b""
        self.tag: Hashable = None
        self.heard = False

    def drop(self) -> None:
        """The call that waits fails, and closes the connection itself."""
        self.closed = True
        if (waiting := self.waiting) is not None:
            waiting.interrupt()
        connection, self.connection, self.channel = self.connection, None, b""
        if connection is not None:
            connection.drop()


class Listening:
    """At most one call waits at a time in each place: the heartbeat's."""

    def __init__(self, client: PostgresClient) -> None:
        self._client = client
        self._ears: PerPlace[_Ear] | None = None

    def _here(self) -> _Ear:
        if self._ears is None:
            self._ears = PerPlace(self._client.name, _Ear, close=_Ear.drop, abandon=_Ear.drop)
            self._ears.bind(self._client.runtime)
        return self._ears.here()

    async def wait(
        self,
        channel: bytes,
        tag: Hashable,
        changed: Callable[[], Awaitable[bool]],
        seconds: float,
    ) -> bool:
        """True once there is a notification on ``channel``, or if the cell has ``changed`` when it begins to
        listen. False after ``seconds``, or if the server can only be reached through a pooler. Raises
        what psycopg raises for a lost connection."""
        ear = self._here()
        connection, ear.connection = ear.connection, None
        try:
            if connection is not None and ear.channel != channel:
                connection.drop()
                connection = None
            if connection is None:
                connection = await self._client.connected()
                if connection.pooled:
                    connection.drop()
                    return False
                listen = Statement(b"", b'LISTEN "' + channel + b'"')
                await connection.exchange(listen, (), self._client.timeout)
                heard = await changed()
            else:
                # A change that came to be known by other ways: this connection may have died without a sign.
                if tag != ear.tag and not ear.heard:
                    await connection.exchange(_ALIVE, (), self._client.timeout)
                heard = False
            ear.tag, ear.waiting = tag, connection
            seconds = 0.0 if ear.closed else seconds
            ear.heard = heard = heard or await connection.notified(channel, seconds)
        except BaseException:
            ear.waiting = None
            if connection is not None:
                connection.drop()
            raise
        ear.waiting = None
        if ear.closed or ear.connection is not None:
            connection.drop()
        else:
            ear.connection, ear.channel = connection, channel
        return heard

    async def close(self) -> None:
        """Close the connection of this place."""
        if self._ears is not None:
            await self._ears.close()
