"""One fetch from the origin, as a state machine: what has come of it, and what it is good for.

                  ┌─ SHARE ───▶ STREAMING   followers stream along from the first byte
    PENDING ──────┼─ RELEASE ─▶ RELEASED    not shareable: every follower is let go at once (G4)
                  ├─ ANSWER ──▶ ANSWERED    a stored response is the answer: a 304, or stale-if-error
                  └─ FAIL ────▶ FAILED      no head came, or one that does not fit: a follower leads next

    then the `stream.Stream` ends, or breaks off (G6)

A head whose response may be stored is not always the last word: whether that is ``stored`` is known
with the length, and whether a page under a rule carries a token of one client, with the page. ASGI and
WSGI servers send no head before the first part of the body anyway, so the exchange stays PENDING (or
RELEASED, if it is not shared) and not ``opened`` until that part is there. This is why a RELEASED
exchange may be released again: the page carries a token.

An exchange is fed with values and changes its state. It decides nothing, and holds no cache, store,
options, budget or clock: `receive` and `feed` decide with the engine's verbs, and act on the outcome. A
transition that the table does not have raises `IllegalTransition`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from layergate.core.entry import Entry
from layergate.core.events import NO_SPAN, Span
from layergate.core.flight import Pulse
from layergate.core.shared import Lease
from layergate.http.engine.stream import Stream
from layergate.http.extensions.no_vary_search import SearchVariance
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.request import CONDITIONAL_FIELDS, Request
from layergate.http.privacy.tokens import has_token
from layergate.http.rfc9111.combining import Received
from layergate.http.rfc9111.plan import Plan
from layergate.http.rfc9111.rest import Rest
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rfc9111.variants import nominating_line
from layergate.http.rules import Match

__all__ = [
    "ORIGIN_ERRORS",
    "TRANSITIONS",
    "Asked",
    "Began",
    "Delivery",
    "Event",
    "Exchange",
    "Head",
    "IllegalTransition",
    "State",
]

ORIGIN_ERRORS: Final = frozenset({500, 502, 503, 504})
"""The statuses that a stored response may stand in for (RFC 5861 section 4)."""
_OWN_RANGE: Final = CONDITIONAL_FIELDS | {b"range"}
_CLIENTS_RANGE: Final = CONDITIONAL_FIELDS - {b"if-range"}


class State(enum.Enum):
    """What is known of the response. See the module's picture."""

    PENDING = enum.auto()
    STREAMING = enum.auto()
    ANSWERED = enum.auto()
    RELEASED = enum.auto()
    FAILED = enum.auto()


class Event(enum.Enum):
    """What happens to an exchange."""

    SHARE = enum.auto()
    RELEASE = enum.auto()
    ANSWER = enum.auto()
    FAIL = enum.auto()


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.PENDING: {
        Event.SHARE: State.STREAMING,
        Event.RELEASE: State.RELEASED,
        Event.ANSWER: State.ANSWERED,
        Event.FAIL: State.FAILED,
    },
    State.RELEASED: {Event.RELEASE: State.RELEASED},
    State.STREAMING: {},
    State.ANSWERED: {},
    State.FAILED: {},
}
"""What each event leads to. An event that a state does not have is illegal."""


class IllegalTransition(RuntimeError):
    """The exchange was fed with something that cannot happen in its state."""


class Delivery(enum.Enum):
    """Where the response of the app goes."""

    SHARE = enum.auto()
    """Into the stream, part by part. Readers deliver it."""
    COPY = enum.auto()
    """To the client of this request, and a copy of it into the stream."""
    FORWARD = enum.auto()
    """To the client of this request, if there is one. Nothing is kept."""
    DROP = enum.auto()
    """Nowhere: a stored response answers."""


class Began(NamedTuple):
    """When a fetch began: at which position of the invalidation log, by the wall clock (seconds since
    the epoch), and by `Runtime.monotonic`, or 0 without a shared log."""

    stamp: int
    request_time: float
    monotonic: float


