"""The header lines that this cache adds to responses: Age (RFC 9111 5.1) and Cache-Status (RFC 9211).

`respond` adds them, and the hit path does, which reads `AGES` and `StatusLines.hits` directly. The
`StatusLines` of a cache are part of its `Settings`: a reload makes new ones.
"""

from __future__ import annotations

from typing import Final

from layergate.http.extensions.cache_status import forward_value, hit_value, identifier
from layergate.http.message.fields import Line, Lines
from layergate.http.rfc9111.storing import Bypass, NotStored

__all__ = ["AGES", "MEMO", "HitLines", "StatusLines", "age_line"]

AGES: Final[tuple[Line, ...]] = tuple((b"age", b"%d" % age) for age in range(3600))
"""The Age lines of the first hour."""
MEMO: Final = 8192
"""The most values that one memo of the engine keeps."""


def age_line(age: int) -> Line:
    """The Age line for an age in seconds, at least 0."""
    return AGES[age] if 0 <= age < len(AGES) else (b"age", b"%d" % max(age, 0))


class HitLines(dict[int, Line]):
    """The line of a hit by its remaining lifetime in seconds. Each is made when it is first sent."""

    __slots__ = ("_identifier",)

    def __init__(self, identifier: bytes) -> None:
        super().__init__()
        self._identifier = identifier

    def __missing__(self, ttl: int) -> Line:
        if len(self) >= MEMO:
            self.clear()
        line = self[ttl] = (b"cache-status", hit_value(self._identifier, ttl))
        return line


class StatusLines:
    """``name``: the option ``name``. ``sent``: the option ``cache_status``; without it every method
    returns an empty list."""

    __slots__ = ("_bypassed", "hits", "identifier", "sent")

    def __init__(self, name: str, *, sent: bool) -> None:
        self.identifier = identifier(name)
        self.sent = sent
        self.hits = HitLines(self.identifier)
        self._bypassed: dict[tuple[Bypass | NotStored, str], Lines] = {}

    def hit(self, ttl: int, detail: str | None = None) -> Lines:
        """For a response from the store. ``ttl``: seconds, negative when stale."""
        if not self.sent:
            return []
        if detail is None:
            return [self.hits[ttl]]
        return [(b"cache-status", hit_value(self.identifier, ttl, detail))]

    def bypassed(self, reason: Bypass | NotStored, fwd: str) -> Lines:
        """For a response to a request that the cache forwards untouched. Callers must not change the
        list."""
        lines = self._bypassed.get((reason, fwd))
        if lines is None:
            detail = None if fwd == "method" else reason.token
            lines = self._bypassed[reason, fwd] = self.forwarded(fwd, detail=detail)
        return lines

    def forwarded(
        self,
        fwd: str,
        *,
        fwd_status: int | None = None,
        ttl: int | None = None,
        stored: bool = False,
        collapsed: bool = False,
        detail: str | None = None,
    ) -> Lines:
        """For a response to a request that went forward. See `cache_status.forward_value`."""
        if not self.sent:
            return []
        value = forward_value(
            self.identifier,
            fwd,
            fwd_status=fwd_status,
            ttl=ttl,
            stored=stored or None,
            collapsed=collapsed or None,
            detail=detail,
        )
        return [(b"cache-status", value)]
