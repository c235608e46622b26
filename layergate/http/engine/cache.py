"""The HTTP cache: from a request to an answer, over a stack of layers.

`peek` answers the plain hit, as a plain function. `open` decides everything else and returns one of

    Serve   a response from the store (and perhaps an exchange that refreshes it in the background)
    Follow  wait for, and read along with, a fetch that is under way
    Lead    make this fetch: an `Exchange` to feed
    Pass    none of the cache's business: forward, touch nothing

The cache never calls the app; the adapter does.
"""

# Purges name what users wrote: a check that the declared types call redundant is the check that
# turns a mistake into a readable error.
# mypy: disable-error-code="redundant-expr"

from __future__ import annotations

import logging
import weakref
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from layergate.config import MAX_TAG_LENGTH, ONE_REQUEST_STATUSES, Options
from layergate.core.codec import FAR
from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN
from layergate.core.flight import Flights
from layergate.core.invalidation import Invalidation, PurgeReceipt, glob
from layergate.core.ports import Task
from layergate.core.shared import Waited
from layergate.core.stack import Found, Stack
from layergate.errors import KeyRefused, PurgeRefused
from layergate.http.engine.admission import Admission
from layergate.http.engine.exchange import Exchange, State
from layergate.http.engine.hit_for_miss import (
    credentials_witness,
    joined,
    speaks_of_target,
    witness,
)
from layergate.http.extensions import cache_status
from layergate.http.extensions.groups import group_invalidations
from layergate.http.extensions.languages import in_language
from layergate.http.extensions.no_vary_search import (
    SearchVariance,
    class_key,
    path_key,
    reaching,
    tag_of,
    variance_of,
)
from layergate.http.message.cache_control import parse_cache_control
from layergate.http.message.etags import is_weak
from layergate.http.message.fields import Fields, Line, Lines
from layergate.http.message.key import label_of, target_of, variant_key
from layergate.http.message.request import Request
from layergate.http.message.stored import (
    HitForMiss,
    PartialResponse,
    Served,
    StoredResponse,
    VariantIndex,
)
from layergate.http.message.uri import canonical_uri, label_pattern, label_prefix, twin, uri_label
from layergate.http.privacy.closer import CAREFUL, Audience, CloserLook, PlainTests
from layergate.http.privacy.forwarding import forwarding_of, public_labels, public_tag
from layergate.http.rfc9111.decision import (
    PAUSED,
    Decision,
    Verdict,
    answers,
    decide,
    is_reload,
    passes,
    stale_if_error,
    stale_if_unreachable,
)
from layergate.http.rfc9111.invalidation import invalidated_uris, invalidates
from layergate.http.rfc9111.partial import (
    Rest,
    combined,
    covers,
    flight_suffix,
    partial_content,
    rest_of,
)
from layergate.http.rfc9111.plan import Plan, internal_fields, plan_update, targets_of
from layergate.http.rfc9111.selecting import secondary_key, varies_on_more, vary_names
from layergate.http.rfc9111.storing import Refused
from layergate.http.rfc9111.validation import (
    conditional_lines,
    head_matches,
    not_modified,
    not_modified_lines,
)
from layergate.http.rfc9111.variants import CODING, Codings, identified, nominated
from layergate.http.rules import Match, RuleSet

__all__ = ["Answer", "Cache", "Follow", "Lead", "Pass", "Serve", "purge_invalidations"]

_AGES: Final[tuple[Line, ...]] = tuple((b"age", b"%d" % age) for age in range(3600))
_MEMO: Final = 8192
_decisions: Final = logging.getLogger("layergate.decisions")
_CAREFUL_BESIDE: Final = CAREFUL - {b"authorization"}
# Refusals that say something about this request, not about its target.
_REQUEST_ONLY: Final = frozenset({
    Refused.REQUEST_NO_STORE, Refused.AUTHORIZATION, Refused.COOKIE, Refused.USER, Refused.METHOD,
    Refused.REQUEST_BODY, Refused.RANGE, Refused.BUDGET, Refused.PURGED, Refused.NOT_MODIFIED,
    Refused.INCOMPLETE, Refused.LENGTH_MISMATCH, Refused.VALIDATOR, Refused.VARIANTS,
})  # fmt: skip
# And those that say something about the range that was asked for.
_RANGE_ONLY: Final = frozenset({Refused.PARTIAL, Refused.TOO_LARGE})
# A marker after an error is short: what comes back may well be shareable.
_ERROR_MARKER: Final = 1.0
# Those that responses name in Vary, each with and without what proxies tell (see `forwarding`).
_MAX_NAME_SETS: Final = 8
_INDEX_LIFETIME: Final = 60.0  # at least; as long as its longest-lived variant
# Appended to a key: the markers of requests that carry cookies, and their flights where a rule's lifetime
# will not do for them. A key's lengths are in its head, so this is never another target's key.
_WITH_COOKIE: Final = b"\x00cookie"
# So too: the marker of what is stored, but stale. The response may yet be validated, or stand in.
_BESIDE: Final = b"\x00marker"


_UNSHARED_FWD: Final = {Refused.COOKIE: "request", Refused.AUTHORIZATION: "request"}


class Serve(NamedTuple):
    """Answer with this; run ``refresh`` in the background if there is one."""

    response: Served
    refresh: Exchange | None = None


# "respond with either a stored response ... or a 504" (5.2.1.7); no Cache-Status, since "an
# intermediary SHOULD NOT append" one "to responses that it generates locally" (RFC 9211 2).
_GATEWAY_TIMEOUT: Final = Serve(Served(504, [(b"content-length", b"0")], b""))


class Lead(NamedTuple):
    """Fetch, feeding the exchange."""

    exchange: Exchange


class Follow(NamedTuple):
    """Wait for an exchange that another request leads."""

    exchange: Exchange


class Pass(NamedTuple):
    """Forward untouched. ``lines``: what to add to the response's head."""

    reason: Refused
    lines: Lines


Answer: TypeAlias = Serve | Lead | Follow | Pass

# `Cache.peek`, and what stands in for it.
FirstLook: TypeAlias = Callable[
    [bytes, Mapping[bytes, bytes]], tuple[StoredResponse, Lines] | HitForMiss | None
]


class _Landed(NamedTuple):
    """Look again: the fetch that this request was about to repeat has just been stored."""


class _Selected(NamedTuple):
    """What is stored for a request: the entry if any, and where its like is or would be stored.

    ``layer``: the name of the layer that has the entry, or "". ``variants``: the index of a
    target that has some. ``rest``: what is to be fetched for an answer, if it is less than what
    the client asks for. ``language``: what the entry was chosen for, if it is of another variant
    (see `languages`), or b""."""

    entry: Entry | None
    storage_key: bytes
    marker: HitForMiss | None
    vary_miss: bool
    layer: str = ""
    variants: VariantIndex | None = None
    rest: Rest | None = None
    language: bytes = b""


class _HitLines(dict[int, Line]):
    """Cache-Status of a hit by the seconds for which it is still fresh; made when it is first sent."""

    __slots__ = ("_identifier",)

    def __init__(self, identifier: bytes) -> None:
        super().__init__()
        self._identifier = identifier

    def __missing__(self, left: int) -> Line:
        if len(self) >= _MEMO:
            self.clear()
        line = self[left] = (b"cache-status", cache_status.hit_value(self._identifier, left))
        return line


