"""One call of the app under WSGI.

The app runs on the thread of the request that leads: thread-locals, Flask's ``g`` and database
sessions work as without a cache. The response passes through this thread to its own server, part by
part, and into the exchange, where followers in other threads read along.

So, other than under ASGI, a fetch that is streamed is as fast as the leader's server takes it. This
matters only for bodies in several parts and for clients slower than the server's buffers. A leader that
leaves ends nothing: when its server closes the response before its end, the rest is fetched on the same
thread, for the followers and for the store (see `Fetch.close`).

The middleware makes a `Fetch` and calls `respond` or `refresh`; the server then pulls the body. What the
app says goes through a `tap.Tap`, and what becomes of it is decided by the engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Final

from layergate.http.engine.cache import Cache
from layergate.http.engine.driver import Attempt, resolve
from layergate.http.engine.exchange import Delivery, Exchange, State
from layergate.http.engine.feed import Feed, log_hidden
from layergate.route_calls import policy_place
from layergate.runtime.blocking import run_blocking
from layergate.wsgi.bodies import Copied, File, Source, Whole
from layergate.wsgi.calling import ask
from layergate.wsgi.environ import Environ, carry, note_back
from layergate.wsgi.heads import App, Body, StartResponse, send_response
from layergate.wsgi.tap import Judge, Tap

__all__ = ["Fetch"]

_logger = logging.getLogger("layergate")

_LINGER: Final = 1.0  # seconds that a thread may go on fetching when all clients have left


class Fetch:
    """One call of ``app``.

    ``environ``: what the app is called with; ``outer``: the request's own, if that is another one.
    ``start``, ``exchange``, ``judge``, ``eager``: as for `Tap`.
    """

    __slots__ = (
        "_app", "_cache", "_carried", "_environ", "_error", "_outer", "_over", "_start", "_tap",
    )  # fmt: skip

    def __init__(
        self,
        app: App,
        cache: Cache,
        environ: Environ,
        exchange: Exchange | None,
        start: StartResponse | None,
        *,
        outer: Environ | None = None,
        judge: Judge | None = None,
        eager: bool = False,
    ) -> None:
        self._app = app
        self._cache = cache
        self._environ = environ
        self._outer = outer
        self._start = start
        self._tap = Tap(cache, environ, exchange, start, judge, eager=eager)
        self._carried: Collection[str] = ()
        self._over = False  # nothing more is taken from the app
        self._error: Exception | None = None  # what the app raised, for the server to come to

    # -- running -------------------------------------------------------------------------------

    def respond(self) -> Body | None:
        """Call the app, and answer the client. None if the app has to be called once more, after
        which `Conversation.again` asks."""
        tap = self._tap
        own: Body | None = None
        try:
            own = self._ask() if tap.feed is None else self._call(tap.feed)
        except Exception as error:
            if not self._failed(error):
                raise
        except BaseException as error:
            tap.abort(error)
            self._close_app()
            raise
        if own is not None:
            return self._untouched(own)
        feed, source = tap.feed, tap.source
        if feed is not None and (
            tap.delivery is Delivery.DROP or feed.exchange.state is State.ANSWERED
        ):
            return self._answered()
        assert source is not None
        if tap.delivery is Delivery.FORWARD and source.listed:
            return self._untouched(source.iterable)
        if self._over and self._error is None and not tap.muted:
            if source.listed and not tap.completes:
                return source.iterable
            return Whole([*tap.ahead, tap.tail] if tap.tail else tap.ahead, self)
        return Copied(self)

    def refresh(self) -> None:
        """Call the app for the store alone. Raises no Exception."""
        tap = self._tap
        feed, exchange = tap.feed, tap.exchange
        assert feed is not None
        assert exchange is not None
        if not run_blocking(feed.wanted()):
            return
        try:
            self._call(feed)
            if tap.delivery is not Delivery.FORWARD:
                limit = time.monotonic() + float(self._cache.options.abandoned_timeout)  # type: ignore[arg-type]
                while tap.delivery is not Delivery.DROP and self._advance() is not None:
                    if not exchange.stream.readers and (
                        exchange.stream.oversized or time.monotonic() > limit
                    ):
                        break
        except Exception as error:
            if not self._failed(error):
                _logger.exception("a background refresh failed")
        finally:
            self._close_app()
            run_blocking(feed.end())

    def _call(self, feed: Feed) -> Body | None:
        """As `_ask`, within the span of the fetch."""
        self._carried = carry(self._environ, feed.exchange.span.carry())
        with feed.exchange.span.current():
            return self._ask()

    def _ask(self) -> Body | None:
        """Call the app and go on until the head of its response is final. Returns the app's own iterable
        if the response is for the client alone, with nothing taken from it."""
        tap = self._tap
        place = policy_place.set(tap.route)
        try:
            iterable = ask(self._app, self._environ, tap.start_response)
            if self._outer is not None:
                note_back(self._environ, self._outer, self._carried)
            if tap.forwarded:
                return iterable
            source = tap.source = Source(iterable)
            if tap.hopeless():
                tap.commit()
            if tap.delivery is Delivery.FORWARD:
                return iterable
            if tap.delivery is Delivery.DROP:
                return None
            # A list holds all of the body already: followers need not wait for the client.
            while (chunk := self._advance()) is not None:
                tap.ahead.append(chunk)
                if not source.listed or tap.delivery in (Delivery.FORWARD, Delivery.DROP):
                    break
            return None
        finally:
            policy_place.reset(place)
            tap.route.returned()

    # -- the body ------------------------------------------------------------------------------

    def _advance(self) -> bytes | None:
        """The next part of the app's body, fed to the exchange; None at its end."""
        tap = self._tap
        if self._over:
            if self._error is not None:
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    del error  # its traceback refers to this frame
            return None
        assert tap.source is not None
        try:
            tap.room()
            chunk = tap.source.take()
            if chunk is None:
                self._finish()
                return None
            if tap.delivery is None:
                tap.commit(chunk)
            chunk = tap.fed(chunk)
            if tap.expected is not None and tap.received == tap.expected:
                self._look_ahead(tap.source)
        except BaseException as error:
            if tap.delivery is not None:
                tap.abort(error)
                self._over = True
            raise
        return chunk

    def _look_ahead(self, source: Source) -> None:
        """The announced length has come. If the body ends there, finish now, so that requests that wait
        for the end do not wait for this client to take it."""
        tap = self._tap
        tap.expected = None
        try:
            at_end = source.at_end()
        except Exception as error:
            tap.abort(error)
            self._over = True
            self._error = error  # for the server, after what came before it
            return
        if at_end:
            self._finish()

    def _finish(self) -> None:
        """The body is complete."""
        self._tap.finish()
        self._over = True

    def pull(self) -> bytes | None:
        """The next part for the server; None at the end."""
        tap = self._tap
        if tap.muted:
            return None
        exchange = tap.exchange
        if exchange is not None:
            exchange.stream.goes_on()
        chunk = tap.ahead.popleft() if tap.ahead else self._advance()
        if chunk is None and tap.tail:
            chunk, tap.tail = tap.tail, b""
        if chunk is not None and exchange is not None:
            exchange.stream.rests()  # until its server comes for more
        return chunk

    # -- endings -------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> bool:
        """The app failed. True if a stored response answers all the same; else the exchange is
        aborted."""
        self._over = True
        feed = self._tap.feed
        if feed is not None and feed.failed(error):
            if feed.delivery is Delivery.DROP:
                log_hidden(error)  # a response is returned, so the error cannot be raised as well
            return True
        self._tap.abort(error)
        self._close_app()
        return False

    def _answered(self) -> Body | None:
        """A stored response is the answer; the app's own is dropped. As `respond`."""
        tap = self._tap
        feed, exchange = tap.feed, tap.exchange
        assert feed is not None
        assert exchange is not None
        assert self._start is not None
        self._over = True
        self._close_app()
        if exchange.state is State.ANSWERED:
            run_blocking(feed.end())
        step = resolve(self._cache, exchange)
        tap.leave()
        if isinstance(step, Attempt):
            return None
        assert step is not None
        return send_response(self._start, step.response)

    def _untouched(self, iterable: Body) -> Body:
        """The app's own iterable. A response that is not kept reaches the server as without LayerGate."""
        feed = self._tap.feed
        if feed is not None:
            self._tap.leave()
            feed.leave_alone()
        if isinstance(iterable, File):
            assert self._outer is not None
            body: Body = self._outer["wsgi.file_wrapper"](iterable.file, iterable.block_size)
            return body
        return iterable

    def close(self) -> None:
        """The server is done with the response, or gives up on it (PEP 3333).

        In the middle of a shared body, the rest is fetched here, on the app's own thread, for the
        followers and for the store: as long as there are followers, and else for a second at most (or
        ``abandoned_timeout``, if that is less), if the app has been quick so far. This thread has
        other requests to answer. What else was not finished is not stored.
        """
        tap = self._tap
        exchange = tap.exchange
        if exchange is not None:
            exchange.stream.goes_on()
        try:
            if not self._over and tap.delivery is Delivery.SHARE:
                tap.leave()
                self._drain()
        finally:
            self._over = True
            self._error = None  # the server did not come for it; its traceback refers to this fetch
            tap.abort()
            self._close_app()

    def _drain(self) -> None:
        tap = self._tap
        exchange, source = tap.exchange, tap.source
        assert exchange is not None
        assert source is not None
        patience = float(self._cache.options.abandoned_timeout)  # type: ignore[arg-type]
        limit = time.monotonic() + min(patience, _LINGER)
        threads = bool(self._environ.get("wsgi.multithread", True))
        try:
            while True:
                if not exchange.stream.readers or not threads:
                    left = limit - time.monotonic()
                    if exchange.stream.oversized or left <= source.slowest:
                        return
                if self._advance() is None:
                    return
        except Exception:
            # The client of this request has its response; the exchange tells the followers.
            _logger.exception("the app failed; no client was waiting")

    def _close_app(self) -> None:
        if self._tap.source is not None:
            self._tap.source.close()
