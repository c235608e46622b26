"""Among the real neighbours: Starlette's middleware, responses, background tasks and errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import json
import logging
from typing import Any

import pytest
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser, requires
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from layergate import LayerGate, Rule
from tests.support.asgi import FRESH, Call, Gate, Lifespan, World, scope_of
from tests.support.waiting import turns, until

PATHSEND: dict = {"http.response.pathsend": {}}


class Site(World):
    """A Starlette app with LayerGate in its middleware, others ``before`` (outside) and ``after``."""

    def __init__(
        self,
        routes: list,
        *,
        before: tuple = (),
        after: tuple = (),
        lifespan: Any = None,
        handlers: Any = None,
        debug: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        gate = Middleware(LayerGate, cache=self.cache)
        self.site = Starlette(
            debug=debug,
            routes=routes,
            middleware=[*before, gate, *after],
            lifespan=lifespan,
            exception_handlers=handlers,
        )
        self.app = self.site  # type: ignore[assignment]


class Counted:
    """An endpoint that counts its calls and answers with their number."""

    def __init__(self, headers: dict[str, str] | None = None) -> None:
        self.calls = 0
        self.headers = FRESH if headers is None else headers

    def route(self, path: str = "/", **more: Any) -> Route:
        async def endpoint(request: Request) -> Response:
            self.calls += 1
            return PlainTextResponse(f"{self.calls}", headers=self.headers)

        return Route(path, endpoint, **more)


# -- other protocols and the lifespan ------------------------------------------------------------


async def test_a_websocket_passes():
    async def echo(websocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    site = Site([WebSocketRoute("/ws", echo)])
    inbox: list[dict] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "hello"},
    ]
    sent: list[dict] = []

    async def receive():
        return inbox.pop(0)

    async def send(message):
        sent.append(message)

    scope = {**scope_of("/ws"), "type": "websocket", "scheme": "ws", "subprotocols": []}
    await site.app(scope, receive, send)
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == "hello"


async def test_the_lifespan_passes_and_its_state_reaches_requests():
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app):
        steps.append("up")
        yield {"db": "connected"}
        steps.append("down")

    site = Site([Counted().route()], lifespan=lifespan)
    async with Lifespan(site.app) as life:
        assert (await site.get("/")).body == b"1"
        assert steps == ["up"]
    assert steps == ["up", "down"]
    assert life.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_an_app_without_lifespan_fails_as_it_does_without_us():
    async def app(scope, receive, send):
        assert scope["type"] == "http"

    with pytest.raises(AssertionError):
        await Lifespan(LayerGate(app)).start()


async def test_it_works_without_any_lifespan():
    counted = Counted()
    site = Site([counted.route()])
    await site.get("/")
    assert (await site.get("/")).hit


@pytest.mark.parametrize("obeys", [True, False], ids=["ends-in-time", "is-cancelled"])
async def test_background_work_ends_at_shutdown_before_the_app_closes_what_it_needs(obeys):
    steps: list[str] = []
    gate = Gate()
    calls = 0

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        steps.append("database closed")

    async def endpoint(request: Request) -> Response:
        nonlocal calls
        calls += 1
        if calls > 1:
            try:
                await gate.wait()
                steps.append("refreshed")
            except asyncio.CancelledError:
                steps.append("cancelled")
                raise
        return PlainTextResponse(
            f"{calls}", headers={"cache-control": "max-age=10, stale-while-revalidate=60"}
        )

    site = Site([Route("/", endpoint)], lifespan=lifespan, shutdown_timeout=10.0 if obeys else 0.01)
    life = Lifespan(site.app)
    await life.start()
    await site.get("/")
    site.clock.advance(20)
    assert (await site.get("/")).body == b"1"
    await gate.reached()
    stopping = asyncio.create_task(life.stop())
    await turns()
    if obeys:
        assert steps == []
        gate.open()
    await stopping
    assert steps == ["refreshed" if obeys else "cancelled", "database closed"]
    site.assert_nothing_left()


async def test_a_cancelled_refresh_at_shutdown_logs_no_error(caplog):
    gate = Gate()
    site = World(shutdown_timeout=0.0)

    @site.origin.on("/")
    async def handler(call) -> None:
        if call.number > 1:
            await gate.wait()
        await call.reply(b"x", headers={"cache-control": "max-age=1, stale-while-revalidate=60"})

    await site.get("/")
    site.clock.advance(2)
    await site.get("/")
    await gate.reached()
    with caplog.at_level(logging.WARNING):
        await site.cache.aclose()
    assert not caplog.records
    site.assert_nothing_left()


# -- streams -------------------------------------------------------------------------------------


async def test_sse_starlette_streams_to_each_client_and_hears_them_leave():
    started = 0
    ended: list[int] = []
    beat = asyncio.Event()

    async def events(request: Request) -> Response:
        nonlocal started
        started += 1
        number = started

        async def generate():
            try:
                yield {"data": f"hello {number}"}
                await beat.wait()
                yield {"data": "more"}
                await asyncio.Event().wait()
            finally:
                ended.append(number)

        return EventSourceResponse(generate())

    site = Site([Route("/", events)])
    clients = [site.call("/") for _ in range(2)]
    for client in clients:
        await until(lambda client=client: b"hello" in client.body)  # type: ignore[misc]
    beat.set()
    for client in clients:
        await until(lambda client=client: b"more" in client.body)  # type: ignore[misc]
    assert started == 2
    for client in clients:
        client.leave()
        await client.done()
    assert sorted(ended) == [1, 2]
    site.assert_nothing_left()


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("headers", [FRESH, {}], ids=["shared", "alone"])
async def test_a_streaming_response_streams(spec_version, headers):
    gate = Gate()

    async def parts():
        yield b"one "
        await gate.wait()
        yield b"two"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(parts(), headers=headers)

    site = Site([Route("/", endpoint)])
    call = site.call("/", spec_version=spec_version)
    await call.received(4)
    assert call.body == b"one " and not call.complete
    gate.open()
    await call.done()
    assert call.body == b"one two" and call.complete
    assert (await site.get("/", spec_version=spec_version)).hit is bool(headers)
    site.assert_nothing_left()


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_private_endless_stream_ends_when_its_client_leaves(spec_version):
    ended = asyncio.Event()
    beat = asyncio.Event()

    async def ticks():
        try:
            while True:
                yield b"tick "
                await beat.wait()
                await asyncio.sleep(0)
        finally:
            ended.set()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(ticks())

    site = Site([Route("/", endpoint)])
    call = site.call("/", spec_version=spec_version, raise_when_gone=spec_version == "2.4")
    await call.received(5)
    call.leave()
    beat.set()
    if spec_version == "2.4":
        with pytest.raises(ClientDisconnect):
            await call.done()
    else:
        await call.done()
        assert ended.is_set()
    site.assert_nothing_left()


async def test_a_sync_iterator_streams_from_its_thread():
    def endpoint(request: Request) -> Response:
        return StreamingResponse((b"%d " % n for n in range(5)), headers=FRESH)

    site = Site([Route("/", endpoint)])
    assert (await site.get("/")).body == b"0 1 2 3 4 "
    assert (await site.get("/")).hit


# -- background tasks, errors --------------------------------------------------------------------


@pytest.mark.parametrize("headers", [FRESH, {}], ids=["shared", "alone"])
async def test_a_background_task_runs_exactly_once_per_call_of_the_app(headers):
    ran: list[int] = []
    calls = 0

    async def endpoint(request: Request) -> Response:
        nonlocal calls
        calls += 1
        return PlainTextResponse("x", headers=headers, background=BackgroundTask(ran.append, calls))

    site = Site([Route("/", endpoint)])
    requests = [site.call("/") for _ in range(5)]
    for request in requests:
        await request.done()
    await site.idle()
    assert len(ran) == calls == (1 if headers else 5)
    await site.get("/")
    await site.idle()
    assert len(ran) == (1 if headers else 6)


async def test_a_background_task_runs_after_the_client_has_everything_and_holds_up_nobody():
    gate = Gate()

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("x", headers=FRESH, background=BackgroundTask(gate.wait))

    site = Site([Route("/", endpoint)])
    leader = site.call("/")
    await gate.reached()
    await until(lambda: leader.complete)
    assert (await site.get("/")).hit
    gate.open()
    await leader.done()


@pytest.mark.parametrize("headers", [FRESH, {}], ids=["shared", "alone"])
async def test_an_exception_in_a_background_task_surfaces(headers):
    async def broken() -> None:
        raise RuntimeError("in the background")

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("x", headers=headers, background=BackgroundTask(broken))

    site = Site([Route("/", endpoint)])
    call = site.call("/")
    with pytest.raises(RuntimeError, match="in the background"):
        await call.done()
    assert call.complete and call.body == b"x"
    site.assert_nothing_left()


@pytest.mark.parametrize("debug", [True, False])
async def test_exceptions_reach_server_error_middleware(debug):
    async def endpoint(request: Request) -> Response:
        raise ValueError("boom")

    site = Site([Route("/", endpoint)], debug=debug)
    for _ in range(2):
        call = site.call("/")
        with pytest.raises(ValueError, match="boom"):
            await call.done()
        assert call.status == 500 and call.complete
        assert (b"ValueError" in call.body) is debug
    site.assert_nothing_left()


async def test_an_exception_keeps_its_traceback_into_the_app():
    async def endpoint(request: Request) -> Response:
        raise ValueError("boom")

    site = Site([Route("/", endpoint)])
    with pytest.raises(ValueError) as caught:
        await site.get("/")
    frames = []
    traceback = caught.value.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert "endpoint" in frames


async def test_exception_handlers_of_the_app_work():
    async def endpoint(request: Request) -> Response:
        raise KeyError("missing")

    async def handler(request: Request, error: Exception) -> Response:
        return PlainTextResponse("handled", 418)

    site = Site([Route("/", endpoint)], handlers={KeyError: handler})
    assert (await site.get("/")).status == 418


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [{}, PATHSEND], ids=["plain", "pathsend"])
async def test_static_files_are_served_and_revalidated(tmp_path, extensions):
    (tmp_path / "a.txt").write_text("content")
    site = Site([Mount("/static", StaticFiles(directory=tmp_path))])
    for _ in range(2):
        call = await site.get("/static/a.txt", extensions=extensions)
        assert call.status == 200
        last = call.messages[-1]
        if last["type"] == "http.response.pathsend":
            assert last["path"] == str(tmp_path / "a.txt")
        else:
            assert call.body == b"content"
    etag = call.header("etag")
    assert etag
    again = await site.get("/static/a.txt", headers={"if-none-match": etag}, extensions=extensions)
    assert again.status == 304 and again.body == b""
    part = await site.get("/static/a.txt", headers={"range": "bytes=0-2"}, extensions={})
    assert part.status == 206 and part.body == b"con"
    assert (await site.get("/static/nothing.txt")).status == 404


@pytest.mark.parametrize("extensions", [{}, PATHSEND], ids=["plain", "pathsend"])
async def test_a_file_response_with_a_lifetime_is_cached_with_its_bytes(tmp_path, extensions):
    file = tmp_path / "a.txt"
    file.write_text("content")
    site = Site([Route("/", lambda request: FileResponse(file, headers=FRESH))])
    assert (await site.get("/", extensions=extensions)).status == 200
    file.write_text("changed")
    hit = await site.get("/", extensions=extensions)
    assert hit.hit and hit.body == b"content"
    part = await site.get("/", headers={"range": "bytes=0-2"}, extensions={})
    assert part.hit and part.status == 206 and part.body == b"con"


# -- other middleware ----------------------------------------------------------------------------


class Tagging(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-tagged"] = request.headers.get("x-who", "nobody")
        return response


@pytest.mark.parametrize("place", ["before", "after"])
async def test_base_http_middleware_outside_and_inside(place):
    counted = Counted()
    site = Site([counted.route()], **{place: (Middleware(Tagging),)})  # type: ignore[arg-type]
    first = await site.get("/", headers={"x-who": "alice"})
    second = await site.get("/", headers={"x-who": "bob"})
    assert first.header("x-tagged") == "alice"
    assert second.header("x-tagged") == ("bob" if place == "before" else "alice")
    assert second.hit and counted.calls == 1
    calls = [site.call("/", query=b"x") for _ in range(10)]
    for call in calls:
        assert (await call.done()).body == b"2"
    assert counted.calls == 2
    site.assert_nothing_left()


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("headers", [FRESH, {}], ids=["shared", "alone"])
async def test_base_http_middleware_and_streams_and_background_tasks(place, headers):
    gate = Gate()
    ran: list[str] = []

    async def parts():
        yield b"one "
        await gate.wait()
        yield b"two"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(
            parts(), headers=headers, background=BackgroundTask(ran.append, "task")
        )

    site = Site([Route("/", endpoint)], **{place: (Middleware(Tagging),)})  # type: ignore[arg-type]
    call = site.call("/")
    await call.received(4)
    gate.open()
    await call.done()
    assert call.body == b"one two"
    await site.idle()
    assert ran == ["task"]
    site.assert_nothing_left()


async def test_a_client_that_leaves_behind_base_http_middleware_leaves_nothing():
    gate = Gate()

    async def endpoint(request: Request) -> Response:
        await gate.wait()
        return PlainTextResponse("x", headers=FRESH)

    site = Site([Route("/", endpoint)], after=(Middleware(Tagging),))
    leader = site.call("/")
    await gate.reached()
    follower = site.call("/")
    await site.waiting(1)
    await leader.cancel()
    gate.open()
    assert (await follower.done()).body == b"x"
    await site.idle()
    site.assert_nothing_left()


async def test_gzip_outside_compresses_what_is_stored_plain():
    body = "x" * 5000
    site = Site(
        [Route("/", lambda request: PlainTextResponse(body, headers=FRESH))],
        before=(Middleware(GZipMiddleware),),
    )
    await site.get("/")
    zipped = await site.get("/", headers={"accept-encoding": "gzip"})
    assert zipped.hit and zipped.header("content-encoding") == "gzip" and len(zipped.body) < 1000
    plain = await site.get("/")
    assert plain.hit and plain.body == body.encode() and not plain.header("content-encoding")


async def test_gzip_inside_makes_two_variants_and_never_mixes_them():
    body = "x" * 5000
    site = Site(
        [Route("/", lambda request: PlainTextResponse(body, headers=FRESH))],
        after=(Middleware(GZipMiddleware),),
    )
    for hit in (False, True):
        zipped = await site.get("/", headers={"accept-encoding": "gzip"})
        assert zipped.header("content-encoding") == "gzip" and zipped.hit is hit
        assert zipped.header("content-length") == str(len(zipped.body))
        plain = await site.get("/")
        assert not plain.header("content-encoding") and plain.body == body.encode()
        assert plain.hit is hit
    assert "accept-encoding" in (plain.header("vary") or "").lower()


@pytest.mark.parametrize("place", ["before", "after"])
async def test_cors_answers_each_origin_as_it_should(place):
    cors = Middleware(CORSMiddleware, allow_origins=["https://a.example", "https://b.example"])
    counted = Counted()
    site = Site([counted.route()], **{place: (cors,)})  # type: ignore[arg-type]
    for _ in range(2):
        for origin in ("https://a.example", "https://b.example", "https://evil.example", None):
            headers = {} if origin is None else {"origin": origin}
            call = await site.get("/", headers=headers)
            allowed = origin if origin and "evil" not in origin else None
            assert call.header("access-control-allow-origin") == allowed
    preflight = await site.get(
        "/",
        method="OPTIONS",
        headers={"origin": "https://a.example", "access-control-request-method": "GET"},
    )
    assert preflight.status == 200
    if place == "before":
        assert counted.calls == 1


def _login_site(place: str, **options: Any) -> Site:
    async def login(request: Request) -> Response:
        request.session["user"] = request.query_params["user"]
        return PlainTextResponse("welcome", headers=FRESH)

    async def me(request: Request) -> Response:
        return PlainTextResponse(request.session.get("user", "nobody"))

    sessions = Middleware(SessionMiddleware, secret_key="secret")
    routes = [Route("/login", login), Route("/me", me)]
    return Site(routes, **{place: (sessions,)}, **options)  # type: ignore[arg-type]


def _cookie(call: Call) -> dict[str, str]:
    return {"cookie": (call.header("set-cookie") or "").partition(";")[0]}


@pytest.mark.parametrize("place", ["before", "after"])
async def test_a_session_is_never_shared_not_even_by_a_rule(place):
    site = _login_site(place, rules=[Rule("/me", ttl=60)])
    alice = _cookie(await site.get("/login", query=b"user=alice"))
    bob = _cookie(await site.get("/login", query=b"user=bob"))
    for _ in range(2):
        assert (await site.get("/me")).body == b"nobody"
        assert (await site.get("/me", headers=alice)).body == b"alice"
        assert (await site.get("/me", headers=bob)).body == b"bob"
    calls = [site.call("/me", headers=who or {}, query=b"cold") for who in (None, alice, bob, None)]
    bodies = [(await call.done()).body for call in calls]
    assert bodies == [b"nobody", b"alice", b"bob", b"nobody"]


async def test_a_session_cookie_is_never_replayed():
    site = _login_site("after")
    first = await site.get("/login", query=b"user=alice")
    assert first.header("set-cookie")
    second = await site.get("/login", query=b"user=alice")
    assert not second.hit and second.header("set-cookie") != ""
    calls = [site.call("/login", query=b"user=carol") for _ in range(5)]
    for call in calls:
        await call.done()
        assert len(call.all("set-cookie")) == 1 and "collapsed" not in call.cache_status
    site.assert_nothing_left()


async def test_a_session_outside_sets_each_clients_own_cookie():
    site = _login_site("before")
    for user in (b"user=alice", b"user=bob"):
        call = await site.get("/login", query=user)
        assert len(call.all("set-cookie")) == 1


class Basic(AuthenticationBackend):
    async def authenticate(self, conn):
        if "authorization" not in conn.headers:
            return None
        name = base64.b64decode(conn.headers["authorization"].split()[1]).decode().split(":")[0]
        return AuthCredentials(["authenticated"]), SimpleUser(name)


@pytest.mark.parametrize("place", ["before", "after"])
async def test_authentication_is_asked_for_each_request_and_never_shared(place):
    @requires("authenticated")
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.user.display_name, headers=FRESH)

    middleware = Middleware(AuthenticationMiddleware, backend=Basic())
    site = Site([Route("/", endpoint)], rules=[Rule("*", ttl=60)], **{place: (middleware,)})  # type: ignore[arg-type]

    def who(name: str) -> dict[str, str]:
        return {"authorization": "Basic " + base64.b64encode(f"{name}:x".encode()).decode()}

    for _ in range(2):
        assert (await site.get("/", headers=who("alice"))).body == b"alice"
        assert (await site.get("/", headers=who("bob"))).body == b"bob"
        assert (await site.get("/")).status == 403
    calls = [site.call("/", headers=who(f"u{n}"), query=b"cold") for n in range(5)]
    assert [(await call.done()).body for call in calls] == [b"u%d" % n for n in range(5)]


@pytest.mark.parametrize("place", ["before", "after"])
async def test_https_redirects_do_not_loop(place):
    site = Site([Counted().route()], **{place: (Middleware(HTTPSRedirectMiddleware),)})  # type: ignore[arg-type]
    for _ in range(2):
        assert (await site.get("/")).status == 307
        assert (await site.get("/", scheme="https")).status == 200


@pytest.mark.parametrize("place", ["before", "after"])
async def test_an_untrusted_host_poisons_nothing(place):
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=["example.com"])
    site = Site([Counted().route()], rules=[Rule("*", ttl=60)], **{place: (trusted,)})  # type: ignore[arg-type]
    assert (await site.get("/", host="evil.example")).status == 400
    assert (await site.get("/")).status == 200
    assert (await site.get("/", host="evil.example")).status == 400
    assert (await site.get("/")).hit


# -- the request's surroundings ------------------------------------------------------------------

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class SetsContext:
    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            WHO.set(dict(scope["headers"]).get(b"x-who", b"?").decode())
        await self.app(scope, receive, send)


@pytest.mark.parametrize("headers", [FRESH, {}], ids=["shared", "alone"])
async def test_the_requests_context_variables_are_visible_in_the_app(headers):
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(WHO.get(), headers=headers)

    site = Site([Route("/", endpoint)], before=(Middleware(SetsContext),))
    assert (await site.get("/", headers={"x-who": "alice"})).body == b"alice"


async def test_a_background_refresh_runs_in_a_clean_context():
    seen: list[str] = []

    async def endpoint(request: Request) -> Response:
        seen.append(WHO.get())
        return PlainTextResponse(
            "x", headers={"cache-control": "max-age=10, stale-while-revalidate=60"}
        )

    site = Site([Route("/", endpoint)], before=(Middleware(SetsContext),))
    await site.get("/", headers={"x-who": "alice"})
    site.clock.advance(20)
    await site.get("/", headers={"x-who": "bob"})
    await site.idle()
    assert seen == ["alice", "nobody"]


async def test_head_is_answered_from_what_get_stored():
    counted = Counted()
    site = Site([counted.route()])
    await site.get("/")
    head = await site.get("/", method="HEAD")
    assert head.hit and head.status == 200 and head.body == b""
    assert head.header("content-length") == "1"
    assert counted.calls == 1


async def test_a_client_that_has_it_already_gets_a_304():
    counted = Counted({**FRESH, "etag": '"v1"', "last-modified": "Tue, 14 Nov 2023 22:00:00 GMT"})
    site = Site([counted.route()])
    cold = await site.get("/", headers={"if-none-match": '"v1"'})
    assert cold.status == 304 and cold.body == b""
    for headers in (
        {"if-none-match": '"v0", W/"v1"'},
        {"if-none-match": "*"},
        {"if-modified-since": "Tue, 14 Nov 2023 22:00:00 GMT"},
    ):
        call = await site.get("/", headers=headers)
        assert call.status == 304 and call.body == b"" and call.header("etag") == '"v1"'
        assert call.header("content-length") is None
    for headers in (
        {"if-none-match": '"v2"'},
        {"if-none-match": '"v2"', "if-modified-since": "Tue, 14 Nov 2023 22:00:00 GMT"},
        {"if-modified-since": "Tue, 14 Nov 2023 21:00:00 GMT"},
    ):
        call = await site.get("/", headers=headers)
        assert call.status == 200 and call.body == b"1"
    assert counted.calls == 1


async def test_a_redirect_is_cached_by_its_own_directives():
    site = Site([Route("/", lambda request: RedirectResponse("/x", 301, headers=FRESH))])
    await site.get("/")
    hit = await site.get("/")
    assert hit.hit and hit.status == 301 and hit.header("location") == "/x"


async def test_json_round_trips():
    site = Site([Route("/", lambda request: JSONResponse({"a": [1, 2]}, headers=FRESH))])
    for _ in range(2):
        call = await site.get("/")
        assert json.loads(call.body) == {"a": [1, 2]}
        assert call.all("content-type") == ["application/json"]


async def test_the_scope_the_server_made_is_not_changed_for_outer_middleware():
    """What an outer middleware reads after the call: method, path and header lines as they came."""
    world = World()
    scope = scope_of("/", headers={"if-none-match": '"x"'})
    before = {key: scope[key] for key in ("method", "path", "headers", "extensions")}
    copies = {
        key: list(value) if isinstance(value, list) else value for key, value in before.items()
    }
    await Call(world.app, scope).done()
    assert {key: scope[key] for key in copies} == copies


async def test_is_disconnected_does_not_disturb_a_shared_fetch():
    async def endpoint(request: Request) -> Response:
        gone = await request.is_disconnected()
        return PlainTextResponse(f"{gone}", headers=FRESH)

    site = Site([Route("/", endpoint)])
    assert (await site.get("/")).body == b"False"


async def test_a_request_body_read_in_a_get_handler_is_empty_and_ends():
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(repr(await request.body()), headers=FRESH)

    site = Site([Route("/", endpoint)])
    assert (await site.get("/")).body == b"b''"
