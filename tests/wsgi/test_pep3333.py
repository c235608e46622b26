"""What PEP 3333 lets an application do, and asks of whoever stands between it and its server."""

from __future__ import annotations

import io
import json
import sys
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import SimpleHandler

import flask
import pytest

from layergate import Admin, ConfigError, HttpCache, Rule, cached
from layergate.wsgi import LayerGate, ThreadRuntime
from tests.support.wsgi import Server, ask, environ_of, start

FRESH = [("Content-Type", "text/plain"), ("Cache-Control", "max-age=60")]
PRIVATE = [("Content-Type", "text/plain"), ("Cache-Control", "private")]


class Iterable:
    """With a ``close`` that counts."""

    def __init__(self, chunks) -> None:
        self.chunks = iter(chunks)
        self.closed = 0

    def __iter__(self):
        return self.chunks

    def close(self) -> None:
        self.closed += 1


# -- the head ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [FRESH, PRIVATE], ids=["stored", "private"])
def test_a_generator_that_starts_late(headers) -> None:
    calls = []

    def app(environ, start_response):
        calls.append(1)
        yield b""  # "not yet", as some middlewares say it
        start_response("200 OK", headers)
        yield b"a"
        yield b"b"

    cache = LayerGate(app)
    assert ask(cache).body == b"ab"
    assert ask(cache).body == b"ab"
    assert len(calls) == (1 if headers is FRESH else 2)


def test_the_head_may_be_replaced_before_the_body_begins() -> None:
    def app(environ, start_response):
        start_response("200 OK", FRESH)
        try:
            raise ValueError("boom")
        except ValueError:
            start_response("500 Sorry", PRIVATE, sys.exc_info())
        return [b"sorry"]

    cache = LayerGate(app)
    answer = ask(cache)
    assert (answer.status, answer.body) == ("500 Sorry", b"sorry")
    assert "stored" not in answer.told
    assert cache.cache.stats()["flights"] == 0


def test_the_head_may_be_replaced_by_a_generator_that_fails_at_once() -> None:
    def app(environ, start_response):
        start_response("200 OK", FRESH)

        def body():
            start_response("500 Sorry", PRIVATE, (ValueError, ValueError("boom"), None))
            yield b"sorry"

        return body()

    cache = LayerGate(app)
    assert ask(cache).status == "500 Sorry"
    assert "stored" not in ask(cache).told


@pytest.mark.parametrize("headers", [FRESH, PRIVATE], ids=["stored", "private"])
def test_exc_info_after_the_body_has_begun_is_raised(headers) -> None:
    def app(environ, start_response):
        start_response("200 OK", headers)
        yield b"a"
        try:
            raise ValueError("boom")
        except ValueError:
            start_response("500 Sorry", PRIVATE, sys.exc_info())
        yield b"never"

    cache = LayerGate(app)
    with pytest.raises(ValueError, match="boom"):
        ask(cache)
    assert cache.cache.stats()["flights"] == 0
    assert cache.cache.stats()["layers"]["memory"]["entries"] == (headers is PRIVATE)  # a marker


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_exc_info_by_name(method) -> None:
    """PEP 3333 has it by position; servers take both, and so some apps do."""

    def app(environ, start_response):
        start_response("500 Sorry", FRESH, exc_info=(ValueError, ValueError("boom"), None))
        return [b"sorry"]

    assert ask(LayerGate(app), method=method).status == "500 Sorry"


def test_a_second_head_without_exc_info_is_an_error() -> None:
    def app(environ, start_response):
        start_response("200 OK", FRESH)
        start_response("200 OK", FRESH)
        return [b"x"]

    with pytest.raises(AssertionError, match="twice"):
        ask(LayerGate(app))


def test_no_head_at_all_is_an_error() -> None:
    for body in ([b"x"], []):

        def app(environ, start_response, body=body):
            return body

        cache = LayerGate(app)
        with pytest.raises(AssertionError, match="start_response"):
            ask(cache)
        assert cache.cache.stats()["flights"] == 0


