"""`cached` on every kind of endpoint, in the frameworks that have it; or an error where it is written."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import flask
import flask_restful
import litestar
import pytest
import quart
from fastapi import FastAPI
from flask.views import MethodView, View
from quart.views import MethodView as QuartMethodView
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from layergate import ConfigError, cached
from layergate.wsgi import LayerGate
from tests.support.asgi import World
from tests.support.wsgi import ask

HERE = Path(__file__).parent
policy = cached(ttl=60, tags=["item:{item}"])
calls: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def page(item: int) -> str:
    calls.append("page")
    return f"{item}"


class Callable:
    def __call__(self, item: int) -> str:
        return page(item)

    def method(self, item: int) -> str:
        return page(item)

    @classmethod
    def of_the_class(cls, item: int) -> str:
        return page(item)

    @policy
    def decorated(self, item: int) -> str:
        return page(item)

    @policy
    @classmethod
    def decorated_of_the_class(cls, item: int) -> str:
        return page(item)

    @policy
    @staticmethod
    def decorated_static(item: int) -> str:
        return page(item)


def rows(item: int) -> Any:
    calls.append("rows")
    yield f"{item}"


FUNCTIONS: dict[str, Any] = {
    "function": policy(page),
    "lambda": policy(lambda item: page(item)),
    "generator": policy(rows),
    "partial": policy(functools.partial(page)),
    "partial of a partial": policy(functools.partial(functools.partial(page))),
    "object": policy(Callable()),
    "bound method": policy(Callable().method),
    "class method": policy(Callable.of_the_class),
    "decorated method": Callable().decorated,
    "decorated class method": Callable.decorated_of_the_class,
    "decorated static method": Callable.decorated_static,
    "twice": cached(ttl=5)(policy(page)),
}


def assert_cached(gate: LayerGate, path: str = "/7") -> None:
    first, second = ask(gate, path), ask(gate, path)
    assert (first.status, second.status) == ("200 OK", "200 OK")
    assert first.body == second.body
    assert "hit" in second.told, second.told
    assert len(calls) == 1
    gate.purge(tags=["item:7"])
    assert "hit" not in ask(gate, path).told
    calls.clear()


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_flask(kind: str) -> None:
    app = flask.Flask(__name__)
    app.add_url_rule("/<int:item>", "endpoint", view_func=FUNCTIONS[kind])
    gate = LayerGate(app.wsgi_app)
    assert_cached(gate)
    assert "hit" not in ask(gate, "/8").told


class Plain(MethodView):
    init_every_request = True

    def get(self, item: int) -> str:
        return page(item)

    def post(self, item: int) -> str:
        return page(item)


def flask_views() -> dict[str, Any]:
    class OneInstance(Plain):
        init_every_request = False

    class Method(Plain):
        @policy
        def get(self, item: int) -> str:
            return page(item)

    class Listed(Plain):
        decorators: ClassVar = [policy]

    class Dispatched(View):
        def dispatch_request(self, **arguments: Any) -> str:
            return page(**arguments)

    class OverDispatch(Plain):
        @policy
        def dispatch_request(self, **arguments: Any) -> Any:
            return super().dispatch_request(**arguments)

    whole: Any = policy(type("Whole", (Plain,), {}))
    return {
        "class": whole.as_view("view"),
        "class with one instance": policy(OneInstance).as_view("view"),
        "class with dispatch_request": policy(Dispatched).as_view("view"),
        "method": Method.as_view("view"),
        "decorators": Listed.as_view("view"),
        "dispatch_request": OverDispatch.as_view("view"),
        "view function": policy(Plain.as_view("view")),
        "inherited": type("Heir", (Method,), {}).as_view("view"),  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("kind", flask_views())
def test_flask_classes(kind: str) -> None:
    app = flask.Flask(__name__)
    app.add_url_rule("/<int:item>", view_func=flask_views()[kind])
    assert_cached(LayerGate(app.wsgi_app))


def test_flask_a_view_class_without_the_decorator_is_not_cached() -> None:
    policy(type("Whole", (Plain,), {}))
    app = flask.Flask(__name__)
    app.add_url_rule("/<int:item>", view_func=Plain.as_view("view"))
    gate = LayerGate(app.wsgi_app)
    ask(gate, "/7")
    assert "hit" not in ask(gate, "/7").told


def restful_resources() -> dict[str, type[flask_restful.Resource]]:
    class Plain(flask_restful.Resource):
        def get(self, item: int) -> dict[str, int]:
            calls.append("get")
            return {"item": item}

    class Method(Plain):
        @policy
        def get(self, item: int) -> dict[str, int]:
            return super().get(item)

    return {
        "method": Method,
        "method_decorators": type("Listed", (Plain,), {"method_decorators": [policy]}),
        "method_decorators by method": type(
            "ByMethod", (Plain,), {"method_decorators": {"get": [policy]}}
        ),
        "class": policy(type("Whole", (Plain,), {})),
    }


@pytest.mark.parametrize("kind", restful_resources())
@pytest.mark.parametrize("gated", [True, False], ids=["behind LayerGate", "alone"])
def test_flask_restful(kind: str, gated: bool) -> None:
    app = flask.Flask(__name__)
    flask_restful.Api(app).add_resource(restful_resources()[kind], "/<int:item>")
    if gated:
        assert_cached(LayerGate(app.wsgi_app))
    else:
        answer = app.test_client().get("/7")
        assert (answer.status_code, answer.json) == (200, {"item": 7})


@pytest.mark.parametrize("side", ["wsgi", "asgi"])
def test_django(side: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "django_endpoints.py"), side],
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{side}: fine" in done.stdout


# -- ASGI ------------------------------------------------------------------------------------------


async def assert_cached_by(app: Any, path: str = "/7") -> None:
    world = World(app=app)
    first, second = await world.get(path), await world.get(path)
    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body
    assert second.hit, second.cache_status
    await world.cache.purge(tags=["item:7"])
    assert not (await world.get(path)).hit


async def async_page(item: int) -> str:
    return page(item)


class AsyncCallable:
    async def __call__(self, item: int) -> str:
        return page(item)

    @policy
    async def decorated(self, item: int) -> str:
        return page(item)


async def async_rows(item: int) -> Any:
    yield f"{item}"


ASYNC: dict[str, Any] = {
    "async function": policy(async_page),
    "async partial": policy(functools.partial(async_page)),
    "async object": policy(AsyncCallable()),
    "async method": AsyncCallable().decorated,
    "bound async method": policy(AsyncCallable().__call__),
}


@pytest.mark.parametrize("kind", [kind for kind in (*FUNCTIONS, *ASYNC) if kind != "generator"])
async def test_fastapi(kind: str) -> None:
    app = FastAPI()
    app.get("/{item}")({**FUNCTIONS, **ASYNC}[kind])
    await assert_cached_by(app)


@pytest.mark.parametrize("endpoint", [rows, async_rows])
async def test_fastapi_streams_what_a_generator_yields_as_without_the_decorator(
    endpoint: Any,
) -> None:
    plain, decorated = FastAPI(), FastAPI()
    plain.get("/{item}")(endpoint)
    decorated.get("/{item}")(policy(endpoint))
    assert (await World(app=plain).get("/7")).body == (await World(app=decorated).get("/7")).body
    await assert_cached_by(decorated)


@pytest.mark.parametrize("kind", [*FUNCTIONS, *ASYNC, "async generator"])
async def test_quart(kind: str) -> None:
    app = quart.Quart(__name__)
    view = {**FUNCTIONS, **ASYNC, "async generator": policy(async_rows)}[kind]
    app.add_url_rule("/<int:item>", "endpoint", view_func=view)
    await assert_cached_by(app)


async def test_quart_classes() -> None:
    class Plain(QuartMethodView):
        async def get(self, item: int) -> str:
            return page(item)

    class Method(Plain):
        @policy
        async def get(self, item: int) -> str:
            return page(item)

    class Listed(Plain):
        decorators: ClassVar = [policy]

    whole: Any = policy(type("Whole", (Plain,), {}))
    for number, view in enumerate((whole, Method, Listed)):
        app = quart.Quart(__name__)
        app.add_url_rule("/<int:item>", view_func=view.as_view(f"view{number}"))
        await assert_cached_by(app)


async def test_starlette_takes_methods_and_partials() -> None:
    class Pages:
        @policy
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("x")

        def later(self, request: Request, *, content: str) -> Response:
            return PlainTextResponse(content)

    for endpoint in (Pages().get, policy(functools.partial(Pages().later, content="x"))):
        await assert_cached_by(Starlette(routes=[Route("/{item}", endpoint)]))


# -- what cannot work ------------------------------------------------------------------------------


class Resource:
    """Of Falcon, say: its methods answer."""

    def on_get(self, request: object, response: object) -> None: ...


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        (Resource, "on the method"), (litestar.Controller, "on the method"), (7, "a function"),
        (property(page), "a function"), ("name", "a function"),
        (litestar.get("/")(async_page), "below the decorator"), (litestar.get("/"), "below the decorator"),
    ],
    ids=["class", "Controller", "number", "property", "text", "handler", "bare handler"],
)  # fmt: skip
def test_what_answers_no_request_is_refused_where_it_is_written(endpoint: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        cached(ttl=60)(endpoint)


def test_an_object_looks_as_before() -> None:
    decorated: Any = policy(Callable())
    assert decorated(7) == "7"
    assert decorated.__name__ == "Callable"
