"""Requests for what is known not to be shareable, which an adapter forwards at once.

For most of them a marker in memory and the head of the response say all there is to say: no `Request`
is made, nothing is looked up, and no exchange watches. The adapter asks `cookie_hit_for_miss` or
`is_for_one_user` where the hit path found nothing, and forwards the request as a `KnownUnshareable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from layergate.http.engine.cache import Cache
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.fetch import beginning, new_exchange
from layergate.http.engine.hit_for_miss import find_hit_for_miss
from layergate.http.engine.lookup import select_exactly
from layergate.http.engine.settings import Settings
from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.credentials import Credential, strongest_credential
from layergate.http.message.fields import Lines
from layergate.http.message.request import Request
from layergate.http.rfc9111.decision import bypass_reason
from layergate.http.rfc9111.plan import certain_refusal
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rules import Match

__all__ = ["KnownUnshareable", "unshared_head"]

_REMEMBERED: Final = 256  # bytes of a Cache-Control value that is worth remembering
_FWD: Final = {NotStored.COOKIE: "request", NotStored.AUTHORIZATION: "request"}


def unshared_head(
    settings: Settings,
    match: Match | None,
    status: int,
    lines: Lines,
    *,
    cookie: bool,
    authorization: bool,
) -> Lines | None:
    """The head, for its client, of a response that is certainly not stored (see `certain_refusal`); None
    if it has to be looked at more closely.

    Of a field that occurs twice, one line is looked at. This errs towards not storing.
    """
    fields = {name.lower(): value for name, value in lines}
    if not settings.target_names.isdisjoint(fields):
        return None
    control = fields.get(b"cache-control")
    expires, guesses = b"expires" in fields, settings.options.heuristic is not None
    if match is None and (control is None or len(control) <= _REMEMBERED):
        reason = _without_rule(status, control, expires, guesses)
    else:
        reason = certain_refusal(
            status,
            None if control is None else parse_cache_control(control),
            None if match is None else match.rule,
            has_expires=expires,
            guesses=guesses,
            cookie=cookie,
            authorization=authorization,
        )
    if reason is None:
        return None
    if not settings.internal_fields.isdisjoint(fields):
        lines = settings.for_clients(lines)
    return [*lines, *settings.status.bypassed(reason, _FWD.get(reason, "miss"))]


@lru_cache(maxsize=512)
def _without_rule(
    status: int, control: bytes | None, expires: bool, guesses: bool
) -> NotStored | None:
    """`certain_refusal` without a rule, when the credentials of the request do not matter."""
    return certain_refusal(
        status,
        None if control is None else parse_cache_control(control),
        None,
        has_expires=expires,
        guesses=guesses,
        cookie=False,
        authorization=False,
    )


class KnownUnshareable:
    """A request for a target that is known not to be shareable: it is forwarded at once, and only a
    response that looks as if that has changed gets an exchange after all.

    Make it before the app is called. ``match``: the rule that covers the request; ``fields``: its
    header fields, of which none occurred twice.
    """

    __slots__ = ("_began", "_engine", "_fields", "_match")

    def __init__(self, cache: Cache, match: Match | None, fields: Mapping[bytes, bytes]) -> None:
        self._engine = cache.engine
        self._match = match
        self._fields = fields
        self._began = beginning(cache.engine)

    def head(self, status: int, lines: Lines) -> Lines | None:
        """The head for the client, if the response is certainly not stored; None: look closer, with an
        `exchange`."""
        engine, fields = self._engine, self._fields
        told = unshared_head(
            engine.settings,
            self._match,
            status,
            lines,
            cookie=strongest_credential(fields) is not Credential.NONE,
            authorization=b"authorization" in fields,
        )
        if told is not None:
            engine.counters.forwarded += 1
        return told

    async def exchange(self, request: Request) -> Exchange:
        """The exchange to feed with the response, beginning with its head. The fetch began unwatched,
        when this object was made."""
        engine = self._engine
        selected = await select_exactly(engine, request)
        exchange = new_exchange(
            engine, request, selected, None, None, "miss", self._match, began=self._began
        )
        exchange.hit_for_miss = await find_hit_for_miss(engine, request, selected) is not None
        bypass = bypass_reason(request, max_key_length=engine.settings.max_key_length)
        exchange.refused = None if bypass is None else bypass.not_stored
        engine.counters.requests["miss", ""] += 1
        return exchange
