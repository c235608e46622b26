"""One connection to a memcached, on an event loop or on a thread.

A connection belongs to one caller at a time. One on which an exchange failed or was cancelled is of no more
use, because replies may still come on it: `Server` drops it.

When it is made, the connection asks the server who it is. `identity` is its process and when that began.
A server that was restarted is another one, and no connection outlives a restart.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from layergate.errors import LayerRefused
from layergate.layers.memcached.protocol import (
    STRANGER,
    Command,
    ProtocolError,
    Replies,
    Reply,
    StrangerError,
    stats,
)
from layergate.layers.memcached.url import Address, Target
from layergate.remote.transports import abandon

__all__ = ["Connection", "LoopConnection", "ThreadConnection"]

_CHUNK: Final = 256 * 1024  # bytes that are read at once
_OPAQUES: Final = 1 << 31
_OLDEST: Final = (1, 6, 10)  # the first whose meta commands do not change any more


class Connection:
    """What both worlds have in common. ``identity``: of the server's process. ``largest``: bytes of the
    largest item that it takes."""

    def __init__(self) -> None:
        self.identity = b""
        self.largest = 1024 * 1024
        self._opaque = 0

    async def exchange(self, commands: Sequence[Command], seconds: float) -> Sequence[Reply]:
        """A reply for each command, in one round trip. Raises OSError (`ProtocolError` is one), TimeoutError."""
        raise NotImplementedError

    def broken(self) -> bool:
        """True if the server has closed it, or says something that nobody asked for."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close it at once."""
        raise NotImplementedError

    async def _line(self, wire: bytes, seconds: float) -> bytes:
        """What the server answers to what is no meta command: one line."""
        raise NotImplementedError

    async def begin(self, target: Target, seconds: float) -> None:
        """Log in, if the URL says as whom, and ask the server who it is."""
        until = time.monotonic() + seconds
        if target.username:
            await self._log_in(target, until)
        await self.greet(_left(until))

    async def _log_in(self, target: Target, until: float) -> None:
        """A login looks like an item to be stored. A server without users would store it, for everybody to read,
        so it is only sent to a server that refuses to answer without."""
        if not (await self._line(b"version\r\n", _left(until))).startswith(STRANGER):
            raise LayerRefused(
                "memcached",
                "the server asks nobody for a password: start it with -Y, or take the user and the password"
                " out of the URL",
            )
        secret = f"{target.username} {target.password}".encode()
        login = b"set layergate 0 0 %d\r\n%b\r\n" % (len(secret), secret)
        if await self._line(login, _left(until)) != b"STORED\r\n":
            # (Not what the server says: it might repeat what it was told.)
            raise LayerRefused(
                "memcached", "the server does not accept the user and password of the URL"
            )

    def _begin(self, commands: Sequence[Command]) -> tuple[bytes, Replies]:
        """What is to be sent, and what takes in the replies."""
        first = self._opaque
        self._opaque = (first + len(commands)) % _OPAQUES
        wire = b"".join(one.wire(first + number) for number, one in enumerate(commands))
        return wire, Replies(tuple(commands), first)

    async def greet(self, seconds: float) -> None:
        """Ask the server who it is."""
        try:
            told, settings = await self.exchange([stats(), stats(b"settings")], seconds)
        except StrangerError as error:
            raise LayerRefused(
                "memcached", "the server wants a user and a password: name them in the URL"
            ) from error
        if told.error or settings.error:
            raise ProtocolError(f"the server says: {told.error or settings.error}")
        numbers = dict(line.partition(b" ")[::2] for line in told.lines)
        limits = dict(line.partition(b" ")[::2] for line in settings.lines)
        try:
            began = int(numbers[b"time"]) - int(numbers[b"uptime"])
            self.identity = b"%d:%d" % (int(numbers[b"pid"]), began)
            self.largest = int(limits[b"item_size_max"])
            version = tuple(int(part) for part in numbers[b"version"].split(b".")[:3])
        except (KeyError, ValueError) as error:
            raise ProtocolError("the server does not say who it is, as a proxy does not") from error
        if version < _OLDEST:
            # It would not know the commands, and take the data that follows them for commands: what is in a
            # response would be carried out.
            oldest = ".".join(map(str, _OLDEST))
            raise LayerRefused("memcached", f"the server is older than {oldest}; update it")
        if limits.get(b"cas_enabled", b"yes") != b"yes":
            raise LayerRefused(
                "memcached", "the server compares nothing (option -C): start it without that option"
            )


