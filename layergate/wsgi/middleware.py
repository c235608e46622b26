"""The WSGI middleware (PEP 3333): from environs and iterables to the engine, and back.

The app runs on the thread of the request that leads: thread-locals, Flask's ``g`` and database
sessions work as without a cache. The response passes through this thread to its own server, chunk
by chunk, and into the `Exchange`, where followers in other threads read along.

So, other than under ASGI, a fetch that is streamed is as fast as the leader's server takes it, which
matters only for bodies in several parts and for clients slower than the server's buffers. What would
follow from a leader that leaves does not: when its server closes the response before its end, the
rest is fetched on the same thread, for those who follow and for the store (see `_Fetch.close`).

WSGI servers send a head with the first non-empty part of the body, and until then the app may
replace it (``exc_info``). So the head is final only then; an app that fails before is answered with
a stale response if there is one, or followers lead. What is certainly not shareable is let go as
soon as its head is known.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import http
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from types import CoroutineType
from typing import Any, Final, Self, TypeAlias, overload

from layergate.assembly import HttpCache, wrong_world
from layergate.core.entry import Entry
from layergate.core.invalidation import PurgeReceipt
from layergate.errors import ConfigError, OriginAborted, OriginUnreachable
from layergate.frameworks import KEY
from layergate.http.admin import MAX_BODY, AdminEndpoint
from layergate.http.engine.cache import Follow, Pass, Serve
from layergate.http.engine.exchange import Exchange, Reader, Relay, State
from layergate.http.message.fields import Fields, Line, Lines
from layergate.http.message.ranges import Slices
from layergate.http.message.request import Request
from layergate.http.message.stored import Served
from layergate.http.privacy.identity import Says, names_who
from layergate.http.rfc9111.invalidation import SAFE_METHODS
from layergate.http.rfc9111.storing import Refused
from layergate.http.rules import Match
from layergate.routes import RouteCall, policy_place, refuse_circle
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.wsgi.environ import (
    WHO,
    Arrived,
    Environ,
    asked_request,
    carry,
    fields_of,
    forward_environ,
    has_token,
    is_personal,
    key_of,
    note_back,
    read_request,
    refresh_environ,
    route_path,
    target_uri,
)
from layergate.wsgi.heads import Texts
from layergate.wsgi.heads import head as _head
from layergate.wsgi.heads import raised as _raised
from layergate.wsgi.heads import texts as _texts
from layergate.wsgi.posting import Post

__all__ = ["LayerGate"]

Body: TypeAlias = Iterable[bytes]
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
App: TypeAlias = Callable[[Environ, StartResponse], Body]

_logger = logging.getLogger("layergate")

_READS: Final = frozenset({"GET", "HEAD"})
_MAX_TRIES: Final = 3
_MAX_TEXTS: Final = 8192
_LOOK_UP: Final = 5.0  # seconds between two looks of a waiting reader at how things are
_LINGER: Final = 1.0  # seconds that the thread of a client that left may fetch on for nobody else
_STATUS: Final = {status.value: f"{status.value} {status.phrase}" for status in http.HTTPStatus}
# PEP 3333 ("Other HTTP Features"): these are the server's to send, an application must not.
_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
})  # fmt: skip


class _Next(enum.Enum):
    """How a request goes on that has waited for, or led, an exchange."""

    AGAIN = enum.auto()  # decide anew
    ALONE = enum.auto()  # decide anew, and wait for nobody
    LATE = enum.auto()  # so too, for the wait was too long
    FRESH = enum.auto()  # decide anew, without what is stored


class LayerGate:
    """Response cache for a WSGI application::

        app.wsgi_app = LayerGate(app.wsgi_app)             # Flask
        application = LayerGate(get_wsgi_application())    # Django

    ``app``: the application. ``cache``: an `HttpCache` made with ``runtime=ThreadRuntime()``, to
    share between applications; otherwise one is made from ``options``, which are those of
    `HttpCache`. ``origin_timeout`` holds for requests that follow: the thread of the one that leads
    is busy with the app.

    Raises ConfigError, when it is made, for an option that cannot work.
    """

    world: Final = "WSGI"

    # (Starlette gives the app by position, Litestar by its name.)
    @overload
    def __init__(self, app: App, /, cache: HttpCache | None = None, **options: Any) -> None: ...
    @overload
    def __init__(self, *, app: App, cache: HttpCache | None = None, **options: Any) -> None: ...
    def __init__(  # type: ignore[misc]  # (no option is named app)
        self, app: App, cache: HttpCache | None = None, **options: Any
    ) -> None:
        self.app = app
        self.cache = cache = HttpCache.given(app, cache, options, ThreadRuntime)
        assert isinstance(cache.runtime, ThreadRuntime)
        self._runtime = cache.runtime
        self._peek = cache.first_look
        cache.adapted(self._adapt)

    def _adapt(self) -> None:
        """Take from the options what each request needs."""
        cache, options = self.cache, self.cache.options
        self._admin = None if options.admin is None else AdminEndpoint(cache, options.admin)
        self._obey = options.request_directives
        self._method_lines = _texts(cache.pass_lines(Refused.METHOD, "method"))
        self._rule_lines = _texts(cache.pass_lines(Refused.RULE, "bypass"))
        self._hidden = frozenset(name.decode("latin-1") for name in cache.internal_fields)
        self._longest = options.max_key_length
        self._has_rules = len(cache.rules) > 0
        self._bypasses = cache.rules.bypasses or None

    def __call__(
        self, environ: Environ, start_response: StartResponse, _send: object = None
    ) -> Body:
        if _send is not None:
            raise ConfigError(
                "layergate.wsgi.LayerGate is a WSGI application, and an ASGI server calls it; serve it with a"
                " WSGI server, or an ASGI application with: from layergate import LayerGate"
            )
        method = environ["REQUEST_METHOD"]
        admin = self._admin  # read once: it may be replaced
        if admin is not None and (
            admin.serves(route_path(environ)) or (method == "PURGE" and admin.purge_method)
        ):
            return self._administer(admin, environ, start_response)
        if method not in _READS:
            if method in SAFE_METHODS:
                return self._passing(environ, start_response, self._method_lines)
            if method == "POST":
                return self._post(environ, start_response)
            return self._call(environ, self._after_unsafe(environ, start_response))
        bypasses = self._bypasses
        if bypasses is not None and bypasses.cover(route_path(environ), self._longest):
            self.cache.stack.counters.bypassed += 1
            return self._passing(environ, start_response, self._rule_lines)
        fields = fields_of(environ)
        key = key_of(environ, fields)
        personal = False
        if WHO in fields:
            del fields[WHO]
            personal = is_personal(environ)
        hit: Any = None if personal else self._peek(key, fields)
        if hit.__class__ is tuple:
            stored, lines = hit
            start_response(
                _STATUS.get(stored.status) or _status(stored.status),
                [_text[line] for line in lines],
            )
            return [stored.body] if method == "GET" else []
        if hit is None and not personal and names_who(fields) is not Says.NOTHING:
            hit = self.cache.cookie_marker(key, fields)
        elif (
            hit is None
            and self.cache.only_authorized(key, fields)
            and len(environ.get("PATH_INFO", "")) <= self._longest
        ):
            hit = Refused.AUTHORIZATION
        if hit is not None and method == "GET":
            return self._unshared(environ, start_response, fields, key)
        return self._answer(environ, start_response, fields, key)

    def purge(self, **what: Any) -> PurgeReceipt:
        """As `HttpCache.purge`, blocking."""
        return run_blocking(self.cache.purge(**what))

    def close(self) -> None:
        """Wait for background work, at most ``shutdown_timeout`` seconds. Nothing requires it."""
        run_blocking(self.cache.aclose())

    # -- deciding ------------------------------------------------------------------------------

    def _answer(
        self,
        environ: Environ,
        start_response: StartResponse,
        fields: dict[bytes, bytes],
        key: bytes,
    ) -> Body:
        self._begin(environ)  # before it waits for itself
        request = read_request(environ, fields, key, obey_directives=self._obey)
        try:
            return self._decide(environ, start_response, request)
        finally:
            self.cache.answered(request)

    def _decide(self, environ: Environ, start_response: StartResponse, request: Request) -> Body:
        alone = fresh = late = False
        tries = 0
        arrived = Arrived(environ)
        while True:
            answer = run_blocking(self.cache.open(request, alone=alone, fresh=fresh, late=late))
            if isinstance(answer, Serve):
                body = send(start_response, answer.response)
                if answer.refresh is not None:
                    return self._refresh(environ, answer.refresh, body)
                return body
            if isinstance(answer, Pass):
                return self._passing(environ, start_response, _texts(answer.lines))
            outcome: Body | _Next
            if isinstance(answer, Follow):
                outcome = self._follow(answer.exchange, request, start_response)
            else:
                outcome = self._lead(environ, start_response, answer.exchange)
            if not isinstance(outcome, _Next):
                return outcome
            tries += 1
            fresh = outcome is _Next.FRESH
            if fresh:  # the app is called once more, and told again what the server told it
                arrived.restore()
            # Each turn waited for somebody else's fetch; enough of that.
            late = outcome is _Next.LATE
            alone = late or outcome is _Next.ALONE or tries >= _MAX_TRIES

    def _refresh(self, environ: Environ, exchange: Exchange, body: Body) -> Body:
        """Refresh in the background, or else on this thread once ``body`` has been sent."""
        self.cache.refreshing(1)

        def over(_: object) -> None:
            exchange.abort()  # does nothing, unless the work never began
            self.cache.refreshing(-1)

        async def work() -> None:
            fetch.refresh()

        fetch = _Fetch(self, refresh_environ(environ, exchange.request_lines()), exchange)
        if not self._runtime.background():
            return _Afterwards(body, fetch, over)
        try:
            job = self._runtime.spawn(work(), name="layergate refresh")
        except RuntimeError as error:  # no thread to be had: not this request's concern
            self.cache.stack.counters.on(
                "refresh_skipped", request=exchange.request, reason="no thread", error=error
            )
            over(None)
        else:
            job.add_done_callback(over)
        return body

    # -- following -----------------------------------------------------------------------------

    def _follow(
        self, exchange: Exchange, request: Request, start_response: StartResponse
    ) -> Body | _Next:
        cache = self.cache
        counters = cache.stack.counters
        stale = exchange.entry
        limit = float(cache.options.collapse_timeout)  # type: ignore[arg-type]
        patience = self._patience(request, stale)
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(exchange.reader(request))
            with cache.following(request, exchange):
                state = run_blocking(
                    reader.state(limit if patience is None else min(limit, patience))
                )
            if state is State.PENDING:
                if stale is not None and self._patience(request, stale) is not None:
                    counters.on("stale", request=request, reason="origin-timeout")
                    served = cache.stale(exchange, request, stale, follower=True)
                    return send(start_response, served)
                counters.on("wait_timeout", request=request)
                return _Next.LATE
            if state is State.RELEASED:
                spared = cache.spoke_of_one(exchange, request)
                return _Next.AGAIN if spared else _Next.ALONE
            if exchange.gave_up:
                return _Next.LATE
            if state is State.FAILED or reader.late or not reader.usable():
                return _Next.AGAIN
            if state is State.ANSWERED:
                answered = cache.answer(exchange, request, follower=True)
                if answered is None:
                    return _Next.ALONE
                counters.on("collapsed", request=request)
                return send(start_response, answered)
            counters.on("collapsed", request=request)
            head = cache.streamed(exchange, request)
            if head.status == 304 or request.method == "HEAD":
                return send(start_response, head)
            whole = reader.rest() if exchange.ended else None
            if whole is not None:
                return send(start_response, head._replace(body=whole))
            start_response(_status(head.status), _texts(head.lines))
            stack.pop_all()
            return _Along(reader)

    def _patience(self, request: Request, stale: Entry | None) -> float | None:
        """How long to wait for the origin when a stale response may be sent instead, seconds."""
        limit = self.cache.options.origin_timeout
        if limit is None or stale is None or not self.cache.stale_if_error(request, stale):
            return None
        return float(limit)  # type: ignore[arg-type]

    # -- leading -------------------------------------------------------------------------------

    def _lead(
        self, environ: Environ, start_response: StartResponse, exchange: Exchange
    ) -> Body | _Next:
        try:
            inner = forward_environ(environ, exchange.request_lines(), _File)
            fetch = _Fetch(self, inner, exchange, start_response, environ)
        except BaseException as error:
            exchange.abort(error)
            raise
        return fetch.respond()

    def _unshared(
        self,
        environ: Environ,
        start_response: StartResponse,
        fields: dict[bytes, bytes],
        key: bytes,
    ) -> Body:
        """A request for what is known not to be shareable: forwarded at once.

        Only if the response looks as if that has changed, an exchange is made after all.
        """
        cache = self.cache
        match = None
        if self._has_rules:  # (what is marked is stored, so its path is not too long)
            match = cache.rules.match(route_path(environ), fields.get(b"host", b""))
        stamp, began = cache.stack.invalidations.position, cache.stack.runtime.now()

        asked = dict(environ)  # as it is now: what the app notes in its own is noted in ours

        def look_closer() -> Exchange:
            request = read_request(asked, fields, key, obey_directives=self._obey)
            return run_blocking(cache.late(request, match, stamp=stamp, request_time=began))

        def quick(lines: Lines) -> Lines | None:
            return cache.unshared(
                match,
                lines,
                cookie=names_who(fields) is not Says.NOTHING,
                authorization=b"authorization" in fields,
            )

        inner = forward_environ(environ, list(fields.items()), _File)
        fetch = _Fetch(self, inner, None, start_response, environ)
        fetch.quick, fetch.look_closer = quick, look_closer
        body = fetch.respond()
        assert not isinstance(body, _Next)  # (only with something stored)
        return body

    # -- other methods -------------------------------------------------------------------------

    def _passing(self, environ: Environ, start_response: StartResponse, lines: Texts) -> Body:
        """Forward untouched, but for adding ``lines`` to the head and hiding tags."""
        hidden = self._hidden
        if not lines and not hidden:
            return self._call(environ, start_response)

        def adding(status: str, headers: Texts, exc_info: Any = None) -> Write:
            shown = [line for line in headers if line[0].lower() not in hidden]
            return start_response(status, shown + lines, *_raised(exc_info))

        return self._call(environ, adding)

    def _begin(self, environ: Environ) -> RouteCall:
        """A call of the app. Raises GateRecursion if it is part of the same call."""
        target = (
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO"),
            environ.get("SCRIPT_NAME"),
            environ.get("QUERY_STRING"),
        )
        outer = environ.get(KEY)
        if outer is not None:
            outer.refuse(self.cache, target)
        return RouteCall(self.cache, target, outer)

    def _call(self, environ: Environ, start_response: StartResponse) -> Body:
        """Call the app for a request that is none of our business. Nothing is put into its environ, so a
        recursion shows only by its depth."""
        try:
            body: Any = self.app(environ, start_response)
        except RecursionError as error:
            refuse_circle(self, error)
            raise
        return self._checked(body) if body.__class__ is CoroutineType else body

    def _ask(self, environ: Environ, start_response: StartResponse) -> Body:
        """The app's own iterable."""
        return self._checked(self.app(environ, start_response))

    def _checked(self, body: Any) -> Body:
        """Raises ConfigError for what an ASGI application gives in place of an iterable."""
        if body.__class__ is CoroutineType:
            body.close()
            raise ConfigError(wrong_world(self.app, "ASGI"))
        return body  # type: ignore[no-any-return]

    def _post(self, environ: Environ, start_response: StartResponse) -> Body:
        """A POST: as other unsafe methods, but what answers it may answer a GET too."""
        asked = dict(environ)  # as it is now: the app may change its own
        fields = fields_of(asked)

        route = environ[KEY] = self._begin(environ)

        def read() -> Request:
            request = read_request(asked, fields, key_of(asked, fields), obey_directives=self._obey)
            request.mark_personal(is_personal(environ))
            request.secured = route.secured(environ, "POST", request.path)
            return request

        target = target_uri(asked, fields)
        post = Post(
            self.cache,
            start_response,
            target,
            read,
            self._method_lines,
            self._hidden,
            environ,
            route,
        )
        place = policy_place.set(route)
        try:
            return post.body(self._ask(environ, post.start_response))
        except BaseException as error:
            post.abort(error)
            raise
        finally:
            policy_place.reset(place)
            route.returned()

    def _after_unsafe(self, environ: Environ, start_response: StartResponse) -> StartResponse:
        """Watch the response to an unsafe method (RFC 9111 4.4)."""
        cache, hidden = self.cache, self._hidden
        # (now, since the app may change its environ)
        method = environ["REQUEST_METHOD"]
        uri = target_uri(environ, fields_of(environ))

        def after(status: str, headers: Texts, exc_info: Any = None) -> Write:
            code, lines = _head(status, headers)
            if lines is not None:
                # Before the client hears of its success: what it reads next is the new state.
                run_blocking(cache.after_unsafe(uri, method, code, lines))
            shown = [line for line in headers if line[0].lower() not in hidden]
            return start_response(status, shown + self._method_lines, *_raised(exc_info))

        return after

    def _administer(
        self, admin: AdminEndpoint, environ: Environ, start_response: StartResponse
    ) -> Body:
        fields = fields_of(environ)
        method = environ["REQUEST_METHOD"]
        parsed = Fields(line for line in fields.items() if line[0] != WHO)
        served = admin.refuse(parsed, environ.get("REMOTE_ADDR"))
        if served is None and method == "PURGE":
            served = run_blocking(admin.purge_url(target_uri(environ, fields), parsed))
        elif served is None:
            body = _content(environ)
            if body is None:
                served = Served(413, [(b"content-length", b"0")], b"")
            else:
                read = functools.partial(asked_request, environ, obey_directives=self._obey)
                served = run_blocking(admin.handle(method, route_path(environ), body, read))
        return send(start_response, served)


