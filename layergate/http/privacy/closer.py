"""Which request fields call for a closer look than the hit path takes.

The hit path asks one question of a request's fields: does none of their names matter for this stored
response? What anybody may have depends on few names, and a fixed set answers. Names that say who asks
are matched by pattern, so what only unknown or anonymous clients may have takes a set of names that do
*not* matter. That one grows as names are seen, up to a bound; a name that is not in it is looked at
each time. (It costs more: to find a name in a set takes a comparison, to miss it takes none.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from layergate.http.message.memo import Memo
from layergate.http.privacy.forwarding import Forwarding
from layergate.http.privacy.identity import Says, says

__all__ = ["CAREFUL", "Audience", "CloserLook", "Plain", "PlainTests"]

# With one of these in the request the answer needs more than "is it fresh": see `decision`.
# (Cache-Control does too, but is common enough to be looked at on the hit path.)
CAREFUL: Final = frozenset({
    b"authorization",
    b"content-length",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"pragma",
    b"range",
    b"transfer-encoding",
    b"upgrade",
})  # fmt: skip


class Audience(enum.IntEnum):
    """Who may have a stored response without a closer look."""

    ANYBODY = 0
    UNKNOWN = 1  # whoever does not say by a credential who he is; cookies may
    ANONYMOUS = 2  # whoever has no cookie either


# What a name may be, as bits.
_CAREFUL: Final = 1
_COOKIE: Final = 2
_IDENTITY: Final = 4
_USUAL: Final = 8  # it tells the application where it is; see `forwarding`
_RARE: Final = 16
# For the two that are told apart by who asks.
_OF_AUDIENCE: Final = (_CAREFUL | _IDENTITY, _CAREFUL | _IDENTITY | _COOKIE)


class Names(set[bytes]):
    """Names of request fields that do not matter; all that have no bit of ``forbidden``."""

    __slots__ = ("forbidden",)

    def __init__(self, forbidden: int) -> None:
        super().__init__()
        self.forbidden = forbidden


Plain: TypeAlias = Callable[[Iterable[bytes]], bool]
"""True if none of these names matters. False: perhaps one does, see `CloserLook.needed`."""
PlainTests: TypeAlias = tuple[Plain, Plain, Plain]
"""By `Audience`."""


class CloserLook:
    """The tests of one cache. ``forwarding``: which fields tell the application where it is."""

    __slots__ = ("_forwarding", "_grown", "_kinds", "every", "none", "usual")

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding = forwarding
        self._kinds = Memo(self._kind, count=4096, length=64)
        self._grown: list[Names] = []
        # For what is selected by no forwarding fields, by the usual ones, by all of them.
        self.none = self._tests(_USUAL | _RARE, forwarding.names)
        self.usual = self._tests(_RARE, forwarding.names.difference(forwarding.usual))
        self.every = self._tests(0, frozenset())

    def _tests(self, forbidden: int, told: frozenset[bytes]) -> PlainTests:
        unknown, without_credentials_only = (Names(forbidden | own) for own in _OF_AUDIENCE)
        self._grown += unknown, without_credentials_only
        return (CAREFUL | told).isdisjoint, unknown.issuperset, without_credentials_only.issuperset

    def plain_for(self, names: tuple[bytes, ...]) -> PlainTests:
        """The tests for a response that is selected by these ``names``."""
        told = self._forwarding.part_of(names)
        if not told:
            return self.none
        return self.every if told == self._forwarding.every else self.usual

    def needed(self, plain: Plain, fields: Mapping[bytes, bytes]) -> bool:
        """Does a request with these ``fields``, which ``plain`` is False for, call for a closer look?"""
        seen = getattr(plain, "__self__", None)
        if not isinstance(seen, Names):
            return True
        for name in fields:
            if name not in seen:
                kind = self._kinds[name]
                if kind & seen.forbidden:
                    return True
                if name in self._kinds:  # there is room for it
                    for names in self._grown:
                        if not kind & names.forbidden:
                            names.add(name)
        return False

    def _kind(self, name: bytes) -> int:
        kind = _CAREFUL if name in CAREFUL else 0
        if name in self._forwarding.names:
            kind |= _USUAL if name in self._forwarding.usual else _RARE
        said = says(name)
        if said is Says.COOKIE:
            kind |= _COOKIE
        elif said is Says.IDENTITY:
            kind |= _IDENTITY
        return kind
