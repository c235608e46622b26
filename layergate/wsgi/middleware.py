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
from typing import Any, Final, Self, TypeAlias

from layergate.assembly import HttpCache
from layergate.config import Rule
from layergate.core.entry import Entry
from layergate.core.invalidation import PurgeReceipt
from layergate.errors import OriginAborted, OriginUnreachable
from layergate.http.admin import MAX_BODY, AdminEndpoint
from layergate.http.cache import Follow, Pass, Serve
from layergate.http.exchange import Exchange, Reader, Relay, State
from layergate.http.fields import Fields, Line, Lines
from layergate.http.identity import Says, names_who
from layergate.http.invalidation import SAFE_METHODS
from layergate.http.request import Request
from layergate.http.rules import Match
from layergate.http.stored import Served
from layergate.http.storing import Refused
from layergate.routes import policy_place
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.wsgi.environ import (
    WHO,
    Environ,
    asked_request,
    carry,
    fields_of,
    forward_environ,
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

    def __init__(self, app: App, /, cache: HttpCache | None = None, **options: Any) -> None:
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
        self._hidden = frozenset(name.decode("latin-1") for name in cache.kept_back)
        self._longest = options.max_key_length
        self._has_rules = len(cache.rules) > 0
        self._bypasses = cache.rules.bypasses or None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Body:
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
            return self.app(environ, self._after_unsafe(environ, start_response))
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
        request = read_request(environ, fields, key, obey_directives=self._obey)
        try:
            return self._decide(environ, start_response, request)
        finally:
            self.cache.answered(request)

    def _decide(self, environ: Environ, start_response: StartResponse, request: Request) -> Body:
        alone = fresh = late = False
        tries = 0
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
            # Each turn waited for somebody else's fetch; enough of that.
            late = outcome is _Next.LATE
            alone = late or outcome is _Next.ALONE or tries >= _MAX_TRIES

    def _refresh(self, environ: Environ, exchange: Exchange, body: list[bytes]) -> Body:
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
        limit = float(cache.options.coalesce_timeout)  # type: ignore[arg-type]
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
                return _Next.ALONE
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
            if exchange.ended:
                return send(start_response, head._replace(body=reader.take()))
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
        stamp, began = cache.stack.marks.position, cache.stack.runtime.now()

        def look_closer() -> Exchange:
            request = read_request(environ, fields, key, obey_directives=self._obey)
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
            return self.app(environ, start_response)

        def adding(status: str, headers: Texts, exc_info: Any = None) -> Write:
            shown = [line for line in headers if line[0].lower() not in hidden]
            return start_response(status, shown + lines, *_raised(exc_info))

        return self.app(environ, adding)

    def _post(self, environ: Environ, start_response: StartResponse) -> Body:
        """A POST: as other unsafe methods, but what answers it may answer a GET too."""
        asked = dict(environ)  # as it is now: the app may change its own
        fields = fields_of(asked)

        def read() -> Request:
            request = read_request(asked, fields, key_of(asked, fields), obey_directives=self._obey)
            request.mark_personal(is_personal(environ))
            return request

        target = target_uri(asked, fields)
        post = Post(self.cache, start_response, target, read, self._method_lines, self._hidden)
        place = policy_place.set(post.policy)
        try:
            return post.body(self.app(environ, post.start_response))
        except BaseException as error:
            post.abort(error)
            raise
        finally:
            policy_place.reset(place)

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
        "_start",
        "_tail",
        "_write",
        "exchange",
        "look_closer",
        "policy",
        "quick",
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
        self.policy: dict[str, Any] = {}
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
        self._muted = False  # the client has been told all it needs
        self._over = False
        self._app_closed = False
        self._error: Exception | None = None
        self._reader: Reader | None = None
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
            self._commit()
        data = self._feed(data)
        while self._ahead and self._write is not None and not self._muted:
            self._write(self._ahead.popleft())
        if self._write is not None and self._relay is not Relay.SWALLOW and not self._muted:
            self._write(data)
        self._room()

    def _route(self) -> Match | None:
        rule = self.policy.get("rule")
        if not isinstance(rule, Rule):
            return None
        return Match(rule, self.policy.get("params") or self.policy.get("arguments") or {})

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
        place = policy_place.set(self.policy)
        try:
            iterable = self._iterable = gate.app(self._inner, self.start_response)
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

    def _hopeless(self) -> bool:
        """Is the response certainly of no use to anybody else, as far as its head tells?"""
        if self.exchange is None:
            return True
        assert self._head is not None
        status, headers, _ = self._head
        code, lines = _head(status, headers)
        return lines is None or self.exchange.refuses(code, lines, route=self._route())

    def _commit(self) -> None:
        """The head is final: tell the exchange, and the client if it is to have this response."""
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
            quick = None if self.policy else self.quick(lines)
            if quick is not None:
                cache.stack.counters.forwarded += 1
                self._relay = Relay.PASS
                self._to_server(status, quick, raised)
                return
            self.exchange = self.look_closer()
        exchange = self.exchange
        relay = self._relay = exchange.head(
            code, lines, route=self._route(), personal=is_personal(self._inner)
        )
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
                self._reader.take()
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
            chunk = next((chunk for chunk in self._iterator if chunk), None)
            if chunk is None:
                self._finish()
                return None
            if self._relay is None:
                self._commit()
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
            self._commit()
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
        if self._ahead:
            return self._ahead.popleft()
        chunk = self._advance()
        if chunk is None and self._tail:
            chunk, self._tail = self._tail, b""
        return chunk

    def close(self) -> None:
        """The server is done with the response, or gives up on it (PEP 3333).

        In the middle of a shared body, the rest is fetched here, on the app's own thread, for those
        who follow and for the store: as long as somebody follows, and else ``abandoned_timeout``
        seconds at most. Whatever else was not finished is not stored.
        """
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
        limit = time.monotonic() + float(self._gate.cache.options.abandoned_timeout)  # type: ignore[arg-type]
        try:
            while self._advance() is not None:
                if exchange.abandoned and (exchange.oversized or time.monotonic() > limit):
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

    def __init__(self, body: list[bytes], fetch: _Fetch, over: Callable[[object], None]) -> None:
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


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def send(start_response: StartResponse, served: Served) -> list[bytes]:
    """Answer with a response of our own."""
    lines = [line for line in served.lines if line[0] not in _HOP_BY_HOP]
    start_response(_status(served.status), _texts(lines))
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
        if len(value) <= 256:
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
