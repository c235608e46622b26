"""The memcached servers as this process speaks with them: in either world, one or several.

`MemcachedClient.ask` makes one round trip with one server. Each server has a breaker of its own, so that one
that is away costs misses for its keys and no time for the others. Nothing is connected before the first
call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeVar

from layergate.core.breaker import Breaker
from layergate.core.ports import Runtime
from layergate.errors import LayerRefused, LayerUnavailable
from layergate.layers.memcached.connection import Connection, LoopConnection, ThreadConnection
from layergate.layers.memcached.protocol import Command, ProtocolError, Reply
from layergate.layers.memcached.url import Address, Target
from layergate.remote.places import PerPlace

__all__ = ["Budget", "MemcachedClient", "Server", "checked"]

T = TypeVar("T")

_IDLE: Final = 16  # connections kept for later, for each server and place
_OVERHEAD: Final = 512  # bytes that the server adds to an item, at most, with its key
_UNKNOWN: Final = 1024 * 1024  # bytes of an item, until a server has told


class Budget:
    """The time of one operation, which may take several round trips. ``timeout``: seconds for all of them.
    ``connect_timeout``: seconds beyond it, for the connections that they need."""

    def __init__(self, timeout: float, connect_timeout: float) -> None:
        self._timeout = timeout
        self._until = time.monotonic() + timeout
        self._connecting = connect_timeout

    def check(self) -> None:
        """Raises TimeoutError if too little is left for a server to show that it is well."""
        if self._until - time.monotonic() < self._timeout / 4:
            raise TimeoutError("no time is left for another round trip")

    @property
    def seconds(self) -> float:
        """What is left for round trips."""
        return max(0.0, self._until - time.monotonic())

    @contextlib.contextmanager
    def connecting(self) -> Iterator[float]:
        """Time to make a connection: the seconds that it may take."""
        began = time.monotonic()
        try:
            yield max(0.0, self._connecting)
        finally:
            spent = time.monotonic() - began
            self._connecting -= spent
            self._until += spent


class Server:
    """One server, for one event loop or for all threads of a process."""

    def __init__(self, client: MemcachedClient, address: Address) -> None:
        self._client = client
        self.address: Final = address
        self._idle: list[Connection] = []
        self._done = False
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    async def exchange(
        self, commands: Sequence[Command], budget: Budget, identity: bytes = b""
    ) -> tuple[Sequence[Reply], bytes]:
        """The replies, and the identity of the server's process. ``identity``: nothing is asked of a process
        with another one (then there are no replies); b"" for any. Raises OSError, TimeoutError, LayerRefused."""
        connection = self._take()
        if connection is None:
            with budget.connecting() as seconds:
                connection = await self._connected(seconds)
        if identity and connection.identity != identity:
            self._give(connection)
            return (), connection.identity
        try:
            replies = await connection.exchange(commands, budget.seconds)
        except BaseException:
            connection.drop()
            raise
        if any(reply.error and not reply.error.startswith("SERVER_ERROR") for reply in replies):
            connection.drop()  # the server did not understand, so nobody knows what it does with the rest
        else:
            self._give(connection)
        return replies, connection.identity

    def _take(self) -> Connection | None:
        """An idle connection; None if there is none."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = (
                    self._idle.pop()
                )  # the one used last: the server may have closed others
            if not connection.broken():
                return connection
            connection.drop()

    def _give(self, connection: Connection) -> None:
        with self._lock:
            if not self._done and len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        connection.drop()

    async def _connected(self, seconds: float) -> Connection:
        client = self._client
        client.connects += 1
        connection: Connection
        if client.runtime.blocking:
            connection = ThreadConnection.connect(client.target, self.address, seconds)
        else:
            connection = await LoopConnection.connect(client.target, self.address, seconds)
        client.learned(self.address, connection.largest)
        return connection

    def close(self) -> None:
        """Close what is idle, and what is given back later."""
        self._done = True
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.drop()


