"""A bounded pool of connections to one upstream.

`proxy` takes a connection for each request and gives it back. HTTP/1.1 only: a connection carries one
request at a time, so a slow response delays no other.

One timer for all connections of a pool looks at their deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from functools import partial
from typing import Final

from layergate.gateway import timeouts
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.gateway.upstreams.connection import Connection
from layergate.gateway.upstreams.errors import (
    TooManyTunnels,
    UpstreamBusy,
    UpstreamTimeout,
    UpstreamUnreachable,
)

__all__ = ["Pool"]

_MAX_QUEUE: Final = 4096  # requests that wait for a connection


class Pool:
    """The connections to one upstream: at most ``max_connections``. Idle ones are kept for ``idle_timeout``
    seconds, and the one that was used last is taken first.

    Beside them there are at most ``max_tunnels`` for requests that may become tunnels. Those last for as
    long as their clients like, and must not use up the connections for which other requests wait.
    """

    def __init__(self, options: UpstreamOptions) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.first_byte_timeout = float(options.first_byte_timeout)
        self.read_timeout = float(options.read_timeout)
        self.tunnel_idle_timeout = float(options.tunnel_idle_timeout)
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._tunnels: set[Connection] = set()
        self._digging = 0  # connections being made for tunnels
        self._slots = options.max_connections
        self._queue: deque[tuple[asyncio.Future[Connection | None], bool]] = deque()
        self._tls = _tls_context(options) if options.tls else None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        """Connections, in use and idle, and tunnels."""
        return len(self._busy) + len(self._idle) + self.tunnels

    @property
    def tunnels(self) -> int:
        """Tunnels, and connections that may become one."""
        return len(self._tunnels) + self._digging

    async def take_tunnel(self) -> Connection:
        """As `take`, for a request that may become a tunnel. It never waits for another to end.

        Raises UpstreamUnreachable, UpstreamTimeout, TooManyTunnels.
        """
        most = self.options.max_tunnels
        if self.tunnels >= most:
            raise TooManyTunnels(f"there are {most} tunnels to {self.options.name} already")
        self._digging += 1
        try:
            connection = await self._connect()
        finally:
            self._digging -= 1
        self._tunnels.add(connection)
        self._watch()
        return connection

    async def take(self, *, fresh: bool = False) -> Connection:
        """A connection for one request; give it back with `give`. ``fresh``: a new one.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBusy.
        """
        if not fresh and (connection := self.idle()) is not None:
            return connection
        handed = await self._slot(fresh)
        if handed is not None:
            if handed.transport is None or handed.transport.is_closing():  # meanwhile
                return await self.take(fresh=fresh)
            return handed
        try:
            connection = await self._connect()
        except BaseException:
            self._free_slot()
            raise
        self._busy.add(connection)
        self._watch()
        return connection

    def idle(self) -> Connection | None:
        """As `take`, but only an idle connection; None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport
            if transport is None or transport.is_closing():
                self._free_slot()  # `forget` will not find it
                continue
            connection.used = True
            connection.deadline = 0.0
            self._busy.add(connection)
            return connection
        return None

    def give(self, connection: Connection) -> None:
        """Give a connection back: the request that took it is over."""
        if connection in self._tunnels:
            connection.close()
            self.forget(connection)
            return
        if connection not in self._busy:
            return  # it was lost meanwhile, and is not counted any more
        if connection.reusable and not self._closed and connection.waiting:
            if not self._hand_over(connection):
                self._busy.discard(connection)
                connection.deadline = self.loop.time() + float(self.options.idle_timeout)
                self._idle.append(connection)
        else:
            connection.close()
            self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        if connection in self._tunnels:
            self._tunnels.discard(connection)
            return
        if connection in self._busy:
            self._busy.discard(connection)
        else:
            try:
                self._idle.remove(connection)
            except ValueError:
                return
        self._free_slot()

    async def _slot(self, fresh: bool) -> Connection | None:
        """Wait until a connection may be made (None), or for one that another request gives back."""
        if self._slots > 0:
            self._slots -= 1
            return None
        if self._idle:  # (a fresh one is wanted, and all slots are taken by idle ones)
            oldest = self._idle.popleft()
            oldest.close()
            return None  # its slot
        if len(self._queue) >= _MAX_QUEUE:
            raise UpstreamBusy(f"{len(self._queue)} requests are already waiting for a connection")
        waiter: asyncio.Future[Connection | None] = self.loop.create_future()
        self._queue.append((waiter, fresh))
        try:
            async with asyncio.timeout(float(self.options.queue_timeout)):
                return await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                return waiter.result()  # it came at the same moment
            raise UpstreamBusy(
                f"no connection was free within {float(self.options.queue_timeout):g} seconds"
            ) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                handed = waiter.result()
                if handed is None:
                    self._free_slot()
                else:
                    self.give(handed)
            raise
        finally:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):
                    self._queue.remove((waiter, fresh))

    def _free_slot(self) -> None:
        while self._queue:
            waiter, _ = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._slots += 1

    def _hand_over(self, connection: Connection) -> bool:
        """Give a free connection to the first request that waits. False if none does."""
        while self._queue:
            waiter, fresh = self._queue[0]
            if waiter.done():
                self._queue.popleft()
            elif fresh:
                connection.close()
                self.forget(connection)  # which frees its slot for that request
                return True
            else:
                self._queue.popleft()
                connection.used = True
                connection.deadline = 0.0
                waiter.set_result(connection)
                return True
        return False

    async def _connect(self) -> Connection:
        options = self.options
        patience = float(options.connect_timeout)
        tries = options.retries + 1
        while True:
            tries -= 1
            try:
                async with asyncio.timeout(patience):
                    connection = await self._open()
            except TimeoutError as error:
                if not tries:
                    raise UpstreamTimeout(
                        f"no connection to {options.address} within {patience:g} seconds"
                    ) from error
            except OSError as error:
                if not tries:
                    raise UpstreamUnreachable(
                        f"no connection to {options.address}: {error}"
                    ) from error
            else:
                return connection

    async def _open(self) -> Connection:
        options = self.options
        make = partial(Connection, self)
        name = options.tls_server_name or options.address.host
        if options.address.path is not None:
            _, connection = await self.loop.create_unix_connection(make, options.address.path)
        else:
            _, connection = await self.loop.create_connection(
                make,
                options.address.host,
                options.address.port,
                ssl=self._tls,
                server_hostname=name if self._tls is not None else None,
            )
        return connection

    def _tick(self) -> None:
        now = self.loop.time()
        for connection in [*self._busy, *self._idle, *self._tunnels]:
            if 0.0 < connection.deadline <= now:
                connection.expire()
        self._timer = None
        if self._busy or self._idle or self._tunnels:
            self._watch()

    def _watch(self) -> None:
        """Start the timer, unless it runs."""
        if self._timer is None:
            self._timer = self.loop.call_later(timeouts.TICK, self._tick)

    def close(self) -> None:
        """Close idle connections. Those in use are closed when they are given back."""
        self._closed = True
        for connection in [*self._idle]:
            connection.close()


def _tls_context(options: UpstreamOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.tls_ca_file)
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
