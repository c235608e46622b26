"""Responses to POST that answer later requests (RFC 9110 sections 8.7 and 9.3.3).

"Responses to POST requests are only cacheable when they include explicit freshness information (see
Section 4.2.1 of [CACHING]) and a Content-Location header field that has the same value as the POST's
target URI (Section 8.7). A cached POST response can be reused to satisfy a later GET or HEAD request."

So such a response is stored as if it had come to a GET with the same header fields, and whatever keeps
that one out of the store keeps this one out too. Stricter than the letter, since whoever posts may have
written what he is answered with:

  * the status is 200, and the freshness is the response's own. That a rule covers the target, or a
    guess would do, says nothing about what a POST is answered with;
  * to a POST with a cookie it must be selected by that cookie, or say that it is for all (``public``,
    ``s-maxage``, ``must-revalidate``), as if it had Authorization; to one from a known user it must say
    ``public`` or ``s-maxage``, whatever selects it;
  * nothing is stored for a POST that names another method in a field, by which many an application
    takes it for something else, a PUT, or a GET whose content no key has;
  * it is stored for its target alone, and not for others that No-Vary-Search makes equivalent.

*It invalidates, and is stored (G3).* A POST purges its target (RFC 9111 section 4.4) when its head is
known, and its response is newer than that purge, but older than any that came after it. What was purged
while the app worked, we cannot tell apart from what its own purge covers. So it is stored only if, from
the beginning of the request until its own purge was applied, that was the only change of the marks; its
stamp is the position then. Two POSTs at once to the same target store nothing, and neither does one
beside a purge of something else: a call of the app, rarely, against a proof in one sentence. A GET that
began before the POST's purge is killed by it, one that began after it is the newer one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from layergate.http.engine.cache import Cache
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.fetch import beginning, new_exchange
from layergate.http.engine.keys import place_of
from layergate.http.engine.lookup import Selected
from layergate.http.engine.plan import Planned, plan_response
from layergate.http.engine.purge import after_unsafe
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.request import Request
from layergate.http.message.uri import canonical_uri, resolve_uri
from layergate.http.rfc9111.decision import bypass_reason
from layergate.http.rfc9111.plan import Plan
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rules import Match

__all__ = ["Begun", "after_post", "begin", "encloses_target", "judged"]

_EXPLICIT: Final = frozenset({"s-maxage", "max-age", "expires"})
_OVERRIDES: Final = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})


class Begun(NamedTuple):
    """What is noted when a POST begins. ``changes``: `Invalidations.changes`; ``time``: seconds since the
    epoch."""

    changes: int
    time: float


def begin(cache: Cache) -> Begun:
    """To be called before the app is."""
    return Begun(cache.stack.invalidations.changes, cache.stack.runtime.now())


def encloses_target(target: str, status: int, fields: Fields) -> bool:
    """Is the content of a response to POST a representation of the ``target`` URI itself?

    RFC 9110 8.7: "If Content-Location is included in a 2xx (Successful) response message and its value
    refers (after conversion to absolute form) to a URI that is the same as the target URI, then the
    recipient MAY consider the content to be a representation of that resource". It is an absolute or
    a partial URI, without a fragment; a list, or nothing, is neither.
    """
    if status != 200:
        return False
    values = fields.all(b"content-location")
    if len(values) != 1 or not values[0] or b"#" in values[0]:
        return False
    own = canonical_uri(target)
    if own is None:
        return False
    named = resolve_uri(own, values[0].decode("latin-1"))
    # (a server's interface does not tell "/x?" and "/x" apart)
    return named is not None and named.removesuffix("?") == own.removesuffix("?")


def judged(
    engine: Engine,
    request: Request,
    status: int,
    fields: Fields,
    *,
    route: Match | None = None,
    trailers: bool = False,
    request_time: float,
) -> tuple[Exchange, Planned]:
    """An exchange for what `encloses_target` holds of, and how it is to be stored, or why not.

    ``request`` is the POST, ``route`` the policy set next to its route; ``request_time``: when it
    began, seconds since the epoch.
    """
    asked = request.for_refresh()  # a GET: no preconditions, no range, no content
    asked.directives = request.directives
    settings = engine.settings
    match = route or settings.rules.match(asked.path, asked.host)
    selected = Selected(None, asked.key, None, False)
    began = beginning(engine)._replace(request_time=request_time)
    exchange = new_exchange(engine, asked, selected, None, None, "method", match, began=began)
    bypass = bypass_reason(asked, max_key_length=settings.max_key_length)
    exchange.refused = None if bypass is None else bypass.not_stored
    now = engine.runtime.now()
    planned = plan_response(engine, exchange, status, fields, now, trailers=trailers)
    if isinstance(planned.plan, Plan):
        refused = _refused(engine, asked, fields, planned.plan)
        if refused is not None:
            return exchange, Planned(refused)
    return exchange, planned


def _refused(engine: Engine, asked: Request, fields: Fields, plan: Plan) -> NotStored | None:
    """Why not even what may be stored for a GET is stored for a POST; None: it is. See the module."""
    if plan.lifetime.source not in _EXPLICIT or not plan.shareable:
        return NotStored.METHOD
    if not _OVERRIDES.isdisjoint(asked.fields.names()):
        return NotStored.METHOD
    if b"content-range" in fields:
        return NotStored.PARTIAL  # (only a GET's Range would be seen in ``asked``)
    # Of a known user `plan_storage` has asked for more already.
    if asked.cookie and not (
        plan.shared_with_users or plan.shared_with_authorization or b"cookie" in plan.vary
    ):
        return NotStored.USER
    if place_of(engine.settings, asked, plan).primary != asked.key:
        return NotStored.METHOD
    return None


async def after_post(
    cache: Cache,
    read: Callable[[], Request],
    target: str,
    status: int,
    lines: Lines,
    begun: Begun,
    *,
    route: Match | None = None,
    trailers: bool = False,
) -> Exchange | None:
    """The head of a response to POST: invalidates (RFC 9111 4.4), as for any other unsafe method.

    Then gives the exchange to feed with this response, beginning with its head, if it is to be
    stored. ``read``: makes the `Request`, as it was when it began.
    """
    exchange: Exchange | None = None
    fields = Fields(lines)
    if encloses_target(target, status, fields):
        exchange, planned = judged(
            cache.engine,
            read(),
            status,
            fields,
            route=route,
            trailers=trailers,
            request_time=begun.time,
        )
        if isinstance(planned.plan, NotStored):
            exchange = None
    await after_unsafe(cache.engine, target, "POST", status, lines)
    if exchange is None:
        return None
    invalidations = cache.stack.invalidations
    # In this order: what is applied in between changes the second.
    exchange.restart(exchange.began._replace(stamp=invalidations.position))
    return exchange if invalidations.changes == begun.changes + 1 else None
