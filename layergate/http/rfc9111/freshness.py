"""How long a response is fresh and how old it already is (RFC 9111 section 4.2).

Everything is computed once, when a response arrives; afterwards ``fresh`` is one comparison of
``initial age + time since received`` with the lifetime. All times are seconds.
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
"""RFC 9110 section 15.1, 206 included, which is never stored whatever its freshness."""

UNDERSTOOD_STATUSES: Final = frozenset(
    {200, 201, 202, 203, 204, 205, 300, 301, 302, 303, 307, 308}
    | {400, 401, 402, 403, 404, 405, 406, 409, 410, 411, 413, 414, 415, 421, 422}
    | {500, 501, 502, 503, 504, 505}
)
"""Status codes whose "caching-related behavior" is implemented in full (section 3).

The final status codes of RFC 9110 without those that are never stored here; see `storing`. Not
among them: 206 and 304, which are not understood as something to store.
"""

HEURISTIC_CAP: Final = 86400.0
"""Seconds. No guess lasts longer than a day, however long ago the last modification was."""

_MAX: Final = float(DELTA_MAX)
_DIGITS: Final = 10


class Lifetime(NamedTuple):
    """A freshness lifetime and what it was taken from."""

    seconds: float
    """Never negative. 0 is stale on arrival."""
    source: str
    """
    ``s-maxage``, ``max-age``, ``expires``: the origin's word.
    ``heuristic``: a guess by 4.2.2. ``rule``: the caller's configuration; never returned here.
    ``none``: nothing in the response says how long. ``invalid``: what it says is unusable.
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
    since the epoch). ``heuristic_fraction`` is the share of the time since Last-Modified that a
    response without explicit lifetime is taken to be fresh for (4.2.2); None: no heuristics.

    ``no-cache`` and ``no-store`` do not shorten the lifetime: they are conditions of their own.
    """
    # "Caches are encouraged to consider responses that have invalid freshness information ... to
    # be stale." Whatever else the response says, its origin and we do not understand each other.
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
    # Section 4.2.1 lets us choose for "two Expires header field lines". Two that agree are one;
    # of two that do not, a proxy before us may have made a single unreadable line, which would
    # be stale. So are they when they come on lines of their own.
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
    # Written so that nan is no lifetime either.
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
    RFC's two formulas: ``max(apparent_age, corrected_age_value)``. Clocks that disagree can make
    the result too old, never negative.
    """
    apparent_age = response_time - _date(fields, response_time)
    # A clock set back while we waited must not make the response younger.
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
