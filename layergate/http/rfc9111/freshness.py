"""How long a response is fresh and how old it already is (RFC 9111 section 4.2).

`plan` computes everything once, when a response arrives. Afterwards, freshness is a single comparison of
``initial age + time since arrival`` with the lifetime. All times are seconds. Nothing here decides
whether a response is stored.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from layergate.http.message.cache_control import DELTA_MAX, CacheControl
from layergate.http.message.dates import parse_http_date
from layergate.http.message.fields import Fields

__all__ = [
    "HEURISTICALLY_CACHEABLE",
    "HEURISTIC_CAP",
    "UNDERSTOOD_STATUSES",
    "Lifetime",
    "freshness_lifetime",
    "initial_age",
]

HEURISTICALLY_CACHEABLE: Final = frozenset(
    {200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}
)
"""RFC 9110 section 15.1. It includes 206, although a 206 is only ever stored as a part of a 200."""

UNDERSTOOD_STATUSES: Final = frozenset(
    {200, 201, 202, 203, 204, 205, 300, 301, 302, 303, 307, 308}
    | {400, 401, 402, 403, 404, 405, 406, 409, 410, 411, 413, 414, 415, 421, 422}
    | {500, 501, 502, 503, 504, 505}
)
"""Status codes whose "caching-related behavior" is implemented in full (section 3).

The final status codes of RFC 9110, except those that `storing` never stores, and 206 and 304, which
are not stored as such.
"""

HEURISTIC_CAP: Final = 86400.0
"""Seconds. A heuristic lifetime is at most a day, however old the last modification is."""

_MAX: Final = float(DELTA_MAX)
_DIGITS: Final = 10


class Lifetime(NamedTuple):
    """A freshness lifetime and its source."""

    seconds: float
    """Never negative. 0 is stale on arrival."""
    source: str
    """
    ``s-maxage``, ``max-age``, ``expires``: the response.
    ``heuristic``: an estimate by 4.2.2. ``rule``: the configuration; never returned from here.
    ``none``: the response has no lifetime. ``invalid``: its lifetime is unusable.
    """


_NONE: Final = Lifetime(0.0, "none")
_INVALID: Final = Lifetime(0.0, "invalid")


def freshness_lifetime(
    fields: Fields,
    cc: CacheControl,
    status: int,
    *,
    response_time: float,
    heuristic_fraction: float | None = None,
) -> Lifetime:
    """The freshness lifetime of a response (RFC 9111 section 4.2.1).

    ``cc`` is the response's Cache-Control, ``response_time`` when its head was received (seconds
    since the epoch). A response without an explicit lifetime is fresh for ``heuristic_fraction`` of the
    time since Last-Modified (4.2.2); None disables heuristics.

    ``no-cache`` and ``no-store`` do not shorten the lifetime; they are separate conditions.
    """
    # "Caches are encouraged to consider responses that have invalid freshness information ... to
    # be stale." Other directives of such a response can't be relied on either.
    if cc.invalid_freshness:
        return _INVALID
    if cc.s_maxage is not None:
        return Lifetime(float(cc.s_maxage), "s-maxage")
    if cc.max_age is not None:
        return Lifetime(float(cc.max_age), "max-age")
    expires = fields.all(b"expires")
    if expires:
        return _from_expires(fields, expires, response_time)
    # Section 4.2.2: "heuristics can only be used on responses without explicit freshness whose
    # status codes are defined as heuristically cacheable ... and on responses without explicit
    # freshness that have been marked as explicitly cacheable".
    if heuristic_fraction is not None and (status in HEURISTICALLY_CACHEABLE or cc.public):
        return _heuristic(fields, response_time, heuristic_fraction)
    return _NONE


def _from_expires(fields: Fields, values: list[bytes], response_time: float) -> Lifetime:
    # Section 4.2.1 leaves the choice for "two Expires header field lines". Equal lines count as one.
    # An upstream proxy may join lines that differ into a single unreadable line, which would be stale,
    # so they are stale as separate lines, too.
    if len(values) > 1 and values.count(values[0]) != len(values):
        return _INVALID
    expires = parse_http_date(values[0], now=response_time)
    # Section 5.3: "A cache recipient MUST interpret invalid date formats, especially the value
    # "0", as representing a time in the past (i.e., "already expired")."
    if expires is None:
        return Lifetime(0.0, "expires")
    return Lifetime(min(max(0.0, expires - _date(fields, response_time)), _MAX), "expires")


def _heuristic(fields: Fields, response_time: float, fraction: float) -> Lifetime:
    modified = parse_http_date(fields.first(b"last-modified"), now=response_time)
    if modified is None:
        return _NONE
    seconds = (_date(fields, response_time) - modified) * fraction
    # Written so that nan fails, too.
    if not seconds > 0.0:
        return _NONE
    return Lifetime(min(seconds, HEURISTIC_CAP), "heuristic")


def _date(fields: Fields, response_time: float) -> float:
    """The Date field, or, as 4.2.1 says, "the time the message was received" without a usable one."""
    value = parse_http_date(fields.first(b"date"), now=response_time)
    return response_time if value is None else value


def initial_age(fields: Fields, *, request_time: float, response_time: float) -> float:
    """``corrected_initial_age`` of a response, in seconds (RFC 9111 section 4.2.3).

    ``request_time`` and ``response_time`` are this machine's clock when the request was made and
    when the response's head was received (seconds since the epoch). The more conservative of the
    RFC's two formulas: ``max(apparent_age, corrected_age_value)``. If clocks disagree, the result can
    be too high, but never negative.
    """
    apparent_age = response_time - _date(fields, response_time)
    # If the clock was set back meanwhile, the response must not become younger.
    corrected_age_value = _age_value(fields) + max(0.0, response_time - request_time)
    return max(0.0, apparent_age, corrected_age_value)


def _age_value(fields: Fields) -> int:
    """The Age field (section 5.1), seconds. 0 if absent or unusable; at most 2**31."""
    value = fields.first(b"age")
    if value is None:
        return 0
    # "a cache encountering a message with a list-based Age field value SHOULD use the first member
    # of the field value, discarding subsequent ones. If the field value ... is invalid (e.g., it
    # contains something other than a non-negative integer), a cache SHOULD ignore the field."
    digits = value.lstrip(b", \t").partition(b",")[0].rstrip(b" \t")
    if not digits.isdigit():
        return 0
    if len(digits) > _DIGITS:
        digits = digits.lstrip(b"0") or b"0"
        if len(digits) > _DIGITS:
            return DELTA_MAX
    return min(int(digits), DELTA_MAX)