class Cache:
    """RFC 9111 on a `Stack` whose keys are `key.primary_key` and `key.variant_key`."""

    def __init__(self, stack: Stack, options: Options) -> None:
        self.stack = stack
        self.options = options
        self.max_body: int = options.max_body  # type: ignore[assignment]  # parsed
        self.rules = RuleSet(options.rules)
        self.flights: Flights[Exchange] = Flights(stack.runtime)
        self.identifier = cache_status.identifier(options.name)
        self._admission = Admission(stack)
        self._tally = stack.runtime.lock()  # of the three below: ``+=`` loses counts under threads
        self._inflight = 0
        self._holding: set[Exchange] = set()  # whose bodies these bytes are
        self._waiters = 0
        self._refreshing = 0
        self._hit_lines = _HitLines(self.identifier)
        self._pass_lines: dict[tuple[Refused, str], Lines] = {}
        self._secondaries: dict[Any, tuple[bytes, PlainTests]] = {}
        self._limits: dict[bytes, tuple[float, float]] = {}
        self._places: dict[bytes, tuple[bytes, SearchVariance, bytes]] = {}
        self._line_pool: dict[Line, Line] = {}
        # Hashes of targets whose origin answers several entity tags with a 304 that names none.
        self._unnamed: set[int] = set()
        # How often a 304 confirmed what is stored under a key with a strong tag for its weak one, by hash.
        self._strengthened: dict[int, int] = {}
        self._codings = Codings()  # that variants are stored for, if they may be nominated
        # When a reload of a target was last forwarded, by the hash of where its like is stored;
        # oldest first. Behind ``_tally``.
        self._reloads: dict[int, float] = {}
        # Bound once: each saves an attribute walk per hit.
        self._top_peek = stack.top_peek
        self._marks = stack.invalidations
        self._obeys = options.request_directives
        self._now = stack.runtime.now
        self._monotonic = stack.runtime.monotonic
        self._shared_log = stack.shared_log
        self._counters = stack.counters
        self._says_status = options.cache_status
        self._top = stack.layers[0].name
        self.internal_fields = internal_fields(options)
        self._targets = frozenset(targets_of(options))
        self.forwarding = forwarding_of(options.forwarding_fields)  # type: ignore[arg-type]
        self.closer = CloserLook(self.forwarding)
        self._plain = self.closer.none
        self._adapters: list[weakref.WeakMethod[Callable[[], object]]] = []
        # Who answers for all processes that serve beside this one; None: there are none.
        self.reporter: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
        # What adapters ask first: `peek`, or what telemetry or the log has put around it.
        self._search = options.no_vary_search
        self.first_look: FirstLook = self.peek_search if self._search else self.peek

    # -- other options -------------------------------------------------------------------------

    def reload(self, **options: Any) -> None:
        """Put new values of options into effect; those that are not named stay as they are. ``rules``
        are all of the rules.

        Nothing that is stored is lost: it keeps the lifetimes and tags that it was stored with.
        Requests that are being answered may still go by the old ones. Call it from the event loop,
        or under threads from any.

        Raises ConfigError, with nothing changed, for a value that cannot work, and for an option
        that the cache was built with (`FIXED_OPTIONS`).
        """
        changed = self.options.replaced(options)
        rules = RuleSet(changed.rules)
        self.options, self.rules = changed, rules
        self.max_body = changed.max_body  # type: ignore[assignment]
        self._obeys, self._says_status = changed.request_directives, changed.cache_status
        self.internal_fields, self._targets = (
            internal_fields(changed),
            frozenset(targets_of(changed)),
        )
        self._pass_lines = {}  # after the options: see `pass_lines`
        for reference in list(self._adapters):
            adapt = reference()
            if adapt is None:
                self._adapters.remove(reference)
            else:
                adapt()

    def adapted(self, adapt: Callable[[], object]) -> None:
        """Call a bound method of an adapter, which derives something from the options, now and
        whenever they have changed. The adapter is not kept alive by it."""
        self._adapters.append(weakref.WeakMethod(adapt))
        adapt()

    # -- the hit path --------------------------------------------------------------------------

    def peek(
        self, key: bytes, fields: Mapping[bytes, bytes]
    ) -> tuple[StoredResponse, Lines] | HitForMiss | None:
        """The stored response and the lines to send, if this is a plain fresh hit in the top layer.

        Or the marker, if the target is known not to be shareable, and the request has nothing that
        calls for a closer look: then the caller may forward at once (see `unshared`).

        ``fields``: the request's fields, none of which occurred twice. None means only "not this
        easily"; the caller goes on to `open`. Agrees with `decision.decide`.
        """
        # Written for speed: what `stack.peek` and a few helpers would do stands here in line.
        if self._shared_log is not None and self._monotonic() >= self._shared_log.trusted_until:
            return None
        try:
            entry = self._top_peek(key)
            if entry is None:
                return None
            position = self._marks.position
            if entry.checked != position and not self.stack.admits(key, entry):
                return None
            stored = entry.value
            plain = self._plain
            if stored.__class__ is VariantIndex:
                for names in stored.names:
                    if len(names) == 1:  # by far the most common: Accept-Encoding, or Accept
                        memo: Any = names, fields.get(names[0])
                    else:
                        memo = names, tuple(map(fields.get, names))
                    selected = self._secondaries.get(memo)
                    if selected is None:
                        selected = self._secondary(names, fields, memo)
                    digest, plain = selected
                    variant = key + digest
                    entry = self._top_peek(variant)
                    if entry is not None and entry.value.__class__ is StoredResponse:
                        if entry.checked == position or self.stack.admits(variant, entry):
                            break
                    elif entry is not None and entry.value.__class__ is PartialResponse:
                        return None  # the variant to look at, but more closely
                else:
                    return None
                stored = entry.value
        except Exception as error:
            self.stack.peek_failed(error)
            return None
        if stored.__class__ is not StoredResponse:
            if stored.__class__ is HitForMiss and self._forwards_plainly(fields):
                return self._live_marker(fields.items(), entry)
            return None
        now = self._now()
        ttl = entry.fresh_until - now
        if ttl <= 0 or stored.no_cache:
            return None
        nothing_matters = plain[stored.audience]
        if not nothing_matters(fields) and self.closer.needed(nothing_matters, fields):
            return None
        elapsed = now - stored.generated
        if b"cache-control" in fields and self._obeys:
            control = fields[b"cache-control"]
            max_age, min_fresh = self._limits.get(control) or self._read_limits(control)
            if elapsed > max_age or ttl < min_fresh:
                return None
        counters = self._counters
        hits = counters.hits = counters.hits + 1
        if not hits & counters.sampled:
            counters.tracer.sample(elapsed, self._top)  # type: ignore[union-attr]
        age = int(elapsed)
        age_line = _AGES[age] if 0 <= age < 3600 else _age_line(age)
        if not self._says_status:
            return stored, [*stored.lines, age_line]
        left = int(ttl)
        told = self._hit_lines[left]
        return stored, [*stored.lines, age_line, told]

    def peek_search(
        self, key: bytes, fields: Mapping[bytes, bytes]
    ) -> tuple[StoredResponse, Lines] | HitForMiss | None:
        """As `peek`, with a look at what No-Vary-Search makes equivalent, if there is nothing under
        the target's own key."""
        hit = self.peek(key, fields)
        if hit is None and self.stack.peek(key) is None:
            path, variance, place = self._places.get(key) or (path_key(key), None, b"")
            said = self.stack.peek(path)
            if said is not None and said.value.__class__ is SearchVariance:
                if variance != said.value:
                    variance, place = said.value, class_key(key, said.value)
                    if len(key) + sum(map(len, variance.names)) <= 1024:
                        if len(self._places) >= _MEMO:
                            self._places.clear()
                        self._places[key] = path, variance, place
                hit = self.peek(place, fields)
        return hit

    def _secondary(
        self, names: tuple[bytes, ...], fields: Mapping[bytes, bytes], memo: object
    ) -> tuple[bytes, PlainTests]:
        """What a variant's key ends in, and the tests for names that matter for it."""
        present = [(name, fields[name]) for name in names if name in fields]
        digest = variant_key(b"", self.secondary(names, Fields(present)))
        selected = digest, self.closer.plain_for(names)
        # Long values are a client's choice, long names an origin's; what they may fill is bounded by count
        # and by length.
        if sum(len(value) for _, value in present) + sum(map(len, names)) <= 512:
            if len(self._secondaries) >= _MEMO:
                self._secondaries.clear()
            self._secondaries[memo] = selected
        return selected

    def _forwards_plainly(self, fields: Mapping[bytes, bytes]) -> bool:
        """Is there nothing in a request (its fields, none of which occurred twice) that would keep it
        from being forwarded as it is, if nothing stored can answer it?"""
        if not self._plain[Audience.ANYBODY](fields):
            return False
        control = fields.get(b"cache-control")
        return control is None or b"only-if-cached" not in control.lower()

    def _read_limits(self, control: bytes) -> tuple[float, float]:
        """The greatest age and the least remaining lifetime that a request's Cache-Control allows
        without a closer look, seconds. An age of -1: none."""
        directives = parse_cache_control(control)
        max_age = float("inf")
        if directives.no_cache or directives.max_stale is not None or directives.max_age == 0:
            max_age = -1.0
        elif directives.max_age is not None:
            max_age = float(directives.max_age)
        limits = max_age, float(directives.min_fresh or 0)
        if len(control) <= 256:
            if len(self._limits) >= _MEMO:
                self._limits.clear()
            self._limits[control] = limits
        return limits

    def unshared(
        self, match: Match | None, lines: Lines, *, cookie: bool, authorization: bool
    ) -> Lines | None:
        """The head of a response that is certainly not stored, or None for "look closer".

        The quick answer for what most responses to a marked target are: they do not speak of
        caching and no rule speaks for them, or they say no-store or private.
        """
        fields = {name.lower(): value for name, value in lines}
        if not self._targets.isdisjoint(fields):
            return None
        control = fields.get(b"cache-control")
        reason: Refused | None = None
        if control is not None:
            directives = parse_cache_control(control)
            if directives.no_store and not directives.must_understand:
                reason = Refused.NO_STORE
            elif directives.private:
                reason = Refused.PRIVATE
        elif b"expires" not in fields and self.options.heuristic is None:
            if match is None or match.rule.ttl is None:
                reason = Refused.NO_FRESHNESS
            elif authorization and not match.rule.allow_authorization:
                reason = Refused.AUTHORIZATION
            elif cookie and not match.rule.allow_cookie:
                reason = Refused.COOKIE
        if reason is None or (control is not None and match is not None and match.rule.override):
            return None
        if not self.internal_fields.isdisjoint(fields):
            lines = self.for_clients(lines)
        return [*lines, *self.pass_lines(reason, _UNSHARED_FWD.get(reason, "miss"))]

    def only_authorized(self, key: bytes, fields: Mapping[bytes, bytes]) -> bool:
        """Is this a request with Authorization, and nothing else to look closer at, for a target of
        which certainly nothing is stored? Then it is for nobody else, and nobody waits for it."""
        return (
            b"authorization" in fields
            and b"cache-control" not in fields
            and _CAREFUL_BESIDE.isdisjoint(fields)
            and self.forwarding.names.isdisjoint(fields)
            and self.stack.peek_is_enough
            and not self._search
            and self.stack.peek(key) is None
        )

    # -- everything else -----------------------------------------------------------------------

    async def open(
        self, request: Request, *, alone: bool = False, fresh: bool = False, late: bool = False
    ) -> Answer:
        """Decide what to do with a request.

        ``alone``: it has waited in vain (for something not shareable, or for too long) and is not
        to wait again. ``late``: it was for too long. ``fresh``: what is stored failed validation;
        fetch without validators.
        """
        until = 0.0
        if self._shared_log is not None:
            request.arrived = request.arrived or self._monotonic()
            until = request.arrived + float(self.options.collapse_timeout)  # type: ignore[arg-type]
        asked = self._now()
        answer = await self._open(request, alone, fresh, until, asked, late=late)
        while isinstance(answer, _Landed):
            # Between threads once is enough: what is stored by now is from a fetch that ended just
            # before. Between instances it ends with the patience for them.
            answer = await self._open(request, alone, fresh, until, asked, last=True)
        return answer

    def _too_late(self, exchange: Exchange) -> Serve:
        """The end of the wait for somebody else's fetch, where none of our own is to follow: a
        stale response if there is one that may be used, or else a 504."""
        entry, request = exchange.entry, exchange.request
        if entry is not None and self.stale_if_error(request, entry):
            self.stack.counters.on("stale", request=request, reason="collapse-timeout")
            return Serve(self.stale(exchange, request, entry))
        return _GATEWAY_TIMEOUT

    async def _open(
        self,
        request: Request,
        alone: bool,
        fresh: bool,
        until: float,
        asked: float,
        *,
        late: bool = False,
        last: bool = False,
    ) -> Answer | _Landed:
        reason = passes(request, max_key_length=self.options.max_key_length)
        if reason is not None:
            if not self.may_pass(request, reason):
                return _GATEWAY_TIMEOUT
            return self._pass(request, reason, "method" if reason is Refused.METHOD else "bypass")
        match = self.rules.match(request.path, request.host) if len(self.rules) else None
        if match is not None and match.rule.bypass:
            return self._pass(request, Refused.RULE, "bypass")

        with self._counters.span("lookup", method=request.method, key=request.key) as span:
            selected = await self.select(request)
            entry = selected.entry
            if fresh:
                entry, selected = None, selected._replace(variants=None)
            now = self.stack.runtime.now()
            verdict = self.verdict(request, entry, now, vary_miss=selected.vary_miss)
            decision, fwd, _ = verdict
            if selected.language and decision is not Decision.HIT:
                # It has just expired; and nothing is validated in another's name.
                selected = selected._replace(entry=None, vary_miss=True, layer="", language=b"")
                entry = None
                decision, fwd, _ = self.verdict(request, None, now, vary_miss=True)
            reload = is_reload(decision, fwd)
            if reload:
                selected = await self._newest(request, selected)
                entry = selected.entry
                verdict = self.verdict(request, entry, now, vary_miss=False)
                if is_reload(verdict.decision, verdict.fwd):
                    verdict = self.paused(request, selected, match, verdict, now, asked=asked)
                decision, fwd, _ = verdict
                reload = is_reload(decision, fwd)
            span.note(result=decision, layer=selected.layer or None)
            if entry is not None:
                span.note(age=now - entry.value.generated)
                span.link(entry.value.traceparent)
        if decision is Decision.HIT or decision is Decision.STALE:
            assert entry is not None
            held = "reload-pause" if verdict is PAUSED else None
            return self._serve(request, entry, match, selected, now, decision, held)
        if decision is Decision.GATEWAY_TIMEOUT:
            return _GATEWAY_TIMEOUT
        if request.foreign_range:
            return self._pass(request, Refused.RANGE, "bypass")
        if decision is Decision.MISS:
            if fwd == "partial":
                selected = selected._replace(rest=self.rest_of(request, entry))
            entry = None
            self.stack.counters.on("miss", request=request, reason=fwd)
        if late and (
            self.options.collapse_fallback == "504"
            or (entry is not None and self.stale_if_error(request, entry))
        ):
            return self._too_late(self._exchange(request, selected, None, entry, fwd, match))
        answer = await self._forward(request, entry, fwd, match, selected, alone, until, last)
        if reload and isinstance(answer, Lead):
            answer.exchange.reload = True
            self._note_reload(selected.storage_key)
        return answer

    def paused(
        self,
        request: Request,
        selected: _Selected,
        match: Match | None,
        verdict: Verdict,
        now: float,
        *,
        asked: float = float("inf"),
    ) -> Verdict:
        """The ``verdict`` on a reload (see `is_reload`), or `PAUSED`: what is stored was fetched after
        the request came, ``asked`` seconds since the epoch, or another reload was forwarded less
        than ``reload_pause`` seconds ago.

        One that is under way and has not begun to answer is rather waited for.
        """
        entry = selected.entry
        assert entry is not None
        stored: StoredResponse = entry.value
        pause = float(self.options.reload_pause or 0.0)  # type: ignore[arg-type]
        last = self._reloads.get(hash(selected.storage_key), 0.0)
        if stored.reloaded:
            last = max(last, stored.response_time)
        if stored.request_time <= asked and not 0.0 <= now - last < pause:
            return verdict
        present = self.flights.get(self.flight_key(request, match, selected))
        if present is None or self.why_alone(request, entry, match, None) is not None:
            return PAUSED
        return verdict if present.joinable(request) else PAUSED

    def _note_reload(self, key: bytes) -> None:
        """A reload of what is stored under ``key`` is forwarded."""
        invalidation = hash(key)
        with self._tally:
            self._reloads.pop(invalidation, None)
            if len(self._reloads) >= _MEMO:
                del self._reloads[next(iter(self._reloads))]
            self._reloads[invalidation] = self._now()

    async def _newest(self, request: Request, selected: _Selected) -> _Selected:
        """What is ``selected`` for a reload, or what another instance has replaced it with since it
        was copied here: this instance's own copy is fresh, so nothing else makes it look."""
        seen = selected.entry
        if self._shared_log is None or seen is None or selected.layer != self._top:
            return selected

        def enough(entry: Entry) -> bool:
            return (
                entry is not seen
                and entry.created >= seen.created
                and isinstance(entry.value, StoredResponse)
                and covers(request, entry.value)
            )

        found = await self.stack.lookup(selected.storage_key, enough=enough)
        if found is None or not enough(found.entry):
            return selected
        return selected._replace(entry=found.entry, layer=found.layer)

    def rest_of(self, request: Request, entry: Entry | None) -> Rest | None:
        """See `partial.rest_of`."""
        if entry is not None and entry.doubtful:
            return None  # what may have been purged is no part of an answer
        return rest_of(request, entry, max_body=self.max_body)

    @staticmethod
    def may_pass(request: Request, reason: Refused) -> bool:
        """May a request that passes the cache be forwarded? Not if it is one for the cache and wants
        no forwarding (5.2.1.7)."""
        return reason is Refused.METHOD or not request.directives.only_if_cached

    @staticmethod
    def verdict(request: Request, entry: Entry | None, now: float, *, vary_miss: bool) -> Verdict:
        """`decide`, given what `select` found. ``vary_miss``: its target has variants, none of
        which is this request's."""
        verdict = decide(request, entry, now)
        if vary_miss and verdict.fwd == "uri-miss":
            return Verdict(verdict.decision, "vary-miss", "4.1")
        return verdict

    def _serve(
        self,
        request: Request,
        entry: Entry,
        match: Match | None,
        selected: _Selected,
        now: float,
        decision: Decision,
        detail: str | None = None,
    ) -> Serve:
        ttl = _floor(-entry.staleness(now))
        if decision is Decision.HIT:
            self._count_hit(request, selected.layer, now - entry.value.generated)
            return Serve(self.respond(request, entry, self._status(ttl, detail)))
        request.outcome, request.layer = "stale", selected.layer
        self.stack.counters.on("stale", request=request, reason="stale-while-revalidate")
        response = self.respond(request, entry, self._status(ttl, "stale-while-revalidate"))
        return Serve(response, self._refresh(request, entry, match, selected))

    def _count_hit(self, request: Request, layer: str, age: float) -> None:
        """``request`` is answered with a fresh response from ``layer``, ``age`` seconds old."""
        if request.waited:
            # What it waited for has landed: no hit, for it cost the time of a fetch.
            request.outcome = "collapsed"
            self.stack.counters.on("collapsed", request=request)
            return
        request.outcome, request.layer = "hit", layer
        if self._counters.tracer is not None:
            self._counters.tracer.sample(age, layer)

    def _refresh(
        self, request: Request, entry: Entry, match: Match | None, selected: _Selected
    ) -> Exchange | None:
        """A background refresh, unless one is under way or there are too many."""
        key = self.refresh_key(entry, request, selected)
        present = self.flights.get(key)
        if present is not None and present.joinable(request):
            return None
        if self.refreshes_enough:
            self.stack.counters.on("refresh_skipped", request=request, reason="too many")
            return None
        sanitised = request.for_refresh(part=isinstance(entry.value, PartialResponse))
        exchange = self._exchange(sanitised, selected, key, entry, "stale", match)
        if self.flights.lead(key, exchange, instead_of=present) is not exchange:
            return None
        if self._newer(selected.storage_key, entry):
            self.flights.land(key, exchange)
            exchange.abort()
            return None
        exchange.refreshes = True
        exchange.cause = self._counters.here()
        return exchange

    @staticmethod
    def refresh_key(entry: Entry, request: Request, selected: _Selected) -> bytes:
        """The key of a background refresh: of a part, only that is asked for, and without the
        client's If-Range, so who has one does not join it."""
        if isinstance(entry.value, PartialResponse):
            return selected.storage_key + flight_suffix(request.for_refresh(part=True))
        return selected.storage_key

    @property
    def refreshes_enough(self) -> bool:
        """Are there as many background refreshes as there may be?"""
        return self._refreshing >= self.options.background_refreshes

    async def may_refresh(self, exchange: Exchange) -> bool:
        """Is this background refresh the fleet's only one? The adapter asks before it calls the
        app; if not, it aborts the exchange."""
        request, entry = exchange.request, exchange.entry
        leases = self.stack.leases
        exchange.begin()
        if leases is not None and exchange.flight_key is not None and await self.stack.catch_up():
            try:
                key, span = exchange.flight_key, exchange.span
                lease = await self.stack.take_lease(key, wait=0.0, span=span)
            except Exception as error:  # away: then each instance looks after itself
                self._lease_failed(error)
            else:
                if isinstance(lease, Waited):
                    self.stack.counters.on(
                        "refresh_skipped", request=request, reason="another instance does it"
                    )
                    exchange.span = NO_SPAN
                    return False
                exchange.licensed(lease)
                if lease.recent and entry is not None:
                    found = await self._lookup(exchange.storage_key)
                    if found is not None and found.fresh_until > entry.fresh_until:
                        self.stack.counters.on(
                            "refresh_skipped", request=request, reason="another instance did it"
                        )
                        exchange.span = NO_SPAN
                        return False
            exchange.begin()
        self.stack.counters.on("refresh", request=request)
        return True

    def _lease_failed(self, error: Exception) -> None:
        self.stack.counters.on("layer_error", layer="shared", operation="lease", error=error)

    async def _forward(
        self,
        request: Request,
        entry: Entry | None,
        fwd: str,
        match: Match | None,
        selected: _Selected,
        alone: bool,
        until: float,
        last: bool,
    ) -> Answer | _Landed:
        key: bytes | None = None
        request.outcome, request.reason = "miss", fwd
        marker = await self.marker_for(request, selected)
        if not alone and self.why_alone(request, entry, match, marker) is None:
            key = self.flight_key(request, match, selected)
        if key is not None:
            present = self.flights.get(key)
            if present is not None and present.joinable(request):
                if self._waiters < self.options.max_waiters:
                    return self._follow(request, present)
                self.stack.counters.on("bypass", request=request, reason="too many waiters")
                exchange = self._exchange(request, selected, None, entry, fwd, match)
                exchange.begin()
                return Lead(exchange)
            exchange = self._exchange(request, selected, key, entry, fwd, match)
            winner = self.flights.lead(key, exchange, instead_of=present)
            if winner is not exchange:
                return self._follow(request, winner)
            if not last and self._newer(selected.storage_key, selected.entry):
                self.flights.land(key, exchange)
                exchange.abort()  # another thread may have joined it already
                return _Landed()
            if present is not None and not present.unleased:
                # It takes the place of one that this request cannot share, and its lease.
                exchange.inherit(present)
            elif self.stack.leases is not None:
                if await self._caught_up(exchange):
                    instead = await self._license(exchange, selected, until)
                    if instead is not None:
                        exchange.withdraw()
                        return instead
                exchange.unleased = exchange.lease is None
        else:
            exchange = self._exchange(request, selected, None, entry, fwd, match)
        exchange.marked = marker is not None
        self.stack.counters.on("fetch", request=request, reason=fwd)
        exchange.begin()
        return Lead(exchange)

    def _follow(self, request: Request, exchange: Exchange) -> Follow:
        request.outcome = "collapsed"
        request.waited = True
        return Follow(exchange)

    async def marker_for(
        self, request: Request, selected: _Selected, *, quiet: bool = False
    ) -> HitForMiss | None:
        """The marker that keeps this request from waiting for others, if there is one."""
        marker, key = selected.marker, selected.storage_key
        if marker is None and selected.entry is not None:
            marker = self._live_marker(
                request.fields.lines, await self._lookup(key + _BESIDE, quiet=quiet)
            )
        if marker is None and request.cookie:
            found = await self._lookup(key + _WITH_COOKIE, quiet=quiet)
            marker = self._live_marker(request.fields.lines, found, credentials=True)
        return marker

    async def refused_of_late(self, selected: _Selected) -> Refused | None:
        """Why a response that some request would have got for this was not stored, of late; for who
        looks on."""
        for suffix in (b"", _BESIDE, _WITH_COOKIE):
            entry = await self._lookup(selected.storage_key + suffix, quiet=True)
            if entry is not None and entry.fresh_until > self.stack.runtime.now():
                if isinstance(entry.value, HitForMiss):
                    return entry.value.reason
        return None

    def why_alone(
        self,
        request: Request,
        entry: Entry | None,
        match: Match | None,
        marker: HitForMiss | None,
    ) -> str | None:
        """Why this request neither waits for another one's fetch nor lets others wait for its own;
        None if it does."""
        if marker is not None:
            return "marker"
        if not self.options.collapse:
            return "collapse"
        if request.method != "GET":
            return "method"
        if request.ranges is not None and len(request.ranges) > 1:
            return "ranges"
        if request.authorization:
            return "authorization"
        if request.personal and not (match is not None and match.rule.allow_cookie):
            return "user"
        if request.directives.no_store:
            return "request-no-store"
        # Not to be reused without validation, so not by those who wait either.
        return "no-cache" if entry is not None and not _reusable(entry) else None

    @staticmethod
    def flight_key(request: Request, match: Match | None, selected: _Selected) -> bytes:
        """The key of the fetch that this request may share."""
        key = selected.storage_key + flight_suffix(request)
        return key + _WITH_COOKIE if request.cookie and _apart(match) else key

    async def _license(
        self, exchange: Exchange, selected: _Selected, until: float
    ) -> Serve | _Landed | None:
        """Take the fleet's lease for a fetch, and wait for it if need be (G2).

        None: go ahead. Otherwise somebody else's fetch has brought what we wanted, or it takes too
        long and the configuration says not to fetch as well.
        """
        leases, runtime = self.stack.leases, self.stack.runtime
        assert leases is not None
        assert exchange.flight_key is not None
        request = exchange.request
        landings = 0
        exchange.begin()  # before it really does: the lease has to name its span
        try:
            while True:
                wait = max(0.0, until - runtime.monotonic())
                try:
                    lease = await self.stack.take_lease(
                        exchange.flight_key, wait=wait, span=exchange.span
                    )
                except Exception as error:  # away: then each instance looks after itself
                    self._lease_failed(error)
                    exchange.restart()
                    return None
                if not isinstance(lease, Waited):
                    exchange.licensed(lease)
                    if not lease.recent:
                        return None
                    if await self._landed(request, selected):
                        return _Landed()
                    return None
                request.waited = True
                if lease is Waited.FREE or landings > 2:
                    # What others fetch is not for us, or comes to nothing, again and again.
                    if await self._landed(request, selected):
                        return _Landed()
                    exchange.restart()
                    return None
                if lease is Waited.TIMEOUT:
                    self.stack.counters.on("wait_timeout", request=request)
                    entry = exchange.entry
                    if self.options.collapse_fallback == "504" or (
                        entry is not None and self.stale_if_error(request, entry)
                    ):
                        exchange.gave_up = True
                        return self._too_late(exchange)
                    exchange.restart()
                    return None
                if await self._landed(request, selected):
                    return _Landed()
                landings += 1
        except BaseException:
            exchange.withdraw()
            raise

    async def _caught_up(self, exchange: Exchange) -> bool:
        """Can there be a lease? Not while the shared layer is away."""
        try:
            return await self.stack.catch_up()
        except BaseException:  # cancelled
            exchange.abort()
            raise

    async def _landed(self, request: Request, seen: _Selected) -> bool:
        """Is there now something else stored for this request than when it was looked up?"""
        now = await self._select(request)
        if now.storage_key != seen.storage_key or await self.marker_for(request, now) is not None:
            return True
        if seen.entry is not None and seen.entry.fresh_until > self._now():
            now = await self._newest(request, now)  # a reload: only that waits beside what is fresh
        return now.entry is not None and (
            seen.entry is None or now.entry.fresh_until > seen.entry.fresh_until
        )

    def _newer(self, key: bytes, seen: Entry | None) -> bool:
        """Has something fresher than ``seen`` been stored since that was looked up?

        Under threads a fetch may land, with its response stored, between a request's look at the
        store and its look at the flights. It would find neither, and fetch once more (G2).
        """
        entry = self.stack.peek(key)
        if entry is None or entry is seen or entry.fresh_until <= self.stack.runtime.now():
            return False
        return seen is None or entry.fresh_until > seen.fresh_until

    def _exchange(
        self,
        request: Request,
        selected: _Selected,
        flight_key: bytes | None,
        entry: Entry | None,
        fwd: str,
        match: Match | None,
    ) -> Exchange:
        exchange = Exchange(
            self,
            request,
            storage_key=selected.storage_key,
            flight_key=flight_key,
            entry=entry,
            fwd=fwd,
            match=match,
        )
        index = selected.variants
        exchange.several = index is not None and len(index.names) > 1
        exchange.nominate(self.nominees(request, selected, entry, match))
        if flight_key is not None:  # what nobody shares is not looked into, but passed on
            exchange.rest = selected.rest
        return exchange

    def nominees(
        self, request: Request, selected: _Selected, entry: Entry | None, match: Match | None
    ) -> tuple[Entry, ...]:
        """The variants, of those at hand in the top layer, that the origin may say are good for a
        request which selects none of them (4.1, 4.3.1). ``entry``: what it does select. None, unless
        an option allows it: see `variants`."""
        index = selected.variants
        if not self.options.nominate_codings:
            return ()
        if entry is not None or index is None or not selected.vary_miss or selected.marker:
            return ()
        if request.method != "GET" or request.directives.no_store:
            return ()
        if request.authorization or request.personal or hash(request.key) in self._unnamed:
            return ()
        keys = self.differing_by_coding(request, index, match)
        present = [self.stack.inspect_top(key) for key in reversed(index.variants) if key in keys]
        # (Parts are not compared with wholes, nor could they answer for one.)
        whole = (entry for entry in present if entry is not None and _complete(entry))
        return nominated(request, whole)

    def differing_by_coding(
        self, request: Request, index: VariantIndex, match: Match | None
    ) -> set[bytes]:
        """The keys of those variants that this request would select with another Accept-Encoding."""
        names = index.names[0]  # by which the most recent response was selected
        said = set() if match is None else {name.encode("ascii") for name in match.rule.vary}
        if (
            CODING not in names
            or not said.issubset(names)
            or not self.forwarding.covers(names, request.fields.names())
        ):
            return set()
        return {
            variant_key(request.key, self.secondary(names, fields))
            for fields in self._codings.others(request.fields)
        }

    def validators(self, key: bytes, stored: StoredResponse) -> Lines:
        """The preconditions that validate what is stored under ``key``; none if what they bring again
        and again updates nothing (see `validation`)."""
        if self._strengthened.get(hash(key), 0) > 1 and is_weak(
            stored.fields.first(b"etag") or b""
        ):
            return []
        return conditional_lines(stored.fields)

    def cookie_marker(self, key: bytes, fields: Mapping[bytes, bytes]) -> HitForMiss | None:
        """The marker for requests with these cookies or other credentials, if the request has nothing
        that calls for a closer look."""
        if not self._forwards_plainly(fields):
            return None
        entry = self.stack.peek(key + _WITH_COOKIE)
        return self._live_marker(fields.items(), entry, credentials=True)

    async def late(
        self, request: Request, match: Match | None, *, stamp: int, request_time: float
    ) -> Exchange:
        """An exchange for a fetch that began, unwatched, at log position ``stamp`` and time
        ``request_time``, and whose response now looks as if it may be stored."""
        selected = await self._select(request)
        reason = passes(request, max_key_length=self.options.max_key_length)
        exchange = self._exchange(request, selected, None, None, "miss", match)
        exchange.marked = await self.marker_for(request, selected) is not None
        exchange.stamp = stamp
        exchange.request_time = request_time
        exchange.refused = reason
        self._counters.requests["miss", ""] += 1
        return exchange

    def secondary(self, names: tuple[bytes, ...], fields: Fields) -> bytes:
        """`secondary_key`, as the options have it."""
        return secondary_key(names, fields, language_order=self.options.language_order)

    async def select(self, request: Request, *, quiet: bool = False) -> _Selected:
        """Find what may answer this request: what it selects (4.1), or if nothing, and the options
        allow it, what is stored in the language it prefers. ``quiet``: as for `_select`."""
        selected = await self._select(request, quiet=quiet)
        index = selected.variants
        if not self.options.language_match or index is None or not selected.vary_miss:
            return selected
        if selected.marker is not None:  # what it selects is not shareable
            return selected
        own = [
            variant_key(request.key, self.secondary(names, request.fields))
            for names in index.names
            if self.forwarding.covers(names, request.fields.names())
        ][:1]  # what was selected by fewer fields before may be for another client
        now = self.stack.runtime.now()
        found = in_language(request, reversed(index.variants), own, self.stack.inspect_top, now)
        if found is None:
            return selected
        if not quiet:
            self.stack.peek(found.key)  # it is in use
        return selected._replace(
            entry=found.entry, vary_miss=False, layer=self._top, language=found.language
        )

    async def _select(self, request: Request, *, quiet: bool = False) -> _Selected:
        """Find what is stored for this request, through the variants of its target (4.1).

        ``quiet``: nothing is counted, copied or changed (see `Stack.lookup`).
        """
        if self._search:
            request.key = await self._where(request, quiet=quiet)
        key = request.key
        told = self.forwarding.told(request.fields.names())

        def enough(entry: Entry) -> bool:
            value = entry.value
            if isinstance(value, VariantIndex):  # another instance's may know of more
                return any(self.forwarding.part_of(names) == told for names in value.names)
            if isinstance(value, HitForMiss):  # (of others: what they share may lie below)
                return self._live_marker(request.fields.lines, entry) is not None
            return not isinstance(value, PartialResponse) or covers(request, value)

        home = variant_key(key, self.secondary(told, request.fields)) if told else key
        found = await self._find(key, enough, quiet=quiet)
        if found is None or not isinstance(found.entry.value, VariantIndex):
            if told:
                # What is stored there is for requests by which the app is told nothing.
                marker = self._live_marker(
                    request.fields.lines, await self._lookup(home, quiet=quiet)
                )
                return _Selected(None, home, marker, found is not None)
            if found is None:
                return _Selected(None, key, None, False)
            if isinstance(found.entry.value, StoredResponse):
                return _Selected(found.entry, key, None, False, found.layer)
            return _Selected(None, key, self._live_marker(request.fields.lines, found.entry), False)
        value = found.entry.value
        first: bytes | None = None
        marker = None
        for names in value.names:
            if not self.forwarding.covers(names, request.fields.names()):
                continue
            variant = variant_key(key, self.secondary(names, request.fields))
            first = variant if first is None else first
            found = await self._find(variant, enough, quiet=quiet)
            if found is None:
                continue
            if isinstance(found.entry.value, StoredResponse):
                return _Selected(found.entry, variant, None, False, found.layer, value)
            marker = self._live_marker(request.fields.lines, found.entry) or marker
        return _Selected(None, first or home, marker, True, "", value)

    async def _where(self, request: Request, *, quiet: bool) -> bytes:
        """The key under which to look for what may answer a request: its own target's, or that of all
        those which No-Vary-Search makes equivalent to it."""
        exact = request.exact
        if request.exactly:
            return exact
        own = await self._lookup(exact, quiet=quiet)
        if own is not None and not isinstance(own.value, HitForMiss):
            return exact
        said = await self._lookup(path_key(exact), quiet=quiet)
        if said is None or not isinstance(said.value, SearchVariance):
            return exact
        return class_key(exact, said.value)

    def home(
        self, request: Request, plan: Plan
    ) -> tuple[bytes, SearchVariance | None, tuple[str, ...]]:
        """Where a response to this request belongs: the primary key, what its No-Vary-Search says,
        and with what else it is tagged, so that purges of equivalent URLs reach it."""
        variance = variance_of(Fields(plan.lines)) if self._search else None
        public = self._public_tags(request)
        if variance is None:
            return request.exact, None, public
        tags = (tag_of(request.exact), *public)
        return class_key(request.exact, variance), variance, tags

    def _public_tags(self, request: Request) -> tuple[str, ...]:
        """With what a response is tagged, so that a purge of its target as clients know it reaches it,
        where a proxy tells of another host."""
        if self.forwarding.names.isdisjoint(request.fields.names()):
            return ()
        target = target_of(request.exact)
        labels = public_labels(target, request.fields, self.forwarding.names)
        return tuple(public_tag(one) for one in labels)

    def reached_by(self, primary: bytes, request: Request) -> tuple[str, ...]:
        """The tags by which purges reach a fetch whose response is not known yet."""
        public = self._public_tags(request)
        return (tag_of(primary), *public) if primary != request.exact else public

    async def _say(self, exchange: Exchange, variance: SearchVariance, expires: float) -> None:
        """Keep what a response says of its path's queries."""
        now, key = self.stack.runtime.now(), path_key(exchange.request.exact)
        present = await self._lookup(key)
        expires = max(expires, now + _INDEX_LIFETIME)
        if present is not None:
            if present.value == variance and present.expires >= expires - _INDEX_LIFETIME / 2:
                return
            if present.stamp > exchange.stamp and present.value != variance:
                return  # what was said later counts
            expires = max(expires, present.expires)
        said = Entry(
            variance,
            created=now,
            fresh_until=expires,
            stamp=exchange.stamp,
            size=64 + sum(map(len, variance.names)),
        )
        await self.stack.store(key, said)

    async def _find(
        self,
        key: bytes,
        enough: Callable[[Entry], bool] | None = None,
        *,
        quiet: bool = False,
        below: bool = False,
    ) -> Found | None:
        if self.stack.peek_is_enough and self.stack.trusted and not quiet:
            entry = self.stack.peek(key)
            if entry is None or entry.expires <= self.stack.runtime.now():
                return None
            return Found(entry, self._top)
        return await self.stack.lookup(key, enough=enough, quiet=quiet, below=below)

    async def _lookup(
        self, key: bytes, *, quiet: bool = False, below: bool = False
    ) -> Entry | None:
        found = await self._find(key, quiet=quiet, below=below)
        return None if found is None else found.entry

    def _live_marker(
        self, lines: Iterable[Line], entry: Entry | None, *, credentials: bool = False
    ) -> HitForMiss | None:
        """The marker in ``entry``, if it is one for a request with these ``lines``. ``credentials``:
        one for requests that have some."""
        if entry is None or entry.fresh_until <= self._now():
            return None
        marker = entry.value
        if not isinstance(marker, HitForMiss):
            return None
        if marker.witnesses:
            own = credentials_witness if credentials else witness
            if own(lines) not in marker.witnesses:
                return None
        return marker

    # -- answers -------------------------------------------------------------------------------

    def respond(self, request: Request, entry: Entry, status_line: Lines) -> Served:
        """A stored response as this request's answer: 304 if its preconditions say so (4.3.2),
        without content for HEAD, with Age (section 4)."""
        stored: StoredResponse = entry.value
        age = _age_line(max(0, int(self.stack.runtime.now() - stored.generated)))
        if stored.status == 200 and not_modified(
            request.fields, stored.fields, response_time=stored.response_time
        ):
            return Served(304, [*not_modified_lines(stored.lines), age, *status_line], b"")
        part = partial_content(request, stored, [age, *status_line])
        if part is not None:
            return part
        lines = [*stored.lines, age, *status_line]
        return Served(stored.status, lines, b"" if request.method == "HEAD" else stored.body)

    def answer(self, exchange: Exchange, request: Request, *, follower: bool) -> Served | None:
        """The answer to a request whose exchange became ANSWERED; None if a follower may not have
        it."""
        entry = exchange.entry
        assert entry is not None
        if exchange.plan is None and exchange.refused is None:  # stale-if-error
            if follower and not self.stands_in(request, entry, unreachable=exchange.unreachable):
                return None
            return self.stale(exchange, request, entry, follower=follower)
        extra = self.forward_line(exchange, follower=follower)
        if not follower:
            request.outcome = "revalidated"
            extra = exchange.cookies + extra
        return self.respond(request, entry, extra)

    def stale(
        self, exchange: Exchange, request: Request, entry: Entry, *, follower: bool = False
    ) -> Served:
        """A stale response in place of an error, or of waiting any longer. The request did go
        forward, so this is no "hit" (RFC 9211 2.1)."""
        request.outcome = "stale"
        lines: Lines = []
        if self.options.cache_status:
            value = cache_status.forward_value(
                self.identifier,
                exchange.fwd,
                fwd_status=exchange.origin_status,
                ttl=_floor(-entry.staleness(self.stack.runtime.now())),
                collapsed=True if follower else None,
                detail=self.excuse(exchange, request),
            )
            lines = [(b"cache-status", value)]
        return self.respond(request, entry, lines)

    def streamed(self, exchange: Exchange, request: Request) -> Served:
        """The head a follower gets of a shared stream; a 304 without a body if that is what its
        preconditions ask for (then it need not read on)."""
        assert exchange.response is not None
        assert exchange.plan is not None
        head = exchange.response
        now = self.stack.runtime.now()
        age = _age_line(max(0, int(now - exchange.plan.generated)))
        extra = [age, *self.forward_line(exchange, follower=True)]
        if head.status in (200, 206):
            fields = Fields(head.shared_lines)
            if not_modified(request.fields, fields, response_time=exchange.plan.response_time):
                return Served(304, [*not_modified_lines(head.shared_lines), *extra], b"")
        return Served(head.status, [*head.shared_lines, *extra], b"")

    def precondition(self, exchange: Exchange) -> Served | None:
        """A 304 for the leader of a shared stream whose own preconditions (left out of the fetch)
        say that it has this response already; else None."""
        assert exchange.response is not None
        assert exchange.plan is not None
        head, request = exchange.response, exchange.request
        if head.status not in (200, 206):
            return None
        if not not_modified(
            request.fields, Fields(head.lines), response_time=exchange.plan.response_time
        ):
            return None
        lines = [*not_modified_lines(head.lines), *self.forward_line(exchange)]
        return Served(304, lines, b"")

    def stale_if_error(self, request: Request, entry: Entry) -> bool:
        """May ``entry``, selected for ``request``, stand in for an error? Not if it has been purged
        since it was selected: whoever purges it wants it gone, error or no error. Nor if nobody can
        tell, since this instance is cut off from the log of purges (see `Stack.vouches`)."""
        return stale_if_error(request, entry, self.stack.runtime.now()) and self._vouches(
            request, entry
        )

    def stands_in(self, request: Request, entry: Entry, *, unreachable: bool) -> bool:
        """May ``entry`` stand in for the origin's failure? ``unreachable``: it gave no answer, by
        what there is to see."""
        if self.stale_if_error(request, entry):
            return True
        window = self.options.stale_if_unreachable if unreachable else None
        now = self.stack.runtime.now()
        return stale_if_unreachable(request, entry, now, window) and self._vouches(  # type: ignore[arg-type]
            request, entry
        )

    def _vouches(self, request: Request, entry: Entry) -> bool:
        grace: float | None = self.options.stale_if_untrusted  # type: ignore[assignment]
        return self.stack.vouches(request.key, entry, grace)

    def excuse(self, exchange: Exchange, request: Request) -> str:
        """By what the stored response stands in, for Cache-Status and whoever counts."""
        assert exchange.entry is not None
        if exchange.unreachable and not self.stale_if_error(request, exchange.entry):
            return "stale-if-unreachable"
        return "stale-if-error"

    def _status(self, ttl: int, detail: str | None = None) -> Lines:
        if not self.options.cache_status:
            return []
        if detail is None:
            return [self._hit_lines[ttl]]
        return [(b"cache-status", cache_status.hit_value(self.identifier, ttl, detail))]

    def forward_line(self, exchange: Exchange, *, follower: bool = False) -> Lines:
        """Cache-Status for a response that came from the origin."""
        if not self.options.cache_status:
            return []
        conditional = exchange.conditional and exchange.origin_status == 304
        reason = exchange.refused if follower else exchange.why_not_stored
        value = cache_status.forward_value(
            self.identifier,
            exchange.fwd,
            fwd_status=304 if conditional else 206 if exchange.completed == 200 else None,
            stored=True if exchange.stored and not follower else None,
            collapsed=True if follower else None,
            detail=None if reason is None else reason.token,
        )
        return [(b"cache-status", value)]

    def _pass(self, request: Request, reason: Refused, fwd: str) -> Pass:
        request.outcome, request.reason = "bypass", reason.token
        self.stack.counters.on("bypass", reason=reason.token)
        return Pass(reason, self.pass_lines(reason, fwd))

    def pass_lines(self, reason: Refused, fwd: str) -> Lines:
        """The Cache-Status of a response to a request that is none of the cache's business."""
        # This one before the options: what is made from older ones is not put into a newer one.
        memo = self._pass_lines
        lines = memo.get((reason, fwd))
        if lines is None:
            lines = []
            if self.options.cache_status:
                detail = None if fwd == "method" else reason.token
                value = cache_status.forward_value(self.identifier, fwd, detail=detail)
                lines = [(b"cache-status", value)]
            memo[reason, fwd] = lines
        return lines

    def for_clients(self, lines: Lines) -> Lines:
        """The lines as clients see them: without what is for this cache alone."""
        hidden = self.internal_fields
        if not hidden:
            return lines
        return [line for line in lines if line[0].lower() not in hidden]

    # -- storing -------------------------------------------------------------------------------

    def takes(
        self, exchange: Exchange, plan: Plan, length: int = 0, *, entry: Entry | None = None
    ) -> Refused | None:
        """Why no layer takes what the exchange brings, as things are now: a body of ``length`` bytes,
        or, if that is known already, this ``entry``. None: one does."""
        key = exchange.primary
        if self.stack.purged_since(exchange.stamp, plan.tags, key):
            return Refused.PURGED
        if plan.names:
            key = variant_key(key, exchange.secondary)
        else:
            present = self.stack.peek(key)
            if present is not None and isinstance(present.value, VariantIndex):
                key = variant_key(key, self.secondary((), exchange.request.fields))
        if entry is None:
            size = length + exchange.size_around(plan)
            if exchange.rest is not None:
                size += exchange.rest.entry.size
            taken = self.stack.takes(key, size, plan.tags)
        else:
            taken = self.stack.takes(key, entry.size, entry.tags)
        return None if taken else Refused.NO_ROOM

    def keep(self, exchange: Exchange, entry: Entry) -> bytes | None:
        """Put a response into the top layer at once, so that the next request finds it, and `commit`
        can take its time with the layers below. The key; None if it takes more than that."""
        plan, lease, stack = exchange.plan, exchange.lease, self.stack
        assert plan is not None
        if exchange.variance is not None or (lease is not None and not lease.sure):
            return None
        key, names, now = exchange.primary, plan.names, stack.runtime.now()
        present = stack.peek(key)
        value = None if present is None or present.expires <= now else present.value
        if names or isinstance(value, VariantIndex):
            key = variant_key(key, self.secondary(names, exchange.request.fields))
            if value is None:
                index = VariantIndex((names,), ())
                expires = max(entry.expires, now + _INDEX_LIFETIME)
                stamp = stack.invalidations.position
                new = Entry(index, created=now, fresh_until=expires, stamp=stamp, size=64)
                if not stack.keep(exchange.primary, new):
                    return None
            elif not isinstance(value, VariantIndex) or names not in value.names:
                return None
        if entry is exchange.entry and key != exchange.storage_key:
            return None  # a 304 that changes by what it is selected
        other = stack.peek(key)
        if other is not None and _later(other, entry):
            return None
        return key if stack.keep(key, entry) else None

    async def commit(self, exchange: Exchange, plan: Plan, entry: Entry) -> bool:
        """Store a response. False if it was purged while it was fetched, or another instance has
        taken over meanwhile."""
        with self._counters.span("store", parent=exchange.span, key=exchange.primary) as span:
            stored = await self._commit(exchange, plan, entry)
            span.note(stored=stored, size=entry.size)
        kept = exchange.kept
        if not stored and kept is not None:
            present = self.stack.top_peek(kept)
            if present is not None and present.value is entry.value:
                self.stack.unkeep(kept)
        return stored

    async def _commit(self, exchange: Exchange, plan: Plan, entry: Entry) -> bool:
        if exchange.lease is not None and not await exchange.lease.confirm():
            exchange.refused = Refused.SUPERSEDED
            self.not_stored(exchange, Refused.SUPERSEDED)
            return False
        request = exchange.request
        if exchange.state is State.ANSWERED and plan.names:
            await self._give_up_older(exchange, plan)
        kept = exchange.kept
        key = await self._place(exchange, plan.names, entry)
        if key is None:
            if kept is not None:
                self.stack.unkeep(kept)
            exchange.refused = Refused.VARIANTS
            self.not_stored(exchange, Refused.VARIANTS)
            return False
        if isinstance(entry.value, PartialResponse) and exchange.state is not State.ANSWERED:
            found = await self._find(key, _complete)
            entry = combined(
                None if found is None or found.entry.doubtful else found.entry,
                entry,
                max_body=self.max_body,
                max_tags=self.options.max_tags,
                targets=targets_of(self.options),
            )
        overtaken = await self._overtaken(key, entry, below=kept == key)
        stored = not overtaken and await self.stack.store(key, entry)
        if stored and exchange.variance is not None and exchange.sought == request.exact:
            await self.stack.discard(request.exact)  # which would be looked at first
        if stored and exchange.sights > 1:
            self.stack.peek(key)  # it has been asked for before: that counts as a read
        if stored and exchange.marked:
            await self._end_marker(exchange)
        if not stored:
            self.stack.counters.on("refused", request=request, reason=Refused.PURGED.token)
        return stored

    async def _give_up_older(self, exchange: Exchange, plan: Plan) -> None:
        """A 304 that adds to Vary makes of the stored response a variant that fewer requests select:
        what it was stored as is no longer there for the others."""
        primary, key = exchange.primary, exchange.storage_key
        fields = exchange.request.fields
        if primary != exchange.sought or key == variant_key(
            primary, self.secondary(plan.names, fields)
        ):
            return
        present = await self._lookup(key)
        if present is not None and isinstance(present.value, VariantIndex):
            # It has become one of several variants since it was selected: the one without a Vary.
            key = variant_key(primary, self.secondary((), fields))
            present = await self._lookup(key)
        if present is None or not isinstance(present.value, StoredResponse):
            return
        await self.stack.discard(key)
        if self._shared_log is not None and present.fresh_until > self.stack.runtime.now():
            # Other instances may hold a copy that is as fresh. This purge reaches what is about to be
            # stored as well: the next request fetches it.
            await self.stack.invalidate(
                self._reaching((Invalidation("key", label_of(key)),)), wait=0.0
            )

    async def _end_marker(self, exchange: Exchange) -> None:
        """What is asked for is shareable again: forget that it was not, here and on every other
        instance."""
        exchange.marked = False
        for suffix in (b"", _BESIDE, _WITH_COOKIE):
            key = exchange.storage_key + suffix
            entry = await self._lookup(key)
            if entry is not None and isinstance(entry.value, HitForMiss):
                await self.stack.discard(key)
        if self._shared_log is not None:
            tag = _marker_tag(exchange.primary)
            await self.stack.invalidate((Invalidation("tag", tag),), wait=0.0)

    def _remembers(self, key: bytes) -> bool:
        """Does this instance have a marker for what is asked for under ``key``, whoever it is for?"""
        return any(
            (entry := self.stack.inspect_top(key + suffix)) is not None
            and isinstance(entry.value, HitForMiss)
            for suffix in (b"", _BESIDE, _WITH_COOKIE)
        )

    async def _overtaken(self, key: bytes, entry: Entry, *, below: bool = False) -> bool:
        """Is what is stored (or, with ``below``, what is stored below the top layer) from a fetch
        that began later, or after a purge that this one did not see? "a cache MUST use the most
        recent one" (section 4); the older must not replace it."""
        present = await self._lookup(key, below=below)
        return present is not None and _later(present, entry)

    async def _place(
        self, exchange: Exchange, names: tuple[bytes, ...], entry: Entry
    ) -> bytes | None:
        """The key to store under; None if there is no room for one more variant. A target that varied
        once keeps its index: a response without Vary then is one more variant, looked at last, since
        "the cache SHOULD choose the most recent stored response with a valid Vary field value" (4.1)."""
        primary, fields, kept = exchange.primary, exchange.request.fields, exchange.kept
        if not names:
            present = await self._lookup(primary, below=kept == primary)
            if present is None or not isinstance(present.value, VariantIndex):
                return primary
            if kept == primary:
                self.stack.unkeep(primary)  # it would hide the index
        key = variant_key(primary, self.secondary(names, fields))
        if CODING in names and self.options.nominate_codings:
            self._codings.note(fields)
        sights = exchange.sights
        room = await self._index(primary, names, fields, key, entry.expires, sights=sights)
        return key if room else None

    def has_room(self, exchange: Exchange, plan: Plan, *, quiet: bool = False) -> bool:
        """True if what is planned is no new variant, or may become one; see `admission`. As far as is
        known in this process. ``quiet``: nothing is noted."""
        present = self.stack.inspect_top(exchange.primary)
        index = None if present is None else present.value
        if not isinstance(index, VariantIndex):
            return True
        variant = variant_key(exchange.primary, exchange.secondary)
        cap = self.options.max_variants
        if variant in index.variants:
            return True
        if len(index.variants) >= cap:
            sights = 1 if quiet else self._admission.sighted(variant)
            room = self._admission.room(index, variant, cap, sights=sights)
            if not quiet:
                exchange.sights = sights
                if room is None:
                    self._admission.fade(exchange.primary, index)
            if room is None:
                return False
        return (
            plan.names in index.names
            or len(index.names) < _MAX_NAME_SETS
            or self._admission.idle_names(index, index.names, self.forwarding) is not None
        )

    async def _index(
        self,
        primary: bytes,
        names: tuple[bytes, ...] | None,
        fields: Fields,
        variant: bytes | None = None,
        expires: float = 0.0,
        *,
        sights: int = 0,
        marker: bool = False,
    ) -> bool:
        """Note in the index of a target that it varies by ``names`` (None: as is known), and the
        new ``variant``. False, with nothing noted, if there is no room for it. ``sights``, ``marker``:
        see `Admission.room`."""
        present = await self._lookup(primary)
        value = None if present is None else present.value
        now = self.stack.runtime.now()
        if isinstance(value, VariantIndex):
            if variant is None and names in value.names:
                return True
            value = await self._merged(primary, value)
        elif names is None:
            return True
        else:
            value = VariantIndex((), ())
            if present is not None and isinstance(present.value, StoredResponse):
                default = variant_key(primary, self.secondary((), fields))
                read = self.stack.reads(primary)
                await self.stack.store(default, present)
                if read:
                    self.stack.peek(default)
                value = VariantIndex(((),), (default,), (_end(present.expires),))
        sets = list(value.names)
        if names is not None and names not in sets:
            while len(sets) >= _MAX_NAME_SETS:
                idle = self._admission.idle_names(value, sets, self.forwarding)
                if idle is None:
                    return False
                sets.remove(idle)
        if names is not None:
            sets = [names, *(other for other in sets if other != names)]
        sets.sort(key=lambda item: item == ())  # stable: most recent first, () last
        ends = dict(zip(value.variants, value.expires, strict=False))
        variants = list(value.variants)
        if variant is not None:
            cap = self.options.max_variants
            while variant not in variants and len(variants) >= cap:
                room = self._admission.room(
                    VariantIndex((), tuple(variants), _ends(variants, ends)),
                    variant,
                    cap,
                    sights=sights,
                    marker=marker,
                )
                if room is None or room.victim is None:
                    return False
                variants.remove(room.victim)
                self._admission.gave_way(room.victim)
                await self.stack.discard(room.victim)
            variants = [*(other for other in variants if other != variant), variant]
            ends[variant] = _end(expires)
        expires = max(expires, now + _INDEX_LIFETIME, 0.0 if present is None else present.expires)
        index = Entry(
            VariantIndex(tuple(sets), tuple(variants), _ends(variants, ends)),
            created=now,
            fresh_until=expires,
            stamp=self.stack.invalidations.position,
            size=64 + sum(len(other) + 8 for other in variants),
        )
        await self.stack.store(primary, index)
        return True

    async def _merged(self, primary: bytes, own: VariantIndex) -> VariantIndex:
        """This instance's index of a target and what others have made of it: theirs, with what is read
        here. Nothing that somebody reads is lost when two change it at once."""
        if self.stack.peek_is_enough:
            return own
        held = [one.entry for one in (await self.stack.inspect(primary))[1:] if not one.purged]
        theirs = next((one.value for one in held if one is not None), None)
        if not isinstance(theirs, VariantIndex):
            return own
        names = [one for one in theirs.names if one]
        names += (one for one in own.names if one and one not in names)
        if () in theirs.names or () in own.names:
            names[_MAX_NAME_SETS - 1 :] = [()]
        ends = dict(zip(own.variants, own.expires, strict=False))
        ends |= dict(zip(theirs.variants, theirs.expires, strict=False))
        room = self.options.max_variants - len(theirs.variants)
        more = [
            one
            for one in reversed(own.variants)
            if one not in theirs.variants and self.stack.reads(one)
        ]
        variants = [*reversed(more[: max(room, 0)]), *theirs.variants]
        return VariantIndex(tuple(names[:_MAX_NAME_SETS]), tuple(variants), _ends(variants, ends))

    def not_stored(self, exchange: Exchange, reason: Refused) -> None:
        """A response was refused."""
        exchange.request.reason = reason.token
        self.stack.counters.on("refused", request=exchange.request, reason=reason.token)

    async def settle(self, exchange: Exchange) -> None:
        """What the head of a response tells those who come after it.

        Of a shareable response that varies, by what, and that no marker is true any more. Of a refused
        one, a hit-for-miss marker; see `hit_for_miss`. It takes the place of no stored response: one
        that is fresh answers all that a marker could keep from waiting, and one that is stale may yet
        be validated, or stand in for an error.
        """
        try:
            await self._settle(exchange)
        finally:
            if exchange.state in (State.RELEASED, State.FAILED):
                exchange.let_go(free=exchange.state is State.RELEASED)

    async def _settle(self, exchange: Exchange) -> None:
        if exchange.mismatched:
            # The origin has something else than what is stored. Whoever comes next shall ask
            # without its validators.
            if exchange.nominees:
                if len(self._unnamed) >= _MEMO:
                    self._unnamed.clear()
                self._unnamed.add(hash(exchange.primary))
            else:
                await self.stack.discard(exchange.storage_key)
            return
        request, reason = exchange.request, exchange.refused
        if reason is Refused.VALIDATOR:
            if len(self._strengthened) >= _MEMO:
                self._strengthened.clear()
            place = hash(exchange.storage_key)
            self._strengthened[place] = self._strengthened.get(place, 0) + 1
            return
        if exchange.plan is not None and (reason is None or reason is Refused.VARIANTS):
            if exchange.variance is not None:
                await self._say(exchange, exchange.variance, exchange.plan.expires)
            if exchange.plan.names:
                await self._index(exchange.primary, exchange.plan.names, request.fields)
            if exchange.plan.shareable and (
                exchange.marked or self._remembers(exchange.storage_key)
            ):
                await self._end_marker(exchange)
            return
        if reason is Refused.VARY_STAR and exchange.state is State.ANSWERED:
            # What the 304 confirms for this request is no longer there for any other.
            await self.stack.discard(exchange.storage_key)
            if self._shared_log is not None:
                invalidation = Invalidation("key", label_of(exchange.storage_key))
                await self.stack.invalidate(self._reaching((invalidation,)), wait=0.0)
        ttl = self.marker_ttl(exchange)
        if reason is not None and ttl:
            await self._mark(exchange, reason, ttl)

    async def _mark(self, exchange: Exchange, reason: Refused, ttl: float) -> None:
        """Leave a hit-for-miss marker for ``ttl`` seconds, beside what is stored."""
        request, now = exchange.request, self.stack.runtime.now()
        key = exchange.storage_key
        lines = request.fields.lines
        if request.cookie:
            # What a client with cookies gets says nothing about what the others share.
            key += _WITH_COOKIE
        stored = await self._lookup(key)
        if stored is not None and not isinstance(stored.value, HitForMiss):
            if (
                stored.fresh_until > now
                or stored.stamp > exchange.stamp  # it is newer
                or not isinstance(stored.value, StoredResponse)
            ):
                return
            if await self._outlives(exchange, key, stored):
                key += _BESIDE
                stored = await self._lookup(key)
            else:
                stored = None
        own = credentials_witness(lines) if request.cookie else witness(lines)
        status, present = exchange.origin_status or 0, None
        if stored is not None:
            if stored.stamp > exchange.stamp:  # what is stored is newer
                return
            left = stored.fresh_until - now
            if left > ttl / 2 and self._live_marker(
                request.fields.lines, stored, credentials=request.cookie
            ):
                return
            if left >= ttl and not speaks_of_target(status):
                return
            if left > 0 and (left > _ERROR_MARKER or ttl <= _ERROR_MARKER):
                present = stored.value
        value = joined(present, reason, own, status)
        if exchange.storage_key != exchange.primary:
            # One of many variants, and as bounded in number as those that are stored.
            told = self.forwarding.told(request.fields.names()) or None
            ends = now + ttl
            if not await self._index(
                exchange.primary, told, request.fields, key, ends, marker=True
            ):
                return
        marker = Entry(
            value,
            created=now,
            fresh_until=now + ttl,
            tags=() if self._shared_log is None else (_marker_tag(exchange.primary),),
            stamp=self.stack.invalidations.position,
            size=64 + sum(map(len, value.witnesses)),
        )
        await self.stack.store(key, marker)

    async def _outlives(self, exchange: Exchange, key: bytes, stored: Entry) -> bool:
        """Is what is ``stored`` under ``key``, which is stale, of any use after the refusal of this
        exchange?

        An error says nothing of it. Any other response is what the origin has in its place, so its
        validator is outdated, and it is no more served unasked; but it may stand in while the origin
        fails. A 304 that says that it is not to be shared is about the stored response itself.
        """
        if not speaks_of_target(exchange.origin_status or 0):
            return True
        if exchange.state is State.ANSWERED:
            return False
        if not self.stands_in(exchange.request, stored, unreachable=True):
            return False
        if stored.stale_while_revalidate:
            asked = stored.windowed(0.0, None)
            asked.checked = stored.checked
            await self.stack.store(key, asked)
        return True

    def marker_ttl(self, exchange: Exchange) -> float:
        """For how many seconds the reason why this response was refused keeps others from waiting
        for its like. 0: it says nothing about its target."""
        request, reason, status = exchange.request, exchange.refused, exchange.origin_status or 0
        if reason is None or request.method != "GET" or status in ONE_REQUEST_STATUSES:
            return 0.0
        if (
            request.authorization
            or request.personal
            or (reason in _REQUEST_ONLY and reason is not Refused.COOKIE)
            or (reason in _RANGE_ONLY and request.ranges is not None)
        ):
            return 0.0
        ttl = float(self.options.hit_for_miss_ttl)  # type: ignore[arg-type]
        if status >= 500:
            # An error does not replace what may be validated later.
            stored = exchange.entry is not None or exchange.fwd == "partial"
            return 0.0 if stored else min(ttl, _ERROR_MARKER)
        return ttl if speaks_of_target(status) else min(ttl, _ERROR_MARKER)

    def spoke_of_one(self, exchange: Exchange, request: Request) -> bool:
        """True if a response that released those who waited for it may well be due to what its own
        request says and ``request`` does not: those decide anew, and may wait for one of them."""
        status = exchange.origin_status or 0
        if not 400 <= status <= 500 or speaks_of_target(status):
            return False
        return witness(request.fields.lines) != witness(exchange.request.fields.lines)

    def interned(self, lines: Lines) -> Lines:
        """The same lines, equal ones shared between responses: most fields of most responses are
        the same, and a tuple of two byte strings costs more than it holds."""
        pool = self._line_pool
        if len(pool) >= _MEMO:
            pool.clear()
        return [
            pool.setdefault(line, line) if len(line[0]) + len(line[1]) <= 192 else line
            for line in lines
        ]

    def take_inflight(self, size: int, exchange: Exchange | None = None) -> bool:
        """Reserve bytes for a body under way; False if that would be too many, even without those
        that only a client which takes nothing keeps from their end."""
        if not self._take_inflight(size, exchange):
            for other in list(self._holding):
                if other is not exchange and other.held_up:
                    other.surrender()
            return self._take_inflight(size, exchange)
        return True

    def _take_inflight(self, size: int, exchange: Exchange | None) -> bool:
        with self._tally:
            if self._inflight + size > self.options.max_inflight:  # type: ignore[operator]
                return False
            self._inflight += size
            if exchange is not None:
                self._holding.add(exchange)
        return True

    def give_inflight(self, size: int, exchange: Exchange | None = None) -> None:
        with self._tally:
            self._inflight -= size
            if exchange is not None:
                self._holding.discard(exchange)

    # -- unsafe methods and HEAD ---------------------------------------------------------------

    async def after_unsafe(self, request_uri: str, method: str, status: int, lines: Lines) -> None:
        """Invalidate what an unsafe request has changed (4.4)."""
        invalidations = self.unsafe_invalidations(request_uri, method, status, lines)
        if invalidations:
            # The client of an unsafe request does not wait for an instance that stands still.
            wait = float(self.options.layer_timeout)  # type: ignore[arg-type]
            await self.stack.invalidate(invalidations, wait=wait)

    def unsafe_invalidations(
        self, request_uri: str, method: str, status: int, lines: Lines
    ) -> tuple[Invalidation, ...]:
        """What a response to this method purges (4.4, RFC 9875 section 3). Empty: nothing."""
        fields = Fields(lines)
        groups = group_invalidations(request_uri, method, status, fields)
        if not invalidates(method, status):
            return groups
        uris = invalidated_uris(request_uri, fields)
        # Nothing is stored under a longer one.
        longest = self.options.max_key_length
        invalidations = _url_invalidations(
            (uri for uri in uris if len(uri) <= longest), soft=False, either=True
        )
        return self._reaching((*invalidations, *groups))

    def _reaching(self, invalidations: tuple[Invalidation, ...]) -> tuple[Invalidation, ...]:
        """The marks, with those by which they reach what No-Vary-Search makes equivalent."""
        return reaching(invalidations) if self._search else invalidations

    async def after_head(self, exchange: Exchange, status: int, lines: Lines) -> None:
        """Freshen or outdate what is stored with what a HEAD brought: "each of its stored GET
        responses that could have been chosen for that request" (4.3.5)."""
        if status != 200:
            return
        fields, now = Fields(lines), self.stack.runtime.now()
        # The one that is chosen last, so that it stays the one that is looked at first.
        for key, entry in reversed(await self._choosable(exchange.request)):
            planned = self.head_says(exchange, entry, status, fields, now)
            if isinstance(planned, Refused):
                # One that varies on more than it was selected by does not stand in for anything, either.
                gone = varies_on_more(entry.value.fields, fields)
                if gone:
                    await self.stack.discard(key)
                entry.outdate(now)
                if self._shared_log is not None:  # so too where else it is held
                    invalidation = Invalidation("key", label_of(key), soft=not gone)
                    await self.stack.invalidate(self._reaching((invalidation,)), wait=0.0)
            elif planned is not None:
                planned = exchange.located(planned)
                fresh = exchange.entry_for(
                    planned, 200, planned.lines, entry.value.body, entry.value
                )
                # The body is as old as it was: what purges it is what would have purged it before.
                fresh.stamp = fresh.checked = entry.stamp
                present = await self._lookup(key)
                if present is not None and present.created == entry.created:  # not replaced since
                    await self.commit(exchange, planned, fresh)

    async def _choosable(self, request: Request) -> list[tuple[bytes, Entry]]:
        """All that is stored and that this request may select, most recent Vary first, with the
        keys it is stored under."""
        selected = await self._select(request)
        index = selected.variants
        if index is None or len(index.names) < 2:
            return [] if selected.entry is None else [(selected.storage_key, selected.entry)]
        found: list[tuple[bytes, Entry]] = []
        for names in index.names:
            if not self.forwarding.covers(names, request.fields.names()):
                continue
            key = variant_key(request.key, self.secondary(names, request.fields))
            entry = await self._lookup(key)
            if entry is not None and isinstance(entry.value, StoredResponse):
                found.append((key, entry))
        return found

    async def freshen_others(self, exchange: Exchange, fields: Fields) -> None:
        """What else the request of a 304 with these ``fields`` could have selected, and the 304
        identifies, is updated too (4.3.4)."""
        assert exchange.plan is not None
        for key, entry in await self._choosable(exchange.request):
            stored: StoredResponse = entry.value
            if key == exchange.storage_key or not identified(stored.fields, fields):
                continue
            if varies_on_more(stored.fields, fields):
                await self.stack.discard(key)
                if self._shared_log is not None:  # the next request fetches what is stored now, too
                    invalidation = Invalidation("key", label_of(key))
                    await self.stack.invalidate(self._reaching((invalidation,)), wait=0.0)
                continue
            planned, _ = plan_update(
                exchange.request,
                entry,
                fields,
                exchange.match,
                self.options,
                request_time=exchange.request_time,
                response_time=exchange.plan.response_time,
            )
            if not isinstance(planned, Plan) or planned.vary != vary_names(stored.fields):
                continue
            primary, _, _ = self.home(exchange.request, planned)
            if primary == exchange.primary:
                planned = exchange.located(planned)
                fresh = exchange.entry_for(
                    planned, stored.status, planned.lines, stored.body, stored
                )
                fresh.stamp = fresh.checked = entry.stamp
                if not await self._overtaken(key, fresh):
                    await self.stack.store(key, fresh)

    def head_says(
        self, exchange: Exchange, entry: Entry | None, status: int, fields: Fields, now: float
    ) -> Plan | Refused | None:
        """What a response to HEAD means for the stored ``entry``: how it is to be kept from now on,
        a reason why it is outdated, or None for nothing at all."""
        request = exchange.request
        if entry is None or status != 200:
            return None
        stored: StoredResponse = entry.value
        if stored.status != 200 or not answers(request, stored):
            return None
        own = exchange.planned(200, fields, exchange.match, now)
        if isinstance(own, Refused) and (
            request.cookie or request.authorization or request.personal or own in _REQUEST_ONLY
        ):
            return None  # what one client is told says nothing about what is stored for all
        planned: Plan | Refused = Refused.NOT_MODIFIED
        # One that says nothing about caching leaves what the stored response says.
        silent = own in (Refused.NO_FRESHNESS, Refused.EXPIRED)
        if (silent or isinstance(own, Plan)) and head_matches(
            stored.fields, fields, stored_length=stored.length
        ):
            planned, _ = plan_update(
                request,
                entry,
                fields,
                exchange.match,
                self.options,
                request_time=exchange.request_time,
                response_time=now,
            )
        if isinstance(planned, Plan) and planned.vary != vary_names(stored.fields):
            return Refused.NOT_MODIFIED
        return planned

    # -- purging -------------------------------------------------------------------------------

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
        any instance, if the receipt is ``final``; see `PurgeReceipt`. It tells also how many stored
        responses (each variant is one) this process held that were named.

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
        return await self.stack.purge(
            [
                (*self._reaching(tuple(invalidations)), *_public_invalidations(invalidations))
                for invalidations in named
            ],
            counts=_is_response,
        )

    def stats(self) -> dict[str, Any]:
        """Counters and sizes, as ``GET {admin}/stats`` shows them."""
        return {
            **self.stack.metrics(),
            "flights": len(self.flights),
            "waiters": self._waiters,
            "refreshing": self._refreshing,
            "inflight_bytes": self._inflight,
        }

    async def report(self) -> Mapping[str, Any]:
        """`stats`, or what ``reporter`` says, which speaks for other processes too."""
        return self.stats() if self.reporter is None else await self.reporter()

    def aside(self, work: Coroutine[Any, Any, Any], name: str) -> Task | None:
        """Run ``work`` in the background. None when nothing is started any more, since the process
        ends: then ``work`` is closed."""
        try:
            return self.stack.runtime.spawn(work, name=name)
        except RuntimeError:
            return None

    # -- what adapters report ------------------------------------------------------------------

    def waiting(self, change: int) -> None:
        """One follower more (1) or less (-1)."""
        with self._tally:
            self._waiters += change

    @contextmanager
    def following(self, request: Request, exchange: Exchange) -> Iterator[None]:
        """Around a follower's wait for the head of what another request fetches."""
        span = self._counters.span("wait", key=request.key, scope="process")
        self.waiting(1)
        try:
            yield
        finally:
            self.waiting(-1)
            # Only now: while the leader waits for its lease, its fetch has not begun.
            span.link(exchange.span.reference)
            span.note(result=exchange.state)
            span.end()

    def answered(self, request: Request) -> None:
        """A request that `open` has decided on is answered, or has failed: count what became of it,
        and say so in the log."""
        self._counters.requests[request.outcome, request.layer] += 1
        if _decisions.isEnabledFor(logging.DEBUG):
            _decisions.debug(
                "%s %s %r%s%s",
                request.outcome,
                request.method,
                request.path,
                f" layer={request.layer}" if request.layer else "",
                f" reason={request.reason}" if request.reason else "",
                extra={
                    "layergate.outcome": request.outcome,
                    "layergate.layer": request.layer,
                    "layergate.reason": request.reason,
                    "http.request.method": request.method,
                },
            )

    def refreshing(self, change: int) -> None:
        """One background refresh more (1) or less (-1)."""
        with self._tally:
            self._refreshing += change

    def forked(self) -> None:
        """In the child of a fork: what was under way belongs to threads of the parent. What is
        stored stays."""
        runtime = self.stack.runtime
        self._tally = runtime.lock()
        self._inflight = self._waiters = self._refreshing = 0
        self._holding = set()
        self.flights = Flights(runtime)
        self.stack.forked()


