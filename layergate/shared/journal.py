"""The ports that coordinate instances: `Journal`, the log of purges, and `LeaseStore`, the leases.

The machinery in this package (`log`, `leases`, `heartbeat`) stands on these two. Redis implements
them with scripts that run on the server; `layergate.shared.ledger` implements both on `Cells`.

A journal is an ordered list of *records* at growing positions, and a list of *members*: the
instances that a purge waits for. One log from its founding until it is lost or refused is an
*incarnation*, named by 16 random bytes. Positions of two incarnations mean nothing to each other.

What an implementation must guarantee, in any order of calls from any number of processes:

1. *Order*. All callers see the same records of an incarnation in the same order. Each record names the
   position of the record before it and carries a *tip*, a hash over the whole history (`chained`).
2. *No gap*. A reply that says ``complete`` brings every record after the caller's position, or the
   chain shows which ones are missing (``before`` is above the caller's position).
3. *Trust*. If a reply says ``trusted_for`` > 0 to a call that was sent at s on the caller's monotonic
   clock, no purge is reported final before s + trusted_for by any process unless its record was in
   that reply or before it, or the caller has acknowledged it.
4. *Acknowledgement*. Each call acknowledges everything up to the caller's place, that is incarnation,
   position and tip together. An acknowledgement counts for no other history.
5. *Loss*. If the list of members, or the end of the log, may have been lost, no purge is final until
   every trust that was granted before has ended. A lost log is a new incarnation, or a *leap*: a
   record without content that goes far beyond all earlier positions.

Every method may answer at once or return an awaitable, and keeps the time budget and the breaker of
its system (`layergate.shared.guard`): it raises `LayerUnavailable` at once while the breaker is open,
`LayerTimeout` if the time is over, `LayerRefused` if the system said no, and anything for a fault.
After any exception but `LayerUnavailable` nobody knows whether the call was carried out. ``probe``
lets a call through an open breaker, and gives it the time to connect.

Clocks: nothing here carries a wall clock time to be compared. Durations are in seconds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import sha1
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from layergate.core.layer import MaybeAwaitable

__all__ = [
    "INCARNATION_SIZE",
    "Addition",
    "Appended",
    "End",
    "FencingLeaseStore",
    "Founding",
    "Grew",
    "Held",
    "Journal",
    "LeaseStore",
    "News",
    "Observed",
    "Place",
    "Record",
    "Release",
    "Released",
    "Reply",
    "Status",
    "Subscription",
    "Taken",
    "Terms",
    "chained",
]

INCARNATION_SIZE: Final = 16  # bytes


def chained(tip: bytes, nonce: bytes, data: bytes) -> bytes:
    """The tip of a record that follows a record with ``tip`` (b"" for the first): 40 hex digits."""
    return sha1(tip + nonce + data, usedforsecurity=False).hexdigest().encode()


# -- what a caller says --------------------------------------------------------------------------------


class Founding(NamedTuple):
    """How the log is to begin anew if there is none.

    ``log``      the incarnation to found.
    ``seal``     kept with it; proves to others that a holder of the secret founded it. May be b"".
    ``refused``  an incarnation that must not go on, or b"": if the log is of this one, a new one is
                 founded in its place.
    """

    log: bytes
    seal: bytes
    refused: bytes


class Place(NamedTuple):
    """Where the caller stands, and what it acknowledges.

    ``log``       the incarnation that it follows; None before its first reply.
    ``position``  the last position that it has applied there.
    ``tip``       the tip of the record at that position; b"" if the caller does not know it.
    ``instance``  the caller's name, ASCII letters and digits; b"" for a caller that cannot be a member.
    ``member``    purges are to wait for the caller from now on, so that it may be trusted.
    ``founding``  see `Founding`.
    """

    log: bytes | None
    position: int
    tip: bytes
    instance: bytes
    member: bool
    founding: Founding


class Addition(NamedTuple):
    """A record to append.

    ``nonce``  8 bytes; of a repetition they are the same wherever it is repeated.
    ``again``  which lost record this one repeats, or b"". If a record with this ``again`` and this
               ``data`` is in the log already, nothing is appended and that one's position counts.
    ``data``   not empty.
    """

    nonce: bytes
    again: bytes
    data: bytes


class Appended(NamedTuple):
    """A record that the caller appended: incarnation, position and tip as the reply gave them, and
    the monotonic time at which the reply was there."""

    log: bytes
    position: int
    tip: bytes
    at: float


# -- what the journal answers --------------------------------------------------------------------------


class Record(NamedTuple):
    """One record of the log.

    ``before``  the position of the record before it, 0 for the first.
    ``tip``     see `chained`.
    ``data``    as it was appended; b"" for a leap.
    ``nonce``   as it was appended; None in what an older version has appended.
    """

    position: int
    before: int
    tip: bytes
    data: bytes
    nonce: bytes | None


class Reply(NamedTuple):
    """What `Journal.sync` and `Journal.append` answer.

    ``log``          the incarnation; ``seal`` is its seal.
    ``last``         the last position of the log.
    ``records``      those after the caller's position, in order; all from the beginning if the caller
                     follows another incarnation. Perhaps not all at once: see ``complete``.
    ``complete``     the records go up to ``last``. The journal may have dropped old ones (trimming):
                     then the first that is left does not follow the caller's position.
    ``member``       purges wait for the caller's acknowledgement. What is new in this reply should be
                     acknowledged soon, with another call.
    ``trusted_for``  seconds, from the moment at which the call was sent, for which the caller can rely
                     on what it has applied once this reply is taken in; 0 for not at all, ``inf`` for
                     ever. Never > 0 without ``complete``.
    ``leap``         the position of the last leap; 0 for none.
    ``appended``     the position of the last record that the call appended or found in the log; 0
                     if nothing was appended because the log is of another incarnation than the
                     caller's place.
    ``tip``          the tip of that record.
    """

    log: bytes
    seal: bytes
    last: int
    records: Sequence[Record]
    complete: bool
    member: bool
    trusted_for: float
    leap: int = 0
    appended: int = 0
    tip: bytes = b""


class Status(NamedTuple):
    """How far a record has got.

    ``log``        the log's present incarnation.
    ``found``      the record is in it, at its position and with its tip. False: it was lost, and
                   nothing else here means anything.
    ``instances``  members that are alive, and the caller in any case.
    ``applied``    how many of these have acknowledged the record.
    ``final``      no instance that has not applied the record is trusted any more (rule 3).
    ``pause``      seconds for which asking again cannot bring anything new; 0 if that is not known.
    """

    log: bytes
    found: bool
    instances: int
    applied: int
    final: bool
    pause: float = 0.0


class Terms(NamedTuple):
    """How long things last, in seconds. May change when a reply was taken in, for an implementation
    may keep them with the log.

    ``trust``      what ``Reply.trusted_for`` is for a member; ``inf`` for ever.
    ``heartbeat``  how often an instance must sync to stay trusted without a break.
    ``finality``   at most how long after it was appended a record is final, if the system answers.
    """

    trust: float
    heartbeat: float
    finality: float


class End(NamedTuple):
    """The end of the log: incarnation and last position."""

    log: bytes
    position: int


# -- news ----------------------------------------------------------------------------------------------


class Grew(NamedTuple):
    """There may be something to read in the log. ``log``, ``position``: how far it goes now; None and
    0 if the message does not say."""

    log: bytes | None
    position: int


class Released(NamedTuple):
    """The lease ``name`` was released; ``free``: as one that nobody need take."""

    name: str
    free: bool


News: TypeAlias = Grew | Released


class Subscription(Protocol):
    """News of a journal and of the leases beside it. A message may be lost: whoever depends on it
    looks again from time to time."""

    def next(self, seconds: float) -> MaybeAwaitable[News | None]:
        """The next message; None if there was none for ``seconds``. Raises when the connection is
        lost; then the subscription is of no more use."""
        ...

    def close(self) -> MaybeAwaitable[object]:
        """End it. Never raises."""
        ...

    def abandon(self) -> None:
        """Its event loop is closed: drop what can be dropped without awaiting anything."""
        ...


# -- the ports -----------------------------------------------------------------------------------------


@runtime_checkable
class Journal(Protocol):
    """The log of purges, as one process reaches it. See the head of this module.

    An optional attribute, ``largest_record``: bytes of the largest record that `append` takes. It raises
    `WireError` for a larger one, and appends nothing.
    """

    @property
    def identity(self) -> Hashable:
        """Equal for two objects of one process that reach the same log."""
        ...

    @property
    def terms(self) -> Terms: ...

    def sync(self, place: Place, *, probe: bool = False) -> MaybeAwaitable[Reply]:
        """Acknowledge the caller's place, renew its membership, and read what follows."""
        ...

    def append(
        self, place: Place, additions: Sequence[Addition], *, probe: bool = False
    ) -> MaybeAwaitable[Reply]:
        """Append records in this order, all or none, and otherwise do what `sync` does. At most 64.

        Nothing is appended if the log is of another incarnation than ``place.log``."""
        ...

    def status(self, place: Place, record: Appended) -> MaybeAwaitable[Status]:
        """How far ``record`` has got. Acknowledges the caller's place; makes nobody a member."""
        ...

    def leave(self, place: Place) -> MaybeAwaitable[object]:
        """``place.instance`` is no member any more. The caller has stopped trusting it before."""
        ...

    def end(self) -> MaybeAwaitable[End | None]:
        """The end of the log, by a plain read, as a probe; None if there is no log or it cannot be
        told so. For a system that can be read but not written."""
        ...

    def subscribe(
        self, instance: bytes, *, probe: bool = False
    ) -> MaybeAwaitable[Subscription | None]:
        """Subscribe to news for ``instance``: what happens from the return on is told. None if the
        system has no such thing; then the heartbeat alone finds what is new."""
        ...

    def forked(self) -> None:
        """This is the child of a fork: make new locks, use nothing that belongs to the parent."""
        ...


