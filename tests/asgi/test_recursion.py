"""A LayerGate inside itself, one on an app of the other world, and how frameworks hand the app over."""

from __future__ import annotations

import asyncio
from typing import Any

import flask
import litestar
import pytest
import quart
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from layergate import ConfigError, GateRecursion, HttpCache, LayerGate, Rule
from layergate.wsgi import LayerGate as WsgiGate
from tests.support.asgi import Origin, World, scope_of
from tests.support.wsgi import ask, environ_of

METHODS = ["GET", "HEAD", "POST", "PUT", "OPTIONS"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rules", [[], [Rule("*", bypass=True)], [Rule("*", ttl=60)]])
async def test_asgi_inside_itself(method, rules):
    app = quart.Quart(__name__)
    world = World(app=app, rules=rules)
    app.asgi_app = world.app  # type: ignore[method-assign, assignment]
    for headers in ({}, {"authorization": "x"}, {"cookie": "a=b"}):
        with pytest.raises(GateRecursion, match="inside itself"):
            async with asyncio.timeout(5):
                await world.get("/", method=method, headers=headers)
    world.assert_nothing_left()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rules", [[], [Rule("*", bypass=True)], [Rule("*", ttl=60)]])
def test_wsgi_inside_itself(method, rules):
    app = flask.Flask(__name__)
    app.wsgi_app = gate = WsgiGate(app, rules=rules)  # type: ignore[method-assign]
    for more in ({}, {"HTTP_AUTHORIZATION": "x"}, {"HTTP_COOKIE": "a=b"}):
        with pytest.raises(GateRecursion, match=r"LayerGate\(app.wsgi_app\)"):
            ask(gate, "/", method, **more)
    assert gate.cache.stats()["flights"] == 0


async def test_asgi_two_with_the_same_cache():
    world = World()
    with pytest.raises(GateRecursion, match="same cache"):
        LayerGate(world.app, cache=world.cache)
    built: Any = quart.Quart(__name__)
    built.asgi_app = world.app
    with pytest.raises(GateRecursion, match="same cache"):
        LayerGate(built, cache=world.cache)
    hidden = World()

    async def between(scope: Any, receive: Any, send: Any) -> None:
        await hidden.app(scope, receive, send)

    outer = LayerGate(between, cache=hidden.cache)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    with pytest.raises(GateRecursion):
        async with asyncio.timeout(5):
            await outer(scope_of("/"), receive, send)
    assert not sent


def test_wsgi_two_with_the_same_cache():
    app = flask.Flask(__name__)
    app.wsgi_app = inner = WsgiGate(app.wsgi_app)  # type: ignore[method-assign]
    with pytest.raises(GateRecursion, match="same cache"):
        WsgiGate(app, cache=inner.cache)
    outer = WsgiGate(
        lambda environ, start_response: app(environ, start_response), cache=inner.cache
    )
    with pytest.raises(GateRecursion):
        ask(outer)


async def test_two_with_a_cache_each_and_requests_that_an_app_makes_of_itself_are_no_recursion():
    origin = Origin()
    inner = World(origin=origin)
    outer = World(app=inner.app)
    assert (await outer.get("/")).status == 200
    assert (await outer.get("/")).hit

    async def part(request: Request) -> Response:
        return PlainTextResponse("part", headers={"cache-control": "max-age=60"})

    async def whole(request: Request) -> Response:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await world.app(
            {**request.scope, "path": "/part", "raw_path": b"/part"}, request.receive, send
        )
        return PlainTextResponse(sent[1]["body"])

    world = World(app=Starlette(routes=[Route("/part", part), Route("/whole", whole)]))
    for _ in range(2):
        assert (await world.get("/whole")).body == b"part"

    async def redirected(scope: Any, receive: Any, send: Any) -> None:  # outside, once more
        for _ in range(2):
            await gate(scope, receive, send)

    gate, messages = world.app, []

    async def send(message: Any) -> None:
        messages.append(message["type"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    for method in METHODS:
        await redirected(scope_of("/whole", method=method), receive, send)


async def test_a_mounted_sub_app_may_have_a_gate_with_the_same_cache():
    world = World()

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("x", headers={"cache-control": "max-age=60"})

    inner = Starlette(
        routes=[Route("/item", endpoint)], middleware=[Middleware(LayerGate, cache=world.cache)]
    )
    world.app.app = Starlette(routes=[Mount("/api", inner)])
    assert (await world.get("/api/item")).body == b"x"
    assert (await world.get("/api/item")).hit


# -- the other world -------------------------------------------------------------------------------


def wsgi_app(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b"x"]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> Any:
        return wsgi_app(environ, start_response)


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def vague(app: Any) -> Any:
    def wrapper(*args: Any) -> Any:
        return app(*args[:2]) if app is wsgi_app else app(*args, None)

    return wrapper


WSGI: list[Any] = [
    wsgi_app,
    WsgiObject(),
    flask.Flask("x"),
    flask.Flask("x").wsgi_app,
    WsgiGate(wsgi_app),
]
ASGI: list[Any] = [asgi_app, AsgiObject(), Starlette(), quart.Quart("x"), LayerGate(asgi_app)]


@pytest.mark.parametrize("app", WSGI, ids=lambda app: type(app).__name__)
def test_a_wsgi_app_is_refused_by_the_asgi_middleware(app):
    WsgiGate(app)
    with pytest.raises(ConfigError, match=r"from layergate\.wsgi import LayerGate"):
        LayerGate(app)


@pytest.mark.parametrize("app", ASGI, ids=lambda app: type(app).__name__)
def test_an_asgi_app_is_refused_by_the_wsgi_middleware(app):
    LayerGate(app)
    with pytest.raises(ConfigError, match=r"from layergate import LayerGate"):
        WsgiGate(app)


@pytest.mark.parametrize("method", METHODS)
async def test_one_that_cannot_be_told_is_refused_with_the_first_request(method):
    world = World(app=vague(lambda *args: [b"x"]))
    with pytest.raises(ConfigError, match=r"from layergate\.wsgi import LayerGate"):
        await world.get("/", method=method)
    world.assert_nothing_left()
    gate = WsgiGate(vague(asgi_app))
    with pytest.raises(ConfigError, match=r"from layergate import LayerGate"):
        ask(gate, "/", method)
    assert gate.cache.stats()["flights"] == 0


def test_an_asgi_server_that_calls_the_wsgi_middleware_is_told():
    with pytest.raises(ConfigError, match="an ASGI server calls it"):
        WsgiGate(wsgi_app)(scope_of("/"), lambda: None, lambda: None)  # type: ignore[arg-type, return-value]


# -- by name ---------------------------------------------------------------------------------------


async def test_the_app_may_be_given_by_name():
    cache = HttpCache()
    assert LayerGate(app=asgi_app, cache=cache).cache is cache
    gate = WsgiGate(app=wsgi_app)
    assert b"".join(gate(environ_of(), lambda *head: lambda data: None)) == b"x"

    world = World()

    @litestar.get("/item")
    async def item() -> litestar.Response[str]:
        return litestar.Response("x", headers={"cache-control": "max-age=60"})

    middleware = [DefineMiddleware(LayerGate, cache=world.cache)]  # type: ignore[arg-type]
    world.app = litestar.Litestar([item], middleware=middleware)  # type: ignore[assignment]
    assert not (await world.get("/item")).hit
    assert (await world.get("/item")).hit
