"""The HTTP cache: the face of the engine, which adapters, the admin endpoint and users call.

    first_look   answers a plain hit, as a plain function: see `hit`
    open         decides on everything else, and answers with one of
                     Serve   a response from the store, and perhaps a refresh of it to run
                     Follow  wait for, and read along with, a fetch that is under way
                     Lead    make this fetch, and feed the exchange
                     Pass    forward, and touch nothing
    purge        makes stored responses invalid: see `purge`
    reload       puts other options into effect

Nothing is decided here: each method passes the engine's record to the verb that does the work. The
cache never calls the app; the adapter does.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

from layergate.config import Options
from layergate.core.entry import Entry
from layergate.core.flight import Flights
from layergate.core.invalidation import PurgeReceipt
from layergate.core.ports import Task
from layergate.core.stack import Stack
from layergate.http.engine import respond, stand_in, store, uncacheable, update
from layergate.http.engine.answers import Answer, Follow, Lead, Pass, Serve
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.fetch import validators
from layergate.http.engine.hit import FirstLook, HitPath
from layergate.http.engine.hit_for_miss import concerns_one_request
from layergate.http.engine.keys import Place, place_of, tags_of_target
from layergate.http.engine.markers import HitForMiss
from layergate.http.engine.open import open_request
from layergate.http.engine.purge import after_unsafe, named_invalidations, purge
from layergate.http.engine.refresh import claim_refresh
from layergate.http.engine.remember import remember
from layergate.http.engine.settings import Settings
from layergate.http.engine.tally import count_answered, count_not_stored, following
from layergate.http.engine.variant_index import room_for
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import variant_key
from layergate.http.message.request import Request
from layergate.http.message.stored import Served, StoredResponse
from layergate.http.privacy.forwarding import Forwarding
from layergate.http.rfc9111.plan import Plan
from layergate.http.rfc9111.storing import Refused
from layergate.http.rules import Match, RuleSet

__all__ = ["Answer", "Cache", "Follow", "Lead", "Pass", "Serve"]


class Cache:
    """RFC 9111 on a `Stack` whose keys are `key.primary_key` and `key.variant_key`."""

    def __init__(self, stack: Stack, options: Options) -> None:
        settings = Settings.of(options)
        self.stack = stack
        self.engine = Engine.of(stack, settings, self)
        self._hits = HitPath(stack, settings)
        self.peek = self._hits.peek
        self.first_look: FirstLook = self.peek
        """What adapters ask first: the hit path, or what telemetry or the log has put around it."""
        if settings.no_vary_search:
            self.first_look = self._hits.peek_search
        self.reporter: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
        """Answers for all processes that serve beside this one. None: there are no others."""
        self._reloaded: list[weakref.WeakMethod[Callable[[], object]]] = []

    # -- options -------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    @property
    def options(self) -> Options:
        return self.engine.settings.options

    @property
    def rules(self) -> RuleSet:
        return self.engine.settings.rules

    def reload(self, **options: Any) -> None:
        """Put new values of options into effect. Options that are not named stay as they are; ``rules``
        are all of the rules.

        Nothing that is stored is lost: it keeps the lifetimes and tags that it was stored with.
        Requests that are being answered may still go by the old options. Call it from the event loop,
        or under threads from any.

        Raises ConfigError, with nothing changed, for a value that cannot work, and for an option
        that the cache was built with (`FIXED_OPTIONS`).
        """
        settings = Settings.of(self.options.replaced(options))
        self.engine = replace(self.engine, settings=settings)
        self._hits.reload(settings)
        for reference in list(self._reloaded):
            adapt = reference()
            if adapt is None:
                self._reloaded.remove(reference)
            else:
                adapt()

    def on_reload(self, adapt: Callable[[], object]) -> None:
        """Call the bound method ``adapt`` of an adapter, which derives something from the options, now
        and after each reload. The adapter is not kept alive by it."""
        self._reloaded.append(weakref.WeakMethod(adapt))
        adapt()

    # -- answering -----------------------------------------------------------------------------

    async def open(
        self, request: Request, *, alone: bool = False, fresh: bool = False, late: bool = False
    ) -> Answer:
        """Decide what to do with a request.

        ``alone``: it has waited in vain (for something not shareable, or for too long) and is not
        to wait again. ``late``: it was for too long. ``fresh``: what is stored failed validation;
        fetch without validators.
        """
        return await open_request(
            self.engine, request, uncollapsed=alone, ignore_stored=fresh, late=late
        )

    def cookie_marker(self, key: bytes, fields: Mapping[bytes, bytes]) -> HitForMiss | None:
        """The marker for requests with these cookies or other credentials, if the request has nothing
        that calls for a closer look."""
        if not self._hits.forwards_plainly(fields):
            return None
        return uncacheable.cookie_marker(self.engine, key, fields)

    def only_authorized(self, key: bytes, fields: Mapping[bytes, bytes]) -> bool:
        """See `uncacheable.is_for_one_user`."""
        return uncacheable.is_for_one_user(self.engine, key, fields)

    def unshared(
        self, match: Match | None, lines: Lines, *, cookie: bool, authorization: bool
    ) -> Lines | None:
        """See `uncacheable.unshared_head`."""
        return uncacheable.unshared_head(
            self.engine.settings, match, lines, cookie=cookie, authorization=authorization
        )

    async def late(
        self, request: Request, match: Match | None, *, stamp: int, request_time: float
    ) -> Exchange:
        """See `uncacheable.late_exchange`."""
        return await uncacheable.late_exchange(
            self.engine, request, match, stamp=stamp, request_time=request_time
        )

    # -- purging, counting ---------------------------------------------------------------------

    async def purge(
        self,
        *,
        tags: Collection[str] = (),
        urls: Collection[str] = (),
        prefixes: Collection[str] = (),
        hosts: Collection[str] = (),
        patterns: Collection[str] = (),
        everything: bool = False,
        soft: bool = False,
        schemes: Literal["either", "exact"] = "either",
    ) -> PurgeReceipt:
        """Purge. When it returns, no response whose fetch began before the call is served (G3), on
        any instance, if the receipt is ``final``; see `PurgeReceipt`. The receipt also tells how many
        stored responses (each variant is one) this process held that were named.

        ``tags``      surrogate keys.
        ``urls``      absolute URLs, with all their variants, however they are spelled (see `uri`).
        ``prefixes``  ``host/path…`` without a scheme, as Cloudflare has them; or with one.
        ``hosts``     host names, any scheme and port; or ``host:port``.
        ``patterns``  URLs in which ``*`` stands for anything; one that begins with ``/`` is matched
                      against path and query on any host.
                      With ``no_vary_search``, ``urls``, ``prefixes`` and ``patterns`` reach what is
                      stored for several queries if they mean any of them, or could: see
                      `no_vary_search.reaching`.
        ``everything`` all of it.
        ``soft``      make stale instead of gone: still good for stale-while-revalidate,
                      stale-if-error and revalidation.
        ``schemes``   "either": a URL reaches what is stored for it under http and under https, since
                      behind a TLS terminator the app may be told of another one than browsers show;
                      "exact": under its own alone. (Prefixes and patterns name a scheme or none.)

        Raises PurgeRefused when nothing is named, or something that cannot be purged.
        """
        named = named_invalidations(
            tags=tags,
            urls=urls,
            prefixes=prefixes,
            hosts=hosts,
            patterns=patterns,
            everything=everything,
            soft=soft,
            schemes=schemes,
        )
        return await purge(self.engine, named)

    def stats(self) -> dict[str, Any]:
        """Counters and sizes, as ``GET {admin}/stats`` shows them."""
        engine = self.engine
        return {
            **self.stack.metrics(),
            "flights": len(engine.flights),
            "waiters": engine.budget.waiters,
            "refreshing": engine.budget.refreshing,
            "inflight_bytes": engine.budget.inflight,
        }

    async def report(self) -> Mapping[str, Any]:
        """`stats`, or what ``reporter`` says, which speaks for other processes too."""
        return self.stats() if self.reporter is None else await self.reporter()

    def forked(self) -> None:
        """In the child of a fork: what was under way belongs to threads of the parent. What is
        stored stays."""
        engine = self.engine
        self.engine = replace(engine, flights=Flights(engine.runtime))
        engine.budget.forked(engine.runtime)
        engine.admission.forked()
        engine.learned.forked()
        self.stack.forked()

    # -- what adapters call --------------------------------------------------------------------

    @property
    def flights(self) -> Flights[Exchange]:
        return self.engine.flights

    @property
    def max_body(self) -> int:
        return self.engine.settings.max_body

    @property
    def internal_fields(self) -> frozenset[bytes]:
        return self.engine.settings.internal_fields

    @property
    def identifier(self) -> bytes:
        return self.engine.settings.status.identifier

    def adapted(self, adapt: Callable[[], object]) -> None:
        self.on_reload(adapt)

    def pass_lines(self, reason: Refused, fwd: str) -> Lines:
        return self.engine.settings.status.bypassed(reason, fwd)

    def for_clients(self, lines: Lines) -> Lines:
        return self.engine.settings.for_clients(lines)

    def answer(self, exchange: Exchange, request: Request, *, follower: bool) -> Served | None:
        return respond.respond_from_exchange(self.engine, exchange, request, follower=follower)

    def stale(
        self, exchange: Exchange, request: Request, entry: Entry, *, follower: bool = False
    ) -> Served:
        return respond.respond_stale(self.engine, exchange, request, entry, follower=follower)

    def streamed(self, exchange: Exchange, request: Request) -> Served:
        return respond.respond_streamed(self.engine, exchange, request)

    def precondition(self, exchange: Exchange) -> Served | None:
        return respond.respond_not_modified(self.engine, exchange)

    def stale_if_error(self, request: Request, entry: Entry) -> bool:
        return stand_in.may_stand_in_for_error(self.engine, request, entry)

    async def may_refresh(self, exchange: Exchange) -> bool:
        return await claim_refresh(self.engine, exchange)

    async def settle(self, exchange: Exchange) -> None:
        await remember(self.engine, exchange)

    async def after_head(self, exchange: Exchange, status: int, lines: Lines) -> None:
        await update.freshen_by_head(self.engine, exchange, status, lines)

    async def after_unsafe(self, uri: str, method: str, status: int, lines: Lines) -> None:
        await after_unsafe(self.engine, uri, method, status, lines)

    def spoke_of_one(self, exchange: Exchange, request: Request) -> bool:
        return concerns_one_request(exchange, request)

    def following(self, request: Request, exchange: Exchange) -> AbstractContextManager[None]:
        return following(self.engine, request, exchange)

    def answered(self, request: Request) -> None:
        count_answered(self.engine, request)

    def waiting(self, change: int) -> None:
        self.engine.budget.count_waiter(change)

    def refreshing(self, change: int) -> None:
        self.engine.budget.count_refresh(change)

    def aside(self, work: Coroutine[Any, Any, Any], name: str) -> Task | None:
        """Run ``work`` in the background. None when nothing is started any more, since the process
        ends: then ``work`` is closed."""
        try:
            return self.stack.runtime.spawn(work, name=name)
        except RuntimeError:
            return None

    # -- what an exchange calls ----------------------------------------------------------------

    @property
    def forwarding(self) -> Forwarding:
        return self.engine.settings.forwarding

    def validators(self, key: bytes, stored: StoredResponse) -> Lines:
        return validators(self.engine, key, stored)

    def secondary(self, names: tuple[bytes, ...], fields: Fields) -> bytes:
        return self.engine.settings.secondary(names, fields)

    def home(self, request: Request, plan: Plan) -> Place:
        return place_of(self.engine.settings, request, plan)

    def reached_by(self, primary: bytes, request: Request) -> tuple[str, ...]:
        return tags_of_target(self.engine.settings, primary, request)

    def has_room(self, exchange: Exchange, plan: Plan) -> bool:
        variant = variant_key(exchange.primary, exchange.secondary)
        room = room_for(self.engine, exchange.primary, plan.names, variant)
        exchange.sights = room.sights or exchange.sights
        return room.there

    def takes(
        self, exchange: Exchange, plan: Plan, length: int = 0, *, entry: Entry | None = None
    ) -> Refused | None:
        return store.refusal_of_layers(self.engine, exchange, plan, length, entry=entry)

    def keep(self, exchange: Exchange, entry: Entry) -> bytes | None:
        return store.keep(self.engine, exchange, entry)

    async def commit(self, exchange: Exchange, plan: Plan, entry: Entry) -> bool:
        return await store.commit(self.engine, exchange, plan, entry)

    async def freshen_others(self, exchange: Exchange, fields: Fields) -> None:
        await update.freshen_others(self.engine, exchange, fields)

    def interned(self, lines: Lines) -> Lines:
        return self.engine.learned.shared_lines(lines)

    def stands_in(self, request: Request, entry: Entry, *, unreachable: bool) -> bool:
        return stand_in.may_stand_in(self.engine, request, entry, unreachable=unreachable)

    def excuse(self, exchange: Exchange, request: Request) -> str:
        assert exchange.entry is not None
        unreachable = exchange.unreachable
        return stand_in.excuse(self.engine, request, exchange.entry, unreachable=unreachable)

    def forward_line(self, exchange: Exchange, *, follower: bool = False) -> Lines:
        return respond.forward_line(self.engine, exchange, follower=follower)

    def not_stored(self, exchange: Exchange, reason: Refused) -> None:
        count_not_stored(self.engine, exchange, reason)

    def take_inflight(self, size: int, exchange: Exchange | None = None) -> bool:
        return self.engine.budget.take(size, self.engine.settings.max_inflight, exchange)

    def give_inflight(self, size: int, exchange: Exchange | None = None) -> None:
        self.engine.budget.give(size, exchange)
