"""The server that the app sees under WSGI, while its response is fed into an exchange.

PEP 3333's rules for heads are kept here. A WSGI server sends a head with the first non-empty part of the
body, and until then the app may replace it (``exc_info``). So a head is final only then: `Tap.commit`
tells the exchange of it, and starts the response for the client if the client is to have it. What is
certainly not shareable does not wait for its body (`Tap.hopeless`).

A `fetch.Fetch` makes a `Tap` for each call of the app whose response may be stored. A tap calls neither
the app nor the store; what becomes of a response is decided by the engine's `Feed`.
"""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from layergate.http.engine.cache import Cache
from layergate.http.engine.driver import Serve, resolve
from layergate.http.engine.exchange import Delivery, Exchange
from layergate.http.engine.feed import Feed
from layergate.http.engine.stream import Reader
from layergate.http.message.fields import Lines
from layergate.http.rules import Match
from layergate.route_calls import RouteCall
from layergate.runtime.blocking import run_blocking
from layergate.wsgi.bodies import Source
from layergate.wsgi.calling import begin_call
from layergate.wsgi.environ import Environ, has_token, is_personal
from layergate.wsgi.heads import (
    StartResponse,
    Texts,
    Write,
    head_of,
    raised,
    send_response,
    status_line,
    texts,
)

__all__ = ["Judge", "Tap"]

Judge: TypeAlias = Callable[[RouteCall, int, Lines | None, Texts], Exchange | Texts]
"""Decides by the head of a response: the exchange to feed with it, or the head to send if nothing is stored.
Takes the call, the status code, the header lines (None if the app gave no valid head), and these as the
app gave them."""


