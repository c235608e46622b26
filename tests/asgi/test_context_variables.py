"""Which middleware outside LayerGate sees a context variable that an endpoint sets: the table of
`docs/middleware.md`, and no more."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from layergate import Rule
from layergate.wsgi import LayerGate as WsgiGate
from tests.support.asgi import Gate, World
from tests.support.wsgi import ask

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
SHARED, PRIVATE = "max-age=60", "no-store"


class Outside:
    """A middleware around the gate, which notes what it sees after the app has answered."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        VARIABLE.set("outside")
        await self.gate(scope, receive, send)
        self.seen.append(VARIABLE.get())


def a_world(control: str, **options: Any) -> tuple[World, Outside, list[str]]:
    """And what the endpoint saw, which middleware may set for it."""
    told: list[str] = []

    async def endpoint(request: Request) -> Response:
        told.append(VARIABLE.get())
        VARIABLE.set("endpoint")
        return PlainTextResponse("x", headers={"cache-control": control})

    methods = ["GET", "POST", "PUT", "OPTIONS"]
    world = World(app=Starlette(routes=[Route("/", endpoint, methods=methods)]), **options)
    outside = Outside(world.app)
    world.app = outside  # type: ignore[assignment]
    return world, outside, told


async def test_asgi_not_by_a_hit_nor_by_a_get_that_others_may_wait_for():
    world, outside, told = a_world(SHARED)
    for _ in range(2):
        await world.get("/")
    assert outside.seen == ["outside", "outside"]
    world, outside, told = a_world(PRIVATE)
    await world.get("/")
    assert outside.seen == ["outside"]
    assert told == ["outside"]


async def test_asgi_not_by_a_request_that_waits_for_another_one():
    gate = Gate()
    world = World()

    @world.origin.on("/")
    async def handler(call: Any) -> None:
        VARIABLE.set("endpoint")
        await gate.wait()
        await call.reply(b"x", 200, {"cache-control": SHARED})

    outside = Outside(world.app)
    world.app = outside  # type: ignore[assignment]
    requests = [world.call("/") for _ in range(3)]
    await world.waiting(2)
    gate.open()
    for request in requests:
        await request.done()
    assert outside.seen == ["outside"] * 3


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
async def test_asgi_by_what_is_passed(method):
    world, outside, told = a_world(SHARED)
    await world.get("/", method=method)
    assert (outside.seen, told) == (["endpoint"], ["outside"])


@pytest.mark.parametrize(
    ("control", "options", "request_"),
    [
        (SHARED, {"rules": [Rule("*", bypass=True)]}, {}),
        (SHARED, {"collapse": False}, {}),
        (SHARED, {}, {"method": "HEAD"}),
        (SHARED, {}, {"headers": {"authorization": "x"}}),
        (SHARED, {}, {"headers": {"if-match": '"1"'}}),
    ],
    ids=["bypass", "collapse", "HEAD", "authorization", "if-match"],
)
async def test_asgi_by_what_runs_in_the_requests_own_task(control, options, request_):
    world, outside, told = a_world(control, **options)
    await world.get("/", **request_)
    assert (outside.seen, told) == (["endpoint"], ["outside"])


async def test_asgi_by_a_get_of_a_target_that_is_known_not_to_be_shareable():
    world, outside, _ = a_world(PRIVATE)
    for _ in range(2):
        await world.get("/")
    assert outside.seen == ["outside", "endpoint"]


def test_wsgi_by_every_request_that_calls_the_app():
    def app(environ: Any, start_response: Any) -> Any:
        VARIABLE.set("endpoint")
        start_response(
            "200 OK", [("Cache-Control", SHARED if environ["PATH_INFO"] == "/" else PRIVATE)]
        )
        return [b"x"]

    gate = WsgiGate(app)

    def seen(path: str, method: str = "GET") -> str:
        def inside() -> str:
            VARIABLE.set("outside")
            ask(gate, path, method)
            return VARIABLE.get()

        return contextvars.copy_context().run(inside)

    assert [seen("/"), seen("/")] == ["endpoint", "outside"]
    assert [seen("/private"), seen("/private"), seen("/private", "POST")] == ["endpoint"] * 3