class Asked(NamedTuple):
    """What the origin is asked, and why.

    ``primary``      the primary key that was looked under, and ``storage_key`` the key under which the
                     answer would have been found.
    ``flight_key``   the key under which other requests may join the fetch; None if none may.
    ``fwd``          why the request goes forward (RFC 9211 2.2).
    ``validators``   the preconditions that validate what is stored (4.3.1).
    ``nominees``     variants that a 304 may name, though the request does not select them; see
                     `variants`.
    ``rest``         what is fetched, if that is less than what the client asks for.
    ``several``      more than one stored response may be selected by this request.
    ``reload``       the client alone wants the request forwarded (see `decision.is_reload`).
    ``refreshes``    it is a background refresh, for the store alone; ``cause`` is the span of the
                     request that wants it.
    """

    request: Request
    primary: bytes
    storage_key: bytes
    flight_key: bytes | None
    fwd: str
    validators: Lines
    nominees: tuple[Entry, ...] = ()
    rest: Rest | None = None
    several: bool = False
    reload: bool = False
    refreshes: bool = False
    cause: str | None = None

    def header_lines(self) -> Lines:
        """The request's header lines as they go to the origin.

        With validators of ours, the client's own preconditions are replaced (4.3.1). A fetch that is
        shared leaves them out, since a 304 to one client would be of no use to the others; they are
        evaluated against what comes back.
        """
        lines = self.request.fields.lines
        if self.flight_key is None and not self.validators and not self.nominees:
            return lines
        rest = self.rest
        if rest is not None:
            dropped = _OWN_RANGE
        elif self.request.ranges is not None:
            dropped = _CLIENTS_RANGE  # If-Range goes with the range, after our own (13.2.2)
        else:
            dropped = CONDITIONAL_FIELDS
        kept = [line for line in lines if line[0] not in dropped]
        if rest is not None:
            kept += rest.lines
        if self.validators:
            kept += self.validators
        elif self.nominees:
            kept.append(nominating_line(self.nominees))
        return kept


class Head(NamedTuple):
    """The head of a response that is to be stored, or of any other as it goes to its client.

    ``lines``   without Cache-Status, and without the fields that are for the cache alone.
    ``shared``  what a follower gets.
    ``part``    what the response is a part of, if it is a 206.
    ``length``  of the content, bytes; None if the head does not tell.
    ``scan``    the fields of a page that is to be looked through for tokens, or None.
    """

    status: int
    lines: Lines
    shared: Lines = []  # noqa: RUF012  # never changed
    part: Received | None = None
    length: int | None = None
    scan: Fields | None = None