class Tap:
    """One response of the app.

    ``environ``: what the app is called with. ``start``: the server's ``start_response``; None for a
    background refresh. ``exchange``: what to feed; None if that depends on the head. Then ``judge``
    decides: when the app gives its head if ``eager``, and else when that is final.

    ``delivery``: where the response goes; None until its head is final. ``source``: the body, once the app
    has returned it. ``ahead``: parts that are fed and not yet handed to the server; ``tail``: what of
    the answer comes after the app's body. ``received``, ``expected``: how much of the body has come, and
    how much was announced, bytes. ``muted``: the client has all it needs.
    """

    __slots__ = (
        "_cache",
        "_eager",
        "_environ",
        "_had_token",
        "_head",
        "_judge",
        "_judged",
        "_reader",
        "_start",
        "_write",
        "ahead",
        "delivery",
        "expected",
        "feed",
        "muted",
        "received",
        "route",
        "source",
        "tail",
    )

    def __init__(
        self,
        cache: Cache,
        environ: Environ,
        exchange: Exchange | None,
        start: StartResponse | None,
        judge: Judge | None,
        *,
        eager: bool,
    ) -> None:
        self._cache = cache
        self._environ = environ
        self._start = start
        self._judge = judge
        self._eager = eager
        self._judged: Exchange | Texts | None = None
        self._head: tuple[str, Texts, tuple[Any, ...]] | None = None
        self._write: Write | None = None
        self._reader: Reader | None = None
        # A POST, which is judged eagerly, is stored only with a lifetime of its own: then tokens do not
        # matter.
        self._had_token = not eager and has_token(environ)
        self.route = begin_call(cache, environ)
        self.delivery: Delivery | None = None
        self.source: Source | None = None
        self.ahead: deque[bytes] = deque()
        self.tail = b""
        self.expected: int | None = None
        self.received = 0
        self.muted = False
        self.feed: Feed | None = None
        if exchange is not None:
            self._begin_feed(exchange)
            if not exchange.uncollapsed and start is not None:
                # The leader counts as a reader: it holds on to the body, and it is one of several
                # when another reader is slow.
                self._reader = exchange.stream.reader(exchange.request)

    def _begin_feed(self, exchange: Exchange) -> Feed:
        # (no method of the tap: what refers to the exchange must not be referred to by it)
        tokens = functools.partial(_has_token, self._environ, before=self._had_token)
        feed = self.feed = Feed(self._cache, exchange, tokens)
        return feed

    @property
    def exchange(self) -> Exchange | None:
        return None if self.feed is None else self.feed.exchange

    @property
    def completes(self) -> bool:
        """True if the answer consists of stored octets and of the part that the app sends."""
        return self.feed is not None and self.feed.exchange.completes

    @property
    def forwarded(self) -> bool:
        """True if the response is for the client alone, and was never fed into an exchange."""
        return self.feed is None and self.delivery is Delivery.FORWARD

    # -- what the app calls --------------------------------------------------------------------

    def start_response(self, status: str, headers: Texts, exc_info: Any = None) -> Write:
        """What the app gets as ``start_response``."""
        if self.delivery is None:
            if self._head is not None and exc_info is None:
                raise AssertionError("start_response was called twice without exc_info")
            self.route.look()  # while a framework still knows its request
            if self._eager:
                judged = self._decide(status, headers)
                if not isinstance(judged, Exchange):
                    assert self._start is not None
                    self.delivery, self._head = Delivery.FORWARD, None
                    return self._start(status, judged, *raised(exc_info))
            self._head = (status, list(headers), raised(exc_info))
            return self.write
        # The head has been used: what was taken for the response is not what it ends with.
        if exc_info is None:
            raise AssertionError("start_response was called after the body had begun")
        self.abort(exc_info[1])
        if self._start is None or self.delivery is Delivery.DROP:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: no circular reference through this frame
        shown = self._decide(status, headers) if self._eager else headers
        if not isinstance(shown, list) or shown is headers:
            hidden = {name.decode("latin-1") for name in self._cache.internal_fields}
            shown = [line for line in headers if line[0].lower() not in hidden]
        # Raises exc_info if the head is on its way to the client.
        self._to_client(status, shown, raised(exc_info))
        return self.write

    def write(self, data: bytes) -> None:
        """The callable for apps that push their body instead of returning it."""
        if not data:
            return
        if self.delivery is None:
            self.commit(data)
        data = self.fed(data)
        exchange = self.exchange
        with contextlib.nullcontext() if exchange is None else exchange.stream.at_client():
            while self.ahead and self._write is not None and not self.muted:
                self._write(self.ahead.popleft())
            if self._write is not None and self.delivery is not Delivery.DROP and not self.muted:
                self._write(data)
        self.room()

    # -- the head ------------------------------------------------------------------------------

    def hopeless(self) -> bool:
        """True if the head is there, and says that the response is certainly of no use to other
        requests: then it need not wait for the body."""
        if self._head is None or self.delivery is not None:
            return False
        if self.feed is None:
            return True
        status, headers, _ = self._head
        code, lines = head_of(status, headers)
        return lines is None or self._refuses(code, lines)

    def _refuses(self, code: int, lines: Lines) -> bool:
        assert self.feed is not None
        return self.feed.refuses(code, lines, policy=self._policy(code))

    def _policy(self, code: int) -> Match | None:
        """What the route that has answered with status ``code`` says; and note if it asks for a
        user."""
        exchange = self.exchange
        assert exchange is not None
        request = exchange.request
        # (by the path that was asked for: the app may have changed it)
        request.secured |= self.route.secured(self._environ, request.method, request.path)
        return self.route.policy(self._environ, request.method, code)

    def _decide(self, status: str, headers: Texts) -> Exchange | Texts:
        assert self._judge is not None
        judged = self._judged = self._judge(self.route, *head_of(status, headers), headers)
        return judged

    def commit(self, first: bytes | None = None) -> None:
        """The head is final: tell the exchange, and the client if it is to have this response.

        ``first``: the first part of the body; b"": there is none. None: it has not come, and the head
        is final if the response is certainly of no use to other requests.
        """
        if self._head is None:
            raise AssertionError("the app sent a body before it called start_response")
        status, headers, raising = self._head
        self._head = None  # an error in it refers to the app's frame, and that to this tap
        judged: Exchange | Texts | None = None
        feed = self.feed
        if feed is None:
            judged = self._judged if self._eager else self._decide(status, headers)
            if not isinstance(judged, Exchange):
                assert judged is not None
                self._to_client(status, judged, raising)
                return
            feed = self._begin_feed(judged)
        code, lines = head_of(status, headers)
        if lines is None:  # not what PEP 3333 asks for; the server will say so
            self._to_client(status, headers, raising)
            return
        if judged is not None and first is None and not self._refuses(code, lines):
            self._head = status, headers, raising  # it may be of use after all
            return
        delivery = self.delivery = self._tell(feed, code, lines, first)
        self.route.close()
        if delivery is not Delivery.DROP:
            self._respond(feed, status, lines, raising)

    def _respond(self, feed: Feed, status: str, lines: Lines, raising: tuple[Any, ...]) -> None:
        """Start the response for the client: the app's own, or what the client gets in its place."""
        exchange, delivery = feed.exchange, self.delivery
        if delivery is Delivery.SHARE and self._start is not None:
            step = resolve(self._cache, exchange)
            if isinstance(step, Serve):
                self.muted = True
                self.leave()
                send_response(self._start, step.response)
                return
        self.expected = _announced(lines)
        if exchange.completes:
            assert exchange.head is not None
            status = status_line(exchange.head.status)
            before, self.tail = exchange.around
            if before:
                self.ahead.append(before)
        if self._start is not None:
            self._write = self._start(status, texts(feed.client_lines), *raising)

    def _tell(self, feed: Feed, code: int, lines: Lines, first: bytes | None) -> Delivery:
        """Tell the exchange of the head, and of the first part of the body if it depends on that."""
        delivery = run_blocking(
            feed.head(
                code,
                lines,
                policy=self._policy(code),
                personal=is_personal(self._environ),
                body_follows=True,
            )
        )
        if feed.exchange.opened or delivery is Delivery.DROP:
            return delivery
        assert self.source is not None or first
        whole = None if self.source is None else self.source.whole(first or b"")
        data = first or b"" if whole is None else whole
        return run_blocking(feed.open(data, whole=whole is not None))

    def _to_client(self, status: str, headers: Texts, raising: tuple[Any, ...]) -> None:
        """The response is for the client alone; nothing of it is kept."""
        self._give_up(raising[0][1] if raising else None)
        if self._start is not None:
            self._write = self._start(status, headers, *raising)

    def _give_up(self, error: BaseException | None = None) -> None:
        self.delivery = Delivery.FORWARD
        if self.feed is not None:
            self.feed.give_up(error)
            self.leave()

    # -- the body ------------------------------------------------------------------------------

    def fed(self, chunk: bytes) -> bytes:
        """Give a part of the body to the exchange."""
        if self.delivery is Delivery.SHARE or self.delivery is Delivery.COPY:
            if isinstance(chunk, bytearray | memoryview):
                chunk = bytes(chunk)
            elif not isinstance(chunk, bytes):  # the server will say so
                self._give_up()
                return chunk
            assert self.feed is not None
            self.feed.body(chunk)
            self.received += len(chunk)
            if self._reader is not None:
                self._reader.skip()
        return chunk

    def room(self) -> None:
        """If the body is over the cap, wait for the slowest reader."""
        exchange = self.exchange
        if self.delivery is Delivery.SHARE and exchange is not None and exchange.stream.oversized:
            run_blocking(exchange.stream.room())

    def finish(self) -> None:
        """The body is complete."""
        if self.delivery is None:
            self.commit(b"")
        if self.feed is not None:
            run_blocking(self.feed.finish())
        self.leave()

    def abort(self, error: BaseException | None = None) -> None:
        if self.feed is not None:
            self.feed.abort(error)  # does nothing when it has ended
        self.leave()

    def leave(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.__exit__()


def _announced(lines: Lines) -> int | None:
    """How long the body is to be, bytes; None if that is not known. (The exchange checks it.)"""
    length = [value for name, value in lines if name == b"content-length"]
    return int(length[0]) if len(length) == 1 and length[0].isdigit() else None


def _has_token(environ: Environ, *, before: bool) -> bool:
    """True if middleware, or the app, has made a token for one client. ``before``: it had before the
    call."""
    return before or has_token(environ, after=True)
