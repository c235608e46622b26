"""The WSGI middleware (PEP 3333): from environs and iterables to the engine, and back.

`LayerGate.__call__` is the hit path: it answers a plain hit, and passes on at once what the cache has no
part in. Everything else goes to `driver.Conversation`, which decides, and to a `fetch.Fetch`, which calls
the app. Both run on the thread of the request: the engine's coroutines never suspend here
(`run_blocking`).
"""

from __future__ import annotations

import functools
from typing import Any, Final, overload

from layergate.assembly import HttpCache
from layergate.core.invalidation import PurgeReceipt
from layergate.errors import ConfigError
from layergate.http.admin import MAX_BODY, AdminEndpoint
from layergate.http.engine import driver
from layergate.http.engine.driver import Conversation, Forward, Serve, Stream
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.posting import after_post, begin
from layergate.http.engine.uncacheable import KnownUnshareable
from layergate.http.message.credentials import Credential, strongest_credential
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.request import Request
from layergate.http.message.stored import Served
from layergate.http.rfc9111.invalidation import SAFE_METHODS
from layergate.http.rfc9111.storing import Bypass, NotStored
from layergate.route_calls import RouteCall, refuse_circle
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi.bodies import Afterwards, Along, File
from layergate.wsgi.calling import ask, refuse_recursion
from layergate.wsgi.environ import (
    USER_VARIABLE,
    Arrived,
    Environ,
    asked_request,
    fields_of,
    forward_environ,
    is_personal,
    key_of,
    read_request,
    refresh_environ,
    route_path,
    target_uri,
)
from layergate.wsgi.fetch import Fetch
from layergate.wsgi.heads import (
    STATUSES,
    TEXT,
    App,
    Body,
    StartResponse,
    Texts,
    Write,
    head_of,
    raised,
    send_response,
    status_line,
    texts,
)

__all__ = ["LayerGate"]