class MemcachedClient:
    """``timeout``, ``connect_timeout``: seconds for a round trip, and for making a connection beyond it.
    ``name``: of the layer, for errors."""

    def __init__(
        self, target: Target, *, name: str, timeout: float, connect_timeout: float
    ) -> None:
        self.target: Final = target
        self.name: Final = name
        self.timeout: Final = timeout
        self.connect_timeout: Final = connect_timeout
        self.connects = 0
        self.calls = 0
        self._largest: dict[Address, int] = {}
        self._places: PerPlace[dict[Address, Server]] = PerPlace(
            name, self._servers, close=_close, abandon=_close
        )
        self._breakers: dict[Address, Breaker] = {}

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self.target.addresses

    def bind(self, runtime: Runtime) -> None:
        """Take on the runtime. Nothing starts."""
        self._places.bind(runtime)
        self._breakers = {
            address: Breaker(
                clock=runtime.monotonic, random=runtime.random, lock=runtime.lock(), cap=15.0
            )
            for address in self.addresses
        }

    @property
    def runtime(self) -> Runtime:
        """Raises LayerUnavailable before `bind`."""
        return self._places.runtime

    def _servers(self) -> dict[Address, Server]:
        return {address: Server(self, address) for address in self.addresses}

    def address_of(self, key: bytes) -> Address:
        """Where the item ``key`` lies: the same for all processes with these servers, in any order. A server
        that is added or taken away moves its share of the keys, and no others (rendezvous hashing)."""
        if len(self.addresses) == 1:
            return self.addresses[0]
        return max(
            self.addresses,
            key=lambda one: blake2b(key, key=_salt(one), digest_size=8).digest(),
        )

    def learned(self, address: Address, largest: int) -> None:
        """A server has told how large an item may be."""
        self._largest[address] = largest

    @property
    def largest(self) -> int:
        """Bytes of the largest item that all servers take, as far as they have told."""
        return min(self._largest.values(), default=_UNKNOWN) - _OVERHEAD

    def budget(self) -> Budget:
        """For an operation that begins now."""
        return Budget(self.timeout, self.connect_timeout)

    async def ask(
        self,
        address: Address,
        commands: Sequence[Command],
        identity: bytes = b"",
        *,
        budget: Budget | None = None,
    ) -> tuple[Sequence[Reply], bytes]:
        """See `Server.exchange`. ``budget``: of the operation to which this round trip belongs; None for one of its
        own. Raises LayerUnavailable at once while this server's breaker is open."""
        if budget is None:
            budget = self.budget()
        else:
            budget.check()
        breaker = self._breakers[address]
        several = len(self.addresses) > 1  # for one, the layer's own breaker does
        ticket = breaker.enter() if several else 0
        if ticket is None:
            raise LayerUnavailable(
                self.name, f"server {address} does not answer and is not asked now"
            )
        self.calls += 1
        try:
            found = await self._places.here()[address].exchange(commands, budget, identity)
        except LayerRefused:
            if several:
                breaker.succeeded(ticket)
            raise
        except BaseException:
            if several:
                breaker.failed(ticket)
            raise
        if several:
            breaker.succeeded(ticket)
        return found

    async def together(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
        """The results, or what was raised: of all at the same time on a loop, of one after the other under
        threads."""
        if not self.runtime.blocking:
            return list(await asyncio.gather(*work, return_exceptions=True))
        found: list[T | BaseException] = []
        for one in work:
            try:
                found.append(await one)
            except Exception as error:
                found.append(error)
        return found

    async def close(self) -> None:
        """Close the connections of this process (under asyncio: of this loop). A later call connects anew."""
        await self._places.close()

    def stats(self) -> Mapping[str, int | float]:
        """``connections``: idle; ``connects``; ``round_trips``; ``servers_open``: how many servers are not
        asked now."""
        servers = [server for place in self._places.all() for server in place.values()]
        return {
            "connections": sum(server.count for server in servers),
            "connects": self.connects,
            "round_trips": self.calls,
            "servers_open": sum(one.state == "open" for one in self._breakers.values()),
        }


def checked(name: str, reply: Reply) -> Reply:
    """The reply, if the server does not complain. Raises LayerRefused if it is out of memory, or takes no item
    of this size, and ProtocolError for what cannot be."""
    error = reply.error
    if not error:
        return reply
    if error.startswith("SERVER_ERROR"):
        raise LayerRefused(name, f"memcached says: {error[:200]}")
    raise ProtocolError(f"memcached says: {error[:200]}")


def _salt(address: Address) -> bytes:
    """What tells a server from the others. (A longer key BLAKE2 does not take.)"""
    name = str(address).encode()
    return name if len(name) <= 64 else blake2b(name).digest()


def _close(servers: dict[Address, Server]) -> None:
    for server in servers.values():
        server.close()