def test_a_head_that_is_none_is_the_servers_to_judge() -> None:
    def app(environ, start_response):
        start_response("200 OK", [("Name", "caf\u2615")])
        return [b"x"]

    answer = ask(LayerGate(app))
    assert (answer.status, answer.headers) == ("200 OK", {"name": "caf\u2615"})


def test_the_apps_own_list_of_headers_is_not_changed() -> None:
    headers = [*FRESH, ("Cache-Tag", "a")]

    def app(environ, start_response):
        start_response("200 OK", headers)
        return [b"x"]

    assert "cache-tag" not in ask(LayerGate(app)).headers
    assert headers == [*FRESH, ("Cache-Tag", "a")]


# -- the body ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [FRESH, PRIVATE], ids=["stored", "private"])
def test_the_write_callable(headers) -> None:
    def app(environ, start_response):
        write = start_response("200 OK", headers)
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c"]

    cache = LayerGate(app)
    assert ask(cache).body == b"abc"
    second = ask(cache)
    assert second.body == b"abc"
    assert ("hit" in second.told) == (headers is FRESH)


def test_what_is_written_is_sent_at_once() -> None:
    server = Server()
    seen = []

    def app(environ, start_response):
        write = start_response("200 OK", FRESH)
        write(b"a")
        seen.append(list(server.body))
        return []

    assert list(LayerGate(app)(environ_of(), server.start_response)) == []
    assert seen == [[b"a"]]


@pytest.mark.parametrize(
    "body", [[], [b""], iter(()), ()], ids=["none", "empty", "iterator", "tuple"]
)
def test_an_empty_body_is_stored(body) -> None:
    def app(environ, start_response):
        start_response("200 OK", FRESH)
        return body

    cache = LayerGate(app)
    assert ask(cache).body == b""
    second = ask(cache)
    assert (second.body, "hit" in second.told) == (b"", True)


@pytest.mark.parametrize(
    ("length", "stored"), [("2", True), ("3", False), ("1", False)], ids=["right", "more", "less"]
)
@pytest.mark.parametrize("make", [list, iter], ids=["list", "iterator"])
def test_g6_content_length(length, stored, make) -> None:
    def app(environ, start_response):
        start_response("200 OK", [*FRESH, ("Content-Length", length)])
        return make([b"a", b"b"])

    cache = LayerGate(app)
    assert ask(cache).body == b"ab"  # all of it, in any case
    assert ("hit" in ask(cache).told) == stored


def test_a_body_of_announced_length_is_stored_before_its_client_takes_it() -> None:
    def app(environ, start_response):
        start_response("200 OK", [*FRESH, ("Content-Length", "1")])
        return Iterable([b"a"])

    cache = LayerGate(app)
    slow, _ = start(cache)
    assert "hit" in ask(cache).told
    assert len(slow) == 1  # as it was with a list, so that servers may announce its length
    slow.close()


def test_bytes_in_other_clothes() -> None:
    def app(environ, start_response):
        start_response("200 OK", FRESH)
        return [bytearray(b"a"), memoryview(b"b")]

    cache = LayerGate(app)
    assert ask(cache).body == ask(cache).body == b"ab"


def test_text_is_an_error() -> None:
    def app(environ, start_response):
        start_response("200 OK", FRESH)
        return ["a"]

    cache = LayerGate(app)
    with pytest.raises(TypeError, match="bytes"):
        ask(cache)
    assert cache.cache.stats()["flights"] == 0