class _File:
    """A file that the app hands to the server (PEP 3333, "Optional Platform-Specific File
    Handling"). Given to the server's own wrapper unless its bytes are to be stored."""

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        while data := self.file.read(self.block_size):
            yield data


class _Fetch:
    """One call of the app, and what becomes of its response.

    ``exchange`` is None when it is known that the response is not shareable; then ``quick`` says
    what to add to its head, or None for making an exchange after all, with ``look_closer``.
    ``start``: the server's ``start_response``; None in the background, where nobody listens.
    """

    __slots__ = (
        "_ahead",
        "_app_closed",
        "_carried",
        "_error",
        "_expected",
        "_gate",
        "_head",
        "_inner",
        "_iterable",
        "_iterator",
        "_muted",
        "_outer",
        "_over",
        "_reader",
        "_received",
        "_relay",
        "_slowest",
        "_start",
        "_tail",
        "_tokens",
        "_write",
        "exchange",
        "look_closer",
        "quick",
        "route",
    )

    def __init__(
        self,
        gate: LayerGate,
        inner: Environ,
        exchange: Exchange | None,
        start: StartResponse | None = None,
        outer: Environ | None = None,
    ) -> None:
        self._gate = gate
        self._inner = inner
        self._outer = outer
        self._start = start
        self.exchange = exchange
        self.quick: Callable[[Lines], Lines | None] | None = None
        self.look_closer: Callable[[], Exchange] | None = None
        self.route = inner[KEY] = gate._begin(inner)
        self._carried: Collection[str] = ()
        self._head: tuple[str, Texts, tuple[Any, ...]] | None = None
        self._relay: Relay | None = None  # known once the head is final
        self._write: Write | None = None
        self._iterable: Body | None = None
        self._iterator: Iterator[bytes] | None = None
        self._ahead: deque[bytes] = deque()  # fed already, not yet handed to the server
        self._tail = b""  # for the client alone, after the app's body: see `Exchange.around`
        self._expected: int | None = None
        self._received = 0
        self._slowest = 0.0  # the longest that the app took for a part, seconds
        self._muted = False  # the client has been told all it needs
        self._over = False
        self._app_closed = False
        self._error: Exception | None = None
        self._reader: Reader | None = None
        # (no method of ours: what refers to the exchange must not be referred to by it)
        self._tokens = functools.partial(_has_token, inner, before=has_token(inner))
        if exchange is not None:
            exchange.tokens = self._tokens
        if exchange is not None and not exchange.solo and start is not None:
            # The leader counts as a reader: it holds on to the body, and it is one of several when
            # somebody else is slow.
            self._reader = exchange.reader(exchange.request)

    # -- the app's side ------------------------------------------------------------------------

    def start_response(self, status: str, headers: Texts, exc_info: Any = None) -> Write:
        """What the app gets as ``start_response``."""
        raised = _raised(exc_info)
        if self._relay is None:
            if self._head is not None and exc_info is None:
                raise AssertionError("start_response was called twice without exc_info")
            self._head = (status, list(headers), raised)
            self.route.look()  # while a framework still knows its request
            return self.write
        # The head has been used: what was taken for the response is not what it ends with.
        if exc_info is None:
            raise AssertionError("start_response was called after the body had begun")
        self._abort(exc_info[1])
        if self._start is None or self._relay is Relay.SWALLOW:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: no circular reference through this frame
        self._relay = Relay.PASS
        shown = [line for line in headers if line[0].lower() not in self._gate._hidden]
        # Raises exc_info if the head is on its way to the client.
        self._write = self._start(status, shown, *raised)
        return self.write

    def write(self, data: bytes) -> None:
        """The callable for apps that push their body instead of returning it."""
        if not data:
            return
        if self._relay is None:
            self._commit(data)
        data = self._feed(data)
        waits = contextlib.nullcontext() if self.exchange is None else self.exchange.at_client()
        with waits:
            while self._ahead and self._write is not None and not self._muted:
                self._write(self._ahead.popleft())
            if self._write is not None and self._relay is not Relay.SWALLOW and not self._muted:
                self._write(data)
        self._room()

    # -- running -------------------------------------------------------------------------------

    def respond(self) -> Body | _Next:
        """Call the app, and answer the client with what it, or the store, says."""
        try:
            self._run()
        except Exception as error:
            if not self._instead(error):
                raise
        except BaseException as error:
            self._abort(error)
            self._close_app()
            raise
        exchange = self.exchange
        if self._relay is Relay.SWALLOW or (exchange and exchange.state is State.ANSWERED):
            return self._answered()
        assert self._iterable is not None
        if self._relay is Relay.PASS and self._iterator is None:
            return self._untouched(self._iterable)
        if self._over and self._error is None and not self._muted:
            return _Whole([*self._ahead, self._tail] if self._tail else self._ahead, self)
        return _Body(self)

    def refresh(self) -> None:
        """Call the app for the store alone. Never raises an Exception."""
        exchange = self.exchange
        assert exchange is not None
        if not run_blocking(self._gate.cache.may_refresh(exchange)):
            exchange.abort()
            return
        try:
            self._run()
            if self._relay is not Relay.PASS:
                limit = time.monotonic() + float(self._gate.cache.options.abandoned_timeout)  # type: ignore[arg-type]
                while self._relay is not Relay.SWALLOW and self._advance() is not None:
                    if exchange.abandoned and (exchange.oversized or time.monotonic() > limit):
                        break
        except Exception as error:
            if not self._instead(error):
                _logger.exception("a background refresh failed")
        finally:
            self._close_app()
            if exchange.state is State.ANSWERED and not exchange.ended:
                run_blocking(exchange.finish())
            exchange.abort()

    def _run(self) -> None:
        """Call the app and go on until the head of its response is final."""
        if self.exchange is None:
            self._call()
        else:
            self._carried = carry(self._inner, self.exchange.span.carry())
            with self.exchange.calling():
                self._call()

    def _call(self) -> None:
        gate = self._gate
        place = policy_place.set(self.route)
        try:
            iterable = self._iterable = gate._ask(self._inner, self.start_response)
            if self._outer is not None:
                note_back(self._inner, self._outer, self._carried)
            if self._relay is None and self._head is not None and self._hopeless():
                self._commit()
            if self._relay is Relay.PASS or self._relay is Relay.SWALLOW:
                return
            # A list holds all of the body already: followers need not wait for our client's sake.
            whole = type(iterable) in (list, tuple)
            self._iterator = iter(iterable)
            while (chunk := self._advance()) is not None:
                self._ahead.append(chunk)
                if not whole or self._relay in (Relay.PASS, Relay.SWALLOW):
                    break
        finally:
            policy_place.reset(place)
            self.route.returned()

    def _hopeless(self) -> bool:
        """Is the response certainly of no use to anybody else, as far as its head tells?"""
        if self.exchange is None:
            return True
        assert self._head is not None
        status, headers, _ = self._head
        code, lines = _head(status, headers)
        return lines is None or self.exchange.refuses(code, lines, route=self._policy(code))

    def _policy(self, status: int) -> Match | None:
        """What the route that has answered with ``status`` says; and note if it asks who is calling."""
        request = self.exchange.request if self.exchange is not None else None
        if request is None:
            return self.route.policy(self._inner, "GET", status)
        # (by the path that was asked for: the app may have changed it)
        request.secured |= self.route.secured(self._inner, request.method, request.path)
        return self.route.policy(self._inner, request.method, status)

    def _commit(self, first: bytes | None = None) -> None:
        """The head is final: tell the exchange, and the client if it is to have this response.

        ``first``: the first part of the body; b"": there is none. None: it has not come, and the head
        is final if the response is certainly of no use to anybody else.
        """
        if self._head is None:
            raise AssertionError("the app sent a body before it called start_response")
        cache = self._gate.cache
        status, headers, raised = self._head
        self._head = None  # an error in there refers to the app's frame, and that to us
        code, lines = _head(status, headers)
        if lines is None:  # not what PEP 3333 asks for; the server will say so
            self._abort()
            self._relay = Relay.PASS
            if self._start is not None:
                self._write = self._start(status, headers, *raised)
            return
        if self.exchange is None:
            assert self.quick is not None
            assert self.look_closer is not None
            quick = self.quick(lines) if self._policy(code) is None else None
            if quick is not None:
                cache.stack.counters.forwarded += 1
                self._relay = Relay.PASS
                self._to_server(status, quick, raised)
                return
            self.exchange = self.look_closer()
            self.exchange.tokens = self._tokens
            if first is None and not self.exchange.refuses(code, lines, route=self._policy(code)):
                self._head = status, headers, raised
                return
        exchange = self.exchange
        relay = exchange.head(
            code, lines, route=self._policy(code), personal=is_personal(self._inner)
        )
        if not exchange.opened and relay is not Relay.SWALLOW:
            whole = self._whole(first or b"")
            relay = exchange.opening(
                first or b"" if whole is None else whole, whole=whole is not None
            )
        self._relay = relay
        self.route.close()
        if cache.stack.peek_is_enough:
            run_blocking(cache.settle(exchange))
        else:
            # Layers that take time to write to shall not take our client's.
            exchange.aside(cache.settle(exchange), "layergate settle")
        if relay is Relay.SWALLOW:
            return
        if exchange.request.method == "HEAD":
            run_blocking(cache.after_head(exchange, code, lines))
        if relay is Relay.SHARE and self._start is not None:
            not_modified = cache.precondition(exchange)
            if not_modified is not None:
                self._muted = True
                self._leave()
                send(self._start, not_modified)
                return
        length = [value for name, value in lines if name == b"content-length"]
        if len(length) == 1 and length[0].isdigit():
            self._expected = int(length[0])
        if exchange.completed is not None:
            status = _status(exchange.completed)
            before, self._tail = exchange.around
            if before:
                self._ahead.append(before)
        self._to_server(status, exchange.client_lines, raised)

    def _whole(self, first: bytes) -> bytes | None:
        """All of the body, if it is at hand; None: it is not."""
        if not first:
            return first
        if type(self._iterable) not in (list, tuple):
            return None
        assert self._iterable is not None
        parts = list(self._iterable)
        return b"".join(parts) if all(isinstance(part, bytes) for part in parts) else None

    def _to_server(self, status: str, lines: Lines, raised: tuple[Any, ...]) -> None:
        if self._start is not None:
            self._write = self._start(status, _texts(lines), *raised)

    def _feed(self, chunk: bytes) -> bytes:
        """Give a part of the body to the exchange."""
        if self._relay is Relay.SHARE or self._relay is Relay.TEE:
            if not isinstance(chunk, bytes):
                if not isinstance(chunk, bytearray | memoryview):
                    raise TypeError(f"the app's body must be of bytes, got {type(chunk).__name__}")
                chunk = bytes(chunk)
            assert self.exchange is not None
            self.exchange.body(chunk)
            if self.exchange.broken:  # it is no longer what was announced to our client
                raise self.exchange.error or OriginAborted("the response broke off")
            self._received += len(chunk)
            if self._reader is not None:
                self._reader.skip()
        return chunk

    def _room(self) -> None:
        """Over the cap, don't run ahead of those who read along."""
        exchange = self.exchange
        if self._relay is Relay.SHARE and exchange is not None and exchange.oversized:
            run_blocking(exchange.room())

    def _advance(self) -> bytes | None:
        """The next part of the app's body, fed to the exchange; None at its end."""
        if self._over:
            if self._error is not None:
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    del error  # its traceback refers to this frame
            return None
        assert self._iterator is not None
        try:
            self._room()
            began = time.monotonic()
            chunk = next((chunk for chunk in self._iterator if chunk), None)
            self._slowest = max(self._slowest, time.monotonic() - began)
            if chunk is None:
                self._finish()
                return None
            if self._relay is None:
                self._commit(chunk)
            chunk = self._feed(chunk)
            if self._expected is not None and self._received == self._expected:
                self._look_ahead()
        except BaseException as error:
            if self._relay is not None:
                self._abort(error)
                self._over = True
            raise
        return chunk

    def _look_ahead(self) -> None:
        """All that was announced is there. If that is all, say so now: whoever waits for the end
        need not wait for our client to take it."""
        assert self._iterator is not None
        try:
            more = next((chunk for chunk in self._iterator if chunk), None)
        except Exception as error:
            self._abort(error)
            self._over = True
            self._error = error  # for the server, after what came before it
            return
        if more is None:
            self._finish()
        else:
            self._iterator = _chained(more, self._iterator)
            self._expected = None

    def _finish(self) -> None:
        """The body is complete."""
        if self._relay is None:
            self._commit(b"")
        self._over = True
        exchange = self.exchange
        if exchange is not None and self._relay in (Relay.SHARE, Relay.TEE):
            run_blocking(exchange.finish())
            if exchange.broken:
                raise exchange.error or OriginAborted("the response broke off")
        self._leave()

    # -- endings -------------------------------------------------------------------------------

    def _instead(self, error: Exception) -> bool:
        """The app failed. True if a stored response answers for it; else the exchange is aborted."""
        exchange = self.exchange
        self._over = True
        if exchange is not None:
            gate = self._gate
            gate.cache.stack.counters.on("fetch_error", request=exchange.request, error=error)
            if self._relay is Relay.SWALLOW or (
                self._relay is None and exchange.answer_error(error)
            ):
                _served_stale(error)
                return True
        self._abort(error)
        self._close_app()
        return False

    def _answered(self) -> Body | _Next:
        """A stored response is the answer; the app's own is dropped."""
        exchange = self.exchange
        assert exchange is not None
        assert self._start is not None
        self._over = True
        self._close_app()
        if exchange.mismatched:
            self._leave()
            return _Next.FRESH
        if not exchange.ended:
            run_blocking(exchange.finish())
        served = self._gate.cache.answer(exchange, exchange.request, follower=False)
        assert served is not None
        self._leave()
        return send(self._start, served)

    def _untouched(self, iterable: Body) -> Body:
        """The app's own iterable: what is not kept, the server gets as if we were not there."""
        self._leave()
        if self.exchange is not None:
            self.exchange.traced()
        if isinstance(iterable, _File):
            assert self._outer is not None
            body: Body = self._outer["wsgi.file_wrapper"](iterable.file, iterable.block_size)
            return body
        return iterable

    def pull(self) -> bytes | None:
        """The next part for the client; None at the end."""
        if self._muted:
            return None
        exchange = self.exchange
        if exchange is not None:
            exchange.goes_on()
        chunk = self._ahead.popleft() if self._ahead else self._advance()
        if chunk is None and self._tail:
            chunk, self._tail = self._tail, b""
        if chunk is not None and exchange is not None:
            exchange.rests()  # until its server comes for more
        return chunk

    def close(self) -> None:
        """The server is done with the response, or gives up on it (PEP 3333).

        In the middle of a shared body, the rest is fetched here, on the app's own thread, for those
        who follow and for the store: as long as somebody follows, and else for a second at most (or
        ``abandoned_timeout``, if that is less), if the app has been quick so far. This thread has
        other requests to answer. Whatever else was not finished is not stored.
        """
        if self.exchange is not None:
            self.exchange.goes_on()
        try:
            if not self._over and self._relay is Relay.SHARE:
                self._leave()
                self._drain()
        finally:
            self._over = True
            self._error = None  # that nobody came for; its traceback refers to us
            self._abort()
            self._close_app()

    def _drain(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        patience = float(self._gate.cache.options.abandoned_timeout)  # type: ignore[arg-type]
        limit = time.monotonic() + min(patience, _LINGER)
        threads = bool(self._inner.get("wsgi.multithread", True))
        try:
            while True:
                if exchange.abandoned or not threads:
                    left = limit - time.monotonic()
                    if exchange.oversized or left <= self._slowest:
                        return
                if self._advance() is None:
                    return
        except Exception:
            # Its own client has what it wanted; those who follow hear of it from the exchange.
            _logger.exception("the app failed; no client was waiting")

    def _abort(self, error: BaseException | None = None) -> None:
        if self.exchange is not None:
            self.exchange.abort(error)  # does nothing when it has ended
        self._leave()

    def _leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.__exit__()

    def _close_app(self) -> None:
        """Call the ``close`` of the app's iterable, once."""
        if self._app_closed:
            return
        self._app_closed = True
        close = getattr(self._iterable, "close", None)
        if close is not None:
            close()


class _Body:
    """A response on its way from the app to its server."""

    __slots__ = ("_fetch",)

    def __init__(self, fetch: _Fetch) -> None:
        self._fetch = fetch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        chunk = self._fetch.pull()
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._fetch.close()


class _Whole(list[bytes]):
    """A complete response. A list, since a server announces the length of one that has one part."""

    __slots__ = ("_fetch",)

    def __init__(self, chunks: Iterable[bytes], fetch: _Fetch) -> None:
        super().__init__(chunks)
        self._fetch = fetch

    def close(self) -> None:
        self._fetch.close()


class _Along:
    """A follower's response: what the leader's fetch brings, as it comes.

    Raises OriginAborted when that breaks off.
    """

    __slots__ = ("_reader",)

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        reader = self._reader
        while True:
            data = reader.take()
            if data:
                return data
            if reader.at_end:
                raise StopIteration
            run_blocking(reader.more(_LOOK_UP))

    def close(self) -> None:
        self._reader.__exit__()


class _Afterwards(list[bytes]):
    """A stale response that is refreshed on its own thread, once it has been sent."""

    __slots__ = ("_fetch", "_over")

    def __init__(self, body: Body, fetch: _Fetch, over: Callable[[object], None]) -> None:
        super().__init__(body)
        self._fetch: _Fetch | None = fetch
        self._over = over

    def close(self) -> None:
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            try:
                fetch.refresh()
            finally:
                self._over(None)


def _has_token(environ: Environ, *, before: bool) -> bool:
    """Has middleware, or the app, made a token for one client? ``before``: it had before the call."""
    return before or has_token(environ, after=True)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def send(start_response: StartResponse, served: Served) -> Body:
    """Answer with a response of our own."""
    lines = [line for line in served.lines if line[0] not in _HOP_BY_HOP]
    start_response(_status(served.status), _texts(lines))
    if isinstance(served.body, Slices):
        return served.body
    return [served.body] if served.body else []


def _served_stale(error: Exception) -> None:
    """Say so. A connection that failed needs no traceback, and may do so for every request."""
    trace = None if isinstance(error, OriginUnreachable) else error
    _logger.warning("the app failed; a stale response was served: %s", error, exc_info=trace)


def _status(status: int) -> str:
    return _STATUS.get(status) or f"{status} Unknown"


class _Text(dict[Line, tuple[str, str]]):
    """Lines as WSGI wants them. Those of the store are the same ones again and again."""

    def __missing__(self, line: Line) -> tuple[str, str]:
        name, value = line
        text = name.decode("latin-1"), value.decode("latin-1")
        if len(name) + len(value) <= 320:
            if len(self) >= _MAX_TEXTS:
                self.clear()
            self[line] = text
        return text


_text: Final = _Text()


def _content(environ: Environ) -> bytes | None:
    """The request's content; None if it is too large, or of unknown length."""
    length: str = environ.get("CONTENT_LENGTH") or ""
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        size = MAX_BODY + 1
    elif not length:
        return b""
    elif length.isdigit() and int(length) <= MAX_BODY:
        size = int(length)
    else:
        return None
    data: bytes = stream.read(size)
    return data if len(data) <= MAX_BODY else None
