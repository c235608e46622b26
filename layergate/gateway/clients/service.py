"""What the client connections of one worker share: the cache, the options, and the state of the worker.

`Server` makes one `Service`; connections and cycles read it. It knows no sockets.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from layergate.asgi import LayerGate
from layergate.gateway import timeouts
from layergate.gateway.clients.known import KnownRequests
from layergate.gateway.forward import ForwardPolicy
from layergate.gateway.options import GatewayOptions
from layergate.gateway.proxy import App
from layergate.gateway.timeouts import State
from layergate.http.message.fields import Lines

__all__ = ["Service"]

# The states that wait for the client, each with the option that bounds it.
_LIMITED: Final = {
    State.IDLE: "keep_alive_timeout",
    State.HEAD: "head_timeout",
    State.CONTENT: "body_timeout",
    State.BLOCKED: "send_timeout",
    State.CLOSING: "send_timeout",
}


class Service:
    """``app``: the ASGI application that answers, with ``gate`` in it; ``gate``: asked for plain hits.

    ``limits``    seconds by state, after which the timer ends it; 0: no limit.
    ``now``       the loop's time at the last tick: precise enough for limits of seconds.
    ``draining``  True once the worker is told to stop.
    ``tunnels``   connections that are tunnels.
    """

    def __init__(
        self, app: App, gate: LayerGate, options: GatewayOptions, policy: ForwardPolicy
    ) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time()
        self.draining = False
        self.tunnels = 0
        self.hit = gate.plain_hit
        self._cache = gate.cache
        self.reload(options, policy)

    def reload(self, options: GatewayOptions, policy: ForwardPolicy) -> None:
        """Use these from now on. What is known by heart is dropped: it may mean something else now."""
        self.options = options
        self.policy = policy
        self.known = KnownRequests()
        # `now` is up to one tick old, so a limit of a second would end after half of one.
        self.limits = dict.fromkeys(State, 0.0)
        for state, option in _LIMITED.items():
            self.limits[state] = float(getattr(options, option)) + timeouts.TICK
        self.idle_limit = self.limits[State.IDLE]  # read for every hit
        self._reuses = bool(options.keep_alive_timeout)
        self.max_content = cast("int | None", options.max_content)
        identifier = self.identifier
        self._member = None if identifier is None else identifier + b"; "

    @property
    def identifier(self) -> bytes | None:
        """The cache's name in Cache-Status; None if it sends no such field."""
        return self._cache.identifier if self._cache.options.cache_status else None

    @property
    def closing(self) -> bool:
        """True if each connection is closed after its next response."""
        return self.draining or not self._reuses

    def told(self, lines: Lines) -> str:
        """The parameters of the cache's own member of Cache-Status in a response, for the access log;
        "" if there is none."""
        if self._member is None:
            return ""
        for name, value in reversed(lines):  # (this cache's line is behind those of other caches)
            if name == b"cache-status":
                own = value.startswith(self._member)
                return value[len(self._member) :].decode("latin-1") if own else ""
        return ""
