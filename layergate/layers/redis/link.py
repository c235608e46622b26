"""One connection to a Redis, the same in both worlds: `ThreadLink` blocks, `LoopLink` suspends.

A link carries one exchange at a time: so many commands out, as many replies in. Whatever ends an
exchange before its last reply ends the link too. So a reply can never be taken for the answer to
another command, whoever is cancelled, wherever (CVE-2023-28858, -28859).

Both drive a connection of redis-py, which does TCP, TLS, the handshake and the parsing. Its clients
are not used: their budgets are per socket operation, and by default they retry ten times.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import redis.asyncio.connection
import redis.asyncio.retry
import redis.backoff
import redis.connection
import redis.retry
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from layergate.layers.redis.url import Address

__all__ = [
    "Command",
    "Link",
    "LoopLink",
    "Recipe",
    "ThreadLink",
    "Word",
    "check_hostname",
    "keepalive",
    "pack",
]

_logger = logging.getLogger("layergate")

_MAJOR: Final = int(redis.__version__.partition(".")[0])

Word: TypeAlias = bytes | str | int | float
Command: TypeAlias = Sequence[Word]

# What a client's own pool adds, and what would wait or retry beyond our budgets.
_LEFT_OUT: Final = frozenset({
    "cache", "cache_config", "connection_class", "max_connections", "response_callbacks", "retry",
    "retry_on_error", "retry_on_timeout", "socket_connect_timeout",
})  # fmt: skip
_LEFT_OUT_PREFIXES: Final = ("maint_", "maintenance_", "orig_", "oss_cluster_")


class Recipe(NamedTuple):
    """How to make a connection: redis-py's class and what it is called with.

    ``keep``: what has to live as long as the connections.
    """

    connection: Any
    options: Mapping[str, Any]
    keep: object = None

    @classmethod
    def of(cls, connection: Any, options: Mapping[str, Any], *, blocking: bool) -> Recipe:
        """From a class and options as they are in a redis-py client, without its budgets."""
        kept = {
            name: value
            for name, value in options.items()
            if name not in _LEFT_OUT and not name.startswith(_LEFT_OUT_PREFIXES)
        }
        if "socket_keepalive" in kept and not kept["socket_keepalive"]:
            # A peer that vanished is noticed while the connection is idle, not by whoever needs it.
            kept |= {"socket_keepalive": True, "socket_keepalive_options": keepalive()}
        if _speaks_tls(connection):
            check_hostname(kept)
        retry = redis.retry.Retry if blocking else redis.asyncio.retry.Retry
        kept |= {
            # One way for a reply to look, whatever the client was set to.
            "protocol": 2,
            "decode_responses": False,
            "health_check_interval": 0,
            "retry": retry(redis.backoff.NoBackoff(), 0),
            # A link keeps the time for a whole exchange.
            "socket_timeout": None,
        }
        return cls(_paced(connection) if blocking else _noted(connection), kept)

    def at(self, address: Address) -> Recipe:
        """The same for another server of a Cluster."""
        return self._replace(options={**self.options, "host": address.host, "port": address.port})


def _speaks_tls(connection: Any) -> bool:
    return isinstance(connection, type) and issubclass(
        connection, (redis.connection.SSLConnection, redis.asyncio.connection.SSLConnection)
    )


def check_hostname(options: dict[str, Any]) -> None:
    """Have connections with these options check that a certificate is for the host that they connect
    to, unless the options say otherwise.

    Since its version 6 that is redis-py's default. Before, a client that was made without a URL says
    False when nobody asked for that, which cannot be told from a decision: so it is logged.
    """
    verified = options.get("ssl_cert_reqs", "required") not in ("none", ssl.CERT_NONE, None)
    if not options.setdefault("ssl_check_hostname", verified) and verified and _MAJOR < 6:
        _logger.warning(
            "the client of redis-py %s accepts a certificate for any host;"
            " pass ssl_check_hostname=True where it is made",
            redis.__version__,
        )


class Link(Protocol):
    """One connection, for one exchange at a time."""

    async def connect(self, seconds: float) -> None:
        """Connect and introduce ourselves, within so many seconds. Raises redis-py's errors."""
        ...

    async def exchange(self, packed: bytes, count: int, replies: list[Any], seconds: float) -> None:
        """Send, and append ``count`` replies; error replies are appended as ResponseError.

        Raises redis-py's ConnectionError and TimeoutError; the link must be dropped then.
        """
        ...

    async def receive(self, seconds: float) -> Any:
        """What the server sends on its own; None if nothing came for so many seconds."""
        ...

    async def dirty(self) -> bool:
        """Is there something unread, or is it closed? Then it must be dropped."""
        ...

    async def drop(self, *, gently: bool = False) -> None:
        """Close it, at once; ``gently``: wait until it is closed. Never raises."""
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