@pytest.mark.parametrize("headers", [FRESH, PRIVATE], ids=["stored", "private"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_close_is_called_once(headers, method) -> None:
    made = []

    def app(environ, start_response):
        start_response("200 OK", headers)
        made.append(Iterable([b"a", b"b"]))
        return made[-1]

    cache = LayerGate(app)
    ask(cache, method=method)
    ask(cache, method=method)
    assert [iterable.closed for iterable in made] == [1] * len(made)


@pytest.mark.parametrize("headers", [FRESH, PRIVATE], ids=["stored", "private"])
def test_close_is_called_after_an_error_in_the_body(headers) -> None:
    made = []

    def body():
        yield b"a"
        raise ValueError("boom")

    def app(environ, start_response):
        start_response("200 OK", headers)
        made.append(Iterable(body()))
        return made[-1]

    with pytest.raises(ValueError, match="boom"):
        ask(LayerGate(app))
    assert made[0].closed == 1


def test_an_error_after_the_announced_length_comes_after_the_body() -> None:
    def app(environ, start_response):
        start_response("200 OK", [*FRESH, ("Content-Length", "1")])
        yield b"a"
        raise ValueError("boom")

    cache = LayerGate(app)
    body, _ = start(cache)
    assert next(body) == b"a"
    with pytest.raises(ValueError, match="boom"):
        next(body)
    body.close()
    assert "hit" not in start(cache)[1].answer().told


# -- files ------------------------------------------------------------------------------------------


class ServersWrapper:
    def __init__(self, file, block_size=8192) -> None:
        self.file = file
        self.block_size = block_size


def serving_a_file(headers, opened):
    def app(environ, start_response):
        file = io.BytesIO(b"content")
        opened.append(file)
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file, 3)

    return LayerGate(app, rules=[Rule("/bypass", bypass=True)])


@pytest.mark.parametrize("path", ["/", "/bypass"])
def test_a_file_that_is_not_stored_is_the_servers_to_send(path) -> None:
    opened: list = []
    app = serving_a_file(PRIVATE, opened)
    for _ in range(2):  # the second time through a marker
        body, server = start(app, path, wsgi_file_wrapper=ServersWrapper)
        assert type(body) is ServersWrapper
        assert (body.file, body.block_size) == (opened[-1], 3)
        assert server.head[0] == "200 OK"


def test_a_file_that_is_stored_is_read() -> None:
    opened: list = []
    app = serving_a_file(FRESH, opened)
    first = ask(app, wsgi_file_wrapper=ServersWrapper)
    assert first.body == ask(app, wsgi_file_wrapper=ServersWrapper).body == b"content"
    assert len(opened) == 1
    assert opened[0].closed


def test_the_server_keeps_its_own_wrapper_in_its_environ() -> None:
    app = serving_a_file(FRESH, [])
    environ = environ_of(wsgi_file_wrapper=ServersWrapper)
    app(environ, Server().start_response)
    assert environ["wsgi.file_wrapper"] is ServersWrapper


# -- the environ ------------------------------------------------------------------------------------


def test_what_the_app_notes_is_there_for_middleware_outside() -> None:
    def app(environ, start_response):
        environ["app.user"] = 7
        start_response("200 OK", FRESH)
        return [b"x"]

    environ = environ_of(HTTP_IF_NONE_MATCH='"x"')
    LayerGate(app)(environ, Server().start_response)
    assert environ["app.user"] == 7
    assert environ["HTTP_IF_NONE_MATCH"] == '"x"'


def echo(environ, start_response):
    start_response("200 OK", FRESH)
    return [repr([environ.get(name) for name in TARGET]).encode()]


TARGET = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT")


def test_g9_targets_that_the_app_can_tell_apart() -> None:
    cache = LayerGate(echo)
    variants = [
        {},
        {"PATH_INFO": "/caf\xc3\xa9"},
        {"PATH_INFO": "/caf\xe9"},  # not UTF-8
        {"PATH_INFO": "/caf%E9"},
        {"SCRIPT_NAME": "/a", "PATH_INFO": "/b"},
        {"SCRIPT_NAME": "", "PATH_INFO": "/a/b"},
        {"SCRIPT_NAME": "/a/b", "PATH_INFO": ""},
        {"PATH_INFO": "/x", "QUERY_STRING": "a"},
        {"PATH_INFO": "/x?a"},
        {"PATH_INFO": "//x"},
        {"HTTP_HOST": "other.example"},
        {"HTTP_HOST": "", "SERVER_NAME": "inside"},
        {"HTTP_HOST": "", "SERVER_PORT": "81"},
        {"PATH_INFO": "/a b", "RAW_URI": "/a%20b"},
        {"PATH_INFO": "/a/b", "RAW_URI": "/a%2Fb"},
    ]
    bodies = [ask(cache, **variant).body for variant in variants]
    # The last is another target than /a/b, with the same content.
    assert len(set(bodies)) == len(variants) - 1
    assert [ask(cache, **variant).body for variant in variants] == bodies
    assert [v for v in variants if "hit" not in ask(cache, **v).told] == []


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"RAW_URI": "/caf%C3%A9?q=1"},
        {"REQUEST_URI": "/caf%c3%a9?q=1"},
        {"REQUEST_URI": "http://example.org/caf%C3%A9?q=1"},
    ],
    ids=["neither", "gunicorn", "lower case", "absolute"],
)
def test_a_purge_names_the_url_as_it_is_written(raw) -> None:
    cache = LayerGate(echo)
    target = {"PATH_INFO": "/caf\xc3\xa9", "QUERY_STRING": "q=1", **raw}
    ask(cache, **target)
    assert "hit" in ask(cache, **target).told
    cache.purge(urls=["http://example.org/caf\u00e9?q=1"])
    assert "hit" not in ask(cache, **target).told


