"""The conversation of one request with the cache, the same under ASGI and under WSGI.

An adapter makes a `Conversation` for each request that the hit path does not answer, and acts on what
`Conversation.next` returns::

    Serve    send this response; perhaps refresh what is stored in the background
    Stream   send this head, then read along with the fetch of another request
    Pass     call the app; the cache has no part in this request
    Fetch    call the app, and feed its response into an exchange (`feed`)

    next ──▶ Fetch ──app──▶ resolve ──▶ Serve | None (the app's own response) | UNCONDITIONAL
                                                                                     │
    again ◀──────────────────────────────────────────────────────────────────────────┘

The conversation decides how often a request waits for others, for how long, and what it gets when the
wait was in vain. It never calls the app, sends nothing, and knows neither loop nor thread: it awaits
nothing but the ports of the runtime.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

from layergate.core.entry import Entry
from layergate.http.engine.cache import Cache, Follow, Lead, Pass, Serve
from layergate.http.engine.exchange import Exchange, Reader, State
from layergate.http.message.request import Request
from layergate.http.message.stored import Served

__all__ = ["Attempt", "Conversation", "Fetch", "Pass", "Serve", "Step", "Stream", "resolve"]

MAX_TRIES: Final = 3
"""After so many fetches of others that brought nothing for this request, it fetches by itself."""


class Attempt(enum.Enum):
    """How a request is decided on."""

    COLLAPSED = enum.auto()
    """It may wait for the fetch of another request."""
    UNCOLLAPSED = enum.auto()
    """It waits for no other request: the response that it waited for is not for it."""
    TIMED_OUT = enum.auto()
    """It waits for no other request: it has waited as long as ``collapse_timeout`` allows."""
    UNCONDITIONAL = enum.auto()
    """It is fetched without validators: the origin has something else than what is stored."""


_WAITS_FOR_NOBODY: Final = frozenset({Attempt.UNCOLLAPSED, Attempt.TIMED_OUT})


class Stream(NamedTuple):
    """Send ``head``, then what ``reader`` takes, to its end. Leave the reader, whatever happens."""

    head: Served
    reader: Reader


class Fetch(NamedTuple):
    """Call the app and feed its response into ``exchange``.

    ``patience``: seconds after which a stale response may be sent instead; None if none may.
    """

    exchange: Exchange
    patience: float | None

    @property
    def repeatable(self) -> bool:
        """True if the app may have to be called once more, since its answer may not fit what is
        stored."""
        return self.exchange.conditional or self.exchange.rest is not None


Step: TypeAlias = Serve | Stream | Fetch | Pass


class Conversation:
    """One request, from the first look at the store to what its client gets.

    Call `next`, and `again` each time that `resolve` says so; then `over`, once.
    """

    __slots__ = ("_cache", "_tries", "request")

    def __init__(self, cache: Cache, request: Request) -> None:
        self._cache = cache
        self.request = request
        self._tries = 0

    async def next(self, attempt: Attempt = Attempt.COLLAPSED) -> Step:
        """The next thing to do. Waits for the fetches of other requests, if the request may share
        them."""
        cache, request = self._cache, self.request
        while True:
            answer = await cache.open(
                request,
                alone=attempt in _WAITS_FOR_NOBODY or self._tries >= MAX_TRIES,
                fresh=attempt is Attempt.UNCONDITIONAL,
                late=attempt is Attempt.TIMED_OUT,
            )
            if isinstance(answer, Lead):
                exchange = answer.exchange
                return Fetch(exchange, patience(cache, request, exchange.entry))
            if not isinstance(answer, Follow):
                return answer
            outcome = await self._follow(answer.exchange)
            if not isinstance(outcome, Attempt):
                return outcome
            attempt = outcome
            self._tries += 1

    async def again(self) -> Step:
        """As `next`, after a fetch whose response does not fit what is stored."""
        self._tries += 1
        return await self.next(Attempt.UNCONDITIONAL)

    def over(self) -> None:
        """The request is answered, or has failed: it is counted and logged."""
        self._cache.answered(self.request)

    # -- following -----------------------------------------------------------------------------

    async def _follow(self, exchange: Exchange) -> Serve | Stream | Attempt:
        """Wait for the head of the fetch that another request leads."""
        reader = exchange.reader(self.request)
        step: Serve | Stream | Attempt | None = None
        try:
            step = await self._followed(exchange, reader)
        finally:
            if not isinstance(step, Stream):
                reader.__exit__()
        return step

    async def _followed(self, exchange: Exchange, reader: Reader) -> Serve | Stream | Attempt:
        cache, request = self._cache, self.request
        counters = cache.stack.counters
        stale = exchange.entry
        limit = float(cache.options.collapse_timeout)  # type: ignore[arg-type]
        wait = patience(cache, request, stale)
        with cache.following(request, exchange):
            state = await reader.state(limit if wait is None else min(limit, wait))
        if state is State.PENDING:
            # The stale response may have been purged, or have left its window, during the wait.
            if stale is not None and patience(cache, request, stale) is not None:
                counters.on("stale", request=request, reason="origin-timeout")
                return Serve(cache.stale(exchange, request, stale, follower=True))
            counters.on("wait_timeout", request=request)
            return Attempt.TIMED_OUT
        if state is State.RELEASED:
            spared = cache.spoke_of_one(exchange, request)
            return Attempt.COLLAPSED if spared else Attempt.UNCOLLAPSED
        if exchange.gave_up:
            return Attempt.TIMED_OUT
        if state is State.FAILED or reader.late or not reader.usable():
            return Attempt.COLLAPSED
        if state is State.ANSWERED:
            answered = cache.answer(exchange, request, follower=True)
            if answered is None:
                return Attempt.UNCOLLAPSED
            counters.on("collapsed", request=request)
            return Serve(answered)
        counters.on("collapsed", request=request)
        head = cache.streamed(exchange, request)
        return Serve(head) if head.status == 304 else _streaming(exchange, reader, head)

    # -- leading -------------------------------------------------------------------------------

    async def lead(self, fetch: Fetch, reader: Reader) -> Serve | Stream | Attempt | None:
        """What the client of a fetch gets that runs beside its request (under ASGI).

        Waits for the head, at most as long as ``fetch.patience`` allows. None: the app itself speaks
        with the client, or has failed. If the exchange is still PENDING when this returns, the
        response is a stale one, and the fetch goes on without its client.
        """
        cache, (exchange, wait) = self._cache, fetch
        state = await reader.state(wait)
        if state is State.PENDING:
            stale = exchange.entry
            if stale is not None and cache.stale_if_error(exchange.request, stale):
                cache.stack.counters.on("stale", request=exchange.request, reason="origin-timeout")
                return Serve(cache.stale(exchange, exchange.request, stale))
            # Purged, or past its window, during the wait: then only the origin can answer.
            state = await reader.state(None)
        step = resolve(cache, exchange)
        if step is not None or state is not State.STREAMING:
            return step
        assert exchange.response is not None
        head = Served(exchange.response.status, exchange.client_lines, b"")
        return _streaming(exchange, reader, head)


def resolve(cache: Cache, exchange: Exchange) -> Serve | Attempt | None:
    """What the client of a fetch gets in place of the app's own response, once its head is known.

    A stored response that the origin confirmed, or that stands in for a failure; or a 304, if the
    client has what came. None: the app's own response, or its failure. `Attempt.UNCONDITIONAL`: the
    app is to be called once more (`Conversation.again`).
    """
    state = exchange.state
    if state is State.STREAMING:
        not_modified = cache.precondition(exchange)
        return None if not_modified is None else Serve(not_modified)
    if state is State.ANSWERED:
        served = cache.answer(exchange, exchange.request, follower=False)
        assert served is not None
        return Serve(served)
    return Attempt.UNCONDITIONAL if exchange.mismatched else None


def patience(cache: Cache, request: Request, stale: Entry | None) -> float | None:
    """For how many seconds to wait for the origin, if a stale response may be sent then; else None."""
    limit = cache.options.origin_timeout
    if limit is None or stale is None or not cache.stale_if_error(request, stale):
        return None
    return float(limit)  # type: ignore[arg-type]


def _streaming(exchange: Exchange, reader: Reader, head: Served) -> Serve | Stream:
    """A response whose body is read along; or all of it, if it is complete already."""
    whole = reader.rest() if exchange.ended else None
    return Stream(head, reader) if whole is None else Serve(head._replace(body=whole))
