"""Whatever the layers are, what is stored is found, counted and purged: in both worlds."""

from __future__ import annotations

import time
from typing import Any

import pytest

from layergate import MemoryLayer
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.core.support import DictLayer, TopLayer
from tests.support import wsgi
from tests.support.asgi import World
from tests.support.clocks import LoopClock
from tests.support.waiting import wait_until

ARRANGEMENTS: dict[str, Any] = {
    "memory": lambda clock: [MemoryLayer("1MB", clock=clock)],
    "one-that-can-be-peeked": lambda clock: [TopLayer("a")],
    "one-that-cannot": lambda clock: [DictLayer("a")],
    "memory-above-another": lambda clock: [MemoryLayer("1MB", clock=clock), DictLayer("b")],
    "two-that-cannot": lambda clock: [DictLayer("a"), DictLayer("b")],
    "memory-below-one-that-cannot": lambda clock: [DictLayer("a"), MemoryLayer("1MB", clock=clock)],
}


@pytest.mark.parametrize("layers", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
async def test_asgi(layers: Any) -> None:
    clock = LoopClock()
    world = World(clock=clock, layers=layers(clock.now))
    world.origin.answers("/", {"cache-control": "max-age=60", "cache-tag": "t"})
    assert not (await world.get("/")).hit
    await world.idle()
    assert (await world.get("/")).hit
    assert (await world.get("/", headers={"range": "bytes=0-1"})).status == 206
    assert (await world.cache.purge(tags=["t"])).final
    assert not (await world.get("/")).hit
    assert world.origin.calls["/"] == 2


@pytest.mark.parametrize("layers", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_wsgi(layers: Any) -> None:
    calls = 0

    def origin(environ: Any, start_response: Any) -> list[bytes]:
        nonlocal calls
        calls += 1
        start_response("200 OK", [("Cache-Control", "max-age=60"), ("Cache-Tag", "t")])
        return [b"body"]

    app = WSGILayerGate(origin, layers=layers(time.time))
    assert "; hit" not in wsgi.ask(app).told
    wait_until(lambda: not app.cache.runtime.pending())
    assert "; hit" in wsgi.ask(app).told
    assert wsgi.ask(app, HTTP_RANGE="bytes=0-1").status.startswith("206")
    assert app.purge(tags=["t"]).final
    assert "; hit" not in wsgi.ask(app).told
    assert calls == 2
    app.close()
