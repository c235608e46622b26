"""One cache hit of each peer, with the in-process cache set up as its documentation shows.

Each function returns an app, which answers ``GET /item`` from that cache once it is warm, and a function
that counts the calls of the origin. Imports are local, so a peer that fails to import loses only its own
row.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from _apps import DOCUMENT, Origin

__all__ = ["PEERS"]

ASGIApp = Callable[..., Awaitable[None]]
Peer = tuple[ASGIApp, Callable[[], int]]


async def fastapi_cache2() -> Peer:
    from fastapi import FastAPI
    from fastapi_cache import FastAPICache
    from fastapi_cache.backends.inmemory import InMemoryBackend
    from fastapi_cache.decorator import cache

    FastAPICache.init(InMemoryBackend())
    app, calls = FastAPI(), []

    @app.get("/item")
    @cache(expire=86400)
    async def item() -> dict[str, Any]:
        calls.append(1)
        return DOCUMENT

    return app, lambda: len(calls)


async def starlette_caches() -> Peer:
    from aiocache import SimpleMemoryCache
    from starlette_caches.middleware import CacheMiddleware

    # As on a server: messages are only built for levels that are enabled.
    logging.getLogger("starlette_caches").setLevel(logging.WARNING)
    origin = Origin()
    app = CacheMiddleware(origin, cache=SimpleMemoryCache(ttl=86400))
    return app, lambda: origin.calls


async def hishel() -> Peer:
    import anysqlite
    from hishel import AsyncSqliteStorage
    from hishel.asgi import ASGICacheMiddleware

    origin = Origin((b"cache-control", b"public, max-age=86400"))
    storage = AsyncSqliteStorage(connection=await anysqlite.connect(":memory:"))
    return ASGICacheMiddleware(origin, storage=storage), lambda: origin.calls


async def cashews() -> Peer:
    from cashews import Cache
    from fastapi import FastAPI

    cache = Cache()
    cache.setup("mem://")
    app, calls = FastAPI(), []

    @app.get("/item")
    @cache(ttl="24h")
    async def item() -> dict[str, Any]:
        calls.append(1)
        return DOCUMENT

    return app, lambda: len(calls)


# Distribution, description, setup.
PEERS: list[tuple[str, str, Callable[[], Awaitable[Peer]]]] = [
    ("starlette-caches", "middleware, aiocache memory", starlette_caches),
    ("fastapi-cache2", "decorator on FastAPI, memory", fastapi_cache2),
    ("cashews", "decorator on FastAPI, mem://", cashews),
    ("hishel", "ASGI middleware, SQLite in memory", hishel),
]