_READS: Final = frozenset({"GET", "HEAD"})


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
        cache.on_reload(self._adapt)

    def _adapt(self) -> None:
        """Take from the options what each request needs."""
        cache, options = self.cache, self.cache.options
        self._admin = None if options.admin is None else AdminEndpoint(cache, options.admin)
        self._obey = options.request_directives
        self._method_lines = texts(cache.bypass_lines(Bypass.METHOD, "method"))
        self._rule_lines = texts(cache.bypass_lines(Bypass.RULE, "bypass"))
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
        if USER_VARIABLE in fields:
            del fields[USER_VARIABLE]
            personal = is_personal(environ)
        hit: Any = None if personal else self._peek(key, fields)
        if hit.__class__ is tuple:
            stored, lines = hit
            start_response(
                STATUSES.get(stored.status) or status_line(stored.status),
                [TEXT[line] for line in lines],
            )
            return [stored.body] if method == "GET" else []
        if hit is None and not personal and strongest_credential(fields) is not Credential.NONE:
            hit = self.cache.cookie_hit_for_miss(key, fields)
        elif (
            hit is None
            and self.cache.is_for_one_user(key, fields)
            and len(environ.get("PATH_INFO", "")) <= self._longest
        ):
            hit = NotStored.AUTHORIZATION
        if hit is not None and method == "GET":
            return self._unshared(environ, start_response, fields, key)
        return self._answer(environ, start_response, fields, key)

    def purge(self, **what: Any) -> PurgeReceipt:
        """As `HttpCache.purge`, blocking."""
        return run_blocking(self.cache.purge(**what))

    def close(self) -> None:
        """Wait for background work, at most ``shutdown_timeout`` seconds. Nothing requires it."""
        run_blocking(self.cache.aclose())

    # -- everything that is no plain hit -------------------------------------------------------

    def _answer(
        self,
        environ: Environ,
        start_response: StartResponse,
        fields: dict[bytes, bytes],
        key: bytes,
    ) -> Body:
        refuse_recursion(self.cache, environ)  # before the request waits for itself
        request = read_request(environ, fields, key, obey_directives=self._obey)
        conversation = Conversation(self.cache, request)
        try:
            return self._converse(conversation, environ, start_response)
        finally:
            conversation.over()

    def _converse(
        self, conversation: Conversation, environ: Environ, start_response: StartResponse
    ) -> Body:
        step = run_blocking(conversation.next())
        while isinstance(step, driver.Fetch):
            arrived = Arrived(environ) if step.repeatable else None
            led = self._lead(environ, start_response, step.exchange)
            if led is not None:
                return led
            assert arrived is not None
            arrived.restore()  # the app is called again, and told again what the server told it
            step = run_blocking(conversation.again())
        if isinstance(step, Serve):
            body = send_response(start_response, step.response)
            return body if step.refresh is None else self._refresh(environ, step.refresh, body)
        if isinstance(step, Forward):
            return self._passing(environ, start_response, texts(step.lines))
        return _along(start_response, step)

    def _lead(
        self, environ: Environ, start_response: StartResponse, exchange: Exchange
    ) -> Body | None:
        """Make a fetch and answer the client. As `Fetch.respond`."""
        try:
            inner = forward_environ(environ, exchange.asked.header_lines(), File)
            fetch = Fetch(self.app, self.cache, inner, exchange, start_response, outer=environ)
        except BaseException as error:
            driver.withdraw(self.cache, exchange, error)
            raise
        return fetch.respond()

    def _refresh(self, environ: Environ, exchange: Exchange, body: Body) -> Body:
        """Refresh in the background, or else on this thread once ``body`` has been sent."""
        driver.refreshing(self.cache, 1)

        def over(_: object) -> None:
            driver.withdraw(self.cache, exchange)  # does nothing, unless the work never began
            driver.refreshing(self.cache, -1)

        inner = refresh_environ(environ, exchange.asked.header_lines())
        fetch = Fetch(self.app, self.cache, inner, exchange, None)

        def refresh_here() -> None:
            try:
                fetch.refresh()
            finally:
                over(None)

        async def refresh() -> None:
            fetch.refresh()

        if not self._runtime.background():
            return Afterwards(body, refresh_here)
        try:
            job = self._runtime.spawn(refresh(), name="layergate refresh")
        except RuntimeError as error:  # no thread can be started: not the concern of this request
            self.cache.stack.counters.on(
                "refresh_skipped", request=exchange.request, reason="no thread", error=error
            )
            over(None)
        else:
            job.add_done_callback(over)
        return body

    # -- forwarded at once ---------------------------------------------------------------------

    def _unshared(
        self,
        environ: Environ,
        start_response: StartResponse,
        fields: dict[bytes, bytes],
        key: bytes,
    ) -> Body:
        """A request for a target that is known not to be shareable."""
        cache = self.cache
        match = None
        if self._has_rules:  # (what is marked is stored, so its path is not too long)
            match = cache.rules.match(route_path(environ), fields.get(b"host", b""))
        known = KnownUnshareable(cache, match, fields)
        asked = dict(environ)  # as it is now: what the app notes in its own is noted in ours

        def judge(
            route: RouteCall, code: int, lines: Lines | None, headers: Texts
        ) -> Exchange | Texts:
            if lines is None:  # no head; the server will say so
                return headers
            told = known.head(code, lines) if route.policy(inner, "GET", code) is None else None
            if told is not None:
                return texts(told)
            request = read_request(asked, fields, key, obey_directives=self._obey)
            return run_blocking(known.exchange(request))

        inner = forward_environ(environ, list(fields.items()), File)
        fetch = Fetch(self.app, cache, inner, None, start_response, outer=environ, judge=judge)
        body = fetch.respond()
        assert body is not None  # nothing stored is validated
        return body

    def _post(self, environ: Environ, start_response: StartResponse) -> Body:
        """A POST: as other unsafe methods, but its response may answer a later GET too."""
        cache = self.cache
        asked = dict(environ)  # as it is now: the app may change its own
        fields = fields_of(asked)
        target = target_uri(asked, fields)
        begun = begin(cache)

        def judge(
            route: RouteCall, code: int, lines: Lines | None, headers: Texts
        ) -> Exchange | Texts:
            if lines is None:  # no head; the server will say so
                return self._shown(headers)

            def read() -> Request:
                key = key_of(asked, fields)
                request = read_request(asked, fields, key, obey_directives=self._obey)
                request.mark_personal(is_personal(environ))
                request.secured = route.secured(environ, "POST", request.path)
                return request

            # Before the client learns of its success: what it reads next is the new state.
            policy = route.policy(environ, "POST", code)
            exchange = run_blocking(
                after_post(cache, read, target, code, lines, begun, route=policy)
            )
            return self._shown(headers) if exchange is None else exchange

        fetch = Fetch(self.app, cache, environ, None, start_response, judge=judge, eager=True)
        body = fetch.respond()
        assert body is not None  # nothing stored is validated
        return body

    def _shown(self, headers: Texts) -> Texts:
        """The head of a response to a method that the cache has no part in, as clients see it."""
        hidden = self._hidden
        return [line for line in headers if line[0].lower() not in hidden] + self._method_lines

    def _after_unsafe(self, environ: Environ, start_response: StartResponse) -> StartResponse:
        """Watch the response to an unsafe method (RFC 9111 4.4)."""
        cache = self.cache
        # (now, since the app may change its environ)
        method = environ["REQUEST_METHOD"]
        uri = target_uri(environ, fields_of(environ))

        def after(status: str, headers: Texts, exc_info: Any = None) -> Write:
            code, lines = head_of(status, headers)
            if lines is not None:
                # Before the client learns of its success: what it reads next is the new state.
                run_blocking(cache.after_unsafe(uri, method, code, lines))
            return start_response(status, self._shown(headers), *raised(exc_info))

        return after

    def _passing(self, environ: Environ, start_response: StartResponse, lines: Texts) -> Body:
        """Forward untouched, but for adding ``lines`` to the head and hiding tags."""
        hidden = self._hidden
        if not lines and not hidden:
            return self._call(environ, start_response)

        def adding(status: str, headers: Texts, exc_info: Any = None) -> Write:
            shown = [line for line in headers if line[0].lower() not in hidden]
            return start_response(status, shown + lines, *raised(exc_info))

        return self._call(environ, adding)

    def _call(self, environ: Environ, start_response: StartResponse) -> Body:
        """Call the app for a request that the cache has no part in. Nothing is put into its environ, so
        a recursion shows only by its depth."""
        try:
            return ask(self.app, environ, start_response)
        except RecursionError as error:
            refuse_circle(self, error)
            raise

    # -- the admin endpoint --------------------------------------------------------------------

    def _administer(
        self, admin: AdminEndpoint, environ: Environ, start_response: StartResponse
    ) -> Body:
        fields = fields_of(environ)
        method = environ["REQUEST_METHOD"]
        parsed = Fields(line for line in fields.items() if line[0] != USER_VARIABLE)
        served = admin.refuse(parsed, environ.get("REMOTE_ADDR"))
        several = environ.get("wsgi.multiprocess")
        several = None if several is None else bool(several)
        if served is None and method == "PURGE":
            served = run_blocking(
                admin.purge_url(target_uri(environ, fields), parsed, multiprocess=several)
            )
        elif served is None:
            body = _content(environ)
            if body is None:
                served = Served(413, [(b"content-length", b"0")], b"")
            else:
                read = functools.partial(asked_request, environ, obey_directives=self._obey)
                served = run_blocking(
                    admin.handle(method, route_path(environ), body, read, multiprocess=several)
                )
        return send_response(start_response, served)


def _along(start_response: StartResponse, step: Stream) -> Body:
    """Send a head, and read along with the fetch of another request."""
    try:
        start_response(status_line(step.head.status), texts(step.head.lines))
    except BaseException:
        step.reader.__exit__()
        raise
    return Along(step.reader)


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
