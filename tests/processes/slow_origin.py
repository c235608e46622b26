"""The applications that the servers of `test_slow_clients` run, and LayerGate around them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layergate import HttpCache, LayerGate
from layergate.wsgi import LayerGate as WSGILayerGate
from layergate.wsgi import ThreadRuntime

PART = 64 * 1024
PARTS = 384  # 24 MB
LARGE = 8 * 1024 * 1024
OPTIONS: dict[str, Any] = {"memory": "128MB", "slow_reader_timeout": 1.0}
READERS = 4


def resident() -> bytes:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return b"%d" % (pages * os.sysconf("SC_PAGE_SIZE"))


def joined(cache: HttpCache) -> bool:
    """Do all four that are expected read along?"""
    return any(flight.stream.readers >= READERS for flight in cache.flights._flights.values())


# -- ASGI ------------------------------------------------------------------------------------------

loop_cache = HttpCache(**OPTIONS)


async def origin(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    control, body = b"max-age=60", b"up"
    if scope["path"] == "/resident":
        control, body = b"no-store", resident()
    elif scope["path"] == "/hit":
        body = b"x" * LARGE
    headers = [(b"cache-control", control)]
    if scope["path"] != "/stream":
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/stream":
        for number in range(PARTS):
            part = bytes([number % 251]) * PART
            await send({"type": "http.response.body", "body": part, "more_body": True})
            while number == 0 and not joined(loop_cache):
                await asyncio.sleep(0.01)
        body = b""
    await send({"type": "http.response.body", "body": body})


asgi = LayerGate(origin, cache=loop_cache)

# -- WSGI ------------------------------------------------------------------------------------------

thread_cache = HttpCache(runtime=ThreadRuntime(), **OPTIONS)


def application(environ: Any, start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    headers = [("Cache-Control", "max-age=60"), ("Content-Type", "text/plain")]
    if path == "/stream":
        start_response("200 OK", headers)
        return large()
    if path.startswith("/steps"):
        start_response("200 OK", headers)
        return steps()
    start_response("200 OK", [*headers, ("Content-Length", "2")])
    return [b"up"]


def large() -> Iterator[bytes]:
    for number in range(PARTS):
        yield bytes([number % 251]) * PART
        while number == 0 and not joined(thread_cache):
            time.sleep(0.01)


def steps() -> Iterator[bytes]:
    for _ in range(20):
        yield b"x" * 1000
        time.sleep(1.0)


wsgi = WSGILayerGate(application, cache=thread_cache)
