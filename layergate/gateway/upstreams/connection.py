"""One connection to an upstream: a request out, a response in, or one end of a tunnel.

`Pool` makes it, `proxy` uses it: for each request `begin`, `write`, then `next` until an END or SWITCHED;
then the connection is `reusable` or not. `ResponseReader` reads what comes. The pool's timer calls
`expire`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, Protocol, cast

from layergate.gateway.tunnel import Tunnel
from layergate.gateway.upstreams.errors import (
    UpstreamClosed,
    UpstreamError,
    UpstreamMalformed,
    UpstreamTimeout,
)
from layergate.gateway.upstreams.responses import Event, Kind, ResponseReader

__all__ = ["HIGH_WATER", "Connection"]

HIGH_WATER: Final = 256 * 1024
"""Bytes of a response that wait for a client before the connection is read no further."""


class Owner(Protocol):
    """The pool of a connection, with the time limits of its upstream in seconds."""

    loop: asyncio.AbstractEventLoop
    first_byte_timeout: float
    read_timeout: float
    tunnel_idle_timeout: float

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""


class Connection(asyncio.Protocol):
    """One connection to an upstream.

    ``answered``  True once any byte of the response to the last request has come.
    ``blocked``   a future while the upstream takes less than was written, done once it takes more; else
                  None.
    ``deadline``  of the loop's clock, from which on `expire` is called; 0: none.
    ``lost``      True once the transport is gone.
    ``reusable``  True if it can carry another request.
    ``used``      True if it has carried a request before.
    """

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._loop = pool.loop
        self.transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None  # of the last request
        self._sending = False  # content of the request is still to come
        self._waiter: asyncio.Future[None] | None = None
        self.blocked: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._error: UpstreamError | None = None
        self._in_order = False  # the upstream has ended its side, and that is no cut
        self._tunnel: Tunnel | None = None
        self.answered = False
        self.lost = False
        self.used = False
        self.reusable = False
        self.deadline = 0.0

    # -- the transport's callbacks -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_upstream(data)
            return
        reader = self._reader
        if reader is None:
            self._fail(UpstreamMalformed("the upstream sent data that nobody asked for"))
            return
        self.answered = True
        before = len(reader.events)
        try:
            reader.feed(data)
        except UpstreamMalformed as error:
            self._fail(error.with_traceback(None))
            return
        if len(reader.events) == before:
            return
        if reader.complete:
            self._completed(reader)
        elif reader.switched or reader.size > HIGH_WATER:
            self.pause_reading()
        elif not self._reading_paused:
            if reader.status:
                self.deadline = self._loop.time() + self._pool.read_timeout
            elif not self._sending:  # the final response is still to begin
                self.deadline = self._loop.time() + self._pool.first_byte_timeout
        self._wake()

    def eof_received(self) -> bool:
        """The upstream has ended its side."""
        self._in_order = self.transport is not None and _in_order(self.transport)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reusable = False
        self.deadline = 0.0
        self._pool.forget(self)
        if self.blocked is not None and not self.blocked.done():
            self.blocked.set_result(None)
        if self._tunnel is not None:
            self._tunnel.upstream_gone()
            return
        reader = self._reader
        if reader is None or reader.complete:
            return
        reader.end_of_connection(in_order=self._in_order and exc is None)
        if reader.complete:
            self._wake()
            return
        error = UpstreamClosed("the upstream closed the connection before the end of its response")
        error.__cause__ = exc
        self._fail(error)

    def pause_writing(self) -> None:
        if self.blocked is None:
            self.blocked = self._loop.create_future()
            if self._tunnel is not None:
                self.deadline = self._loop.time() + self._pool.read_timeout

    def resume_writing(self) -> None:
        blocked, self.blocked = self.blocked, None
        if blocked is not None:
            if self._tunnel is not None:
                self.passed()
            if not blocked.done():
                blocked.set_result(None)

    # -- a request -----------------------------------------------------------------------------

    def begin(self, *, head_only: bool, content: bool = False) -> None:
        """A request is about to be written. ``head_only``: True if its method is HEAD. ``content``: True
        if content follows; call `sent` when all of it was written."""
        self._reader = ResponseReader(head_only=head_only)
        self._sending = content
        self.answered = False
        self.reusable = False
        if self.lost:  # before anyone could be told
            self._error = UpstreamClosed("the upstream closed the connection at once")
        elif not content:
            self.deadline = self._loop.time() + self._pool.first_byte_timeout

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.lost:
            self.transport.write(data)

    async def drained(self) -> None:
        """Wait until more may be written."""
        if self.blocked is not None and not self.lost:
            self.deadline = self._loop.time() + self._pool.read_timeout
            await self.blocked
            if not self._status:
                self.deadline = 0.0  # the client may take its own time for the rest

    def sent(self) -> None:
        """The request was written as a whole."""
        self._sending = False
        if not self._status and not self.lost:
            self.deadline = self._loop.time() + self._pool.first_byte_timeout

    @property
    def _status(self) -> int:
        return 0 if self._reader is None else self._reader.status

    # -- its response --------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """True if nothing has arrived that wasn't taken, so that `next` would wait."""
        return self._reader is None or not self._reader.events

    async def next(self) -> Event:
        """The next event. Raises UpstreamError."""
        await self.arrival()
        assert self._reader is not None
        event = self._reader.take()
        if self._reading_paused:
            self._read_on(self._reader)
        return event

    async def arrival(self) -> None:
        """Wait until there is something to take. Raises UpstreamError."""
        while self.waiting:
            error = self._error
            if error is not None:
                try:
                    # A new one: its traceback refers to the frames of those who wait, and they to this
                    # connection.
                    raise type(error)(*error.args) from error.__cause__
                finally:
                    del error
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def take_rest(self) -> tuple[bytes, Event | None]:
        """What has arrived of the body, and the END if that has arrived too. Raises UpstreamMalformed
        for anything else."""
        reader = self._reader
        assert reader is not None
        data = reader.take_body()
        end = reader.take() if reader.events else None
        if self._reading_paused:
            self._read_on(reader)
        if end is not None and end.kind is not Kind.END:
            raise UpstreamMalformed("an upstream's response went on after its end")
        return data, end

    def _read_on(self, reader: ResponseReader) -> None:
        """Read again once half of what was held is taken."""
        if not reader.switched and reader.size <= HIGH_WATER // 2:
            self.resume_reading()

    def _completed(self, reader: ResponseReader) -> None:
        self.deadline = 0.0
        self.reusable = reader.keeps and not self.lost

    def pause_reading(self) -> None:
        """Read no further for now. No time limit applies: the upstream isn't what is waited for."""
        if not self._reading_paused and self.transport is not None and not self.lost:
            self._reading_paused = True
            self.deadline = 0.0
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading_paused or self.transport is None:
            return
        self._reading_paused = False
        if not self.lost:
            self.transport.resume_reading()
            if self._tunnel is not None:
                self.passed()
            elif self._reader is not None and not self._reader.complete:
                self.deadline = self._loop.time() + self._pool.read_timeout

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection: at once if its response is incomplete."""
        self.reusable = False
        transport = self.transport
        if transport is None or self.lost:
            return
        if self._tunnel is None and (self._reader is None or not self._reader.complete):
            transport.abort()
        elif not transport.is_closing():
            transport.close()
            # The rest may never be taken, and no pool looks after this connection any more.
            if transport.get_write_buffer_size():
                self._loop.call_later(self._pool.read_timeout, transport.abort)

    def expire(self) -> None:
        """The deadline has passed. What follows depends on what was waited for."""
        reader, limit = self._reader, self._pool.read_timeout
        if self._tunnel is not None:
            if self.transport is not None:
                self.transport.abort()
        elif reader is None or reader.complete:
            self.close()  # it was idle
        elif reader.status:
            self._fail(UpstreamTimeout(f"nothing came for {limit:g} seconds"))
        elif self._sending:
            self._fail(UpstreamTimeout(f"nothing was taken for {limit:g} seconds"))
        else:
            limit = self._pool.first_byte_timeout
            self._fail(UpstreamTimeout(f"no response began within {limit:g} seconds"))

    def _fail(self, error: UpstreamError) -> None:
        self.deadline = 0.0
        self._error = self._error or error
        self._wake()
        self.close()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- a tunnel's end ------------------------------------------------------------------------

    def enter(self, tunnel: Tunnel) -> bytes:
        """See `tunnel.End`."""
        self._tunnel = tunnel
        self.passed()
        if self.lost:
            self._loop.call_soon(tunnel.upstream_gone)
        return b"" if self._reader is None else self._reader.take_body()

    def passed(self) -> None:
        """See `tunnel.UpstreamEnd`. While one end takes nothing, its own limit applies."""
        if self.blocked is None:
            idle = self._pool.tunnel_idle_timeout
            resting = self._reading_paused or self.lost
            self.deadline = 0.0 if resting else self._loop.time() + idle

    def leave(self) -> None:
        """See `tunnel.End`."""
        self.close()


def _in_order(transport: asyncio.BaseTransport) -> bool:
    """True if the peer has ended its side in order. Over TCP a FIN says so. Over TLS only a close_notify
    does: an attacker on the way can forge a FIN.

    Some loops call ``eof_received`` in both cases, some do not call it without a close_notify. The TLS
    object knows: a read finds the end if the close_notify has come, and wants more input otherwise.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLError:
        return False