def purge_invalidations(**what: Any) -> tuple[Invalidation, ...]:
    """The marks of a purge; arguments as `named_marks`. Raises PurgeRefused."""
    return tuple(
        invalidation
        for invalidations in named_invalidations(**what)
        for invalidation in invalidations
    )


def named_invalidations(
    *,
    tags: Iterable[str] = (),
    urls: Iterable[str] = (),
    prefixes: Iterable[str] = (),
    hosts: Iterable[str] = (),
    patterns: Iterable[str] = (),
    everything: bool = False,
    soft: bool = False,
    schemes: str = "either",
) -> list[list[Invalidation]]:
    """The marks of each thing that a purge names. Raises PurgeRefused."""
    if schemes not in ("either", "exact"):
        raise PurgeRefused(f"schemes must be 'either' or 'exact', got {schemes!r}")
    named: list[list[Invalidation]] = []
    for tag in _texts(tags, "tags"):
        named.append([Invalidation("tag", _checked_tag(tag), soft)])
    for url in _texts(urls, "urls"):
        escaped = _escaped(url, "urls")
        if canonical_uri(escaped) is None:
            raise PurgeRefused(f"urls must be absolute http(s) URLs, got {url!r}")
        named.append(_url_invalidations((escaped,), soft=soft, either=schemes == "either"))
    for prefix in _texts(prefixes, "prefixes"):
        before, colon, rest = _escaped(prefix, "prefixes").rpartition("://")
        invalidations: list[Invalidation] = []
        for scheme in (before,) if colon else ("http", "https"):
            text = label_prefix(scheme, rest)
            if text is None:
                raise PurgeRefused(f"prefixes must look like 'host/path', got {prefix!r}")
            invalidations.append(Invalidation("prefix", text, soft))
        named.append(invalidations)
    for host in _texts(hosts, "hosts"):
        if "/" in host:
            raise PurgeRefused(f"hosts must be host names, got {host!r}; use prefixes for paths")
        invalidations = []
        for scheme in ("http", "https"):
            text = label_prefix(scheme, _escaped(host, "hosts"))
            if text is None:
                raise PurgeRefused(f"hosts must be host names, got {host!r}")
            invalidations.append(Invalidation("prefix", text, soft))
            if ":" not in host.rpartition("]")[2]:
                invalidations.append(Invalidation("prefix", text[:-1] + ":", soft))
        named.append(invalidations)
    for pattern in _texts(patterns, "patterns"):
        escaped = _escaped(pattern, "patterns")
        if "://" not in escaped and not escaped.startswith(("/", "*")):
            raise PurgeRefused(
                f"patterns must be URLs, or begin with '/' or '*', got {pattern!r}; use prefixes for"
                " 'host/path'"
            )
        text = label_pattern(escaped)
        if text is None:
            raise PurgeRefused(
                f"patterns must not have '..' behind a '*', got {pattern!r}; write what it leads to"
            )
        try:
            glob(text)
        except KeyRefused as error:
            raise PurgeRefused(f"patterns: {error}") from None
        named.append([Invalidation("path" if text.startswith("/") else "glob", text, soft)])
    if not isinstance(everything, bool) or not isinstance(soft, bool):
        raise PurgeRefused("everything and soft must be True or False")
    if everything:
        named.append([Invalidation("all", "", soft)])
    if not named:
        raise PurgeRefused(
            "a purge must name something: tags, urls, prefixes, hosts, patterns or everything"
        )
    return named


