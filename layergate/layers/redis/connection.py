"""One connection to a Redis, the same in both worlds: `ThreadConnection` blocks, `LoopConnection` suspends.

A connection carries one exchange at a time: so many commands out, as many replies in. If an exchange ends
before its last reply, for any reason, the connection ends too. So a reply can never be taken for the
answer to another command, whatever is cancelled at whatever point (CVE-2023-28858, -28859).

Both drive a connection of redis-py, which does TCP, TLS, the handshake and the parsing. Its clients
are not used: their budgets are per socket operation, and by default they retry ten times.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from layergate.layers.redis.params import ConnectParams
from layergate.remote.transports import abandon

__all__ = ["Command", "Connection", "LoopConnection", "ThreadConnection", "Word", "pack"]

Word: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Word]


class Connection(Protocol):
    """One connection, for one exchange at a time."""

    async def connect(self, seconds: float) -> None:
        """Connect, and do the handshake, within so many seconds. Raises redis-py's errors."""
        ...

    async def exchange(self, packed: bytes, count: int, replies: list[Any], seconds: float) -> None:
        """Send, and append ``count`` replies; error replies are appended as ResponseError.

        Raises redis-py's ConnectionError and TimeoutError; the connection must be dropped then.
        """
        ...

    async def receive(self, seconds: float) -> Any:
        """A message that the server sends on its own; None if there was none for so many seconds."""
        ...

    async def dirty(self) -> bool:
        """True if there is something unread, or it is closed: then it must be dropped."""
        ...

    async def drop(self, *, gently: bool = False) -> None:
        """Close it, at once, or with ``gently`` wait until it is closed. Never raises."""
        ...

    def abandon(self) -> None:
        """Close its socket, and nothing else: its loop is closed. Never raises."""
        ...


def pack(commands: Sequence[Command]) -> bytes:
    """Commands as they go over the wire. Raises TypeError for a word of another type."""
    parts: list[bytes] = []
    add = parts.append
    for command in commands:
        add(b"*%d\r\n" % len(command))
        for word in command:
            data = word if type(word) is bytes else _encoded(word)
            add(b"$%d\r\n" % len(data))
            add(data)
            add(b"\r\n")
    return b"".join(parts)


def _encoded(word: Any) -> bytes:
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, (int, float)) and not isinstance(word, bool):
        return repr(word).encode()
    if isinstance(word, (bytes, bytearray, memoryview)):
        return bytes(word)
    raise TypeError(f"a word of a command must be bytes, str, int or float, got {word!r}")


class LoopConnection:
    """A connection of the running event loop."""

    __slots__ = ("_connection", "_loop")

    def __init__(self, params: ConnectParams, seconds: float) -> None:
        self._connection = params.connection(**params.options, socket_connect_timeout=seconds)
        self._loop = asyncio.get_running_loop()

    async def connect(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._connection.connect()
        except TimeoutError:
            await self.drop()
            raise RedisTimeoutError(f"not connected within {seconds:.3g} s") from None
        except BaseException:
            await self.drop()
            self._check_loop()
            raise

    async def exchange(self, packed: bytes, count: int, replies: list[Any], seconds: float) -> None:
        connection = self._connection
        try:
            async with asyncio.timeout(seconds):
                await connection.send_packed_command(packed, check_health=False)
                for _ in range(count):
                    try:
                        reply = await connection.read_response(disable_decoding=True)
                    except ResponseError as error:
                        reply = error
                    replies.append(reply)
        except TimeoutError:
            raise RedisTimeoutError(f"no answer within {seconds:.3g} s") from None
        except OSError as error:
            raise RedisConnectionError(str(error)) from error
        except BaseException:
            self._check_loop()
            raise

    async def receive(self, seconds: float) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True, timeout=seconds)
        except OSError as error:
            raise RedisConnectionError(str(error)) from error
        except BaseException:
            self._check_loop()
            raise

    async def dirty(self) -> bool:
        connection = self._connection
        try:
            # redis-py 8 renamed it.
            look = getattr(connection, "can_read", None) or connection.can_read_destructive
            return bool(await look())
        except Exception:
            return True

    def _check_loop(self) -> None:
        """If the loop was closed, the calling coroutine is being closed as well, and must not go on.
        (redis-py makes an ordinary error of that, because nothing can be awaited any more.)"""
        if self._loop.is_closed():
            self.abandon()
            raise GeneratorExit from None

    async def drop(self, *, gently: bool = False) -> None:
        if self._loop.is_closed():
            self.abandon()
            return
        with contextlib.suppress(Exception):  # it is gone either way
            await self._connection.disconnect(nowait=not gently)

    def abandon(self) -> None:
        abandon(getattr(self._connection, "noted", None))
        self._connection._writer = self._connection._reader = None  # after it: they look at it


class ThreadConnection:
    """A connection that blocks the thread."""

    __slots__ = ("_connection",)

    def __init__(self, params: ConnectParams, seconds: float) -> None:
        self._connection = params.connection(**params.options, socket_connect_timeout=seconds)

    async def connect(self, seconds: float) -> None:
        connection = self._connection
        connection.until = time.monotonic() + seconds
        # For what comes before our own socket is in place: the handshake of TLS.
        connection.socket_timeout = seconds
        try:
            connection.connect()
        except OSError as error:
            await self.drop()
            raise RedisConnectionError(str(error)) from error
        except BaseException:
            await self.drop()
            raise

    async def exchange(self, packed: bytes, count: int, replies: list[Any], seconds: float) -> None:
        connection = self._connection
        connection.until = time.monotonic() + seconds
        try:
            connection.send_packed_command([packed], check_health=False)
            for _ in range(count):
                try:
                    reply = connection.read_response(disable_decoding=True)
                except ResponseError as error:
                    reply = error
                replies.append(reply)
        except TimeoutError:
            raise RedisTimeoutError(f"no answer within {seconds:.3g} s") from None
        except OSError as error:
            raise RedisConnectionError(str(error)) from error

    async def receive(self, seconds: float) -> Any:
        connection = self._connection
        try:
            connection.until = time.monotonic() + seconds
            if not connection.can_read(timeout=seconds):
                return None
            # It has begun to arrive; the rest takes milliseconds.
            connection.until = time.monotonic() + 1.0
            return connection.read_response(disable_decoding=True)
        except OSError as error:
            raise RedisConnectionError(str(error)) from error

    async def dirty(self) -> bool:
        try:
            return bool(self._connection.can_read(timeout=0))
        except Exception:
            return True

    async def drop(self, *, gently: bool = False) -> None:  # noqa: ARG002 - closing never waits
        with contextlib.suppress(Exception):
            self._connection.disconnect()

    def abandon(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.disconnect()
