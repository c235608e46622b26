"""Entries: read from the layers by their keys, and made of a plan.

Every verb of the engine that reads the store does so through here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from layergate.core.entry import Entry
from layergate.core.stack import Found
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.message.fields import Lines
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.plan import Plan

__all__ = ["entry_under", "find", "is_complete", "is_later", "planned_entry"]


async def find(
    engine: Engine,
    key: bytes,
    enough: Callable[[Entry], bool] | None = None,
    *,
    quiet: bool = False,
    below: bool = False,
) -> Found | None:
    """The entry under ``key`` and the name of its layer. Arguments as for `Stack.lookup`.

    Where the top layer is all there is, a peek into it takes the place of a lookup, which costs more.
    """
    stack = engine.stack
    if stack.peek_is_enough and stack.trusted and not quiet:
        entry = stack.peek(key)
        if entry is None or entry.expires <= engine.runtime.now():
            return None
        return Found(entry, engine.top)
    return await stack.lookup(key, enough=enough, quiet=quiet, below=below)


async def entry_under(
    engine: Engine, key: bytes, *, quiet: bool = False, below: bool = False
) -> Entry | None:
    """As `find`, without the name of the layer."""
    found = await find(engine, key, quiet=quiet, below=below)
    return None if found is None else found.entry


def is_complete(entry: Entry) -> bool:
    """False for parts of a response."""
    return not isinstance(entry.value, PartialResponse)


def is_later(entry: Entry, other: Entry) -> bool:
    """True if ``entry`` is from a later fetch than ``other``, or from after a purge that ``other`` did
    not see."""
    if entry.stamp != other.stamp:
        return entry.stamp > other.stamp
    value = entry.value
    return isinstance(value, StoredResponse) and value.request_time > other.value.request_time


def planned_entry(
    engine: Engine,
    exchange: Exchange,
    plan: Plan,
    status: int,
    lines: Lines,
    body: bytes,
    like: StoredResponse | None = None,
) -> Entry:
    """The entry that ``plan`` makes of the response of an exchange; or of ``like``, whose content it
    has."""
    lines = engine.learned.shared_lines(lines)
    asked, began = exchange.asked, exchange.began
    part = None if exchange.head is None else exchange.head.part
    make: Callable[..., StoredResponse]
    if like is not None:
        make = partial(like.renewed, lines)
    elif part is not None:
        parts = ((part.span[0], body),)
        make = partial(PartialResponse, lines, parts, part.whole, vague=part.vague)
    else:
        make = partial(StoredResponse, status, lines, body)
    stored = make(
        generated=plan.generated,
        response_time=plan.response_time,
        no_cache=plan.no_cache,
        must_revalidate=plan.must_revalidate,
        without_credentials_only=plan.without_credentials_only,
        shared_with_authorization=plan.shared_with_authorization,
        shared_with_users=plan.shared_with_users,
        immutable=plan.immutable,
        reloaded=asked.reload,
        request_time=began.request_time,
        traceparent=exchange.span.reference,
        own=plan.own,
    )
    return Entry(
        stored,
        created=plan.response_time,
        fresh_until=plan.fresh_until,
        stale_while_revalidate=plan.stale_while_revalidate,
        stale_if_error=plan.stale_if_error,
        expires=plan.expires,
        tags=plan.tags,
        stamp=began.stamp,
        size=stored.size,
    )