class Taken(NamedTuple):
    """The lease is the caller's. ``recent``: another holder released it within the last term."""

    recent: bool


class Held(NamedTuple):
    """Another holder has the lease. ``token``: its token. ``left``: seconds after which it runs out
    if it is not renewed, as far as that can be told."""

    token: bytes
    left: float


class Observed(NamedTuple):
    """What became of a lease that was seen held.

    ``left``   seconds as in `Held`; None if that holder does not have it any more.
    ``free``   that holder released it as one that nobody need take.
    """

    left: float | None
    free: bool = False


class Release(NamedTuple):
    """A lease to give back.

    ``granted``  the lease was granted, for certain. If not, the request for it may still be under way,
                 and the release must prevent that it succeeds later.
    ``free``     nobody need take the lease: what was fetched under it is not shared.
    """

    name: str
    token: bytes
    granted: bool
    free: bool


@runtime_checkable
class LeaseStore(Protocol):
    """Leases: each belongs to at most one *token* at a time.

    A lease lasts ``term`` seconds and is renewed by its holder. A released lease leaves a trace for one
    more term (`Taken.recent`). A token is never used twice, so a late release takes nothing from a later
    holder. ``waiter`` is the name of an instance that listens (`Journal.subscribe`) and waits for the
    release of this lease; b"" for none. Names are ASCII, as for `Blobs`.
    """

    def acquire(
        self, name: str, token: bytes, term: float, waiter: bytes
    ) -> MaybeAwaitable[Taken | Held]:
        """Take the lease if nobody has it. Asked again with the same token, it is granted again."""
        ...

    def look(
        self, name: str, holder: bytes, term: float, waiter: bytes
    ) -> MaybeAwaitable[Observed]:
        """Does the holder with the token ``holder`` still have it?"""
        ...

    def renew(
        self, leases: Sequence[tuple[str, bytes]], term: float
    ) -> MaybeAwaitable[Sequence[bool | Exception]]:
        """Renew these (name, token), at most 256. For each: True if it is still the token's (also if it
        ran out, but nobody has taken it), False if it is lost, or the fault that hides the answer."""
        ...

    def release(
        self, releases: Sequence[Release], term: float
    ) -> MaybeAwaitable[Sequence[bool | Exception]]:
        """Give these back, at most 256, and tell the waiters. For each: was it the token's? Or the
        fault that hides the answer."""
        ...

    def forked(self) -> None:
        """See `Journal.forked`."""
        ...


@runtime_checkable
class FencingLeaseStore(LeaseStore, Protocol):
    """Leases that can be checked in the same step in which an entry is written."""

    def fenced_set(
        self, name: str, token: bytes, blob: str, data: bytes, seconds: float
    ) -> MaybeAwaitable[bool]:
        """Set the blob as `Blobs.set` does unless somebody else has, or had, the lease ``name`` since
        ``token`` was granted it. True if it was set."""
        ...
