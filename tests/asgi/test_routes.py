"""A route's policy next to the route: the decorator, and the FastAPI dependency."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router

from layergate import ConfigError, LayerGate, Rule, cached
from layergate.fastapi import cache_policy
from tests.support.asgi import World


class Behind(World):
    """LayerGate in front of any app."""

    def __init__(self, app, **options) -> None:
        super().__init__(app=app, **options)
        self.inner = app


def text(body: str = "x", **more) -> Response:
    return PlainTextResponse(body, **more)


async def assert_cached(world: World, path: str, cached: bool = True, **request) -> None:
    first = await world.get(path, **request)
    assert first.status == 200
    assert (await world.get(path, **request)).hit is cached


# -- the decorator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync", "class", "partial"])
async def test_the_decorator_works_on_every_kind_of_endpoint(kind):
    calls = 0

    @cached(ttl=60)
    async def async_endpoint(request: Request) -> Response:
        nonlocal calls
        calls += 1
        return text(f"{calls}")

    @cached(ttl=60)
    def sync_endpoint(request: Request) -> Response:
        nonlocal calls
        calls += 1
        return text(f"{calls}")

    @cached(ttl=60)
    class Endpoint(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            nonlocal calls
            calls += 1
            return text(f"{calls}")

    endpoint = {
        "async": async_endpoint,
        "sync": sync_endpoint,
        "class": Endpoint,
        "partial": cached(ttl=60)(functools.partial(sync_endpoint)),
    }[kind]
    world = Behind(Starlette(routes=[Route("/", endpoint)]))  # type: ignore[arg-type]
    await assert_cached(world, "/")
    assert calls == 1
    world.clock.advance(61)
    await assert_cached(world, "/")
    assert calls == 2


async def test_concurrent_requests_for_a_decorated_route_make_one_call():
    calls = 0
    barrier = asyncio.Event()

    @cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        nonlocal calls
        calls += 1
        await barrier.wait()
        return text()

    world = Behind(Starlette(routes=[Route("/", endpoint)]))
    requests = [world.call("/") for _ in range(20)]
    await world.waiting(19)
    barrier.set()
    for request in requests:
        await request.done()
    assert calls == 1


def test_a_decorated_function_looks_and_works_as_before():
    def endpoint(item: int, *, q: str = "x") -> str:
        """Docs."""
        return f"{item}{q}"

    decorated = cached(ttl=60)(endpoint)
    assert decorated(1) == "1x" and decorated(2, q="y") == "2y"
    assert decorated.__name__ == "endpoint" and decorated.__doc__ == "Docs."
    signatures = [inspect.signature(each, eval_str=True) for each in (decorated, endpoint)]
    assert signatures[0] == signatures[1]


def test_the_decorator_needs_its_parentheses():
    with pytest.raises(ConfigError, match=r"@cached\(ttl=60\)"):

        @cached  # type: ignore[arg-type]
        def endpoint() -> None: ...


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        ({"ttl": -1}, "ttl"),
        ({"ttl": "60"}, "ttl"),
        ({"ttl": 60, "stale_while_revalidate": -1}, "stale_while_revalidate"),
        ({"ttl": 60, "tags": "product"}, "tags"),
        ({"ttl": 60, "vary": ["*"]}, "vary"),
        ({"ttl": 60, "statuses": [200]}, "write ttl={200: 60, 404: 5}"),
        ({"ttl": {206: 60}}, "ttl"),
        ({"override": True}, "override"),
    ],
)
@pytest.mark.parametrize("make", [cached, cache_policy])
def test_a_bad_policy_is_refused_where_it_is_written(make, policy, names):
    with pytest.raises(ConfigError, match=names):
        make(**policy)


async def test_without_a_layergate_the_decorator_and_the_dependency_do_nothing():
    app = FastAPI()

    @app.get("/", dependencies=[Depends(cache_policy(ttl=60))])
    @cached(ttl=60)
    async def endpoint() -> str:
        return "x"

    world = World()
    world.app = app  # type: ignore[assignment]
    call = await world.get("/")
    assert call.status == 200 and call.cache_status == ""


# -- FastAPI ---------------------------------------------------------------------------------------


def a_fastapi() -> tuple[FastAPI, list[str]]:
    app = FastAPI()
    calls: list[str] = []

    @app.get("/async/{item}", dependencies=[Depends(cache_policy(ttl=60, tags=["a:{item}"]))])
    async def with_dependency(item: int) -> dict:
        calls.append("async")
        return {"item": item}

    @app.get("/sync/{item}", dependencies=[Depends(cache_policy(ttl=60, tags=["s:{item}"]))])
    def with_dependency_sync(item: int) -> dict:
        calls.append("sync")
        return {"item": item}

    @app.get("/decorated/{item}")
    @cached(ttl=60, tags=["d:{item}"])
    async def decorated(item: int) -> dict:
        calls.append("decorated")
        return {"item": item}

    @app.get("/decorated-sync/{item}")
    @cached(ttl=60, tags=["ds:{item}"])
    def decorated_sync(item: int) -> dict:
        calls.append("decorated-sync")
        return {"item": item}

    @app.get("/plain/{item}")
    async def plain(item: int) -> dict:
        calls.append("plain")
        return {"item": item}

    return app, calls


@pytest.mark.parametrize(
    ("route", "tag"), [("async", "a"), ("sync", "s"), ("decorated", "d"), ("decorated-sync", "ds")]
)
async def test_fastapi_routes_are_cached_and_purged_by_tags_from_their_parameters(route, tag):
    app, calls = a_fastapi()
    world = Behind(app)
    await assert_cached(world, f"/{route}/7")
    await assert_cached(world, f"/{route}/8")
    assert len(calls) == 2
    await world.cache.purge(tags=[f"{tag}:7"])
    assert not (await world.get(f"/{route}/7")).hit
    assert (await world.get(f"/{route}/8")).hit


async def test_a_route_without_policy_is_not_cached():
    app, calls = a_fastapi()
    world = Behind(app)
    await assert_cached(world, "/plain/1", cached=False)
    assert len(calls) == 2


async def test_a_validation_error_of_a_cached_route_is_not_cached():
    app, _ = a_fastapi()
    world = Behind(app)
    for _ in range(2):
        call = await world.get("/async/not-a-number")
        assert call.status == 422 and not call.hit


async def test_a_dependency_of_a_router_covers_its_routes():
    app = FastAPI()
    router = APIRouter(
        prefix="/api", dependencies=[Depends(cache_policy(ttl=60, tags=["api", "api:{item}"]))]
    )

    @router.get("/{item}")
    async def endpoint(item: str) -> str:
        return item

    @router.get("/{item}/short", dependencies=[Depends(cache_policy(ttl=1))])
    async def short(item: str) -> str:
        return item

    app.include_router(router)
    world = Behind(app)
    await assert_cached(world, "/api/7")
    await assert_cached(world, "/api/7/short")
    world.clock.advance(2)
    assert (await world.get("/api/7")).hit
    assert not (await world.get("/api/7/short")).hit  # the route's own comes last, and wins
    await world.cache.purge(tags=["api:7"])
    assert not (await world.get("/api/7")).hit


async def test_of_several_dependencies_the_most_specific_wins_and_all_win_over_a_rule():
    app = FastAPI(dependencies=[Depends(cache_policy(ttl=500))])

    @app.get("/route", dependencies=[Depends(cache_policy(ttl=100))])
    async def route() -> str:
        return "x"

    @app.get("/app")
    async def of_the_app() -> str:
        return "x"

    world = Behind(app, rules=[Rule("*", ttl=1000)])
    for path, ttl in {"/route": 100, "/app": 500}.items():
        await assert_cached(world, path)
        assert f"ttl={ttl}" in (await world.get(path)).cache_status


async def test_a_decorator_wins_over_a_rule():
    @cached(ttl=10)
    async def endpoint(request: Request) -> Response:
        return text()

    world = Behind(Starlette(routes=[Route("/", endpoint)]), rules=[Rule("*", ttl=1000)])
    await assert_cached(world, "/")
    assert "ttl=10" in (await world.get("/")).cache_status


class Size(enum.Enum):
    SMALL = "small"


async def test_a_decorated_endpoint_with_annotations_of_its_own_module_works():
    """`from __future__ import annotations` is in force in this file: FastAPI resolves the names."""
    app = FastAPI()

    @app.get("/{size}")
    @cached(ttl=60, tags=["size:{size}"])
    async def endpoint(size: Size) -> dict:
        assert size is Size.SMALL
        return {}

    world = Behind(app)
    await assert_cached(world, "/small")
    assert (await world.get("/large")).status == 422


# -- what a policy says ----------------------------------------------------------------------------


async def test_an_unknown_tag_parameter_refuses_to_store():
    @cached(ttl=60, tags=["product:{nothing}"])
    async def endpoint(request: Request) -> Response:
        return text()

    world = Behind(Starlette(routes=[Route("/{id}", endpoint)]))
    first = await world.get("/1")
    assert first.status == 200 and "detail=tag-template" in first.cache_status
    await assert_cached(world, "/1", cached=False)


async def test_a_tag_that_grows_too_long_refuses_to_store():
    @cached(ttl=60, tags=["product:{id}"])
    async def endpoint(request: Request) -> Response:
        return text()

    world = Behind(Starlette(routes=[Route("/{id}", endpoint)]))
    await assert_cached(world, "/" + "x" * 248)
    await assert_cached(world, "/" + "x" * 249, cached=False)


async def test_a_policys_vary_makes_variants_and_is_told_to_caches_downstream():
    @cached(ttl=60, vary=["X-Country"])
    async def endpoint(request: Request) -> Response:
        return text(request.headers.get("x-country", "none"))

    world = Behind(Starlette(routes=[Route("/", endpoint)]))
    for country in ("de", "fr", None):
        headers = {} if country is None else {"x-country": country}
        for hit in (False, True):
            call = await world.get("/", headers=headers)
            assert call.body == (country or "none").encode() and call.hit is hit
            assert "x-country" in (call.header("vary") or "").lower()


async def test_a_policys_stale_windows_hold():
    calls = 0

    @cached(ttl=10, stale_while_revalidate=20, stale_if_error=300)
    async def endpoint(request: Request) -> Response:
        nonlocal calls
        calls += 1
        return text(f"{calls}", status_code=500 if calls == 3 else 200)

    world = Behind(Starlette(routes=[Route("/", endpoint)]))
    await world.get("/")
    world.clock.advance(15)
    assert (await world.get("/")).body == b"1"
    await world.idle()
    assert (await world.get("/")).body == b"2"
    world.clock.advance(100)
    call = await world.get("/")
    assert call.status == 200 and call.body == b"2"


@pytest.mark.parametrize(
    ("status", "hit"), [(200, True), (404, True), (302, False), (500, False), (201, False)]
)
async def test_a_policy_covers_the_usual_statuses(status, hit):
    @cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        return text(status_code=status)

    world = Behind(Starlette(routes=[Route("/", endpoint)]))
    await world.get("/")
    assert (await world.get("/")).hit is hit


async def test_a_policy_is_for_anonymous_requests_unless_it_says_otherwise():
    async def endpoint(request: Request) -> Response:
        return text(request.headers.get("cookie") or request.headers.get("authorization") or "-")

    async def open_endpoint(request: Request) -> Response:
        return text()

    world = Behind(
        Starlette(
            routes=[
                Route("/", cached(ttl=60)(endpoint)),
                Route(
                    "/open",
                    cached(ttl=60, allow_cookie=True, allow_authorization=True)(open_endpoint),
                ),
            ]
        )
    )
    for headers in ({"cookie": "a=1"}, {"authorization": "x"}):
        await assert_cached(world, "/", cached=False, headers=headers)
    await assert_cached(world, "/open", headers={"cookie": "a=1"})
    assert (await world.get("/open", headers={"authorization": "x"})).hit
    assert (await world.get("/open")).hit


async def test_the_apps_own_directives_win_over_a_routes_policy():
    @cached(ttl=60)
    async def private(request: Request) -> Response:
        return text(headers={"cache-control": "private"})

    @cached(ttl=60)
    async def short(request: Request) -> Response:
        return text(headers={"cache-control": "max-age=1"})

    world = Behind(Starlette(routes=[Route("/private", private), Route("/short", short)]))
    await assert_cached(world, "/private", cached=False)
    await assert_cached(world, "/short")
    world.clock.advance(2)
    assert not (await world.get("/short")).hit


# -- where the app is ------------------------------------------------------------------------------


@cached(ttl=60, tags=["item:{id}"])
async def item(request: Request) -> Response:
    return text(str(request.url_for("item", id="1") if "1" in request.url.path else request.url))


async def test_a_mounted_sub_app_is_cached_and_tagged():
    inner = Starlette(routes=[Route("/{id}", item, name="item")])
    world = Behind(Starlette(routes=[Mount("/shop", inner)]))
    await assert_cached(world, "/shop/2")
    await world.cache.purge(tags=["item:2"])
    assert not (await world.get("/shop/2")).hit


async def test_a_layergate_inside_of_a_mount_matches_rules_below_the_mount():
    async def endpoint(request: Request) -> Response:
        return text()

    world = World(rules=[Rule("/products/{id}", ttl=60, tags=["product:{id}"])])
    inner = Starlette(
        routes=[Route("/products/{id}", endpoint)],
        middleware=[Middleware(LayerGate, cache=world.cache)],
    )
    world.app = Starlette(routes=[Mount("/shop", inner)])  # type: ignore[assignment]
    await assert_cached(world, "/shop/products/7")
    await world.cache.purge(urls=["http://example.com/shop/products/7"])
    assert not (await world.get("/shop/products/7")).hit
    await world.cache.purge(tags=["product:7"])
    assert not (await world.get("/shop/products/7")).hit


async def test_rules_match_below_the_root_path_of_the_server():
    async def endpoint(request: Request) -> Response:
        return text()

    app = Starlette(routes=[Route("/products/{id}", endpoint)])
    world = Behind(app, rules=[Rule("/products/{id}", ttl=60)])
    await assert_cached(world, "/api/products/7", root_path="/api")


async def test_host_routes_are_told_apart():
    def of(name: str) -> Router:
        @cached(ttl=60)
        async def endpoint(request: Request) -> Response:
            return text(name)

        return Router(routes=[Route("/", endpoint)])

    world = Behind(Starlette(routes=[Host("a.example", of("a")), Host("b.example", of("b"))]))
    for _ in range(2):
        assert (await world.get("/", host="a.example")).body == b"a"
        assert (await world.get("/", host="b.example")).body == b"b"


async def test_a_policy_is_found_behind_other_middleware():
    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    class Copying:
        """A middleware that hands on a copy of the scope, as many do."""

        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(dict(scope), receive, send)

    app = FastAPI(middleware=[Middleware(Passing), Middleware(Copying)])

    @app.get("/dependency", dependencies=[Depends(cache_policy(ttl=60))])
    async def dependency() -> str:
        return "x"

    world = Behind(app)
    await assert_cached(world, "/dependency")


async def test_a_decorated_endpoint_is_found_behind_a_middleware_that_copies_the_scope():
    class Copying:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(dict(scope), receive, send)

    @cached(ttl=60)
    async def endpoint(request: Request) -> Response:
        return text()

    world = Behind(Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Copying)]))
    await assert_cached(world, "/")


async def test_an_error_before_the_route_is_not_covered_by_its_policy():
    world = Behind(Starlette(routes=[Route("/{id:int}", item, name="item")]))
    call = await world.get("/nothing/here")
    assert call.status == 404
    assert not (await world.get("/nothing/here")).hit
