"""Flask, with its own test client."""

from __future__ import annotations

import contextvars
import threading

import flask
import pytest

from layergate import Rule, cached
from layergate.wsgi import LayerGate

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Shop:
    """A Flask app behind LayerGate, and what it was asked."""

    def __init__(self, **options) -> None:
        app = self.app = flask.Flask(__name__)
        app.secret_key = "for tests"
        self.calls: list[str] = []
        self.torn_down: list[object] = []
        self.closed = 0

        @app.before_request
        def before() -> None:
            flask.g.thread = threading.get_ident()
            self.calls.append(flask.request.full_path)

        @app.teardown_request
        def teardown(error: object) -> None:
            self.torn_down.append(error)

        @app.get("/product/<int:id>")
        @cached(ttl=60, tags=["product:{id}"])
        def product(id):  # noqa: A002
            assert flask.g.thread == threading.get_ident()
            return {"id": id}

        @app.get("/plain")
        def plain():
            return "plain", {"Cache-Control": "max-age=60"}

        @app.get("/me")
        def me():
            return flask.session.get("name", "nobody"), {"Cache-Control": "max-age=60"}

        @app.get("/login/<name>")
        def login(name):
            flask.session["name"] = name
            response = flask.make_response(f"hello {name}")
            response.headers["Cache-Control"] = "public, max-age=60"
            return response

        @app.get("/stream")
        def stream():
            def rows():
                for number in range(3):
                    assert flask.g.thread == threading.get_ident()
                    yield f"{flask.request.path} {number}\n"

            response = flask.Response(flask.stream_with_context(rows()))
            response.headers["Cache-Control"] = "max-age=60"
            response.call_on_close(self._closed)
            return response

        @app.get("/file")
        def file():
            return flask.send_file(__file__, max_age=60, conditional=True)

        @app.get("/fails")
        def fails():
            raise ValueError("boom")

        @app.route("/form", methods=["POST"])
        def form():
            return flask.request.form["x"]

        @app.errorhandler(404)
        def missing(error):
            return "no such page", 404, {"Cache-Control": "max-age=5"}

        self.gate = app.wsgi_app = LayerGate(app.wsgi_app, **options)  # type: ignore[method-assign]
        self.client = app.test_client()

    def _closed(self) -> None:
        self.closed += 1

    def told(self, path: str, **kw) -> str:
        with self.client.get(path, **kw) as response:
            return response.headers.get("Cache-Status", "")


def test_a_view_with_a_policy() -> None:
    shop = Shop()
    assert shop.client.get("/product/7").json == {"id": 7}
    hit = shop.client.get("/product/7")
    assert (hit.json, "hit" in hit.headers["Cache-Status"]) == ({"id": 7}, True)
    assert "Age" in hit.headers
    shop.gate.purge(tags=["product:7"])
    assert "hit" not in shop.told("/product/7")
    assert len(shop.calls) == len(shop.torn_down) == 2


def test_conditional_requests() -> None:
    shop = Shop()
    with shop.client.get("/file") as full:
        etag = full.headers["ETag"]
        content = full.data
    asked = shop.client.get("/file", headers={"If-None-Match": etag})
    assert (asked.status_code, asked.data) == (304, b"")
    assert "hit" in asked.headers["Cache-Status"]
    with shop.client.get("/file", headers={"Range": "bytes=0-9"}) as part:
        assert (part.status_code, part.data) == (206, content[:10])
        assert "hit" in part.headers["Cache-Status"]
    assert len(shop.calls) == 1


def test_head() -> None:
    shop = Shop()
    shop.client.get("/plain")
    head = shop.client.head("/plain")
    assert (head.data, head.headers["Content-Length"]) == (b"", "5")
    assert "hit" in head.headers["Cache-Status"]


def test_sessions_are_not_shared() -> None:
    shop = Shop()
    assert "set-cookie" in shop.told("/login/ann")
    assert shop.client.get("/me").data == b"ann"
    stranger = shop.app.test_client()
    assert stranger.get("/me").data == b"nobody"
    assert stranger.get("/login/bob").data == b"hello bob"
    assert stranger.get("/me").data == b"bob"
    assert shop.client.get("/me").data == b"ann"


def test_a_stream_with_its_context() -> None:
    shop = Shop()
    for _ in range(3):
        with shop.client.get("/stream") as response:
            assert response.data == b"/stream 0\n/stream 1\n/stream 2\n"
    assert len(shop.calls) == shop.closed == 1
    assert set(shop.torn_down) == {None}


def test_an_error_page_is_stored_as_long_as_it_says() -> None:
    shop = Shop()
    assert shop.client.get("/nowhere").status_code == 404
    again = shop.client.get("/nowhere")
    assert (again.status_code, again.data) == (404, b"no such page")
    assert "hit" in again.headers["Cache-Status"]


def test_an_exception_is_flasks_affair() -> None:
    shop = Shop()
    assert shop.client.get("/fails").status_code == 500
    shop.app.testing = True
    with pytest.raises(ValueError, match="boom"):
        shop.client.get("/fails")
    assert shop.gate.cache.stats()["flights"] == 0


def test_a_form_gets_through_and_invalidates() -> None:
    shop = Shop(rules=[Rule("/form", ttl=60)])
    assert shop.client.post("/form", data={"x": "1"}).data == b"1"
    assert shop.client.post("/form", data={"x": "2"}).data == b"2"


def test_flasks_own_route_for_static_files() -> None:
    shop = Shop(rules=[Rule("/static/{path:path}", bypass=True)])
    assert "bypass" in shop.told("/static/none.css")