class LoopLink:
    """A link of the running event loop."""

    __slots__ = ("_connection", "_loop")

    def __init__(self, recipe: Recipe, seconds: float) -> None:
        self._connection = recipe.connection(**recipe.options, socket_connect_timeout=seconds)
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
        """When the loop was closed, the coroutine that asked is being closed as well, and must not
        go on. (redis-py makes an ordinary error of that, since nothing can be awaited any more.)"""
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
        # Neither redis-py nor asyncio can close what belongs to a loop that is closed.
        transport: Any = getattr(self._connection, "noted", None)
        transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
        sock = getattr(transport, "_sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
            transport._sock, transport._closing = None, True
        self._connection._writer = self._connection._reader = None  # after it: they look at it


class ThreadLink:
    """A link that blocks the thread."""

    __slots__ = ("_connection",)

    def __init__(self, recipe: Recipe, seconds: float) -> None:
        self._connection = recipe.connection(**recipe.options, socket_connect_timeout=seconds)

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
            # It has begun to arrive; the rest is a matter of milliseconds.
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


class _Noted:
    """Mixed into a connection class of asyncio: what it connects is known also when redis-py, whose
    closing goes wrong on a loop that is closed, has forgotten it."""

    noted: Any = None

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[misc] # of the connection
        self.noted = getattr(getattr(self, "_writer", None), "transport", None)


class _Paced:
    """Mixed into a connection class: its socket operations end at ``until`` (monotonic seconds),
    all of them together. A server that sends a byte now and then does not get more time."""

    until: float = math.inf

    def _connect(self) -> _PacedSocket:
        return _PacedSocket(super()._connect(), self)  # type: ignore[misc] # of the connection


class _PacedSocket:
    """A socket, plain or TLS, whose every operation gets the time that is left."""

    __slots__ = ("_owner", "_socket")

    def __init__(self, plain: Any, owner: _Paced) -> None:
        self._socket = plain
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def settimeout(self, seconds: float | None) -> None:
        """A parser's own wish: 0 is "do not wait"."""
        if seconds is None:
            self._owner.until = math.inf
        else:
            self._owner.until = time.monotonic() + seconds if seconds else -math.inf

    def _begin(self) -> Any:
        until = self._owner.until
        if until == -math.inf:
            self._socket.settimeout(0)
            return self._socket
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(None if left == math.inf else left)
        return self._socket

    def sendall(self, data: bytes) -> None:
        self._begin().sendall(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data: bytes = self._begin().recv(size, flags)
        return data

    def recv_into(self, buffer: Any, size: int = 0) -> int:
        count: int = self._begin().recv_into(buffer, size)
        return count


@functools.cache
def _noted(connection: type[Any]) -> type[Any]:
    return type(connection.__name__, (_Noted, connection), {})


@functools.cache
def _paced(connection: type[Any]) -> type[Any]:
    return type(connection.__name__, (_Paced, connection), {})


def keepalive() -> dict[int, int]:
    """Socket options that notice a peer that vanished after half a minute, where there are such."""
    wanted = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
