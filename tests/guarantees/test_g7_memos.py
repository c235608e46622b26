"""What is remembered to be quick is bounded in bytes, not only in number: names, values, hosts and heads
are as long as a client or an origin likes."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from layergate.http.extensions.groups import group_invalidations
from layergate.http.extensions.no_vary_search import variance_of
from layergate.http.extensions.targeted import parse_targeted
from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.selecting import normalize, vary_names
from layergate.wsgi import LayerGate
from layergate.wsgi.environ import fields_of
from tests.support.asgi import OriginCall, World
from tests.support.wsgi import ask

COUNT = 60
BOUND = 2_000_000  # bytes; each flood is of more than twice as many
FLOOD = 2.5 * BOUND


def _grown(flood: Callable[[int], object], count: int) -> int:
    """Bytes that are held longer after so many calls than before."""
    flood(0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, count + 1):
            flood(number)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


LONG = 200_000
SHORT = 7000  # short enough for a parser that refuses what is longer


def _long(number: int, size: int = LONG) -> bytes:
    return b"%d" % number + b"x" * size


FLOODS: dict[str, Callable[[int], object]] = {
    "Cache-Control": lambda n: parse_cache_control(b"max-age=1, x=" + _long(n)),
    "Cache-Control, just so long": lambda n: parse_cache_control(b"x=" + _long(n, SHORT + 1000)),
    "a targeted field": lambda n: parse_targeted(b"max-age=1, x=" + _long(n, SHORT)),
    "Vary": lambda n: vary_names(Fields([(b"vary", _long(n))])),
    "a field that selects": lambda n: normalize(b"accept", [_long(n)]),
    "a name that selects": lambda n: normalize(_long(n), [b"a"]),
    "No-Vary-Search": lambda n: variance_of(
        Fields([(b"no-vary-search", b'params=("%b")' % _long(n))])
    ),
    "Cache-Group-Invalidation": lambda n: group_invalidations(
        "http://a/", "POST", 200, Fields([(b"cache-group-invalidation", b'"%b"' % _long(n, SHORT))])
    ),
    "WSGI names": lambda n: fields_of({"HTTP_" + _long(n, LONG + 50_000).decode(): "a"}),
}


SHORTER = {"Cache-Control, just so long", "a targeted field", "Cache-Group-Invalidation"}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_long_values_is_not_remembered(flood):
    count = FLOOD / (SHORT if flood in SHORTER else LONG)
    assert _grown(FLOODS[flood], round(count)) < BOUND


def _lines_of(number: int, what: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """The host, fields of the request and fields of the response of one request of a flood."""
    response = {"cache-control": "max-age=60"}
    long = f"{number}" + "x" * 90_000
    if what == "hosts":
        return f"{number}" + "x" * 8000 + ".example", {}, response
    if what == "names of the request":
        return "a.example", {f"x-{long}": "a"}, response
    if what == "names in Vary":
        return "a.example", {f"x-{long}": "a"}, {**response, "vary": f"x-{long}"}
    if what == "values in Vary":
        return "a.example", {"x-a": long}, {**response, "vary": "x-a"}
    if what == "Cache-Control of the request":
        return "a.example", {"cache-control": f"x={long}"}, response
    assert what == "names of the response"
    return "a.example", {}, {**response, f"x-{long}": "a"}


WHOLE = [
    "hosts", "names of the request", "names in Vary", "values in Vary",
    "Cache-Control of the request", "names of the response",
]  # fmt: skip


@pytest.mark.parametrize("what", WHOLE)
async def test_a_flood_of_requests_leaves_little_in_asgi(what):
    world = World(memory="256KB", max_inflight="64MB")

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.reply(b"x", headers=answers[-1])

    answers: list[dict[str, str]] = []
    grown = 0
    for number in range(COUNT + 1):
        host, request, response = _lines_of(number, what)
        answers[:] = [response]
        for _ in range(2):  # a miss, and perhaps a hit
            await world.get("/", host=host, headers=request)
        if not number:
            gc.collect()
            tracemalloc.start()
            grown = -tracemalloc.get_traced_memory()[0]
        world.events.clear()
        world.origin.scopes.clear()
    gc.collect()
    grown += tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < BOUND


@pytest.mark.parametrize("what", WHOLE)
def test_a_flood_of_requests_leaves_little_in_wsgi(what):
    answers: list[dict[str, str]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*answers[-1].items()])
        return [b"x"]

    gate = LayerGate(app, memory="256KB")

    def request(number: int) -> None:
        host, fields, response = _lines_of(number, what)
        answers[:] = [response]
        variables = {f"HTTP_{name.upper().replace('-', '_')}": one for name, one in fields.items()}
        for _ in range(2):
            assert ask(gate, "/", HTTP_HOST=host, **variables).body == b"x"

    assert _grown(request, COUNT) < BOUND
