"""What an adapter feeds of the app's response into an exchange.

A `Feed` belongs to one call of the app. The adapter calls `head`, then `part` for each part of the body
(or `body` and `finish`, where only the next part tells which is the last), and after the call `end` or
`failed`. What each call returns says where the bytes go (`Delivery`); the feed does all the rest: it tells
the store and those who wait, in the order that the guarantees need. It never calls the app, sends
nothing, and awaits nothing but the ports of the runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from layergate.core.ports import Task
from layergate.errors import OriginAborted, OriginUnreachable
from layergate.http.engine.cache import Cache
from layergate.http.engine.claims import Claims
from layergate.http.engine.exchange import Delivery, Exchange, State
from layergate.http.engine.receive import (
    certainly_releases,
    receive_head,
    receive_opening,
    stand_in_for_failure,
)
from layergate.http.engine.refresh import claim_refresh
from layergate.http.engine.remember import remember
from layergate.http.engine.respond import leader_lines
from layergate.http.engine.store import commit, complete_entry, keep
from layergate.http.engine.tally import count_not_stored, end_span
from layergate.http.engine.update import freshen_by_head, freshen_others
from layergate.http.message.fields import Lines
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rules import Match

__all__ = ["Feed", "log_hidden"]

_logger = logging.getLogger("layergate")


class Feed:
    """One response of the app, on its way into ``exchange``.

    ``tokens``: true if middleware outside of LayerGate has made a token for this client, which the
    app may have put into its response.
    ``delivery``: where the response goes; None until its head is known.
    """

    __slots__ = ("_claims", "_engine", "_remembered", "delivery", "exchange")

    def __init__(self, cache: Cache, exchange: Exchange, tokens: Callable[[], bool]) -> None:
        self._engine = cache.engine
        self._claims = Claims(cache.engine, exchange)
        self._remembered = False
        self.exchange = exchange
        self.delivery: Delivery | None = None
        exchange.tokens = tokens

    # -- the call ------------------------------------------------------------------------------

    async def wanted(self) -> bool:
        """False if this is a background refresh that another instance makes, or has made. Then the
        exchange is over, and the app is not called."""
        if not self.exchange.asked.refreshes or await claim_refresh(self._engine, self.exchange):
            return True
        self._claims.abort()
        return False

    def calling(self) -> AbstractContextManager[object]:
        """Around the call of the app: what it traces is part of this fetch."""
        return self.exchange.span.current()

    def carried(self, lines: Lines) -> Lines:
        """``lines`` of a request with what makes it part of this fetch, for apps that trace by header
        fields and not by the context that a call is made in."""
        fields = self.exchange.span.carry()
        if not fields:
            return lines
        kept = [line for line in lines if line[0] not in fields]
        return [*kept, *((name, value) for name, value in fields.items() if value is not None)]

    # -- the head ------------------------------------------------------------------------------

    def refuses(self, status: int, lines: Lines, *, policy: Match | None) -> bool:
        """True if a response with this head is certainly of no use to other requests. Changes
        nothing."""
        return certainly_releases(self._claims, status, lines, policy)

    async def head(
        self,
        status: int,
        lines: Lines,
        *,
        policy: Match | None = None,
        personal: bool = False,
        trailers: bool = False,
        body_follows: bool = False,
    ) -> Delivery:
        """The head of the response.

        ``policy``: of the route that answers. ``personal``: the app knows its user by something
        outside of the request's fields. ``trailers``: trailer fields were announced.
        ``body_follows``: the first part of the body is there, so `open` is called next.

        If the exchange is not ``opened`` when this returns, nothing is sent before `open`.
        """
        exchange = self.exchange
        delivery = self.delivery = receive_head(
            self._claims, status, lines, route=policy, personal=personal, trailers=trailers
        )
        # Those who wait for a response that is not shared must not wait for its body as well. One
        # that is shared so far may turn out not to be, with its first part.
        if exchange.opened or not (delivery is Delivery.SHARE or body_follows):
            await self.remember()
        if delivery is Delivery.FORWARD and exchange.request.method == "HEAD":
            await freshen_by_head(self._engine, exchange, status, lines)
        return delivery

    async def open(self, first: bytes, *, whole: bool) -> Delivery:
        """The first part of the body, before it is fed. ``whole``: it is the only one. What `head`
        left open is known now; does nothing if that was nothing."""
        exchange, delivery = self.exchange, self.delivery
        assert delivery is not None
        if exchange.opened or exchange.stream.broken or delivery is Delivery.DROP:
            return delivery
        delivery = self.delivery = receive_opening(self._claims, first, whole=whole)
        if delivery is Delivery.FORWARD or not self._remembered:
            await self.remember()
        return delivery

    def overdue(self) -> Delivery | None:
        """The body has not come with the head: the head goes out without it. None if that is not to
        be; else call `remember` if the response is shared, or send the head."""
        exchange = self.exchange
        if (
            exchange.opened
            or exchange.state in (State.FAILED, State.ANSWERED)
            or exchange.stream.broken
        ):
            return None
        self.delivery = receive_opening(self._claims, None)
        return self.delivery

    @property
    def waits_for_page(self) -> bool:
        """True if the head must not go out before the first part of the body: a page is looked through
        for tokens."""
        head = self.exchange.head
        return head is not None and head.scan is not None

    @property
    def client_lines(self) -> Lines:
        """The head as it goes to the client whose request was forwarded."""
        return leader_lines(self._engine, self.exchange)

    async def remember(self) -> None:
        """Tell those who come next what the head says. For a head that was `overdue`; the other
        methods do it themselves."""
        self._remembered = True
        if self._engine.stack.peek_is_enough:
            await self._remember()
        else:  # layers that take time to write to must not take the time of this client
            self._claims.spawn(self._remember(), "layergate remember")

    async def _remember(self) -> None:
        """If the response is not shared, other instances find what was noted before the lease is
        free."""
        exchange = self.exchange
        try:
            await remember(self._engine, exchange)
        finally:
            if exchange.state is State.RELEASED:
                self._claims.return_lease(free=True)
            elif exchange.state is State.FAILED:
                self._claims.return_lease()

    # -- the body ------------------------------------------------------------------------------

    async def part(self, data: bytes, *, more: bool) -> Delivery:
        """The next part of the body. ``more``: another one follows.

        It is stored before the client gets it: a client that takes its time is the only one to wait.
        """
        exchange, delivery = self.exchange, self.delivery
        if not exchange.opened and delivery is not Delivery.DROP:
            delivery = await self.open(bytes(data), whole=not more)
        assert delivery is not None
        if delivery is Delivery.FORWARD:
            return delivery
        if delivery is not Delivery.DROP and data:
            self._add(bytes(data))
        if not more and not exchange.stream.ended:
            await self._finish()
        return delivery

    def body(self, data: bytes) -> None:
        """The next part of the body, opened already. Raises OriginAborted if it is more than the
        head announced: then the client has been told something else."""
        if self.delivery is Delivery.SHARE or self.delivery is Delivery.COPY:
            if data:
                self._add(data)
            self._check()

    async def finish(self) -> None:
        """The body is complete. Raises OriginAborted if it is less than the head announced."""
        if self.delivery is Delivery.SHARE or self.delivery is Delivery.COPY:
            await self._finish()
            self._check()

    def _check(self) -> None:
        stream = self.exchange.stream
        if stream.broken:
            raise stream.error or OriginAborted("the response broke off")

    def _add(self, chunk: bytes) -> None:
        exchange, claims = self.exchange, self._claims
        stream = exchange.stream
        if stream.ended or stream.broken:
            return  # an app that goes on after the end that it announced
        exchange.touched = self._engine.runtime.now()
        length = stream.length + len(chunk)
        if exchange.asked.rest is not None and exchange.overflows(length):
            claims.abort(OriginAborted("the origin sent more than the range it announced"))
            return
        if exchange.storing:
            if length > self._engine.settings.max_body:
                claims.refuse(NotStored.TOO_LARGE)
            elif length > claims.reserved and not claims.reserve(length):
                claims.refuse(NotStored.BUDGET)
        stream.add(chunk)

    async def _finish(self) -> None:
        """The body is complete: verify it, tell the readers, store it."""
        exchange, claims, stack = self.exchange, self._claims, self._engine.stack
        stream = exchange.stream
        if stream.ended or stream.broken:
            return
        if exchange.storing and exchange.state is not State.ANSWERED:
            if not exchange.verify():
                count_not_stored(self._engine, exchange, NotStored.LENGTH_MISMATCH)
            elif not exchange.completes and not stack.peek_is_enough:
                self._keep()
        if exchange.completes and exchange.state is State.STREAMING:
            assert exchange.head is not None
            if stream.length != exchange.head.length:
                claims.abort(OriginAborted("the origin sent less than the range it announced"))
                return
            stream.insert(exchange.around[1])
        if exchange.state is not State.ANSWERED:
            stream.join()
        stream.end()
        end_span(exchange)
        # The flight stays on the table until all is stored, so that nobody starts another. But a
        # layer that takes its time is no business of the clients that have it all now.
        if not exchange.storing:
            claims.finish()
        elif stack.peek_is_enough:
            await self._store()
        elif not claims.spawn(self._store(), "layergate store"):
            claims.finish()

    def _keep(self) -> None:
        """Keep the body where that takes no time, so that a client that has read to its end, and asks
        again, finds it."""
        exchange = self.exchange
        assert exchange.head is not None
        if exchange.stream.join() is None or exchange.refused is not None:
            return
        if exchange.head.part is None and exchange.head.scan is None:
            exchange.made = complete_entry(self._engine, exchange)
            exchange.kept = keep(self._engine, exchange, exchange.made)

    async def _store(self) -> None:
        try:
            if self.exchange.refused is not NotStored.VARIANTS:
                await self._commit()
        finally:
            self._claims.finish()

    async def _commit(self) -> None:
        engine, exchange = self._engine, self.exchange
        plan = exchange.plan
        assert plan is not None
        if exchange.state is State.ANSWERED:
            assert exchange.entry is not None
            entry = exchange.entry
            if exchange.confirmation is not None:
                await freshen_others(engine, exchange, exchange.confirmation)
        else:
            assert exchange.stream.body is not None
            if exchange.has_token(exchange.stream.body):
                # It came in parts, so others may have read along. Those who come now shall not.
                exchange.refused = NotStored.TOKEN
                count_not_stored(engine, exchange, NotStored.TOKEN)
                await self._remember()
                return
            entry = exchange.made or complete_entry(engine, exchange)
            exchange.made = None
        if not await commit(engine, exchange, plan, entry):
            exchange.admitted = False
            exchange.refused = exchange.refused or NotStored.PURGED

    # -- endings -------------------------------------------------------------------------------

    def failed(self, error: Exception) -> bool:
        """The app has failed. True if a stored response answers all the same; call `end` then. The
        exchange is aborted otherwise.

        If the response was to be dropped anyway (DROP), the error hides nothing from the client, and
        the caller raises or logs it. One that a stored response stands in for is logged here.
        """
        counters = self._engine.counters
        counters.on("fetch_error", request=self.exchange.request, error=error)
        if self.delivery is Delivery.DROP:
            return True
        if stand_in_for_failure(self._claims, error):
            log_hidden(error)
            return True
        self._claims.abort(error)
        return False

    def abort(self, error: BaseException | None = None) -> None:
        """The call broke off. Does nothing if the body is complete. ``error``: why."""
        self._claims.abort(error)

    def give_up(self, error: BaseException | None = None) -> None:
        """What was fed is not the whole response: nothing is stored, and the client gets the rest
        directly. ``error``: why."""
        self._claims.abort(error)
        self.delivery = Delivery.FORWARD

    def leave_alone(self) -> None:
        """The rest of the response goes to the client without passing here."""
        end_span(self.exchange)

    async def end(self) -> None:
        """The call of the app is over. What it has not completed is not stored."""
        if self.exchange.state is State.ANSWERED:
            await self._finish()  # does nothing if that is done
        self._claims.abort()  # does nothing if the body is complete

    @property
    def unfinished(self) -> list[Task]:
        """The work in the background that the request is not over without, where a loop may end with
        it."""
        return self._claims.unfinished

    @property
    def patience(self) -> float:
        """How long an operation of a layer may take, seconds."""
        return self._engine.settings.layer_timeout


def log_hidden(error: Exception) -> None:
    """Log an error that a stored response hides from the client. A connection that failed needs
    no traceback, and may fail for every request."""
    trace = None if isinstance(error, OriginUnreachable) else error
    _logger.warning("the app failed; a stale response was served: %s", error, exc_info=trace)
