"""The request fields that need the full decision instead of the hit path.

The hit path asks one question about a request: is it certain, from the names of its fields alone, that
none of them matters for this stored response? A test is one C call on a set of names. There are two
kinds:

* A response for everyone depends on few names. Its test is "none of these names occurs".
* A response that is only for some audience (see `stored.Audience`) depends on credentials, whose names
  match by pattern. Its test is "all names are known not to matter". That set grows, up to a bound, as
  names are seen; a name outside of it is classified each time.

The second kind costs more: finding a name in a set takes a comparison, missing it takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from layergate.http.message.credentials import Credential, credential_of
from layergate.http.message.memo import Memo
from layergate.http.privacy.forwarding import Forwarding

__all__ = ["FULL_DECISION_FIELDS", "ByAudience", "NameTest", "RequestTests"]

FULL_DECISION_FIELDS: Final = frozenset({
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
"""With one of these, the response depends on more than freshness: see `decision`. Cache-Control matters
too, but is common enough that the hit path reads it."""

# What a field can be, as bits.
_NEEDS_DECISION: Final = 1
_COOKIE: Final = 2
_IDENTITY: Final = 4
_USUAL_FORWARDING: Final = 8  # see `forwarding`
_RARE_FORWARDING: Final = 16
# The bits that matter for `Audience.UNIDENTIFIED` and for `Audience.WITHOUT_CREDENTIALS`.
_FOR_AUDIENCES: Final = (
    _NEEDS_DECISION | _IDENTITY,
    _NEEDS_DECISION | _IDENTITY | _COOKIE,
)


class _HarmlessNames(set[bytes]):
    """Names of request fields that do not matter: each has none of the ``forbidden`` bits."""

    __slots__ = ("forbidden",)

    def __init__(self, forbidden: int) -> None:
        super().__init__()
        self.forbidden = forbidden


NameTest: TypeAlias = Callable[[Iterable[bytes]], bool]
"""True if none of these names matters. If False, ask `RequestTests.needs_full_decision`."""
ByAudience: TypeAlias = tuple[NameTest, NameTest, NameTest]
"""A test for each `Audience`."""


class RequestTests:
    """The tests of one cache. ``forwarding``: the fields by which proxies describe the public URL.

    ``none``, ``usual``, ``every``: the tests for a response that is selected by none of those fields, by
    the usual ones, or by all of them.
    """

    __slots__ = ("_forwarding", "_growing", "_kinds", "every", "none", "usual")

    def __init__(self, forwarding: Forwarding) -> None:
        self._forwarding = forwarding
        self._kinds = Memo(self._kind, count=4096, length=64)
        self._growing: list[_HarmlessNames] = []
        both = _USUAL_FORWARDING | _RARE_FORWARDING
        self.none = self._tests(both, forwarding.names)
        self.usual = self._tests(_RARE_FORWARDING, forwarding.names.difference(forwarding.usual))
        self.every = self._tests(0, frozenset())

    def _tests(self, forbidden: int, names: frozenset[bytes]) -> ByAudience:
        unidentified, without_credentials = (
            _HarmlessNames(forbidden | bits) for bits in _FOR_AUDIENCES
        )
        self._growing += unidentified, without_credentials
        return (
            (FULL_DECISION_FIELDS | names).isdisjoint,
            unidentified.issuperset,
            without_credentials.issuperset,
        )

    def selected_by(self, names: tuple[bytes, ...]) -> ByAudience:
        """The tests for a response that the request fields ``names`` select."""
        part = self._forwarding.part_of(names)
        if not part:
            return self.none
        return self.every if part == self._forwarding.every else self.usual

    def needs_full_decision(self, test: NameTest, fields: Mapping[bytes, bytes]) -> bool:
        """True if a request with these ``fields``, which failed ``test``, needs the full decision."""
        harmless = getattr(test, "__self__", None)
        if not isinstance(harmless, _HarmlessNames):
            return True
        for name in fields:
            if name not in harmless:
                kind = self._kinds[name]
                if kind & harmless.forbidden:
                    return True
                if name in self._kinds:  # the memo had room, so the sets have too
                    for names in self._growing:
                        if not kind & names.forbidden:
                            names.add(name)
        return False

    def _kind(self, name: bytes) -> int:
        kind = _NEEDS_DECISION if name in FULL_DECISION_FIELDS else 0
        if name in self._forwarding.names:
            kind |= _USUAL_FORWARDING if name in self._forwarding.usual else _RARE_FORWARDING
        credential = credential_of(name)
        if credential is Credential.COOKIE:
            kind |= _COOKIE
        elif credential is Credential.IDENTITY:
            kind |= _IDENTITY
        return kind
