"""One worker: puts together the cache, the upstreams and the client connections of one process.

`run` and `spawned` call `main`. See `channel` for the order of events.
"""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
from collections.abc import Awaitable, Iterable, Sequence
from socket import AddressFamily, socket
from typing import Any, Final

from layergate.asgi import LayerGate
from layergate.assembly import HttpCache
from layergate.gateway.channel import Channel, State
from layergate.gateway.clients.server import Server
from layergate.gateway.forward import ForwardPolicy
from layergate.gateway.options import GatewayOptions
from layergate.gateway.proxy import App, Message, Proxy, Receive, Scope, Send
from layergate.gateway.reloading import live, waiting
from layergate.runtime.loop import LoopRuntime

__all__ = ["Worker", "main"]

_BACKLOG: Final = 2048


def main(options: GatewayOptions, sockets: Sequence[socket], channel: Channel) -> None:
    """Serve until the channel says to stop. See `channel`."""
    # Nearly all objects live long: modules, and stored responses. A request leaves no garbage cycles,
    # however it ended. So the collector finds little, and its walk through a gigabyte of entries would
    # stop every request.
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 100)
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        asyncio.run(_serve(options, sockets, channel))
    else:
        uvloop.run(_serve(options, sockets, channel))


async def _serve(options: GatewayOptions, sockets: Sequence[socket], channel: Channel) -> None:
    await Worker(options, channel).serve(sockets)


class Worker:
    """The parts of a worker. It needs a running loop.

    Raises ConfigError, and OSError or ssl.SSLError for a certificate that cannot be used.
    """

    def __init__(self, options: GatewayOptions, channel: Channel) -> None:
        self.options = options
        self.channel = channel
        self.cache = HttpCache(**options.cache_arguments(channel.folder))
        policy = _policy(options, channel)
        self.proxy = Proxy(tuple(options.upstreams), policy)
        gate = LayerGate(self.proxy, self.cache)
        app = _Health(gate, options, channel)
        self.server = Server(app, gate, options, policy)
        self._tls = _tls(options)

    async def serve(self, sockets: Sequence[socket]) -> None:
        """Serve until the channel says to stop; then finish the requests that have begun."""
        loop, channel, cache, server = (
            self.server.service.loop,
            self.channel,
            self.cache,
            self.server,
        )
        assert isinstance(cache.runtime, LoopRuntime)
        cache.runtime.last()
        await channel.open(reload=self.reload, stats=self.stats)
        cache.reporter = channel.report
        if cache.stack.shared_log is not None:
            await cache.stack.join()  # before the first requests, which come all at once
        listeners = [
            await loop.create_server(
                server.connection,
                sock=sock,
                ssl=self._tls if _is_ip(sock) else None,
                backlog=_BACKLOG,
            )
            for sock in sockets
        ]
        server.start()
        channel.ready()
        await channel.stopping.wait()
        for listener in listeners:
            listener.close()
        end = loop.time() + float(self.options.drain_timeout)
        await server.drain(float(self.options.drain_timeout), channel.cut)
        self.proxy.close()
        await cache.aclose(0.0 if channel.cut.is_set() else max(0.0, end - loop.time()))
        await channel.close()

    def stats(self) -> dict[str, Any]:
        """The statistics of the cache, and the numbers of connections to clients and upstreams."""
        server = self.server
        return {
            **self.cache.stats(),
            "clients": {
                "connections": len(server.connections) - server.service.tunnels,
                "tunnels": server.service.tunnels,
            },
            "upstreams": {
                pool.options.name: {
                    "connections": pool.open - pool.tunnels,
                    "tunnels": pool.tunnels,
                }
                for pool in self.proxy.pools
            },
        }

    def reload(self, new: GatewayOptions) -> Iterable[str]:
        """Use these options from now on; new connections get the new certificate. The names of the options
        that wait for a restart. Raises as `Worker` does."""
        names = waiting(self.options, new)
        if self._tls is not None and new.tls_cert is not None:
            _tls(new)  # raises before anything has changed
            self._tls.load_cert_chain(new.tls_cert, new.tls_key)
        self.cache.reload(**live(new))
        policy = _policy(new, self.channel)
        self.proxy.reload(tuple(new.upstreams), policy)
        self.server.reload(new, policy)
        self.options = new
        return names


def _policy(options: GatewayOptions, channel: Channel) -> ForwardPolicy:
    return ForwardPolicy(
        via=options.via,
        forwarded=options.forwarded,
        trusted=options.trusted_networks,
        trusts_unix=options.trusts_unix,
        instance=channel.instance,
    )


def _is_ip(sock: socket) -> bool:
    return sock.family in (AddressFamily.AF_INET, AddressFamily.AF_INET6)


class _Health:
    """``healthz`` and ``readyz`` below the path of the admin endpoint, without a token."""

    def __init__(self, app: App, options: GatewayOptions, channel: Channel) -> None:
        self._app = app
        self._paths = {f"{options.admin_path}/{name}": name for name in ("healthz", "readyz")}
        self._prefix = options.admin_path
        self._channel = channel

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not scope["path"].startswith(self._prefix) or scope["path"] not in self._paths:
            return self._app(scope, receive, send)
        return self._say(scope, send)

    async def _say(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, {"error": "use GET"}, [(b"allow", b"GET, HEAD")])
            return
        name = self._paths[scope["path"]]
        ready = self._channel.state is State.READY
        status = 200 if ready or name == "healthz" else 503
        await _answer(send, status, {"status": self._channel.state.value})


async def _answer(
    send: Send, status: int, what: dict[str, str], extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    body = json.dumps(what).encode() + b"\n"
    lines = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *extra,
    ]
    head: Message = {"type": "http.response.start", "status": status, "headers": lines}
    await send(head)
    await send({"type": "http.response.body", "body": body})


def _tls(options: GatewayOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.tls_cert, options.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    return context
