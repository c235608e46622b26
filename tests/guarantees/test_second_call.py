"""G9: every call of the app gets the request as the server made it, and what is decided after a call
depends on nothing that the app did to its scope or environ.

A 304 that is not about what is stored makes LayerGate call the app once more in the same request.
"""

from __future__ import annotations

from typing import Any

import a2wsgi
import flask
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from layergate import Admin, Rule
from layergate.wsgi import LayerGate as WsgiGate
from tests.support.asgi import World
from tests.support.wsgi import Answer, ask


def answer_for(name: str, validator: str | None) -> tuple[int, dict[str, str], bytes]:
    """The first time a page with an entity tag; then a 304 that carries another one."""
    if validator is not None:
        return 304, {"ETag": '"other"'}, b""
    return 200, {"ETag": '"own"', "Cache-Control": "max-age=10"}, name.encode()


def endpoint_of(name: str) -> Any:
    async def endpoint(request: Request) -> Response:
        request.state.by = name
        status, headers, body = answer_for(
            f"{name} at {request.url.path} under {request.scope.get('root_path', '')}",
            request.headers.get("if-none-match"),
        )
        return Response(body, status, headers)

    return endpoint


class Prefixed:
    """The snippet that strips a prefix, and changes what it was given."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/api"):
            scope["path"] = scope["path"][4:]
            scope["raw_path"] = scope["path"].encode()
            scope["root_path"] = "/api"
            scope["headers"].append((b"x-prefix", b"/api"))
            scope["state"]["seen"] = scope["state"].get("seen", 0) + 1
        await self.app(scope, receive, send)


def inner_routes(name: str) -> list[Any]:
    return [Route("/item", endpoint_of(name))]


def mounts() -> dict[str, Any]:
    top = Route("/item", endpoint_of("top"))
    fastapi, sub = FastAPI(), FastAPI()
    fastapi.get("/item")(endpoint_of("top"))
    sub.get("/item")(endpoint_of("inner"))
    fastapi.mount("/api", sub)
    flasks: Any = DispatcherMiddleware(a_flask("top"), {"/api": a_flask("inner")})
    return {
        "Mount": Starlette(routes=[Mount("/api", routes=inner_routes("inner")), top]),
        "Mount of an app": Starlette(
            routes=[Mount("/api", Starlette(routes=inner_routes("inner"))), top]
        ),
        "Host": Starlette(
            routes=[Host("example.com", Router([Mount("/api", routes=inner_routes("inner"))])), top]
        ),
        "FastAPI.mount": fastapi,
        "prefix snippet": Prefixed(Starlette(routes=[Route("/item", endpoint_of("inner"))])),
        "a2wsgi": a2wsgi.WSGIMiddleware(flasks),
    }


def a_flask(name: str) -> flask.Flask:
    app = flask.Flask(name)

    @app.get("/item")
    def item() -> Any:
        request = flask.request
        status, headers, body = answer_for(
            f"{name} at {request.path} under {request.script_root}",
            request.headers.get("If-None-Match"),
        )
        return body, status, headers

    return app


async def validated(world: World, **request: Any) -> tuple[bytes, bytes]:
    """The page at first, and after a revalidation whose 304 does not match."""
    request.setdefault("state", {})
    first = await world.get("/api/item", **request)
    world.clock.advance(11)
    before = dict(request["state"])
    second = await world.get("/api/item", **request)
    assert (first.status, second.status) == (200, 200)
    assert request["state"].get("seen", 0) <= before.get("seen", 0) + 1
    return first.body, second.body


@pytest.mark.parametrize("kind", mounts())
@pytest.mark.parametrize("head", [False, True])
async def test_asgi_the_same_app_answers_again(kind, head):
    world = World(app=mounts()[kind])
    first, second = await validated(world)
    assert first.startswith(b"inner")
    assert second == first
    if head:
        world.clock.advance(11)
        answer = await world.get("/api/item", method="HEAD", state={})
        assert (answer.status, answer.header("etag")) in ((200, '"own"'), (405, None))
    else:
        assert (await world.get("/api/item", state={})).hit
    assert not (await world.get("/item", state={})).hit


async def test_asgi_what_the_app_notes_is_seen_outside_after_the_second_call_too():
    scopes: list[Any] = []
    world = World(app=mounts()["Mount"])
    gate = world.app

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await gate(scope, receive, send)

    world.app = outside  # type: ignore[assignment]
    state: dict[str, Any] = {}
    await validated(world, state=state)
    for scope in scopes:
        assert scope["endpoint"].__name__ == "endpoint"
        assert scope["state"] is state
    assert state == {"by": "inner"}


async def test_asgi_a_background_refresh_asks_the_same_app():
    calls: list[str] = []

    async def endpoint(request: Request) -> Response:
        calls.append(request.scope["root_path"])
        headers = {"cache-control": "max-age=10, stale-while-revalidate=60"}
        return PlainTextResponse(f"{len(calls)}", headers=headers)

    world = World(app=Starlette(routes=[Mount("/api", routes=[Route("/item", endpoint)])]))
    for expected in (b"1", b"1", b"2"):
        assert (await world.get("/api/item")).body == expected
        await world.idle()
        world.clock.advance(11 if expected == b"1" and len(calls) == 1 else 0)
    assert calls == ["/api", "/api"]


async def test_asgi_what_is_not_shareable_and_then_is_has_the_rule_and_the_key_of_its_own_path():
    quiet = [True]

    async def endpoint(request: Request) -> Response:
        headers = {"cache-control": "no-store"} if quiet[0] else {}
        return PlainTextResponse("x", headers=headers)

    world = World(
        app=Prefixed(Starlette(routes=[Route("/item", endpoint)])),
        rules=[Rule("/api/{name}", ttl=60, vary=["x-a"], tags=["{name}"])],
    )
    for _ in range(2):
        assert not (await world.get("/api/item", state={})).hit  # the second by the marker
    quiet[0] = False
    await world.get("/api/item", state={})
    assert (await world.get("/api/item", state={})).hit
    await world.cache.purge(urls=["http://example.com/api/item"])
    assert not (await world.get("/api/item", state={})).hit


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "PURGE"])
async def test_asgi_an_unsafe_method_reaches_what_was_stored_whatever_the_app_does_to_its_scope(
    method,
):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope.update(
            scheme="https",
            path="/elsewhere",
            raw_path=b"/elsewhere",
            query_string=b"?",
            method="GET",
        )
        scope["headers"][:] = [(b"host", b"elsewhere.example")]
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    world = World(app=app, admin=Admin(token="t"))
    await world.get("/item", query=b"a=1")
    assert (await world.get("/item", query=b"a=1")).hit
    headers = {"authorization": "Bearer t"} if method == "PURGE" else {}
    await world.get("/item", query=b"a=1", method=method, headers=headers)
    assert not (await world.get("/item", query=b"a=1")).hit


@pytest.mark.parametrize("lead", [True, False], ids=["led", "alone"])
async def test_asgi_a_field_that_the_app_adds_selects_no_variant(lead):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        tenant = dict(scope["headers"]).get(b"x-tenant", b"none")
        scope["headers"][:] = [(b"x-tenant", b"forged")]
        headers = [(b"cache-control", b"max-age=60"), (b"vary", b"X-Tenant")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": tenant})

    world = World(app=app, collapse=lead)
    for _ in range(2):
        for name in ("a", "b", "forged"):
            answer = await world.get("/", headers={"x-tenant": name})
            assert answer.body == name.encode()
    assert answer.hit


# -- WSGI ------------------------------------------------------------------------------------------


def prefixed(app: Any) -> Any:
    def middleware(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"].startswith("/api"):
            environ["PATH_INFO"] = environ["PATH_INFO"][4:]
            environ["SCRIPT_NAME"] = "/api"
            environ["wsgi.url_scheme"] = "https"
            environ["test.notes"]["seen"] = environ["test.notes"].get("seen", 0) + 1
        return app(environ, start_response)

    return middleware


def dispatchers() -> dict[str, Any]:
    asgi = Starlette(routes=[Mount("/api", routes=inner_routes("inner")), *inner_routes("top")])
    top, inner = a_flask("top"), a_flask("inner")
    return {
        "DispatcherMiddleware": DispatcherMiddleware(top, {"/api": inner}),
        "prefix snippet": prefixed(inner),
        "behind ProxyFix": ProxyFix(DispatcherMiddleware(top, {"/api": inner}), x_prefix=1),
        "a2wsgi": a2wsgi.ASGIMiddleware(asgi),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("kind", dispatchers())
def test_wsgi_the_same_app_answers_again(kind):
    app = dispatchers()[kind]
    gate = WsgiGate(app, request_directives=True)
    notes: dict[str, Any] = {}

    def get(path: str = "/api/item", **more: Any) -> Answer:
        return ask(gate, path, **{"test.notes": notes, **more})

    first = get()
    assert first.body.startswith(b"inner"), first
    reload = {"HTTP_CACHE_CONTROL": "no-cache"}
    notes.clear()
    second = get(**reload)
    assert (second.status, second.body) == ("200 OK", first.body)
    assert notes in ({}, {"seen": 1})
    assert "hit" in get().told
    assert "hit" not in get("/item").told


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "PURGE"])
def test_wsgi_an_unsafe_method_reaches_what_was_stored_whatever_the_app_does_to_its_environ(method):
    def app(environ: Any, start_response: Any) -> Any:
        environ |= {
            "wsgi.url_scheme": "https", "PATH_INFO": "/elsewhere", "SCRIPT_NAME": "/x", "REQUEST_METHOD": "GET",
            "HTTP_HOST": "elsewhere.example", "QUERY_STRING": "?", "REQUEST_URI": "/elsewhere",
        }  # fmt: skip
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"x"]

    gate = WsgiGate(app, admin=Admin(token="t"))
    ask(gate, "/item?a=1")
    assert "hit" in ask(gate, "/item?a=1").told
    more = {"HTTP_AUTHORIZATION": "Bearer t"} if method == "PURGE" else {}
    ask(gate, "/item?a=1", method, **more)
    assert "hit" not in ask(gate, "/item?a=1").told


def test_wsgi_what_is_not_shareable_and_then_is_has_the_rule_and_the_key_of_its_own_path():
    quiet = [True]

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Cache-Control", "no-store")] if quiet[0] else [])
        return [b"x"]

    gate = WsgiGate(prefixed(app), rules=[Rule("/api/{name}", ttl=60)])
    more: dict[str, Any] = {"test.notes": {}}
    for _ in range(2):
        assert "hit" not in ask(gate, "/api/item", **more).told
    quiet[0] = False
    ask(gate, "/api/item", **more)
    assert "hit" in ask(gate, "/api/item", **more).told
    gate.purge(urls=["http://example.org/api/item"])
    assert "hit" not in ask(gate, "/api/item", **more).told