class _Protocol(asyncio.Protocol):
    """Takes in the replies of one connection on a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.replies: Replies | None = None
        self.ended: asyncio.Future[None] | None = None
        self.line: bytearray | None = None  # of a login
        self.closed = False
        self.untidy = False

    def data_received(self, data: bytes) -> None:
        ended = self.ended
        if ended is None or ended.done():
            self.untidy = True
            return
        if self.line is not None:
            self.line += data
            if self.line.endswith(b"\n") or len(self.line) > 1024:
                ended.set_result(None)
            return
        assert self.replies is not None
        try:
            self.replies.feed(data)
        except ProtocolError as error:
            ended.set_exception(error)
            return
        if self.replies.complete:
            ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.ended is not None and not self.ended.done() and not self._loop.is_closed():
            self.ended.set_exception(
                exc or ConnectionResetError("the server closed the connection")
            )


class LoopConnection(Connection):
    """A connection of the running event loop."""

    def __init__(self, transport: asyncio.Transport, protocol: _Protocol) -> None:
        super().__init__()
        self._transport = transport
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, target: Target, address: Address, seconds: float) -> LoopConnection:
        """Raises OSError, TimeoutError, LayerRefused."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            if address.path:
                made = await loop.create_unix_connection(lambda: _Protocol(loop), address.path)
            else:
                made = await loop.create_connection(
                    lambda: _Protocol(loop), address.host, address.port, ssl=target.tls
                )
            connection = cls(made[0], made[1])
            try:
                await connection.begin(target, seconds)
            except BaseException:
                connection.drop()
                raise
        return connection

    async def _line(self, wire: bytes, seconds: float) -> bytes:
        self._protocol.line = bytearray()
        await self._wait(wire, seconds)
        line, self._protocol.line = bytes(self._protocol.line), None
        return line

    async def exchange(self, commands: Sequence[Command], seconds: float) -> Sequence[Reply]:
        """See `Connection.exchange`."""
        wire, replies = self._begin(commands)
        self._protocol.replies = replies
        await self._wait(wire, seconds)
        return replies.replies

    async def _wait(self, wire: bytes, seconds: float) -> None:
        if self._protocol.closed:
            raise ConnectionResetError("the server closed the connection")
        self._protocol.ended = ended = self._loop.create_future()
        timer = self._loop.call_later(max(0.0, seconds), _expire, ended, seconds)
        self._transport.write(wire)
        try:
            await ended
        finally:
            timer.cancel()
            self._protocol.ended = None

    def broken(self) -> bool:
        """See `Connection.broken`."""
        if self._protocol.closed or self._protocol.untidy or self._transport.is_closing():
            return True
        # What the loop has not read yet: it may have stood still while the server was restarted.
        return _readable(self._transport.get_extra_info("socket").fileno())

    def drop(self) -> None:
        """See `Connection.drop`."""
        if self._loop.is_closed():
            abandon(self._transport)
        else:
            self._transport.abort()


def _expire(ended: asyncio.Future[None], seconds: float) -> None:
    if not ended.done():
        ended.set_exception(TimeoutError(f"no answer within {seconds:.3g} s"))


class ThreadConnection(Connection):
    """A connection whose methods block."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock

    @classmethod
    def connect(cls, target: Target, address: Address, seconds: float) -> ThreadConnection:
        """Raises OSError, TimeoutError, LayerRefused. To resolve the name of a host may take longer: no
        system call can be told how long it may."""
        until = time.monotonic() + seconds
        if address.path:
            sock = socket.socket(socket.AF_UNIX)
        else:
            sock = _connected(address, until)
        try:
            if address.path:
                sock.settimeout(_left(until))
                sock.connect(address.path)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if target.tls is not None:
                sock.settimeout(_left(until))
                sock = target.tls.wrap_socket(sock, server_hostname=address.host)
            connection = cls(sock)
            connection._now(connection.begin(target, _left(until)))
        except BaseException:
            sock.close()
            raise
        return connection

    async def _line(self, wire: bytes, seconds: float) -> bytes:
        until = time.monotonic() + seconds
        self._send(wire, until)
        line = b""
        while not line.endswith(b"\n") and len(line) < 1024:
            line += self._received(until)
        return line

    @staticmethod
    def _now(work: Coroutine[Any, Any, None]) -> None:
        try:
            work.send(None)
        except StopIteration:
            return
        raise AssertionError("a connection of a thread does not suspend")

    async def exchange(self, commands: Sequence[Command], seconds: float) -> Sequence[Reply]:
        """See `Connection.exchange`. Blocks."""
        until = time.monotonic() + seconds
        wire, replies = self._begin(commands)
        try:
            self._send(wire, until)
            while not replies.complete:
                replies.feed(self._received(until))
        except TimeoutError:
            raise TimeoutError(f"no answer within {seconds:.3g} s") from None
        return replies.replies

    def _send(self, wire: bytes, until: float) -> None:
        self._socket.settimeout(_left(until))
        self._socket.sendall(wire)  # (its time-out is for all of it)

    def _received(self, until: float) -> bytes:
        self._socket.settimeout(_left(until))
        data = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data

    def broken(self) -> bool:
        """See `Connection.broken`."""
        return _readable(self._socket.fileno())

    def drop(self) -> None:
        """See `Connection.drop`."""
        self._socket.close()


def _connected(address: Address, until: float) -> socket.socket:
    """A socket to the first address of the host that answers. Each has its share of the time."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failed: OSError = OSError("the name of the host leads nowhere")
    for number, (family, kind, protocol, _, where) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(until) / (len(found) - number))
            sock.connect(where)
            return sock
        except OSError as error:
            sock.close()
            failed = error
    raise failed


def _readable(number: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left
