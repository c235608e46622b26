"""The HTTP cache: the face of the engine, which adapters, the admin endpoint and users call.

    first_look   answers a plain hit, as a plain function: see `hit`
    open         decides on everything else, and answers with one of
                     Serve    a response from the store, and perhaps a refresh of it to run
                     Follow   wait for, and read along with, a fetch that is under way
                     Lead     make this fetch, and feed the exchange
                     Forward  call the app; the cache has no part in this request
    purge        makes stored responses invalid: see `purge`
    reload       puts other options into effect

Nothing is decided here: each method passes the engine's record to the verb that does the work. The
cache never calls the app; the adapter does.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from layergate.config import Options
from layergate.core.flight import Flights
from layergate.core.invalidation import PurgeReceipt
from layergate.core.stack import Stack
from layergate.http.engine.answers import Answer, Attempt
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.hit import FirstLook, HitPath
from layergate.http.engine.open import open_request
from layergate.http.engine.purge import after_unsafe, named_invalidations, purge
from layergate.http.engine.settings import Settings
from layergate.http.message.fields import Lines
from layergate.http.message.request import Request
from layergate.http.rfc9111.storing import Bypass
from layergate.http.rules import RuleSet

__all__ = ["Cache"]


class Cache:
    """RFC 9111 on a `Stack` whose keys are `key.primary_key` and `key.variant_key`."""

    def __init__(self, stack: Stack, options: Options) -> None:
        settings = Settings.of(options)
        self.stack = stack
        self.engine = Engine.of(stack, settings)
        self._hits = HitPath(stack, settings)
        self.peek = self._hits.peek
        self.cookie_hit_for_miss = self._hits.cookie_hit_for_miss
        self.is_for_one_user = self._hits.is_for_one_user
        self.first_look: FirstLook = self.peek
        """What adapters ask first: the hit path, or what telemetry or the log has put around it."""
        if settings.no_vary_search:
            self.first_look = self._hits.peek_search
        self.reporter: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
        """Answers for all processes that serve beside this one. None: there are no others."""
        self.several: Callable[[bool | None], str | None] = _not_known
        """What shows that other processes serve the same app with caches of their own, or None. Its
        argument is ``wsgi.multiprocess``, or None."""
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

    async def open(self, request: Request, attempt: Attempt = Attempt.COLLAPSED) -> Answer:
        """Decide what to do with a request."""
        return await open_request(self.engine, request, attempt)

    async def after_unsafe(self, uri: str, method: str, status: int, lines: Lines) -> None:
        """Invalidate what an unsafe request has changed (4.4). See `purge.unsafe_invalidations`."""
        await after_unsafe(self.engine, uri, method, status, lines)

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

    # -- what adapters derive from the options --------------------------------------------------

    @property
    def flights(self) -> Flights[Exchange]:
        """The fetches under way."""
        return self.engine.flights

    @property
    def internal_fields(self) -> frozenset[bytes]:
        """The response fields, lower-case names, that no client gets."""
        return self.engine.settings.internal_fields

    @property
    def identifier(self) -> bytes:
        """The name of this cache in Cache-Status."""
        return self.engine.settings.status.identifier

    def bypass_lines(self, reason: Bypass, fwd: str) -> Lines:
        """What is added to the head of a response that the cache has no part in."""
        return self.engine.settings.status.bypassed(reason, fwd)

    def for_clients(self, lines: Lines) -> Lines:
        """The lines of a response's head that clients may see."""
        return self.engine.settings.for_clients(lines)


def _not_known(multiprocess: bool | None) -> str | None:  # noqa: ARG001 - see `Cache.several`
    return None