def _checked_tag(tag: str) -> str:
    if len(tag) > MAX_TAG_LENGTH:
        raise PurgeRefused(f"tags must be at most {MAX_TAG_LENGTH} characters, got {len(tag)}")
    if "\0" in tag:  # as only tags of our own have
        raise PurgeRefused(f"tags must not hold a NUL, got {tag!r}")
    return tag


def _url_invalidations(uris: Iterable[str], *, soft: bool, either: bool) -> list[Invalidation]:
    """The marks of purges of absolute URIs; ``either``: under http and https."""
    labels: dict[str, None] = {}
    for uri in uris:
        own = uri_label(uri)
        labels[own] = None
        other = twin(own) if either else None
        if other is not None:
            labels[other] = None
    return [Invalidation("key", one, soft) for one in labels]


def _texts(values: Iterable[str], name: str) -> list[str]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise PurgeRefused(f"{name} must be a list of strings, got {values!r}")
    texts = list(values)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise PurgeRefused(f"{name} must hold non-empty strings, got {text!r}")
    return texts


def _escaped(text: str, name: str) -> str:
    """Characters that cannot be in a URI as the bytes they are sent as."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PurgeRefused(f"{name} must not hold lone surrogates, got {text!r}") from None
    return "".join(
        char if char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )


def _marker_tag(primary: bytes) -> str:
    """What the hit-for-miss markers of a target are tagged with. No response can be tagged so: a
    field's value has no NUL."""
    return f"\x00marker {blake2b(primary, digest_size=16).hexdigest()}"