class Exchange:
    """One fetch. Made by `fetch.new_exchange`; see the module.

    ``conditional``    the origin may answer with a 304.
    ``uncollapsed``    no other request may have a part in this fetch.
    ``completes``      the answer is what is stored, completed by the part that the origin sends.
    ``entry``          what is validated, or may stand in for an error; later, the answer.
    ``match``          the rule, or the policy of the route that answers.
    ``began``          when the fetch began; ``touched``: when something last came, seconds since the
                       epoch.
    ``tokens``         true if middleware outside of LayerGate has made a token for this client.
    ``plan``           how the response is to be stored; None if it is not, or not known yet.
    ``primary``, ``secondary``, ``variance``  under which key it is stored, and what its No-Vary-Search
                       says.
    ``alias``          the second key under which the flight is found, once its variant is known.
    ``storing``        it is to be stored, so far; ``refused``: why it is not, and ``unkept``: why no
                       layer takes it. ``admitted``: a layer takes it, as far as is known.
    ``opened``         nothing of the head waits for the first part of the body.
    ``leader_lines``   the head for the client that leads, if it was known when the head came.
    ``mismatched``     the origin has something else than what is stored.
    ``unreachable``    the origin gave no answer, and a stored response is it.
    ``unchanged``      a 304 that may update nothing has confirmed what is stored, for followers too.
    ``cookies``        those that came with a 304, for the client that leads.
    ``confirmation``   the fields of a 304 that may be about other stored responses too.
    ``kept``           the key under which the top layer has the response already.
    ``made``           the entry of the complete body, if it was made before its turn.
    ``sights``         how often its variant has come without being kept; see `admission`.
    ``hit_for_miss``   a hit-for-miss marker was found for it.
    ``lease``          the fleet's lease. ``unleased``: it went without, since the shared layer was
                       away. ``gave_up``: it has waited for the lease as long as it may.
    ``span``           of the fetch, from its beginning; followers and the entry link to it.
    """

    __slots__ = (
        "admitted",
        "alias",
        "asked",
        "began",
        "completes",
        "conditional",
        "confirmation",
        "cookies",
        "entry",
        "gave_up",
        "head",
        "hit_for_miss",
        "kept",
        "leader_lines",
        "lease",
        "made",
        "match",
        "mismatched",
        "opened",
        "origin_status",
        "plan",
        "primary",
        "pulse",
        "refused",
        "request",
        "secondary",
        "sights",
        "span",
        "state",
        "storing",
        "stream",
        "tokens",
        "touched",
        "unchanged",
        "uncollapsed",
        "unkept",
        "unleased",
        "unreachable",
        "variance",
    )  # fmt: skip

    def __init__(
        self, asked: Asked, entry: Entry | None, match: Match | None, began: Began, stream: Stream
    ) -> None:
        self.asked = asked
        self.request = asked.request
        self.conditional = bool(asked.validators or asked.nominees)
        self.uncollapsed = asked.flight_key is None
        self.completes = False
        self.entry = entry
        self.match = match
        self.began = began
        self.touched = began.request_time
        self.stream = stream
        self.pulse: Pulse = stream.pulse
        self.state = State.PENDING
        self.tokens: Callable[[], bool] | None = None
        self.plan: Plan | None = None
        self.head: Head | None = None
        self.origin_status: int | None = None
        self.primary = asked.primary
        self.secondary = b""
        self.variance: SearchVariance | None = None
        self.alias: bytes | None = None
        self.storing = False
        self.refused: NotStored | None = None
        self.unkept: NotStored | None = None
        self.admitted = False
        self.opened = True
        self.leader_lines: Lines | None = None
        self.mismatched = False
        self.unreachable = False
        self.unchanged = False
        self.cookies: Lines = []
        self.confirmation: Fields | None = None
        self.kept: bytes | None = None
        self.made: Entry | None = None
        self.sights = 0
        self.hit_for_miss = False
        self.lease: Lease | None = None
        self.unleased = False
        self.gave_up = False
        self.span: Span = NO_SPAN

    def _check(self, event: Event) -> State:
        """What the event leads to. Raises IllegalTransition."""
        state = TRANSITIONS[self.state].get(event)
        if state is None:
            raise IllegalTransition(f"{event.name} in the state {self.state.name}")
        return state

    def _become(self, event: Event) -> None:
        self.state = self._check(event)
        self.pulse.beat()

    # -- what is known of it -------------------------------------------------------------------

    @property
    def leads_others(self) -> bool:
        """True if more than the request that leads has a part in this, or is about to."""
        return self.state is not State.PENDING or self.stream.readers > 1

    @property
    def over(self) -> bool:
        """True if nothing more comes for those who wait or read along."""
        return (
            self.stream.ended
            or self.stream.broken
            or self.state is State.RELEASED
            or self.state is State.FAILED
        )

    @property
    def stored(self) -> bool:
        """True if the head that is sent now may say ``stored`` (G11)."""
        return self.storing and self.admitted and self.refused is None

    @property
    def around(self) -> tuple[bytes, bytes]:
        """What of the answer is stored: before the body that is fetched, and after it. For an adapter
        whose client gets that body from the app, not from a `Reader`."""
        rest = self.asked.rest
        return rest.around if rest is not None and self.completes else (b"", b"")

    @property
    def tags(self) -> tuple[str, ...]:
        """By what a purge reaches the answer, once its head is known: as the part that is fetched, and
        as what it completes."""
        assert self.plan is not None
        rest = self.asked.rest
        if rest is not None and self.completes:
            return self.plan.tags + rest.entry.tags
        return self.plan.tags

    # -- its beginning -------------------------------------------------------------------------

    def restart(self, began: Began) -> None:
        """The fetch begins only now: a purge from before, while it waited, does not concern it."""
        self.began = began
        self.touched = began.request_time

    def inherit(self, other: Exchange) -> None:
        """Take over the lease of an exchange that this one takes the place of, if it has one: those
        who wait for it on other instances wait for what this one brings."""
        self.lease, other.lease = other.lease, None

    # -- the head ------------------------------------------------------------------------------

    def receive(self, status: int, now: float) -> None:
        """A head has come, at ``now``. Raises IllegalTransition if there was one, or none can come."""
        if self.state is not State.PENDING or self.head is not None:
            raise IllegalTransition(f"a head in the state {self.state.name}")
        self.origin_status = status
        self.touched = now

    def locate(self, primary: bytes, secondary: bytes, variance: SearchVariance | None) -> None:
        """Where the response is stored is known."""
        self.primary, self.secondary, self.variance = primary, secondary, variance

    def keep(self, plan: Plan, head: Head, *, opened: bool) -> None:
        """The response is to be stored. ``opened``: its head is the last word. Raises
        IllegalTransition if there is a head already, or none can come."""
        if self.state is not State.PENDING or self.head is not None:
            raise IllegalTransition(f"a head to keep in the state {self.state.name}")
        self.plan = plan
        self.head = head
        self.completes = self.asked.rest is not None and head.part is not None
        self.opened = opened
        self.storing = self.stream.keeps = True

    def release(self, head: Head | None = None, reason: NotStored | None = None) -> None:
        """The response is for nobody but the client whose request was forwarded. It may be stored for
        others all the same, if there is no ``reason`` why not and `keep` came before; then ``head``
        is None."""
        self._check(Event.RELEASE)
        if head is not None:
            self.head = head
        if reason is not None:
            self.refused = reason
            self.plan = None
            self.storing = self.completes = False
            self.stream.unshare()
        self._become(Event.RELEASE)

    def open(self) -> None:
        """The head is the last word: followers may stream along, unless it was released. Raises
        IllegalTransition if there is nothing to open."""
        if self.plan is None:
            raise IllegalTransition(f"an opening in the state {self.state.name}")
        if self.state is State.RELEASED:
            self.opened = True
            return
        if self.state is State.PENDING:  # before a follower wakes
            self.opened = self.stream.shared = True
        self._become(Event.SHARE)

    def admit(self, unkept: NotStored | None) -> None:
        """Whether a layer takes the response is known. ``unkept``: why none does."""
        self.admitted = unkept is None
        self.unkept = unkept

    def scanned(self) -> None:
        """The page has been looked through for tokens."""
        assert self.head is not None
        self.head = self.head._replace(scan=None)

    def has_token(self, content: bytes) -> bool:
        """True if this content of a page under a rule carries a token of one client."""
        head = self.head
        return head is not None and head.scan is not None and has_token(head.scan, content)

    # -- a stored response answers -------------------------------------------------------------

    def confirm(
        self, entry: Entry, plan: Plan | None, reason: NotStored | None, cookies: Lines
    ) -> None:
        """A 304 has confirmed what is stored: ``entry``, updated, is the answer. ``plan``: how it is
        to be stored, or None if nothing is; ``reason``: why not."""
        self._check(Event.ANSWER)
        self.entry = entry
        self.plan = plan
        self.refused = reason
        self.storing = plan is not None and reason is None
        self.cookies = cookies
        self._become(Event.ANSWER)

    def stand_in(self, *, unreachable: bool) -> None:
        """A stored response stands in for the origin's failure. It may have sent a head that it did not
        come to fill."""
        self._check(Event.ANSWER)
        self.unreachable = unreachable
        self.plan = self.head = None
        self.storing = self.completes = False
        self.stream.unshare()
        self._become(Event.ANSWER)

    def mismatch(self) -> None:
        """What the origin says is not about what is stored."""
        self._check(Event.FAIL)
        self.mismatched = True
        self._become(Event.FAIL)

    # -- the body, and the end -----------------------------------------------------------------

    def refuse(self, reason: NotStored) -> bool:
        """Give up storing, in the middle of the body. Those who stream along still get all of it. From
        any thread. False, with nothing changed, if it was given up already, or is in the store's
        hands."""
        if self.state is State.ANSWERED or not self.stream.drop():
            return False
        self.storing = False
        self.refused = reason
        return True

    def overflows(self, length: int) -> bool:
        """True if so many bytes are more than the part that completes what is stored is to have: then
        what is stored beyond it would be sent in the wrong place."""
        return self.completes and self.head is not None and length > (self.head.length or 0)

    def verify(self) -> bool:
        """Is the body as long as its head said? If not, it is not stored (G6)."""
        head = self.head
        if head is not None and head.length is not None and head.length != self.stream.length:
            self.storing = self.stream.keeps = False
            self.refused = NotStored.LENGTH_MISMATCH
            return False
        return True

    def abort(self, error: BaseException | None = None) -> bool:
        """The origin broke off: nothing is stored; readers in the middle see it break off too. False,
        with nothing changed, if it is over already. ``error``: what the origin raised."""
        stream = self.stream
        if stream.ended or stream.broken:
            return False
        self.storing = False
        stream.break_off(error)
        if self.state is State.PENDING:
            self._become(Event.FAIL)
        return True

    # -- those who wait ------------------------------------------------------------------------

    async def wait_for_head(self, timeout: float | None) -> State:
        """Wait for the head; PENDING if it did not come within ``timeout`` seconds."""
        while self.state is State.PENDING:
            seen = self.pulse.version
            if self.state is not State.PENDING:
                break
            if not await self.pulse.wait(seen, timeout):
                break
        return self.state

    async def wait_until_over(self) -> None:
        """Wait until nobody has a part in this any more."""
        while not self.over:
            await self.pulse.wait(self.pulse.version)
