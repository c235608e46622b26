"""Respond: the head and body that a client gets, from what is stored or from an exchange.

The driver and `serve` call these functions last. They decide nothing: whether the response may be
used has been settled by `decide`, `collapse` and the exchange.
"""

from __future__ import annotations

from typing import Final

from layergate.core.entry import Entry
from layergate.http.engine.added_lines import age_line
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.stand_in import excuse, may_stand_in
from layergate.http.message.fields import Fields, Line, Lines
from layergate.http.message.request import Request
from layergate.http.message.stored import Served, StoredResponse
from layergate.http.rfc9111.partial import partial_content
from layergate.http.rfc9111.validation import not_modified, not_modified_lines

__all__ = [
    "forward_line",
    "leader_lines",
    "remaining",
    "respond",
    "respond_from_exchange",
    "respond_not_modified",
    "respond_stale",
    "respond_streamed",
]


# The preconditions that a cache evaluates (4.3.2).
_EVALUATED: Final = frozenset({b"if-modified-since", b"if-none-match"})


def respond(engine: Engine, request: Request, entry: Entry, status_line: Lines) -> Served:
    """A stored response as the answer to ``request``: 304 if its preconditions say so (4.3.2), 206 or
    416 for a range, without content for HEAD, with Age (section 4)."""
    stored: StoredResponse = entry.value
    age = age_line(max(0, int(engine.runtime.now() - stored.generated)))
    if (
        stored.status == 200
        and not _EVALUATED.isdisjoint(request.fields.names())
        and not_modified(request.fields, stored.fields, response_time=stored.response_time)
    ):
        return Served(304, [*not_modified_lines(stored.lines), age, *status_line], b"")
    part = partial_content(request, stored, [age, *status_line])
    if part is not None:
        return part
    lines = [*stored.lines, age, *status_line]
    return Served(stored.status, lines, b"" if request.method == "HEAD" else stored.body)


def respond_from_exchange(
    engine: Engine, exchange: Exchange, request: Request, *, follower: bool
) -> Served | None:
    """The answer to a request whose exchange became ANSWERED; None if a follower may not have it."""
    entry = exchange.entry
    assert entry is not None
    if exchange.plan is None and exchange.refused is None:  # stale-if-error
        unreachable = exchange.unreachable
        if follower and not may_stand_in(engine, request, entry, unreachable=unreachable):
            return None
        return respond_stale(engine, exchange, request, entry, follower=follower)
    extra = forward_line(engine, exchange, follower=follower)
    if not follower:
        request.outcome = "revalidated"
        extra = exchange.cookies + extra
    return respond(engine, request, entry, extra)


def respond_stale(
    engine: Engine, exchange: Exchange, request: Request, entry: Entry, *, follower: bool = False
) -> Served:
    """A stale response in place of an error, or of waiting any longer. The request did go forward, so
    this is no "hit" (RFC 9211 2.1)."""
    request.outcome = "stale"
    # By the entry of the exchange: a follower's own is not looked at, nor is one that came since.
    assert exchange.entry is not None
    detail = excuse(engine, request, exchange.entry, unreachable=exchange.unreachable)
    lines = engine.settings.status.forwarded(
        exchange.asked.fwd,
        fwd_status=exchange.origin_status,
        ttl=remaining(entry, engine.runtime.now()),
        collapsed=follower,
        detail=detail,
    )
    return respond(engine, request, entry, lines)


def respond_streamed(engine: Engine, exchange: Exchange, request: Request) -> Served:
    """The head that a follower gets of a shared stream. If its preconditions ask for that, a 304
    without a body; then it need not read on."""
    head, plan = exchange.head, exchange.plan
    assert head is not None
    assert plan is not None
    extra: list[Line] = [
        age_line(max(0, int(engine.runtime.now() - plan.generated))),
        *forward_line(engine, exchange, follower=True),
    ]
    if head.status in (200, 206) and not _EVALUATED.isdisjoint(request.fields.names()):
        fields = Fields(head.shared)
        if not_modified(request.fields, fields, response_time=plan.response_time):
            return Served(304, [*not_modified_lines(head.shared), *extra], b"")
    return Served(head.status, [*head.shared, *extra], b"")


def respond_not_modified(engine: Engine, exchange: Exchange) -> Served | None:
    """A 304 for the leader of a shared stream whose own preconditions, which were left out of the
    fetch, say that it has this response already; else None."""
    head, plan, request = exchange.head, exchange.plan, exchange.request
    assert head is not None
    assert plan is not None
    if head.status not in (200, 206) or _EVALUATED.isdisjoint(request.fields.names()):
        return None
    if not not_modified(request.fields, Fields(head.lines), response_time=plan.response_time):
        return None
    lines = [*not_modified_lines(head.lines), *forward_line(engine, exchange)]
    return Served(304, lines, b"")


def leader_lines(engine: Engine, exchange: Exchange) -> Lines:
    """The head for the client whose request was forwarded."""
    if exchange.leader_lines is not None:
        return exchange.leader_lines
    assert exchange.head is not None
    return [*exchange.head.lines, *forward_line(engine, exchange)]


def forward_line(engine: Engine, exchange: Exchange, *, follower: bool = False) -> Lines:
    """Cache-Status for a response that came from the origin."""
    status = engine.settings.status
    if not status.sent:
        return []
    fwd_status: int | None = None
    if exchange.origin_status == 304 and exchange.conditional:
        fwd_status = 304
    elif exchange.completes and exchange.head is not None and exchange.head.status == 200:
        fwd_status = 206
    reason = exchange.refused
    if reason is None and not follower:
        reason = exchange.unkept
    return status.forwarded(
        exchange.asked.fwd,
        fwd_status=fwd_status,
        stored=exchange.stored and not follower,
        collapsed=follower,
        detail=None if reason is None else reason.token,
    )


def remaining(entry: Entry, now: float) -> int:
    """The remaining freshness lifetime, in whole seconds; negative when stale (RFC 9211 2.4)."""
    ttl = -entry.staleness(now)
    return int(ttl) if ttl >= 0 else -int(-ttl)