def _apart(match: Match | None) -> bool:
    """Is there a rule's lifetime, and not for requests with cookies? These would only wait to hear
    no, and what they get says nothing about what the others share."""
    return match is not None and match.rule.ttl is not None and not match.rule.allow_cookie


def _public_invalidations(invalidations: Iterable[Invalidation]) -> list[Invalidation]:
    """The marks by which purges of URLs reach what is stored for another host, to whose app a proxy told
    of the one that is named."""
    tags = dict.fromkeys(
        (public_tag(invalidation.value), invalidation.soft)
        for invalidation in invalidations
        if invalidation.kind == "key"
    )
    return [Invalidation("tag", tag, soft) for tag, soft in tags]


def _end(expires: float) -> int:
    """When a variant ends, as its index has it."""
    return int(min(max(expires, 0.0), FAR))


def _ends(variants: list[bytes], ends: Mapping[bytes, int]) -> tuple[int, ...]:
    """The ends of all ``variants``; nothing if that of one is not known."""
    return tuple(ends[one] for one in variants) if all(one in ends for one in variants) else ()


def _is_response(entry: Entry) -> bool:
    return isinstance(entry.value, StoredResponse)


def _later(one: Entry, than: Entry) -> bool:
    """Is one stored response from a later fetch than another, or from after a purge that the other
    did not see?"""
    if one.stamp != than.stamp:
        return one.stamp > than.stamp
    return (
        isinstance(one.value, StoredResponse) and one.value.request_time > than.value.request_time
    )


def _complete(entry: Entry) -> bool:
    return not isinstance(entry.value, PartialResponse)


def _reusable(entry: Entry) -> bool:
    """Would this response, once validated, have any lifetime for those who wait?"""
    stored: StoredResponse = entry.value
    return not stored.no_cache and (
        entry.stale_from + entry.stale_while_revalidate > stored.response_time
    )


def _age_line(age: int) -> Line:
    return _AGES[age] if 0 <= age < len(_AGES) else (b"age", b"%d" % max(age, 0))


def _floor(ttl: float) -> int:
    return int(ttl) if ttl >= 0 else -int(-ttl)