def test_a_user_the_server_knows_is_a_person() -> None:
    users = []

    def app(environ, start_response):
        users.append(environ.get("REMOTE_USER"))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(users[-1]).encode()]

    cache = LayerGate(app, rules=[Rule("*", ttl=60)])
    assert ask(cache, REMOTE_USER="ann").body == b"ann"
    assert ask(cache, REMOTE_USER="bob").body == b"bob"
    assert ask(cache).body == b"None"
    assert ask(cache, REMOTE_USER="bob").body == b"bob"


def test_a_policy_whose_view_no_framework_knows_is_not_used_and_said_so(caplog) -> None:
    @cached(ttl=60, tags=["item:{id}"])
    def view(*, id):  # noqa: A002
        return b"item"

    def app(environ, start_response):
        body = view(id=7)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    cache = LayerGate(app)
    for _ in range(2):
        with caplog.at_level("WARNING", logger="layergate"):
            assert "no-freshness" in ask(cache).told
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "view is not used" in warning and "Rule('/path', ttl=60)" in warning


def test_a_policy_of_a_lazy_app_that_was_not_shareable_before() -> None:
    app = flask.Flask(__name__)

    @app.get("/")
    def rows():
        yield "x"

    cache = LayerGate(app.wsgi_app)
    assert "no-freshness" in ask(cache).told
    assert "no-freshness" in ask(cache).told  # by its marker
    app.view_functions["rows"] = cached(ttl=60)(rows)
    ask(cache)
    assert "hit" in ask(cache).told


# -- other methods, the admin endpoint ---------------------------------------------------------------


def test_an_unsafe_method_invalidates_before_its_client_hears_of_it() -> None:
    cache = LayerGate(echo)
    ask(cache)
    told = []

    def start_response(status, headers, exc_info=None):
        told.append(ask(cache).told)

    cache(environ_of(method="POST"), start_response)
    assert "hit" not in told[0]


