"""G1: a route that declares that it asks who is calling is shared only if its own response says so."""

from __future__ import annotations

from typing import Any, ClassVar

import flask
import flask_login
import litestar
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Security
from fastapi.security import (
    APIKeyHeader,
    APIKeyQuery,
    HTTPBearer,
    OAuth2PasswordBearer,
    SecurityScopes,
)
from flask.views import MethodView
from litestar.exceptions import NotAuthorizedException
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    SimpleUser,
    requires,
)
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from layergate import Rule, cached
from layergate.fastapi import cache_policy
from layergate.wsgi import LayerGate as WsgiGate
from tests.support.asgi import Call, World
from tests.support.wsgi import Answer, ask

KEY = APIKeyHeader(name="X-Key")
GENEROUS: dict[str, Any] = {"ttl": 60, "allow_cookie": True, "allow_authorization": True}


def known(key: str = Depends(KEY)) -> str:
    """A dependency that has the scheme two levels below the route."""
    if not key.startswith("good"):
        raise HTTPException(401)
    return key


async def assert_asked(world: World, path: str = "/me", detail: str = "security") -> None:
    """Each caller has the app's own answer, with a key, with another, or with none."""
    first = await world.get(path, headers={"x-key": "good-ann"})
    assert (first.status, first.body) == (200, b'"good-ann"')
    assert f"detail={detail}" in first.cache_status
    assert (await world.get(path, headers={"x-key": "good-bob"})).body == b'"good-bob"'
    assert (await world.get(path, headers={"x-key": "bad"})).status == 401
    assert (await world.get(path)).status in (401, 403)
    for each in ("cookie", "authorization"):
        assert (await world.get(path, headers={each: "x"})).status in (401, 403)


@pytest.mark.parametrize("by", ["decorator", "dependency", "rule", "override"])
@pytest.mark.parametrize("where", ["parameter", "route", "router", "nested router", "app", "mount"])
async def test_fastapi(by, where):
    at = [Depends(known)]
    app = FastAPI(dependencies=at if where == "app" else [])
    router = APIRouter(dependencies=at if where == "router" else [])
    outer = APIRouter(dependencies=at if where == "nested router" else [])

    async def me(request: Request) -> str:
        return request.headers["x-key"]

    async def me_too(user: str = Security(known)) -> str:
        return user

    endpoint: Any = me_too if where == "parameter" else me
    dependencies = at if where == "route" else []
    if by == "decorator":
        endpoint = cached(**GENEROUS)(endpoint)
    elif by == "dependency":
        dependencies = [Depends(cache_policy(**GENEROUS)), *dependencies]
    router.get("/me", dependencies=dependencies)(endpoint)
    outer.include_router(router)
    if where == "mount":
        inner = FastAPI(dependencies=at)
        inner.include_router(outer)
        app.mount("/", inner)
    else:
        app.include_router(outer)
    rules = {
        "rule": [Rule("/me", **GENEROUS)],
        "override": [Rule("/me", override=True, **GENEROUS)],
    }
    await assert_asked(World(app=app, rules=rules.get(by, [])))


@pytest.mark.parametrize(
    "scheme",
    [
        APIKeyQuery(name="x", auto_error=False), HTTPBearer(auto_error=False),
        OAuth2PasswordBearer("token", auto_error=False),
    ],
    ids=lambda scheme: type(scheme).__name__,
)  # fmt: skip
async def test_every_scheme_counts_although_it_asks_nobody(scheme):
    app = FastAPI()

    @app.get("/", dependencies=[Security(scheme)])
    @cached(**GENEROUS)
    async def endpoint() -> str:
        return "x"

    world = World(app=app)
    assert "detail=security" in (await world.get("/")).cache_status
    assert not (await world.get("/")).hit


async def test_scopes_count_as_a_scheme():
    async def user(scopes: SecurityScopes, request: Request) -> str:
        return request.headers.get("x-key", "")

    app = FastAPI()

    @app.get("/")
    @cached(**GENEROUS)
    async def endpoint(user: str = Security(user, scopes=["me"])) -> str:
        return user

    assert "stored" not in (await World(app=app).get("/")).cache_status


@pytest.mark.parametrize(
    ("control", "shared"),
    [
        ("public, max-age=60", True), ("s-maxage=60", True), ("max-age=60", False),
        ("max-age=60, must-revalidate", False), ("no-cache", False),
    ],
)  # fmt: skip
async def test_the_apps_own_word(control, shared):
    app = FastAPI()

    @app.get("/", dependencies=[Depends(APIKeyHeader(name="X-Key", auto_error=False))])
    async def endpoint() -> Response:
        return PlainTextResponse("x", headers={"cache-control": control, "etag": '"1"'})

    world = World(app=app, rules=[Rule("*", **GENEROUS)])
    first = await world.get("/")
    assert ("stored" in first.cache_status) is shared
    if not shared:
        assert "detail=security" in first.cache_status
    assert (await world.get("/")).hit is shared


