"""A TCP proxy before a server, whose line a test can break::

with Valkey(tmp_path) as server, Proxy(server.port) as proxy:
    proxy.delay(0.05)
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
from typing import Any, Self

from tests.support.ports import HOST, free_port, stop_listening
from tests.support.waiting import BOUND

__all__ = ["Proxy"]


class Proxy:
    """A TCP proxy before a server, whose line a test can break. A thread of its own.

    `cut` closes what is connected; `refuse` also what comes; `blackhole` holds every byte back, in
    both directions, and new connections too (a partition: what was held arrives on `resume`);
    `delay` makes each direction that slow; `garbage` answers whatever comes with junk.
    """

    def __init__(self, target: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.port = free_port()
        self.bytes = 0  # that were forwarded, both directions
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self.held = False
        self.lag = 0.0
        self.junk: bytes | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND)

    async def _listen(self) -> None:
        if self._server is None:
            for attempt in itertools.count():
                try:
                    self._server = await self._loop.create_server(
                        lambda: _Line(self).client, HOST, self.port, ssl=self._tls, backlog=512
                    )
                    return
                except OSError:
                    if attempt == 5:
                        raise
                    self.port = free_port()

    async def _close(self) -> None:
        if self._server is not None:
            await stop_listening(self._server)
            self._server = None

    async def _cut(self) -> None:
        for line in list(self._lines):
            line.abort()

    async def _set(self, held: bool, lag: float, junk: bytes | None) -> None:
        if self.junk is not None and junk is None:
            await self._cut()  # nobody can make sense of those any more
        self.held, self.lag, self.junk = held, lag, junk
        if not held:
            for line in list(self._lines):
                line.pump()

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://{HOST}:{self.port}/0"

    @property
    def connections(self) -> int:
        return len(self._lines)

    def cut(self) -> None:
        """Reset every connection there is. New ones are welcome."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Nobody listens here any more."""
        self._do(self._close())
        self.cut()

    def blackhole(self) -> None:
        self._do(self._set(True, 0.0, None))

    def delay(self, seconds: float) -> None:
        """Each byte takes so long, there and back: a round trip twice that."""
        self._do(self._set(False, seconds, None))

    def garbage(self, junk: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff") -> None:
        self._do(self._set(False, 0.0, junk))

    def resume(self) -> None:
        """All is well again."""
        self._do(self._set(False, 0.0, None))
        self._do(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.refuse()

        async def idle() -> None:
            while self._lines:
                await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:  # a TLS handshake that never ended
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(idle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BOUND)
        self._loop.close()


class _Line:
    """A client's connection and the one to the server that goes with it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client = _End(self)
        self.server = _End(self)
        self.client.other, self.server.other = self.server, self.client
        self.connecting: asyncio.Task[None] | None = None

    def opened(self) -> None:
        self.proxy._lines.add(self)
        self.pump()

    def pump(self) -> None:
        """Go on with what could not be done while the proxy held everything."""
        proxy = self.proxy
        if self.connecting is None and not proxy.held and proxy.junk is None:
            self.connecting = proxy._loop.create_task(self._connect())
        self.client.flush()
        self.server.flush()

    async def _connect(self) -> None:
        try:
            await self.proxy._loop.create_connection(lambda: self.server, HOST, self.proxy.target)
        except OSError:
            self.abort()

    def abort(self) -> None:
        self.proxy._lines.discard(self)
        if self.connecting is not None:
            self.connecting.cancel()
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.abort()


class _End(asyncio.Protocol):
    other: _End

    def __init__(self, line: _Line) -> None:
        self.line = line
        self.transport: asyncio.Transport | None = None
        self.waiting: list[tuple[float, bytes]] = []  # due, data to write here; b"" ends it

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self is self.line.client:
            self.line.opened()
        elif self.line not in self.line.proxy._lines:
            transport.abort()
        else:
            self.flush()

    def data_received(self, data: bytes) -> None:
        proxy = self.line.proxy
        if proxy.junk is not None:
            if self is self.line.client and self.transport is not None:
                self.transport.write(proxy.junk)
            return
        self.other.put(data)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, _: BaseException | None) -> None:
        self.transport = None
        if self.line in self.line.proxy._lines:
            self.other.put(b"")

    def put(self, data: bytes) -> None:
        loop, lag = self.line.proxy._loop, self.line.proxy.lag
        self.waiting.append((loop.time() + lag, data))
        if lag:
            loop.call_later(lag, self.flush)
        else:
            self.flush()

    def flush(self) -> None:
        """Write what is due, unless the proxy holds it or the server is not connected yet."""
        proxy = self.line.proxy
        if proxy.held or (self.transport is None and self is self.line.server):
            return
        now = proxy._loop.time() + 0.0005
        while self.waiting and self.waiting[0][0] <= now:
            _, data = self.waiting.pop(0)
            if self.transport is None or not data:
                if self.transport is not None:
                    self.transport.close()  # once its buffer is written
                    self.transport = None
                self.line.abort()
                return
            proxy.bytes += len(data)
            self.transport.write(data)