def test_admin() -> None:
    cache = LayerGate(echo, admin=Admin(path="/_cache", token="t"))
    ask(cache)
    auth = {"HTTP_AUTHORIZATION": "Bearer t"}
    assert ask(cache, "/_cache/stats").status == "401 Unauthorized"
    assert b'"hit": 0' in ask(cache, "/_cache/stats", **auth).body
    body = b'{"purge_everything": true}'
    posted = ask(
        cache, "/_cache/purge", "POST", **auth,
        CONTENT_LENGTH=str(len(body)), wsgi_input=io.BytesIO(body + b"next request"),
    )  # fmt: skip
    assert posted.status == "200 OK"
    assert "hit" not in ask(cache).told
    assert ask(cache, method="PURGE", **auth).status == "200 OK"
    assert "hit" not in ask(cache).told
    for length in ("99999999", "x", "-1"):
        large = ask(cache, "/_cache/purge", "POST", **auth, CONTENT_LENGTH=length)
        assert large.status.startswith("413")
        assert "connection" not in large.headers  # hop-by-hop: the server's, not ours
    chunked = ask(
        cache, "/_cache/purge", "POST", **auth,
        wsgi_input_terminated=True, wsgi_input=io.BytesIO(body),
    )  # fmt: skip
    assert chunked.status == "200 OK"


@pytest.mark.parametrize("told", [(), ("RAW_URI",), ("REQUEST_URI",)], ids=str)
def test_admin_explains(told: tuple[str, ...]) -> None:
    cache = LayerGate(echo, admin=Admin(path="/_cache", token="t"))

    def explained(path: str, **auth: str) -> Any:
        body = json.dumps({"url": f"http://example.org{path}"}).encode()
        raw = dict.fromkeys(told, "/_cache/explain")
        answer = ask(
            cache, "/_cache/explain", "POST", **auth, **raw,
            CONTENT_LENGTH=str(len(body)), wsgi_input=io.BytesIO(body),
        )  # fmt: skip
        return answer.status, json.loads(answer.body)["result"]

    auth = {"HTTP_AUTHORIZATION": "Bearer t"}
    assert explained("/")[0] == "401 Unauthorized"
    # The key that the middleware makes of a path, with what this server tells of it.
    for path in ("/", "/a%20b", "/%7Ec", "/caf%C3%A9?x=%2F"):
        assert explained(path, **auth)[1]["conclusion"]["answer"] == "miss"
        environ = {"PATH_INFO": unquote_to_bytes(path.partition("?")[0]).decode("latin-1")}
        ask(cache, path, **environ, **dict.fromkeys(told, path))
        status, explanation = explained(path, **auth)
        assert (status, explanation["conclusion"]["answer"]) == ("200 OK", "hit"), path


def test_hop_by_hop_fields_are_not_stored() -> None:
    """wsgiref's server refuses an application that sends one (PEP 3333)."""

    def app(environ, start_response):
        start_response("200 OK", [*FRESH, ("Connection", "x-private"), ("X-Private", "1")])
        return [b"x"]

    cache = LayerGate(app)
    ask(cache)
    out = io.BytesIO()
    environ = environ_of()
    handler = SimpleHandler(io.BytesIO(), out, sys.stderr, environ)
    handler.run(cache)
    head = out.getvalue().lower()
    assert head.startswith(b"http/1.0 200 ok")
    assert b"connection" not in head
    assert b"x-private" not in head
    assert b"cache-status: layergate; hit" in head


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="WSGI application"):
        LayerGate(None)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="as well"):
        LayerGate(echo, HttpCache(runtime=ThreadRuntime()), memory="1MB")
    with pytest.raises(ConfigError, match="ThreadRuntime"):
        LayerGate(echo, HttpCache())
    with pytest.raises(ConfigError, match="HttpCache"):
        LayerGate(echo, {})  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="memmory"):
        LayerGate(echo, memmory="1MB")


def test_a_cache_for_threads_is_none_for_asyncio() -> None:
    from fastapi import FastAPI

    from layergate import LayerGate as Asgi

    with pytest.raises(ConfigError, match="asyncio"):
        Asgi(FastAPI(), cache=HttpCache(runtime=ThreadRuntime()))
