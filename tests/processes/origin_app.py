"""The application that `test_uvicorn.py` serves: LayerGate around an origin, and a way to control it.

``/control/...`` is outside of LayerGate. It opens the gates at which the origin waits, waits for
arrivals at them, and tells counts; so a test in another process needs no sleep either.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
from typing import Any

from layergate import HttpCache, LayerGate
from layergate.asgi import middleware

# How long a reader of a quiet stream waits before it looks whether its client is still there.
setattr(middleware, "_WATCH_AFTER", 0.1)  # noqa: B010

cache = HttpCache(
    memory="8MB",
    max_body="64KB",
    shutdown_timeout=float(os.environ.get("TEST_SHUTDOWN_TIMEOUT", "5")),
    abandoned_timeout=float(os.environ.get("TEST_ABANDONED_TIMEOUT", "60")),
)
calls: collections.Counter[str] = collections.Counter()
arrived: collections.Counter[str] = collections.Counter()
gates: dict[str, asyncio.Event] = collections.defaultdict(asyncio.Event)

FRESH = (b"cache-control", b"max-age=60")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


async def gate(name: str) -> None:
    arrived[name] += 1
    await gates[name].wait()


async def origin(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        say("app closed")
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    calls[path] += 1

    async def start(*headers: tuple[bytes, bytes], status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [*headers]})

    async def body(data: bytes, more: bool = False) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    kind, _, name = path[1:].partition("/")
    if kind == "page":  # /page/<gate>: waits, then answers
        await gate(name)
        await start(FRESH, (b"content-length", b"4"))
        await body(b"page")
    elif kind == "stream":  # /stream/<gate>: a part, a wait, a part
        await start(FRESH)
        await body(b"first ", more=True)
        await gate(name)
        await body(b"second")
    elif kind == "large":  # /large/<gate>: larger than max_body
        await start(FRESH)
        for number in range(64):
            if number == 1:
                await gate(name)
            await body(bytes([number]) * 16384, more=True)
        await body(b"")
    elif kind == "private":
        await start((b"cache-control", b"private"), (b"content-length", b"7"))
        await body(b"private")
    elif kind == "etag":
        await start(FRESH, (b"etag", b'"v1"'), (b"content-length", b"5"))
        await body(b"" if scope["method"] == "HEAD" else b"hello")
    elif kind == "chunked":
        await start(FRESH)
        await body(b"one ", more=True)
        await body(b"two")
    elif kind == "empty":
        await start(FRESH, status=204)
        await body(b"")
    elif kind == "swr":  # stale at once; a refresh waits
        if calls[path] > 1:
            try:
                await gate(name)
            except asyncio.CancelledError:
                say("refresh cancelled")
                raise
        await start((b"cache-control", b"max-age=0, stale-while-revalidate=600"))
        await body(b"%d" % calls[path])
    elif kind == "forever":  # /forever/<gate>: ticks until it is ended
        await start(FRESH)
        try:
            while True:
                await body(b"tick ", more=True)
                await asyncio.sleep(0.01)
        finally:
            arrived[name] += 1
    elif kind == "events":
        await start((b"content-type", b"text/event-stream"))
        await body(b"data: hello\n\n", more=True)
        while (await receive())["type"] != "http.disconnect":
            pass
        arrived[name] += 1
    elif kind == "error":
        raise RuntimeError("the origin failed")
    elif kind == "half":
        await start(FRESH)
        await body(b"half", more=True)
        raise RuntimeError("the origin failed in the middle")
    else:
        await start(status=404)
        await body(b"")


async def control(path: str) -> Any:
    what, _, rest = path.partition("/")
    if what == "open":
        gates[rest].set()
    elif what == "arrived":
        name, _, count = rest.rpartition("/")
        while arrived[name] < int(count):
            await asyncio.sleep(0.002)
    elif what == "waiters":
        while cache.stats()["waiters"] != int(rest):
            await asyncio.sleep(0.002)
    elif what == "calls":
        return calls["/" + rest]
    elif what == "stats":
        return cache.stats()
    return None


gated = LayerGate(origin, cache=cache)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http" and scope["path"].startswith("/control/"):
        data = json.dumps(await control(scope["path"].removeprefix("/control/"))).encode()
        headers = [(b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})
        return
    await gated(scope, receive, send)
