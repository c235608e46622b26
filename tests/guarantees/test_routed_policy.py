"""G1: a policy next to a route is that of the routed endpoint, never of what it calls.

Each app is asked by two tenants, whose pages differ by a field that no policy names.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import flask
import httpx
import litestar
import pytest
import quart
from a2wsgi import WSGIMiddleware
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from layergate import cached
from layergate.fastapi import cache_policy
from layergate.wsgi import LayerGate as WsgiGate
from tests.support.asgi import World
from tests.support.wsgi import ask

# -- ASGI --------------------------------------------------------------------------------------------


async def tenants(app: Any, path: str, **options: Any) -> list[bytes]:
    """What the tenants a, b, b get."""
    world = World(app=app, **options)
    pages = [await world.get(path, headers={"x-tenant": name}) for name in ("a", "b", "b")]
    assert {page.status for page in pages} == {200}
    return [page.body for page in pages]


async def assert_private(app: Any, path: str = "/dashboard", **options: Any) -> None:
    pages = await tenants(app, path, **options)
    assert [b"a" in page for page in pages] == [True, False, False]


async def assert_shared(app: Any, path: str = "/products", **options: Any) -> None:
    first, second, third = await tenants(app, path, **options)
    assert first == second == third


@cached(ttl=60)
def products() -> str:
    return "products"


@cached(ttl=60)
async def async_products() -> str:
    return "products"


def a_fastapi() -> FastAPI:
    app = FastAPI()
    app.get("/products")(products)
    app.get("/async-products")(async_products)

    def helped() -> str:
        return products()

    @app.get("/dashboard")
    def dashboard(request: Request) -> str:
        return f"{products()} of {request.headers['x-tenant']}"

    @app.get("/async-dashboard")
    async def async_dashboard(request: Request) -> str:
        return f"{await async_products()} of {request.headers['x-tenant']}"

    @app.get("/depends")
    async def depends(request: Request, content: str = Depends(products)) -> str:
        return f"{content} of {request.headers['x-tenant']}"

    @app.get("/depends-deeper")
    async def deeper(request: Request, content: str = Depends(helped)) -> str:
        return f"{content} of {request.headers['x-tenant']}"

    @app.get("/gathered")
    async def gathered(request: Request) -> str:
        contents = await asyncio.gather(async_products(), asyncio.create_task(async_products()))
        return f"{contents} of {request.headers['x-tenant']}"

    @app.get("/nested")
    @cached(ttl=5)
    async def nested() -> str:
        return await async_products()

    return app


@pytest.mark.parametrize(
    "path", ["dashboard", "async-dashboard", "depends", "depends-deeper", "gathered"]
)
async def test_a_page_made_with_a_cached_helper_is_not_shared(path):
    await assert_private(a_fastapi(), f"/{path}")


@pytest.mark.parametrize("path", ["products", "async-products"])
async def test_the_same_function_is_shared_where_it_is_routed(path):
    await assert_shared(a_fastapi(), f"/{path}")


async def test_a_helpers_lifetime_is_not_that_of_the_decorated_endpoint_that_calls_it():
    world = World(app=a_fastapi())
    await world.get("/nested")
    assert "ttl=5" in (await world.get("/nested")).cache_status


async def test_a_policy_of_a_dependency_of_a_dependency_is_not_the_routes():
    async def listing(_: None = Depends(cache_policy(ttl=60))) -> str:
        return "listing"

    router = APIRouter(dependencies=[Depends(listing)])

    @router.get("/dashboard")
    async def dashboard(request: Request) -> str:
        return request.headers["x-tenant"]

    app = FastAPI()
    app.include_router(router)

    @app.get("/own")
    async def own(request: Request, content: str = Depends(listing)) -> str:
        return request.headers["x-tenant"]

    @app.get("/parameter")
    async def parameter(_: None = Depends(cache_policy(ttl=60))) -> str:
        return "same"

    await assert_private(app)
    await assert_private(app, "/own")
    await assert_shared(app, "/parameter")


class LoginNeeded(Exception):
    pass


@pytest.mark.parametrize("how", ["decorator", "dependency", "router"])
async def test_what_a_handler_of_an_exception_answers_instead_is_not_covered(how):
    """The first request is sent away by what comes before the endpoint: with a page, and 200."""
    app = FastAPI()

    @app.exception_handler(LoginNeeded)
    async def login(request: Request, error: LoginNeeded) -> Response:
        return HTMLResponse("log in, " + request.headers["x-tenant"])

    async def known(request: Request) -> None:
        raise LoginNeeded

    policy = Depends(cache_policy(ttl=60))
    router = APIRouter(dependencies=[policy] if how == "router" else [])
    own = [policy, Depends(known)] if how == "dependency" else [Depends(known)]

    async def page() -> str:
        return "page"

    router.get("/dashboard", dependencies=own)(cached(ttl=60)(page) if how == "decorator" else page)
    app.include_router(router)
    await assert_private(app)


@pytest.mark.parametrize("how", ["decorator", "dependency"])
async def test_an_endpoint_that_raises_speaks_by_its_error_and_not_by_a_page_in_its_place(how):
    app = FastAPI()
    calls = []

    @app.exception_handler(LoginNeeded)
    async def login(request: Request, error: LoginNeeded) -> Response:
        return HTMLResponse("log in, " + request.headers["x-tenant"])

    async def page(request: Request) -> str:
        raise LoginNeeded

    async def missing() -> str:
        calls.append(1)
        raise HTTPException(404)

    for endpoint in (page, missing):
        endpoint.__annotations__ = {"request": Request} if endpoint is page else {}
        if how == "decorator":
            app.get(f"/{endpoint.__name__}")(cached(ttl=60)(endpoint))
        else:
            policy = Depends(cache_policy(ttl=60))
            app.get(f"/{endpoint.__name__}", dependencies=[policy])(endpoint)
    await assert_private(app, "/page")
    world = World(app=app)
    for _ in range(2):
        assert (await world.get("/missing")).status == 404
    assert len(calls) == 1


async def test_a_background_task_that_calls_a_cached_function_changes_nothing():
    app = FastAPI()

    @app.get("/dashboard")
    async def dashboard(request: Request, tasks: BackgroundTasks) -> str:
        tasks.add_task(async_products)
        tasks.add_task(products)
        return request.headers["x-tenant"]

    await assert_private(app)


async def test_a_task_that_outlives_its_request_tells_nothing_to_the_next_one():
    wake, done = asyncio.Event(), asyncio.Event()
    tasks: list[Any] = []

    async def works() -> None:
        await wake.wait()
        await async_products()
        done.set()

    async def endpoint(request: Request) -> Response:
        if not tasks:
            tasks.append(asyncio.create_task(works()))
        else:
            wake.set()
            await done.wait()
        return PlainTextResponse(request.headers["x-tenant"])

    await assert_private(Starlette(routes=[Route("/dashboard", endpoint)]))


async def test_a_request_that_an_endpoint_makes_of_its_own_app_is_not_the_one_that_is_answered():
    app = a_fastapi()

    @app.get("/outer")
    async def outer(request: Request) -> str:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://inside") as client:
            answer = await client.get("/products")
        return f"{answer.text} of {request.headers['x-tenant']}"

    await assert_private(app, "/outer")


def starlette_of(endpoint: Any, path: str = "/dashboard", **options: Any) -> Starlette:
    return Starlette(routes=[Route(path, endpoint)], **options)


async def test_an_endpoint_class_is_asked_for_the_method_that_is_routed():
    class Products(HTTPEndpoint):
        @cached(ttl=60)
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("products")

    class Dashboard(Products):
        async def get(self, request: Request) -> Response:
            content = await super().get(request)
            return PlainTextResponse(bytes(content.body) + request.headers["x-tenant"].encode())

    class Beside(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            await Products.get(self, request)  # type: ignore[arg-type]
            return PlainTextResponse(request.headers["x-tenant"])

    await assert_shared(starlette_of(Products, "/products"))
    await assert_private(starlette_of(Dashboard))
    await assert_private(starlette_of(Beside))
    whole = cached(ttl=60)(type("Whole", (Dashboard,), {}))
    await assert_shared(starlette_of(whole, "/products"))
    await assert_private(starlette_of(Dashboard))  # (the class that was decorated is another one)


async def test_decorators_around_a_cached_endpoint():
    def loud(endpoint: Any) -> Any:
        @functools.wraps(endpoint)
        async def wrapper(request: Request) -> Response:
            return await endpoint(request)

        return wrapper

    def guarded(endpoint: Any) -> Any:
        @functools.wraps(endpoint)
        async def wrapper(request: Request) -> Response:
            return PlainTextResponse("log in, " + request.headers["x-tenant"])

        return wrapper

    @cached(ttl=60)
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    await assert_shared(starlette_of(loud(loud(page)), "/products"))
    await assert_shared(starlette_of(functools.partial(loud(page)), "/products"))
    await assert_private(starlette_of(guarded(page)))


async def test_below_a_mount_and_behind_a_copied_scope():
    class Copying:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(dict(scope), receive, send)

    @cached(ttl=60)
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    async def dashboard(request: Request) -> Response:
        await page(request)
        return PlainTextResponse(request.headers["x-tenant"])

    inner = Starlette(routes=[Route("/page", page), Route("/dashboard", dashboard)])
    for app in (
        Starlette(routes=[Mount("/in", inner)]),
        Starlette(routes=[Mount("/in", Copying(inner))]),
        Starlette(routes=[Mount("/in", inner)], middleware=[Middleware(Copying)]),
    ):
        await assert_shared(app, "/in/page")
        await assert_private(app, "/in/dashboard")


async def test_an_app_without_a_framework_shares_nothing_by_a_policy_and_is_told_once(caplog):
    @cached(ttl=60)
    async def page() -> bytes:
        return b"page of "

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await page() + dict(scope["headers"])[b"x-tenant"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body[-1:]})

    with caplog.at_level(logging.WARNING, logger="layergate"):
        await assert_private(app)
    (said,) = [each.message for each in caplog.records if "not used" in each.message]
    assert "page" in said and "Rule(" in said


# -- Litestar, Quart, Flask below ASGI ---------------------------------------------------------------


async def test_litestar():
    @litestar.get("/products", sync_to_thread=False)
    @cached(ttl=60)
    def shared() -> str:
        return "products"

    @litestar.get("/threaded", sync_to_thread=True)
    @cached(ttl=60)
    def threaded() -> str:
        return "products"

    @litestar.get("/dashboard")
    async def dashboard(request: litestar.Request) -> str:
        return products() + request.headers["x-tenant"]

    class Shop(litestar.Controller):
        path = "/shop"

        @litestar.get("/{item:int}")
        @cached(ttl=60, tags=["item:{item}"])
        async def one(self, item: FromPath[int]) -> str:
            return f"{item}"

        @litestar.get("/dashboard")
        async def dashboard(self, request: litestar.Request) -> str:
            return await async_products() + request.headers["x-tenant"]

    app = litestar.Litestar([shared, threaded, dashboard, Shop])
    for path in ("/products", "/threaded", "/shop/7"):
        await assert_shared(app, path)
    for path in ("/dashboard", "/shop/dashboard"):
        await assert_private(app, path)
    world = World(app=app)
    await world.get("/shop/7")
    await world.cache.purge(tags=["item:7"])
    assert not (await world.get("/shop/7")).hit


async def test_quart():
    app = quart.Quart(__name__)

    @app.get("/products/<int:item>")
    @cached(ttl=60, tags=["item:{item}"])
    async def shared(item: int) -> str:
        return f"{item}"

    @app.get("/sync")
    @cached(ttl=60)
    def sync() -> str:
        return "products"

    @app.get("/dashboard")
    async def dashboard() -> str:
        return await async_products() + quart.request.headers["x-tenant"]

    @app.get("/sync-dashboard")
    def sync_dashboard() -> str:
        return products() + quart.request.headers["x-tenant"]

    @app.get("/self")
    async def of_itself() -> str:
        answer = await app.test_client().get("/sync", headers={"x-tenant": "-"})
        return await answer.get_data(as_text=True) + quart.request.headers["x-tenant"]

    for path in ("/products/7", "/sync"):
        await assert_shared(app, path)
    for path in ("/dashboard", "/sync-dashboard"):
        await assert_private(app, path)
    world = World(app=app)
    await world.get("/products/7")
    await world.cache.purge(tags=["item:7"])
    assert not (await world.get("/products/7")).hit


def a_flask() -> flask.Flask:
    app = flask.Flask(__name__)
    app.get("/products", endpoint="products")(products)
    app.get("/products/<int:item>")(cached(ttl=60, tags=["item:{item}"])(lambda item: f"{item}"))

    @app.get("/dashboard")
    def dashboard() -> str:
        return products() + flask.request.headers["x-tenant"]

    @app.get("/self")
    def of_itself() -> str:
        return app.test_client().get("/products").text + flask.request.headers["x-tenant"]

    @app.get("/dispatched")
    def dispatched() -> str:
        with app.test_request_context("/products"):
            content = app.dispatch_request()
        return str(content) + flask.request.headers["x-tenant"]

    @app.errorhandler(PermissionError)
    def log_in(error: object) -> str:
        return "log in, " + flask.request.headers["x-tenant"]

    @app.get("/refused")
    @cached(ttl=60)
    def refused() -> str:
        raise PermissionError

    @app.get("/before")
    @cached(ttl=60)
    def before() -> str:
        return "page"

    @app.before_request
    def first() -> str | None:
        return (
            "log in, " + flask.request.headers["x-tenant"]
            if flask.request.path == "/before"
            else None
        )

    return app


FLASK_PRIVATE = ["/dashboard", "/self", "/dispatched", "/refused", "/before"]


async def test_flask_mounted_in_an_asgi_app():
    below: Any = WSGIMiddleware(a_flask().wsgi_app)  # type: ignore[arg-type]
    app = Starlette(routes=[Mount("/flask", below)])
    await assert_shared(app, "/flask/products")
    await assert_shared(app, "/flask/products/7")
    for path in FLASK_PRIVATE:
        await assert_private(app, f"/flask{path}")


# -- WSGI ------------------------------------------------------------------------------------------


def wsgi_tenants(gate: WsgiGate, path: str) -> list[bytes]:
    return [ask(gate, path, HTTP_X_TENANT=name).body for name in ("a", "b", "b")]


@pytest.mark.parametrize("path", FLASK_PRIVATE)
def test_flask_a_page_that_is_not_the_decorated_functions_own(path):
    pages = wsgi_tenants(WsgiGate(a_flask().wsgi_app), path)
    assert [page[-1:] for page in pages] == [b"a", b"b", b"b"]


def test_flask_the_routed_function():
    gate = WsgiGate(a_flask().wsgi_app)
    for path in ("/products", "/products/7"):
        assert len(set(wsgi_tenants(gate, path))) == 1
        assert "hit" in ask(gate, path).told
    gate.purge(tags=["item:7"])
    assert "hit" not in ask(gate, "/products/7").told


def test_flask_behind_a_middleware_that_copies_the_environ_and_keeps_the_head_back():
    inner: Any = a_flask().wsgi_app

    def middleware(environ: Any, start_response: Any) -> Any:
        heads: list[Any] = []
        body = list(inner(dict(environ), lambda *head: heads.append(head)))
        start_response(*heads[-1])
        return body

    gate = WsgiGate(middleware)
    assert len(set(wsgi_tenants(gate, "/products"))) == 1
    assert "hit" in ask(gate, "/products").told
    assert len(set(wsgi_tenants(gate, "/dashboard"))) == 2
