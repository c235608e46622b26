"""A worker for the tests of the supervisor: LayerGate under uvicorn, with an origin that the test is.

It is what `layergate.gateway.channel` asks of a worker, and does what tests need: it says on each
response which process it is, fails when it starts if the test says so, and answers outside of
LayerGate below ``/control/``.

Run as a program it is the gateway itself: ``python -m tests.support.gateway_worker SETTINGS``.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Any

from layergate import ConfigError, HttpCache, LayerGate, Rule
from layergate.config import Options
from layergate.gateway.channel import Channel, Link, pack
from layergate.gateway.options import GatewayOptions
from layergate.gateway.reloading import live
from layergate.gateway.run import WORKER, run
from layergate.gateway.upstream_options import UpstreamOptions
from tests.processes import planted

# (Each worker imports this, for the class of its options.)
planted.plant()


class Tuned(GatewayOptions):
    """With options of the layer that no gateway is told: those in the environment."""

    __slots__ = ()

    def cache_arguments(self, folder: str | None = None) -> dict[str, Any]:
        arguments = super().cache_arguments(folder)
        layer = json.loads(os.environ.get("GATEWAY_LAYER", "{}"))
        if layer and isinstance(self.cache.shared, str):
            from layergate.layers.redis import RedisLayer

            arguments["shared"] = RedisLayer(
                self.cache.shared, namespace=self.shared_namespace, **layer
            )
        return arguments


def options_of(path: str) -> GatewayOptions:
    """The settings: a JSON file. ``rules`` are arguments of `Rule`, ``upstreams`` URLs or arguments
    of `UpstreamOptions`, ``memory`` and others the cache's.

    Raises ConfigError.
    """
    try:
        settings = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    rules = [Rule(**rule) for rule in settings.pop("rules", ())]
    cache = Options.of({**settings.pop("cache", {}), "rules": rules})
    upstreams = [
        UpstreamOptions(**one) if isinstance(one, dict) else UpstreamOptions(one)
        for one in settings.pop("upstreams", ["http://127.0.0.1:1"])
    ]
    return Tuned(upstreams=upstreams, cache=cache, **settings)


def main(options: GatewayOptions, sockets: Sequence[socket], channel: Channel) -> None:
    """See `layergate.gateway.channel`."""
    asyncio.run(serve(options, sockets, channel))


async def serve(options: GatewayOptions, sockets: Sequence[socket], channel: Channel) -> None:
    import uvicorn  # not in the supervisor, which imports this module too

    from tests.processes.fleet_app import handle

    cache = HttpCache(**options.cache_arguments(channel.folder))
    gated = LayerGate(handle, cache=cache)

    def reload(new: GatewayOptions) -> list[str]:
        if new.via == "refused":
            raise RuntimeError("not by a running worker")
        cache.reload(**live(new))
        return ["via"] if new.via != options.via else []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"x-pid", b"%d" % os.getpid()), (b"x-worker", b"%d" % channel.number)]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        if scope["path"].startswith("/control/"):
            await control(scope["path"].removeprefix("/control/"), channel, stamped)
        else:
            await gated(scope, receive, stamped)

    misbehave("start")
    await channel.open(reload=reload, stats=cache.stats)
    cache.reporter = channel.report
    await cache.stack.join()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=60
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(list(sockets))
    misbehave("ready")
    channel.ready()
    ticking = asyncio.create_task(server.main_loop())
    await channel.stopping.wait()
    server.should_exit = True
    cutting = asyncio.create_task(cut(channel, server))
    await server.shutdown(list(sockets))
    cutting.cancel()
    await asyncio.wait([ticking, cutting])
    await cache.aclose(0.0 if channel.cut.is_set() else None)
    await channel.close()


async def cut(channel: Channel, server: Any) -> None:
    await channel.cut.wait()
    server.force_exit = True


def misbehave(when: str) -> None:
    """What the test has put into a file."""
    path = Path(os.environ["GATEWAY_FAULTS"])
    faults = path.read_text().split() if path.exists() else []
    for fault in faults:
        at, _, what = fault.partition(":")
        if at != when:
            continue
        if what == "config":
            raise ConfigError("upstreams must be something else")
        if what == "bug":
            raise RuntimeError("a bug")
        if what == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "exit":
            os._exit(7)


SAID = {
    "garbage": b"\x00\x00\x00\x03J{}}",
    "nonsense": pack({"op": "explode"}),
    "huge": b"\xff\xff\xff\xffJ",
}


async def control(what: str, channel: Channel, send: Any) -> None:
    status, body = 200, b""
    if what == "state":
        body = channel.state.value.encode()
    elif what in SAID:
        assert isinstance(channel, Link)
        assert channel._writer is not None
        channel._writer.write(SAID[what])
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    # Under its name, by which the workers find the class of the options.
    from tests.support import gateway_worker

    file = sys.argv[1]
    kind = WORKER if os.environ["GATEWAY_WHOLE"] else "tests.support.gateway_worker:main"
    load = functools.partial(gateway_worker.options_of, file)
    sys.exit(run(load(), load, worker=kind))
