"""One fetch from the origin and everyone who waits for it.

The adapter calls the app and feeds what it says into an `Exchange`; the exchange says what to do
with it (`Relay`), keeps the body that is to be stored, and wakes the requests that follow.

    PENDING ──head──▶ STREAMING   shareable: followers stream along from the first byte
                      ANSWERED    a stored response is the answer (304, or stale-if-error)
                      RELEASED    not shareable: every follower is let go at once (G4)
            ──abort─▶ FAILED      no head came: a follower leads next
    then `ended`: the body is complete, or `broken`: the origin stopped in the middle (G6)

A head whose response may be stored is not always the last word: whether that is ``stored`` is known
with the length, and whether a page under a rule carries a token of one client, with the page. ASGI and
WSGI servers send no head before the first part of the body anyway, so `opening` decides it then.

A shared exchange runs in a task of its own. The request that caused it is its first reader, no more:
it may be slow, or go away, without anyone else noticing. A solo exchange runs inside its request
and only copies what passes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Span
from layergate.core.flight import Pulse
from layergate.core.ports import Task
from layergate.core.shared import Lease
from layergate.errors import OriginAborted
from layergate.http.extensions.no_vary_search import SearchVariance, class_key
from layergate.http.message.cache_control import LAYERGATE_CONTROL
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import variant_key
from layergate.http.message.ranges import PIECE
from layergate.http.message.request import CONDITIONAL_FIELDS, Request
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.privacy.tokens import has_token, may_have_token
from layergate.http.rfc9111.combining import Received, received_part
from layergate.http.rfc9111.decision import NO_ANSWER, answers
from layergate.http.rfc9111.partial import covers, flight_suffix
from layergate.http.rfc9111.plan import Plan, plan_storage, plan_update, targets_of
from layergate.http.rfc9111.rest import Rest
from layergate.http.rfc9111.selecting import varies_on_more, vary_names, with_vary
from layergate.http.rfc9111.storing import Refused
from layergate.http.rfc9111.validation import freshens, same_but_for_strength
from layergate.http.rfc9111.variants import named, nominating_line
from layergate.http.rules import Match

if TYPE_CHECKING:
    from layergate.http.engine.cache import Cache

__all__ = ["ORIGIN_ERRORS", "Exchange", "Reader", "Relay", "State"]

# What a reader may lag behind in a stream that is over the cap, bytes.
WINDOW: Final = 256 * 1024
# For what is added to a response that is stored, bytes: its length, the trace context, fields of a part.
_ROOM: Final = 160
ORIGIN_ERRORS: Final = frozenset({500, 502, 503, 504})
"""The statuses that a stored response may stand in for (RFC 5861 section 4)."""
_NO_BODY: Final = frozenset({204, 205, 304})


class State(enum.Enum):
    """See the module's picture."""

    PENDING = enum.auto()
    STREAMING = enum.auto()
    ANSWERED = enum.auto()
    RELEASED = enum.auto()
    FAILED = enum.auto()


class Relay(enum.Enum):
    """What the adapter does with the response it is handing in."""

    SHARE = enum.auto()  # give every chunk to `body`; readers deliver it
    TEE = enum.auto()  # send it to this request's client, and give a copy to `body`
    PASS = enum.auto()  # send it to this request's client, if there is one; nothing is kept
    SWALLOW = enum.auto()  # drop it: a stored response answers


class Head(NamedTuple):
    """The beginning of the origin's response, as it goes to a client."""

    status: int
    lines: Lines  # without Cache-Status; tags stripped if so configured
    shared_lines: Lines  # what a follower gets


