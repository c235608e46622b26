"""The conversation of one request with the cache, the same under ASGI and under WSGI.

An adapter makes a `Conversation` for each request that the hit path does not answer, and acts on what
`Conversation.next` returns::

    Serve    send this response; perhaps refresh what is stored in the background
    Stream   send this head, then read along with the fetch of another request
    Forward  call the app; the cache has no part in this request
    Fetch    call the app, and feed its response into an exchange (`feed`)

    next ──▶ Fetch ──app──▶ resolve ──▶ Serve | None (the app's own response) | UNCONDITIONAL
                                                                                     │
    again ◀──────────────────────────────────────────────────────────────────────────┘

The conversation decides how often a request waits for others, for how long, and what it gets when the
wait was in vain. It never calls the app, sends nothing, and knows neither loop nor thread: it awaits
nothing but the ports of the runtime.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from layergate.core.entry import Entry
from layergate.http.engine.answers import Attempt, Follow, Forward, Lead, Serve
from layergate.http.engine.cache import Cache
from layergate.http.engine.claims import Claims
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange, State
from layergate.http.engine.hit_for_miss import concerns_one_request
from layergate.http.engine.open import open_request
from layergate.http.engine.respond import (
    leader_lines,
    respond_from_exchange,
    respond_not_modified,
    respond_stale,
    respond_streamed,
)
from layergate.http.engine.sharing import may_have
from layergate.http.engine.stand_in import may_stand_in_for_error
from layergate.http.engine.stream import Reader
from layergate.http.engine.tally import count_answered, following
from layergate.http.message.request import Request
from layergate.http.message.stored import Served

__all__ = [
    "Attempt",
    "Conversation",
    "Fetch",
    "Forward",
    "Serve",
    "Step",
    "Stream",
    "refreshing",
    "resolve",
    "withdraw",
]

MAX_TRIES: Final = 3
"""After so many fetches of others that brought nothing for this request, it fetches by itself."""


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
        return self.exchange.conditional or self.exchange.asked.rest is not None


Step: TypeAlias = Serve | Stream | Fetch | Forward


class Conversation:
    """One request, from the first look at the store to what its client gets.

    Call `next`, and `again` each time that `resolve` says so; then `over`, once.
    """

    __slots__ = ("_engine", "_tries", "request")

    def __init__(self, cache: Cache, request: Request) -> None:
        self._engine = cache.engine
        self.request = request
        self._tries = 0

    async def next(self, attempt: Attempt = Attempt.COLLAPSED) -> Step:
        """The next thing to do. Waits for the fetches of other requests, if the request may share
        them."""
        engine, request = self._engine, self.request
        while True:
            if self._tries >= MAX_TRIES:
                attempt = attempt.uncollapsed
            answer = await open_request(engine, request, attempt)
            if isinstance(answer, Lead):
                exchange = answer.exchange
                return Fetch(exchange, patience(engine, request, exchange.entry))
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
        count_answered(self._engine, self.request)

    # -- following -----------------------------------------------------------------------------

    async def _follow(self, exchange: Exchange) -> Serve | Stream | Attempt:
        """Wait for the head of the fetch that another request leads."""
        reader = exchange.stream.reader(self.request)
        step: Serve | Stream | Attempt | None = None
        try:
            step = await self._followed(exchange, reader)
        finally:
            if not isinstance(step, Stream):
                reader.__exit__()
        return step

    async def _followed(self, exchange: Exchange, reader: Reader) -> Serve | Stream | Attempt:
        engine, request = self._engine, self.request
        stack, counters = engine.stack, engine.counters
        # Cut off from the log, this instance cannot tell that there was no purge since.
        joined_at = stack.invalidations.position if stack.trusted else -1
        stale = exchange.entry
        limit = engine.settings.collapse_timeout
        wait = patience(engine, request, stale)
        with following(engine, request, exchange):
            state = await exchange.wait_for_head(limit if wait is None else min(limit, wait))
        if state is State.PENDING:
            # The stale response may have been purged, or have left its window, during the wait.
            if stale is not None and patience(engine, request, stale) is not None:
                counters.on("stale", request=request, reason="origin-timeout")
                return Serve(respond_stale(engine, exchange, request, stale, follower=True))
            counters.on("wait_timeout", request=request)
            return Attempt.TIMED_OUT
        if state is State.RELEASED:
            spared = concerns_one_request(exchange, request)
            return Attempt.COLLAPSED if spared else Attempt.UNCOLLAPSED
        if exchange.gave_up:
            return Attempt.TIMED_OUT
        if (
            state is State.FAILED
            or reader.late
            or not may_have(engine, exchange, request, joined_at)
        ):
            return Attempt.COLLAPSED
        if state is State.ANSWERED:
            answered = respond_from_exchange(engine, exchange, request, follower=True)
            if answered is None:
                return Attempt.UNCOLLAPSED
            counters.on("collapsed", request=request)
            return Serve(answered)
        counters.on("collapsed", request=request)
        head = respond_streamed(engine, exchange, request)
        return Serve(head) if head.status == 304 else _streaming(exchange, reader, head)

    # -- leading -------------------------------------------------------------------------------

    async def lead(self, fetch: Fetch, reader: Reader) -> Serve | Stream | Attempt | None:
        """What the client of a fetch gets that runs beside its request (under ASGI).

        Waits for the head, at most as long as ``fetch.patience`` allows. None: the app itself speaks
        with the client, or has failed. If the exchange is still PENDING when this returns, the
        response is a stale one, and the fetch goes on without its client.
        """
        engine, (exchange, wait) = self._engine, fetch
        request = exchange.request
        state = await exchange.wait_for_head(wait)
        if state is State.PENDING:
            stale = exchange.entry
            if stale is not None and may_stand_in_for_error(engine, request, stale):
                engine.counters.on("stale", request=request, reason="origin-timeout")
                return Serve(respond_stale(engine, exchange, request, stale))
            # Purged, or past its window, during the wait: then only the origin can answer.
            state = await exchange.wait_for_head(None)
        step = _resolve(engine, exchange)
        if step is not None or state is not State.STREAMING:
            return step
        assert exchange.head is not None
        head = Served(exchange.head.status, leader_lines(engine, exchange), b"")
        return _streaming(exchange, reader, head)


def resolve(cache: Cache, exchange: Exchange) -> Serve | Attempt | None:
    """What the client of a fetch gets in place of the app's own response, once its head is known.

    A stored response that the origin confirmed, or that stands in for a failure; or a 304, if the
    client has what came. None: the app's own response, or its failure. `Attempt.UNCONDITIONAL`: the
    app is to be called once more (`Conversation.again`).
    """
    return _resolve(cache.engine, exchange)


def refreshing(cache: Cache, change: int) -> None:
    """One background refresh more (1) or less (-1)."""
    cache.engine.budget.count_refresh(change)


def withdraw(cache: Cache, exchange: Exchange, error: BaseException | None = None) -> None:
    """There will be no fetch, because of ``error``. Does nothing if there was one."""
    Claims(cache.engine, exchange).abort(error)


def _resolve(engine: Engine, exchange: Exchange) -> Serve | Attempt | None:
    state = exchange.state
    if state is State.STREAMING:
        not_modified = respond_not_modified(engine, exchange)
        return None if not_modified is None else Serve(not_modified)
    if state is State.ANSWERED:
        served = respond_from_exchange(engine, exchange, exchange.request, follower=False)
        assert served is not None
        return Serve(served)
    return Attempt.UNCONDITIONAL if exchange.mismatched else None


def patience(engine: Engine, request: Request, stale: Entry | None) -> float | None:
    """For how many seconds to wait for the origin, if a stale response may be sent then; else None."""
    limit = engine.settings.origin_timeout
    if limit is None or stale is None or not may_stand_in_for_error(engine, request, stale):
        return None
    return float(limit)


def _streaming(exchange: Exchange, reader: Reader, head: Served) -> Serve | Stream:
    """A response whose body is read along; or all of it, if it is complete already."""
    whole = reader.rest() if exchange.stream.ended else None
    return Stream(head, reader) if whole is None else Serve(head._replace(body=whole))
