"""What an adapter feeds of the app's response into an exchange.

A `Feed` belongs to one call of the app. The adapter calls `head`, then `part` for each part of the body
(or `body` and `finish`, where only the next part tells which is the last), and after the call `end` or
`failed`. What each call returns says where the bytes go (`Relay`); the feed does all the rest: it tells
the store and those who wait, in the order that the guarantees need. It never calls the app, sends
nothing, and awaits nothing but the ports of the runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from layergate.errors import OriginAborted, OriginUnreachable
from layergate.http.engine.cache import Cache
from layergate.http.engine.exchange import Exchange, Relay, State
from layergate.http.message.credentials import Credential, strongest_credential
from layergate.http.message.fields import Lines
from layergate.http.message.request import Request
from layergate.http.rules import Match

__all__ = ["Feed", "KnownUnshareable", "log_hidden"]

_logger = logging.getLogger("layergate")


class Feed:
    """One response of the app, on its way into ``exchange``.

    ``tokens``: True if middleware outside of LayerGate has made a token for this client, which the
    app may have put into its response.
    ``relay``: where the response goes; None until its head is known.
    """

    __slots__ = ("_cache", "_settled", "exchange", "relay")

    def __init__(self, cache: Cache, exchange: Exchange, tokens: Callable[[], bool]) -> None:
        self._cache = cache
        self.exchange = exchange
        self.relay: Relay | None = None
        self._settled = False
        exchange.tokens = tokens

    async def wanted(self) -> bool:
        """False if this is a background refresh that another instance makes, or has made. Then the
        exchange is over, and the app is not called."""
        exchange = self.exchange
        if not exchange.refreshes or await self._cache.may_refresh(exchange):
            return True
        exchange.abort()
        return False

    # -- the head ------------------------------------------------------------------------------

    async def head(
        self,
        status: int,
        lines: Lines,
        *,
        policy: Match | None = None,
        personal: bool = False,
        trailers: bool = False,
        body_follows: bool = False,
    ) -> Relay:
        """The head of the response.

        ``policy``: of the route that answers. ``personal``: the app knows its user by something
        outside of the request's fields. ``trailers``: trailer fields were announced.
        ``body_follows``: the first part of the body is there, so `open` is called next.

        If the exchange is not ``opened`` when this returns, nothing is sent before `open`.
        """
        exchange = self.exchange
        relay = self.relay = exchange.head(
            status, lines, route=policy, trailers=trailers, personal=personal
        )
        # Those who wait for a response that is not shared must not wait for its body as well. One
        # that is shared so far may turn out not to be, with its first part.
        if exchange.opened or not (relay is Relay.SHARE or body_follows):
            await self.settle()
        if relay is Relay.PASS and exchange.request.method == "HEAD":
            await self._cache.after_head(exchange, status, lines)
        return relay

    async def open(self, first: bytes, *, whole: bool) -> Relay:
        """The first part of the body, before it is fed. ``whole``: it is the only one. What `head`
        left open is known now; does nothing if that was nothing."""
        exchange, relay = self.exchange, self.relay
        assert relay is not None
        if exchange.opened or relay is Relay.SWALLOW:
            return relay
        relay = self.relay = exchange.opening(first, whole=whole)
        if relay is Relay.PASS or not self._settled:
            await self.settle()
        return relay

    def overdue(self) -> Relay | None:
        """The body has not come with the head: the head goes out without it. None if that is not to
        be; else call `settle` if the response is shared, or send the head."""
        exchange = self.exchange
        if exchange.opened or exchange.state in (State.FAILED, State.ANSWERED) or exchange.broken:
            return None
        self.relay = exchange.opening(None)
        return self.relay

    async def settle(self) -> None:
        """Tell those who come next what the head says. For a head that was `overdue`; the other
        methods do it themselves."""
        self._settled = True
        cache, exchange = self._cache, self.exchange
        if cache.stack.peek_is_enough:
            await cache.settle(exchange)
        else:  # layers that take time to write to must not take the time of this client
            exchange.aside(cache.settle(exchange), "layergate settle")

    # -- the body ------------------------------------------------------------------------------

    async def part(self, data: bytes, *, more: bool) -> Relay:
        """The next part of the body. ``more``: another one follows.

        It is stored before the client gets it: a client that takes its time is the only one to wait.
        """
        exchange, relay = self.exchange, self.relay
        if not exchange.opened and relay is not Relay.SWALLOW:
            relay = await self.open(bytes(data), whole=not more)
        assert relay is not None
        if relay is Relay.PASS:
            return relay
        if relay is not Relay.SWALLOW and data:
            exchange.body(bytes(data))
        if not more and not exchange.ended:
            await exchange.finish()
        return relay

    def body(self, data: bytes) -> None:
        """The next part of the body, opened already. Raises OriginAborted if it is more than the
        head announced: then the client has been told something else."""
        exchange = self.exchange
        if self.relay is Relay.SHARE or self.relay is Relay.TEE:
            exchange.body(data)
            self._check()

    async def finish(self) -> None:
        """The body is complete. Raises OriginAborted if it is less than the head announced."""
        if self.relay is Relay.SHARE or self.relay is Relay.TEE:
            await self.exchange.finish()
            self._check()

    def _check(self) -> None:
        exchange = self.exchange
        if exchange.broken:
            raise exchange.error or OriginAborted("the response broke off")

    # -- endings -------------------------------------------------------------------------------

    def failed(self, error: Exception) -> bool:
        """The app has failed. True if a stored response answers all the same; call `end` then. The
        exchange is aborted otherwise.

        If the response was to be dropped anyway (SWALLOW), the error hides nothing from the client, and
        the caller raises or logs it. One that a stored response stands in for is logged here.
        """
        exchange = self.exchange
        self._cache.stack.counters.on("fetch_error", request=exchange.request, error=error)
        if self.relay is Relay.SWALLOW:
            return True
        if exchange.answer_error(error):
            log_hidden(error)
            return True
        exchange.abort(error)
        return False

    def give_up(self, error: BaseException | None = None) -> None:
        """What was fed is not the whole response: nothing is stored, and the client gets the rest
        directly. ``error``: why."""
        self.exchange.abort(error)
        self.relay = Relay.PASS

    async def end(self) -> None:
        """The call of the app is over. What it has not completed is not stored."""
        exchange = self.exchange
        if exchange.state is State.ANSWERED and not exchange.ended:
            await exchange.finish()
        else:
            exchange.abort()  # does nothing if the body is complete


def log_hidden(error: Exception) -> None:
    """Log an error that a stored response hides from the client. A connection that failed needs
    no traceback, and may fail for every request."""
    trace = None if isinstance(error, OriginUnreachable) else error
    _logger.warning("the app failed; a stale response was served: %s", error, exc_info=trace)


class KnownUnshareable:
    """A request for a target that is known not to be shareable (hit-for-miss): it is forwarded at
    once, and only a response that looks as if that has changed gets an exchange after all.

    Make it before the app is called. ``match``: the rule that covers the request; ``fields``: its
    header fields, of which none occurred twice.
    """

    __slots__ = ("_began", "_cache", "_fields", "_match", "_stamp")

    def __init__(self, cache: Cache, match: Match | None, fields: Mapping[bytes, bytes]) -> None:
        self._cache = cache
        self._match = match
        self._fields = fields
        self._stamp = cache.stack.invalidations.position
        self._began = cache.stack.runtime.now()

    def head(self, lines: Lines) -> Lines | None:
        """The head for the client, if the response is certainly not stored; None: look closer, with an
        `exchange`."""
        cache, fields = self._cache, self._fields
        told = cache.unshared(
            self._match,
            lines,
            cookie=strongest_credential(fields) is not Credential.NONE,
            authorization=b"authorization" in fields,
        )
        if told is not None:
            cache.stack.counters.forwarded += 1
        return told

    async def exchange(self, request: Request) -> Exchange:
        """The exchange to feed with the response, beginning with its head."""
        return await self._cache.late(
            request, self._match, stamp=self._stamp, request_time=self._began
        )