async def test_what_a_post_is_answered_with():
    app = FastAPI()

    @app.api_route(
        "/",
        methods=["GET", "POST"],
        dependencies=[Depends(APIKeyHeader(name="X-Key", auto_error=False))],
    )
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(
            request.headers.get("x-key", "-"),
            headers={"cache-control": "max-age=60", "content-location": "/"},
        )

    world = World(app=app)
    posted = await world.get("/", method="POST", headers={"x-key": "ann"})
    assert "stored" not in posted.cache_status
    assert (await world.get("/")).body == b"-"


async def test_a_304_to_a_route_that_has_come_to_ask():
    """What was stored by a rule before the route asked is not kept on by its 304."""
    app = FastAPI()

    @app.get("/")
    async def endpoint(request: Request) -> Response:
        headers = {"etag": '"1"'}
        if request.headers.get("if-none-match"):
            return Response(status_code=304, headers=headers)
        return PlainTextResponse("x", headers=headers)

    world = World(app=app, rules=[Rule("*", ttl=60)])
    await world.get("/")
    other = FastAPI(dependencies=[Depends(APIKeyHeader(name="X-Key", auto_error=False))])
    other.get("/")(endpoint)
    world.app.app = other
    world.clock.advance(61)
    assert (await world.get("/")).body == b"x"
    assert not (await world.get("/")).hit


async def test_a_secured_route_does_not_queue_and_its_neighbour_is_shared():
    app = FastAPI()

    @app.get("/me")
    async def me(key: str = Depends(known)) -> str:
        return key

    @app.get("/open")
    async def everybody() -> str:
        return "x"

    world = World(app=app, rules=[Rule("*", **GENEROUS)])
    for _ in range(2):
        assert not (await world.get("/me", headers={"x-key": "good"})).hit
    await world.get("/open")
    assert (await world.get("/open")).hit


# -- other frameworks ------------------------------------------------------------------------------


class Backend(AuthenticationBackend):
    async def authenticate(self, conn: Any) -> Any:
        name = conn.headers.get("x-name")
        return (AuthCredentials(["user"]), SimpleUser(name)) if name else None


async def assert_not_stored(app: Any, path: str = "/", **headers: str) -> None:
    world = World(app=app, rules=[Rule("*", **GENEROUS)])
    answer: Call = await world.get(path, headers=headers)
    assert answer.status == 200 and "stored" not in answer.cache_status, answer.cache_status
    assert "detail=security" in answer.cache_status


@pytest.mark.parametrize("kind", ["function", "class", "cached", "mount"])
async def test_starlettes_requires(kind):
    @requires("user")
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.user.display_name)

    class Endpoint(HTTPEndpoint):
        @requires("user")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(request.user.display_name)

    endpoints: dict[str, Any] = {"function": endpoint, "class": Endpoint, "mount": endpoint}
    route: Any = Route("/", endpoints.get(kind) or cached(**GENEROUS)(endpoint))
    if kind == "mount":
        route = Mount("/", Starlette(routes=[route]))
    middleware = [Middleware(AuthenticationMiddleware, backend=Backend())]
    await assert_not_stored(Starlette(routes=[route], middleware=middleware), **{"x-name": "ann"})


@pytest.mark.parametrize("where", ["handler", "app"])
async def test_litestars_guards(where):
    def guard(connection: Any, handler: Any) -> None:
        if not connection.headers.get("x-name"):
            raise NotAuthorizedException

    @litestar.get("/", guards=[guard] if where == "handler" else [])
    @cached(**GENEROUS)
    async def endpoint() -> str:
        return "x"

    app = litestar.Litestar([endpoint], guards=[guard] if where == "app" else [])
    await assert_not_stored(app, **{"x-name": "ann"})


@pytest.mark.parametrize("path", ["/function", "/cached", "/class", "/method", "/decorators"])
def test_flask_login(path):
    app = flask.Flask(__name__)
    app.secret_key = "for tests"
    manager = flask_login.LoginManager(app)

    @manager.request_loader
    def load(request: flask.Request) -> Any:
        user = flask_login.UserMixin()
        user.id = request.headers.get("X-Name")
        return user if user.id else None

    @flask_login.login_required
    def page() -> str:
        return flask_login.current_user.id

    class Decorated(MethodView):
        decorators: ClassVar = [flask_login.login_required]

        def get(self) -> str:
            return flask_login.current_user.id

    class Method(MethodView):
        @flask_login.login_required
        def get(self) -> str:
            return flask_login.current_user.id

    class Plain(Decorated):
        decorators: ClassVar = []

    cached(**GENEROUS)(Decorated)
    app.add_url_rule("/function", view_func=page)
    app.add_url_rule("/cached", view_func=cached(**GENEROUS)(page), endpoint="cached")
    app.add_url_rule("/class", view_func=Decorated.as_view("class"))
    app.add_url_rule("/method", view_func=Method.as_view("method"))
    app.add_url_rule("/decorators", view_func=flask_login.login_required(Plain.as_view("plain")))
    gate = WsgiGate(app.wsgi_app, rules=[Rule("*", **GENEROUS)])
    first: Answer = ask(gate, path, HTTP_X_NAME="ann")
    assert first.body == b"ann" and "detail=security" in first.told, first.told
    assert ask(gate, path, HTTP_X_NAME="bob").body == b"bob"
    assert ask(gate, path).status.startswith("401")
