"""For which requests a hit-for-miss marker is (guarantee G4). Pure; `hit_for_miss` does the rest.

A marker keeps requests for something that is not shareable from waiting for each other. What one
request is told may be due to that request alone: to its cookie, to an unusual field that a firewall
dislikes, to its ``no-cache``. So a marker names the requests that were refused, its *witnesses*, and is
for requests that say the same. Once `MAX_WITNESSES` different requests were refused, with nothing
shareable in between, the marker is for all.

A witness is a digest: of all fields of a request without credentials, or of the credentials of one that
has some. The two kinds never share a marker.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from layergate.core.entry import Entry
from layergate.http.engine.markers import HitForMiss
from layergate.http.message.credentials import credential_of
from layergate.http.message.fields import Line
from layergate.http.message.request import CONDITIONAL_FIELDS
from layergate.http.rfc9111.storing import NotStored

__all__ = [
    "MAX_WITNESSES",
    "credentials_witness",
    "joined",
    "live_hit_for_miss",
    "speaks_of_target",
    "witness",
]

MAX_WITNESSES: Final = 4
"""The number of different requests that have to be refused before a marker is for all."""
_OF_TARGET: Final = frozenset({404, 405, 410})
_DIGEST: Final = 16  # bytes


def witness(lines: Iterable[Line]) -> bytes:
    """A digest of a request's field lines, in any order; without preconditions, which tell what the
    client has, and leave no marker."""
    digest = blake2b(digest_size=_DIGEST)
    for name, value in sorted(lines):
        if name in CONDITIONAL_FIELDS:
            continue
        # No name has a colon, no value a NUL (RFC 9110 5.1, 5.5).
        digest.update(b"%b:%b\0" % (name, value))
    return digest.digest()


def credentials_witness(lines: Iterable[Line]) -> bytes:
    """A digest of what a request says of its user."""
    return witness(line for line in lines if credential_of(line[0]))


def speaks_of_target(status: int) -> bool:
    """False for a response that says something about one request, or about this moment: every error
    except those that say that there is nothing here."""
    return status < 400 or status in _OF_TARGET


def joined(present: HitForMiss | None, reason: NotStored, own: bytes, status: int) -> HitForMiss:
    """The marker after one more refusal. ``present``: the marker so far; ``own``: the witness of the
    request that was refused, with ``status``."""
    if reason is NotStored.COOKIE:
        return HitForMiss(reason)  # not for what the cookie says, but for having one
    if present is None:
        return HitForMiss(reason, (own,))
    if not present.witnesses:
        return HitForMiss(reason)
    witnesses = (*(one for one in present.witnesses if one != own), own)
    if len(witnesses) < MAX_WITNESSES:
        return HitForMiss(reason, witnesses)
    return HitForMiss(reason, () if speaks_of_target(status) else witnesses[1:])


def live_hit_for_miss(
    now: float, lines: Iterable[Line], entry: Entry | None, *, credentials: bool = False
) -> HitForMiss | None:
    """The marker in ``entry``, if it is one for a request with these ``lines``. ``now``: seconds since
    the epoch. ``credentials``: only the credentials among the lines count."""
    if entry is None or entry.fresh_until <= now:
        return None
    marker = entry.value
    if not isinstance(marker, HitForMiss):
        return None
    if marker.witnesses:
        own = credentials_witness if credentials else witness
        if own(lines) not in marker.witnesses:
            return None
    return marker
