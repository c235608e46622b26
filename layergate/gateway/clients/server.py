"""All client connections of one worker: their timer, and their end when the worker stops.

`Worker` makes one `Server`. It never reads or writes on a connection.
"""

from __future__ import annotations

import asyncio

from layergate.asgi import LayerGate
from layergate.gateway import timeouts
from layergate.gateway.clients.connection import ClientConnection
from layergate.gateway.clients.service import Service
from layergate.gateway.forward import ForwardPolicy
from layergate.gateway.options import GatewayOptions
from layergate.gateway.proxy import App

__all__ = ["Server"]


class Server:
    """``app``: the ASGI application that answers, with ``gate`` in it; ``gate``: asked for plain hits."""

    def __init__(
        self, app: App, gate: LayerGate, options: GatewayOptions, policy: ForwardPolicy
    ) -> None:
        self.service = Service(app, gate, options, policy)
        self.connections: set[ClientConnection] = set()
        self._loop = self.service.loop
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    def reload(self, options: GatewayOptions, policy: ForwardPolicy) -> None:
        """Use these from now on."""
        self.service.reload(options, policy)
        for connection in self.connections:
            connection.adopt()

    def connection(self) -> ClientConnection:
        """The protocol for a connection that has just been accepted."""
        return ClientConnection(self.service, self)

    def start(self) -> None:
        """Start the timer of all connections."""
        self.service.now = self._loop.time()
        self._timer = self._loop.call_later(timeouts.TICK, self._tick)

    def _tick(self) -> None:
        self.service.now = now = self._loop.time()
        for connection in [*self.connections]:
            if 0.0 < connection.deadline <= now:
                connection.expire()
        self._timer = self._loop.call_later(timeouts.TICK, self._tick)

    def joined(self, connection: ClientConnection) -> bool:
        """Count a new connection. False if there are too many."""
        self.connections.add(connection)
        # Connections that come while the worker drains were accepted just before it: their requests
        # are on their way.
        count = len(self.connections) - self.service.tunnels
        return count <= self.service.options.max_connections

    def left(self, connection: ClientConnection) -> None:
        """Forget a connection that is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def drain(self, timeout: float, cut: asyncio.Event | None = None) -> None:
        """Answer what is under way and close the rest. Abort what is left after ``timeout`` seconds, or
        as soon as ``cut`` is set.

        A tunnel counts as under way. (A WebSocket could only be told between two of its frames, which
        the gateway does not read.)
        """
        self.service.draining = True
        # On many connections that seem idle the next request is under way. It is answered, with
        # Connection: close.
        idle = self._loop.call_later(min(timeouts.LAST_REQUEST, timeout), self._close_idle)
        if self.connections:
            self._empty.clear()
            waits = {asyncio.create_task(self._empty.wait())}
            if cut is not None:
                waits.add(asyncio.create_task(cut.wait()))
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        idle.cancel()
        for connection in [*self.connections]:
            connection.out.abort()
        if self._timer is not None:
            self._timer.cancel()

    def _close_idle(self) -> None:
        for connection in [*self.connections]:
            connection.close_idle()