class Exchange:
    """See the module. Made by `Cache.open`; an adapter calls, in this order,

    `request_lines`, `head`, then `body` for each chunk, and `finish` or `abort` once.
    """

    __slots__ = (
        "_alias",
        "_body",
        "_buffered",
        "_cache",
        "_chunks",
        "_cleaned",
        "_client_lines",
        "_confirmation",
        "_content_length",
        "_idle",
        "_idle_since",
        "_left",
        "_length",
        "_lock",
        "_made",
        "_part",
        "_readers",
        "_storing",
        "_to_scan",
        "_touched",
        "_trimmed",
        "_unkept",
        "_validators",
        "_whole",
        "admitted",
        "began",
        "broken",
        "cause",
        "conditional",
        "cookies",
        "ended",
        "entry",
        "error",
        "flight_key",
        "fwd",
        "gave_up",
        "kept",
        "lease",
        "marked",
        "match",
        "mismatched",
        "nominees",
        "opened",
        "origin_status",
        "plan",
        "primary",
        "pulse",
        "refreshes",
        "refused",
        "reload",
        "request",
        "request_time",
        "response",
        "rest",
        "secondary",
        "several",
        "sights",
        "solo",
        "sought",
        "span",
        "stamp",
        "state",
        "storage_key",
        "tokens",
        "unchanged",
        "unleased",
        "unreachable",
        "variance",
    )

    def __init__(
        self,
        cache: Cache,
        request: Request,
        *,
        storage_key: bytes,
        flight_key: bytes | None,
        entry: Entry | None,
        fwd: str,
        match: Match | None,
    ) -> None:
        self._cache = cache
        self.request = request
        self.primary = self.sought = request.key
        self.variance: SearchVariance | None = None  # of the response; see `no_vary_search`
        self.storage_key = storage_key
        self.flight_key = flight_key
        self.solo = flight_key is None
        self.entry = entry
        self.fwd = fwd
        self.match = match
        self.stamp = cache.stack.invalidations.position
        self.request_time = self._touched = cache.stack.runtime.now()
        self.began = 0.0 if cache.stack.shared_log is None else cache.stack.runtime.monotonic()
        self.state = State.PENDING
        self.pulse = Pulse(cache.stack.runtime)
        self.plan: Plan | None = None
        self.response: Head | None = None
        self.opened = True  # nothing of the head waits for the first part of the body
        self.admitted: bool | None = None  # could a layer take it? None: not known yet
        self._unkept: Refused | None = None  # and why not
        # Has middleware outside of us given the app a token that is for one client?
        self.tokens: Callable[[], bool] | None = None
        self.cookies: Lines = []
        self.refused: Refused | None = None
        self.secondary = b""
        self.origin_status: int | None = None
        self.ended = False
        self.broken = False
        self.mismatched = False
        self.unreachable = False  # the origin gave no answer, and a stored response is it
        self.error: BaseException | None = None
        self._lock = cache.stack.runtime.lock()  # of _chunks, _trimmed, _readers
        self._cleaned: Lines = []
        self._client_lines: Lines | None = None  # as they were when the head was `opened` at once
        self._chunks: list[bytes] = []
        self._body: bytes | None = None  # all of it, once it has ended: then there are no chunks
        self._trimmed = 0  # chunks dropped from the front, once over the cap
        self._length = 0
        self._buffered = 0
        self._content_length: int | None = None
        self._storing = False
        # The head of a response whose content is to be looked through for tokens, and has not been.
        self._to_scan: Fields | None = None
        self._whole = False  # the body is complete
        self._made: Entry | None = None  # of the complete body
        self.kept: bytes | None = None  # the key under which the top layer has it already
        self._left: list[Task] = []
        self._readers: set[Reader] = set()
        self._idle = 0.0  # how long the fetch has waited for its own client, seconds
        self._idle_since: float | None = None
        self._alias: bytes | None = None
        self._confirmation: Fields | None = None  # of the 304 that updated what is stored
        self._part: Received | None = None  # what the response is, if it is a 206
        self.rest: Rest | None = None  # what is fetched, if less than the client asked for
        self.gave_up = False  # it has waited for a lease as long as one may
        self.marked = False  # its target was known not to be shareable
        self.reload = False  # its request would not have what is fresh
        self.refreshes = False  # in the background, for the store alone
        self.lease: Lease | None = None
        self.unleased = False  # it went without one, for the shared layer was away
        # Of the fetch, from its beginning; those who wait for it link to it, and so does the entry.
        self.span: Span = NO_SPAN
        self.cause: str | None = None  # the span of the request that wants a background refresh
        self.sights = 0  # how often its variant has come without being kept; see `admission`
        self.several = False  # more than one stored response may be selected by this request
        self.nominees: tuple[Entry, ...] = ()  # variants that a 304 may name; see `variants`
        # A 304 that may update nothing has confirmed what is stored, also for those who wait.
        self.unchanged = False
        self._validators: Lines = []
        if entry is not None and isinstance(entry.value, StoredResponse):
            self._validators = cache.validators(storage_key, entry.value)
        self.conditional = bool(self._validators)

    def nominate(self, nominees: tuple[Entry, ...]) -> None:
        """Send the entity tags of variants that this request does not select."""
        self.nominees = nominees
        self.conditional = self.conditional or bool(nominees)

    # -- how it is traced ----------------------------------------------------------------------

    def begin(self) -> None:
        """The fetch begins, or asks for its lease; then, the second time, it begins.

        A background refresh is a trace of its own, linked to the request that caused it; any other
        fetch is part of the request that leads.
        """
        if self.span is not NO_SPAN:  # since it asked for its lease
            self.span.ready()
            return
        stored = None if self.entry is None else self.entry.value
        before = stored.traceparent if isinstance(stored, StoredResponse) else None
        name = "refresh" if self.refreshes else "revalidate" if self.conditional else "fetch"
        self.span = self._cache.stack.counters.span(
            name,
            root=self.refreshes,
            links=(self.cause, before),
            method=self.request.method,
            reason=self.fwd,
            key=self.primary,
            rule=None if self.match is None else self.match.rule.path,
        )

    def withdraw(self) -> None:
        """There will be no fetch: those who have joined decide anew, and no span is ever told of."""
        self.span = NO_SPAN
        self.abort()

    def calling(self) -> AbstractContextManager[object]:
        """Around the call of the app: what it traces is part of this fetch."""
        return self.span.current()

    def carried(self, lines: Lines) -> Lines:
        """``lines`` of a request with what makes it part of this fetch, for who traces by header
        fields and not by the context that a call is made in."""
        fields = self.span.carry()
        if not fields:
            return lines
        kept = [line for line in lines if line[0] not in fields]
        return [*kept, *((name, value) for name, value in fields.items() if value is not None)]

    def traced(self, error: object = None) -> None:
        """The fetch is over, as far as it can be seen."""
        self.span.note(
            status=self.origin_status, refused=None if self.refused is None else self.refused.token
        )
        self.span.end(error)

    # -- the fleet's lease ---------------------------------------------------------------------

    def licensed(self, lease: Lease) -> None:
        """The fetch begins now, under a lease."""
        self.lease = lease
        self.restart()

    def restart(self) -> None:
        """The fetch begins only now: what was purged before, while we waited, concerns it no more."""
        self.began = self._cache.stack.runtime.monotonic()
        self.stamp = self._cache.stack.invalidations.position
        self.request_time = self._touched = self._cache.stack.runtime.now()

    def inherit(self, other: Exchange) -> None:
        """Take over the lease of an exchange that this one takes the place of, if it has one: who
        waits for it on other instances waits for what this one brings."""
        self.lease, other.lease = other.lease, None

    def let_go(self, *, free: bool = False) -> None:
        """Give the lease back, if there is one: those who wait for it on other instances find what
        is stored by now, or take it. ``free``: or need not wait, for this is not for sharing."""
        lease, self.lease = self.lease, None
        if lease is not None:  # (at the end of the process it runs out by itself)
            self.aside(lease.release(free=free), "layergate release")

    # -- towards the origin --------------------------------------------------------------------

    def request_lines(self) -> Lines:
        """The request's header lines as they go to the origin.

        With validators of ours, the client's own preconditions are replaced (4.3.1); in a shared
        fetch they are left out, since a 304 to one client would be of no use to the others, and are
        evaluated against what comes back.
        """
        lines = self.request.fields.lines
        if self.solo and not self.conditional:
            return lines
        dropped = CONDITIONAL_FIELDS
        if self.rest is not None:
            dropped |= {b"range"}
        elif self.request.ranges is not None:
            dropped -= {b"if-range"}  # it goes with the range, and comes after our own (13.2.2)
        kept = [line for line in lines if line[0] not in dropped]
        if self.rest is not None:
            kept += self.rest.lines
        if self._validators:
            kept += self._validators
        elif self.nominees:
            kept.append(nominating_line(self.nominees))
        return kept

    # -- from the origin -----------------------------------------------------------------------

    def refuses(self, status: int, lines: Lines, *, route: Match | None = None) -> bool:
        """Would `head` certainly release everyone who waits? Changes nothing.

        For an adapter whose head is not final before the first part of the body comes (WSGI): what
        is not shareable should not be waited for that long (G4).
        """
        if self.conditional and status == 304:
            return False
        if status in ORIGIN_ERRORS and self.entry is not None:
            return False
        if self.request.method != "GET" or self.refused is not None:
            return True
        match = self.match if route is None else route
        planned = self.planned(status, Fields(lines), match, self._cache.stack.runtime.now())
        return isinstance(planned, Refused)

    def planned(
        self, status: int, fields: Fields, match: Match | None, now: float
    ) -> Plan | Refused:
        """How a response to this request, received at ``now``, is to be stored, or why not."""
        asked = self.request.ranges if self.rest is None else self.rest.ranges
        part = received_part(asked, status, fields)
        if isinstance(part, Refused):
            return part
        self._part = part
        if part is not None:  # 3.3: "stored as if it were an incomplete 200 (OK) response"
            status, fields = 200, part.fields
        planned = plan_storage(
            self.request,
            status,
            fields,
            match,
            self._cache.options,
            request_time=self.request_time,
            response_time=now,
        )
        return self._lent(planned, fields)

    def judged(
        self, status: int, fields: Fields, now: float, *, trailers: bool = False
    ) -> Plan | Refused:
        """How a whole response with this head is to be stored, or why not."""
        planned = self.refused or self.planned(status, fields, self.match, now)
        if isinstance(planned, Plan):
            planned = Refused.TRAILERS if trailers else self._check_length(status, fields, planned)
        return planned

    def _lent(self, planned: Plan | Refused, fields: Fields) -> Plan | Refused:
        """``planned``, if it may be: a lifetime that is not the response's own is not for what was made
        for one client (see `tokens`)."""
        if isinstance(planned, Refused) or not planned.lent:
            return planned
        if self.tokens is not None and self.tokens():
            return Refused.TOKEN
        # (of a part nobody can tell what the whole has)
        return Refused.TOKEN if self._part is not None and may_have_token(fields) else planned

    def head(
        self,
        status: int,
        lines: Lines,
        *,
        route: Match | None = None,
        trailers: bool = False,
        personal: bool = False,
    ) -> Relay:
        """The head of the origin's response.

        ``route``: policy set next to the route, which takes the place of a rule. ``trailers``:
        trailer fields were announced; they cannot be stored with the rest, so nothing is.
        ``personal``: the app knows who it answers by other means than what is in the request's and
        the response's fields; as good as a cookie.
        """
        cache = self._cache
        now = self._touched = cache.stack.runtime.now()
        fields = Fields(lines)
        self.origin_status = status
        self.span.note(status=status)
        self.request.mark_personal(personal)
        if route is not None:
            self.match = route
        if self.conditional and status == 304:
            return self._not_modified(fields, now)
        if self.rest is not None and status in (206, 416):
            return self._completing(fields, now, trailers=trailers)
        if status in ORIGIN_ERRORS and self.answer_error(
            f"status {status}", unreachable=status in NO_ANSWER
        ):
            return Relay.SWALLOW

        cleaned = self._cleaned = cache.for_clients(fields.lines)
        if self.request.method != "GET":
            self._become(State.RELEASED)
            return Relay.PASS
        planned = self.judged(status, fields, now, trailers=trailers)
        if isinstance(planned, Refused):
            return self._let_pass(planned)

        cleaned = self._cleaned = with_vary(cleaned, planned.vary)
        planned = self.plan = self.located(planned)
        self.secondary = cache.secondary(planned.names, self.request.fields)
        if not cache.has_room(self, planned):
            self.refused = Refused.VARIANTS  # for who waits for it now, and not for later
            cache.not_stored(self, self.refused)
        own = [] if self._part is None else self._part.own
        self.response = Head(status, cleaned, planned.lines + own)
        self._storing = True
        # What is to be stored for validation only (no-cache, max-age=0), nobody else may have now.
        relay = Relay.SHARE if planned.shareable and not self.solo else Relay.TEE
        if relay is Relay.TEE:
            self._become(State.RELEASED)
        elif planned.names:
            # Now it is known which variant this is: requests for it that find the index of
            # variants, and no longer the bare target, shall find this flight as well.
            self._alias = variant_key(self.primary, self.secondary) + flight_suffix(self.request)
            cache.flights.lead(self._alias, self)
        length = 0 if status in _NO_BODY else self._content_length
        if planned.lent and length != 0 and may_have_token(fields):
            self._to_scan = fields
        if length is None or self._to_scan is not None:
            self.opened = False
        else:
            self._open(length)
            self._client_lines = [*cleaned, *cache.forward_line(self)]
        return relay

    def _let_pass(self, reason: Refused) -> Relay:
        """It is for nobody but the client whose request was forwarded."""
        self.refused = reason
        self.plan = self.response = None
        self._storing = False
        self._cache.not_stored(self, reason)
        self._become(State.RELEASED)
        return Relay.PASS

    @property
    def waits_for_page(self) -> bool:
        """Is the head, not `opened`, one that must not go out before the first part of the body?"""
        return self._to_scan is not None

    def opening(self, first: bytes | None, *, whole: bool = False) -> Relay:
        """Unless the head was `opened` at once: the first part of the body is there, and so the head
        can go out. ``whole``: it is the only one. Before `body` is given that part. None: it takes
        its time, and the head shall not wait for it (not if it `waits_for_page`)."""
        assert self.plan is not None
        self.opened = True
        if first is None:
            self._open(None)
            return Relay.SHARE if self.state is State.STREAMING else Relay.TEE
        whole = whole or len(first) == self._content_length
        if self._to_scan is not None:
            if has_token(self._to_scan, first):
                return self._let_pass(Refused.TOKEN)
            if whole:
                self._to_scan = None
        self._open(len(first) if whole and self._content_length is None else self._content_length)
        return Relay.SHARE if self.state is State.STREAMING else Relay.TEE

    def _open(self, length: int | None) -> None:
        """All that is said in the head is known. ``length``: of the body, in bytes; None: unknown."""
        if self.state is State.PENDING:
            self._become(State.STREAMING)
        if length is None:
            return
        if length > self._cache.max_body:
            self._refuse(Refused.TOO_LARGE)
        elif not self._reserve(length):
            self._refuse(Refused.BUDGET)
        else:
            assert self.plan is not None
            self._admit(self._cache.takes(self, self.plan, length))

    def _admit(self, refused: Refused | None) -> None:
        self.admitted = refused is None
        self._unkept = refused

    def size_around(self, plan: Plan) -> int:
        """What an entry of this response has beside its body, in bytes: at most so many."""
        return sum(len(name) + len(value) for name, value in plan.lines) + _ROOM

    def _reserve(self, length: int) -> bool:
        """Have so many bytes of the budget for bodies under way, in all."""
        more = length - self._buffered
        if more <= 0:
            return True
        if not self._cache.take_inflight(more, self):
            return False
        self._buffered = length
        return True

    @contextmanager
    def at_client(self) -> Iterator[None]:
        """Around what is sent, inside of the fetch, to the client whose request was forwarded: while
        that takes nothing, the fetch stands still."""
        self.rests()
        try:
            yield
        finally:
            self.goes_on()

    def rests(self) -> None:
        """The fetch waits for its own client from now on."""
        self._idle_since = self._cache.stack.runtime.monotonic()

    def goes_on(self) -> None:
        """It does not any more. Does nothing if it did not."""
        since, self._idle_since = self._idle_since, None
        if since is not None:
            self._idle += self._cache.stack.runtime.monotonic() - since

    @property
    def idle(self) -> float:
        """For how long the fetch has waited for its own client, in all, seconds."""
        since = self._idle_since
        now = 0.0 if since is None else self._cache.stack.runtime.monotonic() - since
        return self._idle + now

    @property
    def held_up(self) -> bool:
        """Has its own client held it up for longer than anybody else should wait for that?"""
        limit: float = self._cache.options.slow_reader_timeout  # type: ignore[assignment]
        return self.idle > limit

    @property
    def announced(self) -> int | None:
        """How long the body is to be, bytes; None: it does not say."""
        return self._content_length

    @property
    def client_lines(self) -> Lines:
        """The head as it goes to the client whose request was forwarded."""
        if self._client_lines is not None:
            return self._client_lines
        return [*self._cleaned, *self._cache.forward_line(self)]

    @property
    def stored(self) -> bool:
        """May the head that is sent now say ``stored``?"""
        return self._storing and bool(self.admitted) and self.refused is None

    @property
    def why_not_stored(self) -> Refused | None:
        """What the head that is sent now gives for a reason, if it does not say ``stored``."""
        return self.refused or self._unkept

    def completion(self, fields: Fields, now: float, *, trailers: bool = False) -> Plan | None:
        """How the part with these fields, that is to complete what is stored, is to be stored; None
        if it does not complete that."""
        rest = self.rest
        assert rest is not None
        planned = self.judged(206, fields, now, trailers=trailers)
        part = self._part
        stored: StoredResponse = rest.entry.value
        if (
            isinstance(planned, Refused)
            or part is None
            or not answers(self.request, stored)  # by now its user may be known
            # One of them is for requests that the other is not for.
            or varies_on_more(stored.fields, Fields(planned.lines))
            or not rest.brought_by(part)
            or not self._cache.stack.admits(self.storage_key, rest.entry)
            # By its No-Vary-Search it belongs where the rest is from.
            or self._cache.home(self.request, planned)[0] != self.sought
        ):
            return None
        # For whom it is: what is stored and what comes must both allow it. It is selected by all that
        # what is stored is selected by, for its octets are a part of the answer.
        vary = vary_names(stored.fields) or ()
        return planned._replace(
            vary=vary,
            names=self._cache.forwarding.selecting(vary, self.request.fields.names()),
            lines=with_vary(planned.lines, vary),
            without_credentials_only=planned.without_credentials_only
            or stored.without_credentials_only,
            shared_with_authorization=planned.shared_with_authorization
            and stored.shared_with_authorization,
            shared_with_users=planned.shared_with_users and stored.shared_with_users,
        )

    def _completing(self, fields: Fields, now: float, *, trailers: bool) -> Relay:
        """A part has come that is to complete what is stored: the answer is what is stored before
        it, the part, and what is stored beyond it."""
        rest, cache = self.rest, self._cache
        assert rest is not None
        planned = self.completion(fields, now, trailers=trailers)
        if planned is None:
            # Of another response, or not for keeping, or what is stored has been purged since: ask
            # again for what the client asks for.
            cache.stack.counters.on("refused", request=self.request, reason=Refused.PARTIAL.token)
            return self._mismatch(Refused.PARTIAL)
        planned = self.plan = self.located(planned)
        self.secondary = cache.secondary(planned.names, self.request.fields)
        own = [] if planned.own is None else [(LAYERGATE_CONTROL, planned.own)]
        lines = rest.head([*planned.lines, *own], targets_of(cache.options))
        lines = with_vary(lines, planned.vary)
        self.response = Head(rest.status, lines, lines)
        self._cleaned = cache.for_clients(lines)
        self._storing = True
        before, _ = rest.around
        if before:
            self._chunks.append(before)
        if not planned.shareable:  # to those who come now: who waits already is told by `fits`
            self._land()
        self._open(self._content_length)
        self._client_lines = self.client_lines
        return Relay.SHARE

    @property
    def completed(self) -> int | None:
        """The status code of an answer that what is fetched completes; None: it is the origin's."""
        return None if self.rest is None or self._part is None else self.rest.status

    @property
    def around(self) -> tuple[bytes, bytes]:
        """What of the answer is stored: what comes before the body that is fetched, and after it.
        For an adapter whose client gets that body from the app, not from a `Reader`."""
        return (b"", b"") if self.rest is None or self._part is None else self.rest.around

    @property
    def tags(self) -> tuple[str, ...]:
        """By what a purge reaches the answer, once its head is known: as the part that is fetched,
        and as what it completes."""
        assert self.plan is not None
        if self.rest is None or self._part is None:
            return self.plan.tags
        return self.plan.tags + self.rest.entry.tags

    def _check_length(self, status: int, fields: Fields, plan: Plan) -> Plan | Refused:
        if self._part is not None:
            self._content_length = self._part.span[1] - self._part.span[0]
            too_large = self._content_length > self._cache.max_body
            return Refused.TOO_LARGE if too_large else plan
        lengths = set(fields.all(b"content-length"))
        if not lengths or status in _NO_BODY:
            return plan
        value = lengths.pop()
        if lengths or not value.isdigit() or len(value) > 18:
            return Refused.LENGTH_MISMATCH
        self._content_length = int(value)
        if self._content_length > self._cache.max_body:
            return Refused.TOO_LARGE
        return plan

    def located(self, plan: Plan) -> Plan:
        """The plan, with all that says where its response belongs, known now that its head is."""
        self.primary, self.variance, tags = self._cache.home(self.request, plan)
        return plan._replace(tags=(*plan.tags, *tags)) if tags else plan

    def confirmed_by(self, fields: Fields) -> bool:
        """Is a 304 with these fields about what is stored, and has that not been purged since?"""
        entry = self.entry
        if entry is None:
            entry = named(self.nominees, fields)
        elif not freshens(entry.value.fields, fields):
            entry = None
        if entry is None or not self._cache.stack.admits(self.storage_key, entry):
            return False
        self.entry = entry
        return True

    def reused_by(self, fields: Fields, now: float) -> Plan | None:
        """How the response would be kept that a 304 with these ``fields`` confirms without updating what
        is stored (see `validation`); None if it is not about that, or restricts who may have it."""
        entry = self.entry
        if entry is None or not same_but_for_strength(entry.value.fields, fields):
            return None
        stored: StoredResponse = entry.value
        planned, _ = self.update(entry, fields, now)
        if (
            isinstance(planned, Refused)
            or planned.vary != vary_names(stored.fields)
            or not self._cache.stack.admits(self.storage_key, entry)
        ):
            return None
        now_for = (
            planned.without_credentials_only,
            planned.shared_with_authorization,
            planned.shared_with_users,
        )
        same = now_for == (
            stored.without_credentials_only,
            stored.shared_with_authorization,
            stored.shared_with_users,
        )
        return planned if same else None

    def update(self, entry: Entry, fields: Fields, now: float) -> tuple[Plan | Refused, Lines]:
        """See `plan_update`: for a 304 to this request with these ``fields``, received at ``now``."""
        planned, lines = plan_update(
            self.request,
            entry,
            fields,
            self.match,
            self._cache.options,
            request_time=self.request_time,
            response_time=now,
        )
        return self._lent(planned, fields), lines

    def still_covered(self, stored: StoredResponse, planned: Plan | Refused, lines: Lines) -> bool:
        """Does ``stored``, with its fields as `update` says, answer the request that it was selected
        for? Parts do not if their validator is no longer one that this request's If-Range takes."""
        updated = planned.lines if isinstance(planned, Plan) else lines
        renewed = stored.renewed(
            updated, generated=stored.generated, response_time=stored.response_time
        )
        return covers(self.request, renewed)

    def _not_modified(self, fields: Fields, now: float) -> Relay:
        """4.3.3, 4.3.4: update the stored response and use it."""
        cache = self._cache
        if not self.confirmed_by(fields):
            reused = self.reused_by(fields, now)
            if reused is not None:
                return self._reuse(reused, fields)
            # A 304 for something else than we asked about, or for what has been purged since: what
            # we hold must not be used. Ask again, without validators.
            cache.stack.counters.on(
                "refused", request=self.request, reason=Refused.NOT_MODIFIED.token
            )
            return self._mismatch(Refused.NOT_MODIFIED)
        assert self.entry is not None
        stored: StoredResponse = self.entry.value
        planned, lines = self.update(self.entry, fields, now)
        if not self.still_covered(stored, planned, lines):
            return self._mismatch(Refused.NOT_MODIFIED)
        if isinstance(planned, Plan):
            plan = self.plan = self.located(planned)
            self.secondary = cache.secondary(plan.names, self.request.fields)
            self.entry = self.entry_for(plan, stored.status, plan.lines, stored.body, stored)
            self._storing = cache.has_room(self, plan)
            if self._storing:
                self._admit(cache.takes(self, plan, entry=self.entry))
            else:
                self.refused = Refused.VARIANTS
                cache.not_stored(self, self.refused)
            self._confirmation = fields if self.several else None
            if self._storing and not cache.stack.peek_is_enough:
                self.kept = cache.keep(self, self.entry)
        else:
            # Valid for this request, not to be kept any longer.
            self.refused = planned
            self.entry = Entry(
                stored.renewed(lines, generated=now, response_time=now, no_cache=True),
                created=now,
                fresh_until=now,
                stamp=self.stamp,
            )
            cache.not_stored(self, planned)
        self._confirmed(fields)
        return Relay.SWALLOW

    def _reuse(self, planned: Plan, fields: Fields) -> Relay:
        """Use the stored response as it is; update nothing (a departure: see `validation`)."""
        self.refused = Refused.VALIDATOR
        self._cache.not_stored(self, Refused.VALIDATOR)
        self.unchanged = planned.shareable
        self._land()  # who comes later asks again
        self._confirmed(fields)
        return Relay.SWALLOW

    def _confirmed(self, fields: Fields) -> None:
        """What is in `entry` by now is the answer."""
        assert self.entry is not None
        # A cookie that came with the 304 is for the client whose request was forwarded.
        kept = self.entry.value.lines
        self.cookies = [
            line for line in fields.lines if line[0] == b"set-cookie" and line not in kept
        ]
        self._cache.stack.counters.on("revalidated", request=self.request)
        self._become(State.ANSWERED)

    def _mismatch(self, reason: Refused) -> Relay:
        """What the origin says is not about what is stored."""
        self.mismatched = True
        self.traced(reason.token)
        self._become(State.FAILED)
        return Relay.SWALLOW

    def answer_error(self, error: object, *, unreachable: bool = False) -> bool:
        """The origin failed. True if a stored response may stand in for it (RFC 5861 section 4), or
        for one that cannot be reached (RFC 9111 4.2.4): that it says so, ``unreachable``, or that
        ``error`` is one of a connection."""
        if self.entry is None or self.state is not State.PENDING:
            return False
        unreachable = unreachable or isinstance(error, ConnectionError)
        cache = self._cache
        if not cache.stands_in(self.request, self.entry, unreachable=unreachable):
            return False
        self.unreachable = unreachable
        # It may have sent a head that it did not come to fill.
        self.plan = self.response = None
        self._storing = False
        self._give_back()
        cache.stack.counters.on(
            "stale", request=self.request, reason=cache.excuse(self, self.request), error=error
        )
        self._become(State.ANSWERED)
        return True

    def body(self, chunk: bytes) -> None:
        """The next part of the body, in SHARE and TEE."""
        if not chunk:
            return
        self._touched = self._cache.stack.runtime.now()
        self._length += len(chunk)
        cache = self._cache
        if self.rest is not None and self._overflows():
            # What is stored beyond the missing piece would be sent in the wrong place.
            self.abort(OriginAborted("the origin sent more than the range it announced"))
            return
        if self._storing:
            if self._length > cache.max_body:
                self._refuse(Refused.TOO_LARGE)
            elif self._length > self._buffered and not self._reserve(self._length):
                self._refuse(Refused.BUDGET)
        with self._lock:
            if self._storing or self.state is State.STREAMING:
                self._chunks.append(chunk)
        if self.state is State.STREAMING:
            self._trim()
            self.pulse.beat()

    def surrender(self) -> None:
        """Give up what is reserved: others need it, and this fetch waits for its client. From any
        thread."""
        self._refuse(Refused.BUDGET)

    def _refuse(self, reason: Refused) -> None:
        """Give up storing, in the middle of the body. Those who stream along still get all of it."""
        with self._lock:
            if not self._storing or self._body is not None or self.state is State.ANSWERED:
                return
            self._storing = False
            self.refused = reason
            if self.state is not State.STREAMING:
                self._chunks = []
        self._give_back()
        self._cache.not_stored(self, reason)
        self._land()  # nobody may join: the beginning is about to be dropped
        self.let_go(free=True)

    @property
    def oversized(self) -> bool:
        """Streaming without storing: the adapter awaits `room` after each chunk."""
        return self.state is State.STREAMING and not self._storing and not self.ended

    async def room(self) -> None:
        """Backpressure of a stream that is over the cap: wait until its slowest reader is close.

        A reader is cut off that has held up others for ``slow_reader_timeout`` in all, whatever it
        takes meanwhile: that is the time in which it was too far behind for more to come, and another
        one had taken all there is. Alone it may take the time it wants, like any client without a
        cache.
        """
        runtime = self._cache.stack.runtime
        limit: float = self._cache.options.slow_reader_timeout  # type: ignore[assignment]
        while True:
            seen = self.pulse.version
            with self._lock:
                behind = [one for one in self._readers if self._backlog(one) > WINDOW]
                end = self._trimmed + len(self._chunks)
                starved = any(one.index >= end for one in self._readers)
            if not behind:
                return
            if not starved:
                await self.pulse.wait(seen)
            else:
                began = runtime.monotonic()
                left = limit - max(one.held for one in behind)
                await self.pulse.wait(seen, max(0.0, left))
                held = runtime.monotonic() - began
                for one in behind:
                    one.held += held
                    if one.held >= limit:
                        self._cut(one)
            self._trim()

    def _cut(self, reader: Reader) -> None:
        """Go on without this reader."""
        with self._lock:
            if reader not in self._readers:
                return
            reader.cut = True
            self._readers.discard(reader)
        self._cache.stack.counters.on("stream_cut", request=reader.request)
        self.pulse.beat()

    def _backlog(self, reader: Reader) -> int:
        """Bytes that this reader has not taken yet."""
        chunks = self._chunks[reader.index - self._trimmed :]
        return sum(map(len, chunks)) - reader.within

    def _trim(self) -> None:
        """Over the cap, drop the chunks that every reader has had."""
        if self._storing or self.ended:
            return
        with self._lock:
            end = self._trimmed + len(self._chunks)
            first = min((reader.index for reader in self._readers), default=end)
            del self._chunks[: first - self._trimmed]
            self._trimmed = first

    def complete(self) -> None:
        """The body is complete: verify it, and keep it where that takes no time. So whoever hears of
        its end and asks again finds it. Call `finish` next, which does what is left."""
        if self._whole or self.ended or self.broken:
            return
        self._whole = True
        if not self._storing or self.state is State.ANSWERED:
            return
        if not self._verify() or self._part is not None or self._cache.stack.peek_is_enough:
            return
        self._join()
        if self.refused is None and self._to_scan is None:
            self._made = self._make()
            self.kept = self._cache.keep(self, self._made)

    def _join(self) -> None:
        """Make one of the parts of the body, for the store and for all who have not read to the end
        yet."""
        with self._lock:
            if self._storing and self._body is None and self.state is not State.ANSWERED:
                self._body, self._chunks = b"".join(self._chunks), []

    async def finish(self) -> None:
        """The body is complete: verify it, tell the readers, store it."""
        self.complete()
        if self.rest is not None and self.state is State.STREAMING and self._part is not None:
            if self._length != self._content_length:
                self.abort(OriginAborted("the origin sent less than the range it announced"))
                return
            with self._lock:
                self._chunks += filter(None, self.rest.around[1:])
        self._join()
        self.ended = True
        self.traced()
        self.pulse.beat()
        # The flight stays on the table until all is stored, so that nobody starts another. But a
        # layer that takes its time is no business of the clients that have it all now.
        if not self._storing:
            self._finished()
        elif self._cache.stack.peek_is_enough:
            await self._store()
        elif not self.aside(self._store(), "layergate store"):
            self._finished()

    def aside(self, work: Coroutine[Any, Any, object], name: str) -> bool:
        """As `Cache.aside`; and where a loop may end with the request that led to this, see `left`."""
        task = self._cache.aside(work, name)
        if task is not None and not self._cache.stack.runtime.lasts():
            self._left.append(task)
        return task is not None

    @property
    def patience(self) -> float:
        """How long an operation of a layer may take, seconds."""
        return float(self._cache.options.layer_timeout)  # type: ignore[arg-type]

    @property
    def left(self) -> list[Task]:
        """What is not done yet of what this has begun in the background, and what the request is not
        over without."""
        self._left = [task for task in self._left if not task.done()]
        return self._left

    def _overflows(self) -> bool:
        return (
            self._part is not None
            and self._content_length is not None
            and self._length > self._content_length
        )

    async def _store(self) -> None:
        try:
            await self._commit()
        finally:
            self._finished()

    def _finished(self) -> None:
        self._land()
        self._give_back()  # who reads on reads what is stored
        if self.state is not State.RELEASED:  # (then what `settle` notes comes first)
            self.let_go()

    def _verify(self) -> bool:
        """Is it as long as it said it would be?"""
        if self._content_length is not None and self._content_length != self._length:
            self._storing = False
            self.refused = Refused.LENGTH_MISMATCH
            self._cache.not_stored(self, Refused.LENGTH_MISMATCH)
        return self._storing

    async def _commit(self) -> None:
        plan = self.plan
        assert plan is not None
        if self.refused is Refused.VARIANTS:
            return
        if self.state is State.ANSWERED:
            assert self.entry is not None
            entry = self.entry
            if self._confirmation is not None:
                await self._cache.freshen_others(self, self._confirmation)
        else:
            assert self._body is not None
            if self._to_scan is not None and has_token(self._to_scan, self._body):
                # It came in parts, so others may have read along. Those who come now shall not.
                self.refused = Refused.TOKEN
                self._cache.not_stored(self, Refused.TOKEN)
                await self._cache.settle(self)
                return
            entry = self._made or self._make()
            self._made = None
        if not await self._cache.commit(self, plan, entry):
            self.admitted = False
            self.refused = self.refused or Refused.PURGED

    def _make(self) -> Entry:
        """The entry that the complete body makes."""
        assert self.plan is not None
        assert self.response is not None
        assert self._body is not None
        body, lines = self._body, self.plan.lines
        if self._part is not None:
            begin = len(self.around[0])
            body = body[begin : begin + self._length]
        elif self._content_length is None and self.response.status not in _NO_BODY:
            # We know it now, and a HEAD answered from the store has no other way to tell.
            lines = [*lines, (b"content-length", b"%d" % len(body))]
        return self.entry_for(self.plan, self.response.status, lines, body)

    def entry_for(
        self,
        plan: Plan,
        status: int,
        lines: Lines,
        body: bytes,
        like: StoredResponse | None = None,
    ) -> Entry:
        """The entry that ``plan`` makes of this response; or of ``like``, whose content it has."""
        lines = self._cache.interned(lines)
        part = self._part
        if like is not None:
            make: Callable[..., StoredResponse] = partial(like.renewed, lines)
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
            reloaded=self.reload,
            request_time=self.request_time,
            traceparent=self.span.reference,
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
            stamp=self.stamp,
            size=stored.size,
        )

    def abort(self, error: BaseException | None = None) -> None:
        """The origin broke off: nothing is stored; readers in the middle see it break off too.

        ``error``: what it raised; None if it just ended too early. Kept for those who read along, as
        long as any do: its traceback refers to the frames that refer to this exchange, and what goes
        round in a circle waits for the garbage collector, with all of the body.
        """
        if self.ended or self.broken:
            return
        cut = self._storing or self.state in (State.PENDING, State.STREAMING)
        self.traced(error or (Refused.INCOMPLETE.token if cut else None))
        self._storing = False
        self.error = error if self._readers else None
        self._chunks = self._chunks if self.state is State.STREAMING else []
        self._give_back()
        if self.state is State.PENDING:
            self._become(State.FAILED)
        else:
            self.broken = True
            self._land()
            self.pulse.beat()
        self.let_go()

    def _give_back(self) -> None:
        with self._lock:  # two readers may leave at once
            size, self._buffered = self._buffered, 0
        if size:
            self._cache.give_inflight(size, self)

    def _become(self, state: State) -> None:
        self.state = state
        if state in (State.RELEASED, State.FAILED):
            self._land()
        self.pulse.beat()

    def _land(self) -> None:
        for key in (self.flight_key, self._alias):
            if key is not None:
                self._cache.flights.land(key, self)

    # -- towards those who wait ----------------------------------------------------------------

    def joinable(self, request: Request) -> bool:
        """May a request that comes now wait for this fetch?

        Not when something it is known to match was purged since it began (G3). What is learnt only
        from its head, `Reader.usable` looks at.
        """
        if self.state in (State.RELEASED, State.FAILED) or self.broken:
            return False
        if self.oversized or self._stalled() or self.held_up:
            return False
        if self.refused is Refused.VALIDATOR:
            return False
        tags = self._cache.reached_by(self.primary, self.request)
        if self.plan is not None:
            # What is half here already was not fetched for a client that says so now (5.2.1).
            if request.directives.no_cache or request.directives.max_age == 0:
                return False
            if not self.fits(request) or not self.begun_for(request):
                return False
            tags = self.tags
        return not self._cache.stack.purged_since(self.stamp, tags, self.primary, soft=True)

    def _stalled(self) -> bool:
        """Has nothing come for so long that a newcomer had better not wait for it?"""
        quiet = self._cache.stack.runtime.now() - self._touched
        return quiet > self._cache.options.collapse_timeout and not self.ended  # type: ignore[operator]

    def fits(self, request: Request) -> bool:
        """Is the response, its head known, one that this request may be answered with?"""
        plan = self.plan
        assert plan is not None
        if not answers(request, plan):
            return False
        if request.exact != self.request.exact and (
            self.variance is None or class_key(request.exact, self.variance) != self.primary
        ):
            request.exactly = True  # it waited for what is not for its target after all
            return False
        if not self._cache.forwarding.covers(plan.names, request.fields.names()):
            return False
        secondary = self._cache.secondary(plan.names, request.fields)
        return plan.shareable and secondary == self.secondary

    def begun_for(self, request: Request) -> bool:
        """Can no purge have become final, unheard of here, after this fetch began and before that
        request arrived?

        Not while the log is heard. Cut off from it, a request takes part only in a fetch that begins
        after it; it waits for the head of one that is older, so that there is one at a time.
        """
        return self._cache.stack.trusted or self.began >= request.arrived

    @property
    def private(self) -> bool:
        """Does nobody but the request that leads have a part in this, so far?"""
        return self.state is State.PENDING and len(self._readers) <= 1

    async def over(self) -> None:
        """Wait until nobody has a part in this any more."""
        while not (self.ended or self.broken or self.state in (State.RELEASED, State.FAILED)):
            await self.pulse.wait(self.pulse.version)

    @property
    def readers(self) -> int:
        """How many requests wait or read along, the one that leads included."""
        return len(self._readers)

    @property
    def abandoned(self) -> bool:
        """Nobody waits any more."""
        return not self._readers

    def reader(self, request: Request) -> Reader:
        """A place among those who wait. It may be `late` already: the beginning is gone."""
        stack = self._cache.stack
        # Cut off from the log, "no purge since" is not for us to say.
        reader = Reader(self, request, stack.invalidations.position if stack.trusted else -1)
        with self._lock:
            reader.late = self._trimmed > 0
            self._readers.add(reader)
        return reader


