"""A POST under WSGI, whose response is copied as it passes if it may answer later GETs.

Whatever may not goes to the server as if LayerGate were not there, the app's own iterable included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from layergate.http.engine.cache import Cache
from layergate.http.engine.exchange import Exchange, Relay
from layergate.http.engine.posting import after_post, begin
from layergate.http.message.request import Request
from layergate.routes import RouteCall
from layergate.runtime.threads import run_blocking
from layergate.wsgi.heads import Texts, head, raised, texts

__all__ = ["Post"]


class Post:
    """One POST. ``start``: the server's ``start_response``; ``target``: the target URI; ``read``:
    makes the `Request`; ``lines``: what is added to a head that is not stored, ``hidden``: the names,
    lower-case, of what is left out of it. ``environ``: what the app is called with; ``route``: what it
    says of its own policy."""

    def __init__(
        self,
        cache: Cache,
        start: Callable[..., Callable[[bytes], object]],
        target: str,
        read: Callable[[], Request],
        lines: Texts,
        hidden: frozenset[str],
        environ: dict[str, Any],
        route: RouteCall,
    ) -> None:
        self._environ = environ
        self._route = route
        self._cache = cache
        self._start = start
        self._target = target
        self._read = read
        self._lines = lines
        self._hidden = hidden
        self._begun = begin(cache)
        self._started = False
        self._exchange: Exchange | None = None
        # The head, its status and what was raised, until the first part of the body is there.
        self._held: tuple[str, Any] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._expected: int | None = None
        self._received = 0

    def start_response(
        self, status: str, headers: Texts, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """What the app gets as ``start_response``. A head that takes the place of another (PEP 3333,
        "Error Handling") ends the copy."""
        self.abort(None if exc_info is None else exc_info[1])
        self._started, self._exchange, self._held = True, None, None
        code, lines = head(status, headers)
        self._route.look()  # while a framework still knows its request
        route = self._route.policy(self._environ, "POST", code)
        exchange: Exchange | None = None
        if lines is not None:
            # Before the client hears of its success: what it reads next is the new state.
            exchange = run_blocking(
                after_post(
                    self._cache, self._read, self._target, code, lines, self._begun, route=route
                )
            )
        if exchange is None or lines is None:
            shown = [line for line in headers if line[0].lower() not in self._hidden]
            return self._start(status, shown + self._lines, *raised(exc_info))
        relay = exchange.head(code, lines, route=route)
        if self._cache.stack.peek_is_enough:
            run_blocking(self._cache.settle(exchange))
        else:
            # Layers that take time to write to shall not take our client's.
            exchange.aside(self._cache.settle(exchange), "layergate settle")
        self._exchange, self._held = exchange, (status, exc_info)
        length = [value for name, value in lines if name == b"content-length"]
        self._expected = int(length[0]) if length else None  # (checked by the exchange)
        if exchange.opened:
            self._send_head()
        if relay is not Relay.TEE:
            self._exchange = None
        return self._copying

    def _copying(self, data: bytes) -> object:
        """The callable for apps that push their body instead of returning it."""
        self.open(data)
        self.feed(data)
        assert self._write is not None
        return self._write(data)

    def open(self, first: bytes, *, whole: bool = False) -> None:
        """Before a part of the body is passed on: send the head, if it has waited for that. ``whole``:
        there is no other."""
        if self._held is None:
            return
        exchange = self._exchange
        assert exchange is not None
        if exchange.opening(first, whole=whole) is not Relay.TEE:
            self._exchange = None
        self._send_head(exchange)

    def _send_head(self, exchange: Exchange | None = None) -> None:
        exchange = exchange or self._exchange
        assert exchange is not None
        assert self._held is not None
        (status, exc_info), self._held = self._held, None
        try:
            self._write = self._start(status, texts(exchange.client_lines), *raised(exc_info))
        except BaseException as error:
            exchange.abort(error)
            raise
        finally:
            exc_info = None

    def body(self, iterable: Iterable[bytes]) -> Iterable[bytes]:
        """What the server gets for the app's ``iterable``."""
        if self._started and self._exchange is None:
            return iterable
        if type(iterable) in (list, tuple):
            parts: list[Any] = list(iterable)
            self.open(b"".join(part for part in parts if isinstance(part, bytes)), whole=True)
            for chunk in iterable:
                self.feed(chunk)
            self.finish()
            return iterable
        return _Copied(iterable, self)

    def feed(self, chunk: bytes) -> None:
        """A part of the body passes."""
        if self._exchange is None:
            return
        if isinstance(chunk, bytes | bytearray | memoryview):
            self._exchange.body(bytes(chunk))
            self._received += len(chunk)
        else:
            self.abort()  # the server will say so

    @property
    def announced(self) -> bool:
        """Is all there that was announced?"""
        return self._exchange is not None and self._received == self._expected

    def finish(self) -> None:
        """The body is complete."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            run_blocking(exchange.finish())

    def abort(self, error: BaseException | None = None) -> None:
        """It is not, and will not be. Does nothing after `finish`."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort(error)


class _Copied:
    """A body on its way to the server."""

    __slots__ = ("_close", "_error", "_iterator", "_more", "_post")

    def __init__(self, iterable: Iterable[bytes], post: Post) -> None:
        self._post = post
        self._close = getattr(iterable, "close", None)
        self._iterator: Iterator[bytes] = iter(iterable)
        self._more: bytes | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        chunk, self._more = self._more, None
        if chunk is None:
            chunk = self._next()
            if self._post.announced:
                self._look_ahead()
        return chunk

    def _look_ahead(self) -> None:
        """All that was announced is there. If that is all, say so now: the client waits for no more."""
        try:
            self._more = self._next()
            while not self._more:
                self._more = self._next()
        except StopIteration:
            self._more = None
        except Exception as error:  # for the server, after what came before it
            self._more, self._error = None, error

    def _next(self) -> bytes:
        try:
            chunk = next(self._iterator)
        except StopIteration:
            self._post.open(b"", whole=True)
            self._post.finish()
            raise
        except BaseException as error:
            self._post.abort(error)
            raise
        self._post.open(chunk)
        self._post.feed(chunk)
        return chunk

    def close(self) -> None:
        self._post.abort()
        if self._close is not None:
            self._close()