class Reader:
    """One request that waits for an exchange and then reads along.

    Use it as a context manager: leaving takes it off the exchange, whatever happened.
    """

    __slots__ = (
        "_exchange",
        "cut",
        "gone",
        "held",
        "index",
        "joined_at",
        "late",
        "offset",
        "request",
        "starved",
        "within",
    )

    def __init__(self, exchange: Exchange, request: Request, joined_at: int) -> None:
        self._exchange = exchange
        self.request = request
        self.joined_at = joined_at
        self.index = 0  # of the chunk to take next, and
        self.within = 0  # what has been taken of that, bytes
        self.offset = 0  # what has been taken in all, bytes
        self.held = 0.0  # how long it has held up others, seconds
        self.starved = 0.0  # and the client that leads this one
        self.cut = False
        self.late = False
        self.gone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        exchange = self._exchange
        with exchange._lock:
            exchange._readers.discard(self)
        if not exchange._readers:
            exchange.error = None
        if exchange.oversized:
            exchange.pulse.beat()  # the producer may be waiting for us

    def leave(self) -> None:
        """The client of this reader is gone."""
        self.gone = True
        self._exchange.pulse.beat()

    async def state(self, timeout: float | None) -> State:
        """Wait for the head; PENDING if it did not come within ``timeout`` seconds."""
        exchange = self._exchange
        while exchange.state is State.PENDING:
            seen = exchange.pulse.version
            if exchange.state is not State.PENDING:
                break
            if not await exchange.pulse.wait(seen, timeout):
                break
        return exchange.state

    def usable(self) -> bool:
        """May this follower have the response that others are getting?

        It must be the variant it asked for, it must not be one that only anonymous clients may
        have, and nothing may have purged it between the start of the fetch and this request.
        """
        exchange, request = self._exchange, self.request
        if not exchange.begun_for(request):
            return False
        plan = exchange.plan
        if plan is None:
            entry = exchange.entry
            return (
                entry is not None
                and (exchange.refused is None or exchange.unchanged)
                and answers(request, entry.value)
                and self._still(entry.tags)
            )
        return exchange.fits(request) and self._still(exchange.tags)

    def _still(self, tags: tuple[str, ...]) -> bool:
        exchange, arrived = self._exchange, self.request.arrived
        if self.joined_at == exchange.stamp or (arrived and exchange.began >= arrived):
            return True
        return not exchange._cache.stack.purged_since(
            exchange.stamp, tags, exchange.primary, soft=True
        )

    def take(self) -> bytes:
        """A piece of what has come, at most `PIECE` bytes; b"" if nothing has."""
        exchange = self._exchange
        with exchange._lock:
            if self.cut:
                return b""
            body = exchange._body
            if body is not None:
                piece = body[self.offset : self.offset + PIECE]  # (of all, that is itself)
                self.offset += len(piece)
                return piece
            chunks, at = exchange._chunks, self.index - exchange._trimmed
            if at >= len(chunks):
                return b""
            first = chunks[at]
            piece = first[self.within : self.within + PIECE]
            if self.within + len(piece) < len(first):
                self.within += len(piece)
            else:
                size, stop = len(piece), at + 1
                while stop < len(chunks) and size + len(chunks[stop]) <= PIECE:
                    size += len(chunks[stop])
                    stop += 1
                if stop > at + 1:
                    piece = b"".join([piece, *chunks[at + 1 : stop]])
                self.index, self.within = exchange._trimmed + stop, 0
            self.offset += len(piece)
        return piece

    def rest(self) -> bytes | None:
        """All that has not been taken of a body that is whole, and is taken now; None: it is not, or it
        is taken piece by piece."""
        body = self._exchange._body
        if body is None:
            return None
        start, self.offset = self.offset, len(body)
        return body[start:]

    def skip(self) -> None:
        """Take all that has come, without looking at it."""
        exchange = self._exchange
        with exchange._lock:
            self.index, self.within = exchange._trimmed + len(exchange._chunks), 0
            self.offset = exchange._length

    def _waiting(self) -> bool:
        """Is there something to take?"""
        exchange = self._exchange
        with exchange._lock:
            if exchange._body is not None:
                return self.offset < len(exchange._body)
            return self.index < exchange._trimmed + len(exchange._chunks)

    @property
    def at_end(self) -> bool:
        """Everything has been taken, and nothing more will come."""
        return self._exchange.ended and not self.cut and not self._waiting()

    async def more(self, timeout: float) -> bool:
        """Wait until there is something to take, or the end, or the client has left.

        False if nothing happened for ``timeout`` seconds. Raises OriginAborted when the origin
        broke off, or this reader was cut off.
        """
        exchange = self._exchange
        if exchange.oversized:
            exchange.pulse.beat()  # what we took makes room
        while True:
            seen = exchange.pulse.version
            if self.cut:
                raise OriginAborted("a client was too slow for a response that others wait for")
            if self._waiting() or exchange.ended or self.gone:
                return True
            if exchange.broken:
                raise OriginAborted("the origin ended its response before its end") from (
                    exchange.error
                )
            limit: float = exchange._cache.options.slow_reader_timeout  # type: ignore[assignment]
            before = exchange.idle
            wait = timeout
            if exchange._idle_since is not None:
                wait = min(timeout, max(0.0, limit - self.starved))
            moved = await exchange.pulse.wait(seen, wait)
            held = exchange.idle - before
            self.starved += held
            if held and self.starved >= limit:
                exchange._cut(self)
            elif not moved and wait < timeout:
                continue
            elif not moved:
                return False
