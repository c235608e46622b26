"""Parse HTTP-date (RFC 9110 section 5.6.7, with the leniency of RFC 9111 section 4.2).

Every header field with a date goes through here. Nothing here uses a locale, a time zone or a clock.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final

__all__ = ["parse_http_date"]

_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_MONTH_NUMBER: Final = {name.lower().encode(): n for n, name in enumerate(_MONTHS, 1)}

_DAY_NAME: Final = rb"(?:mon|tue|wed|thu|fri|sat|sun)"
_DAY_NAME_LONG: Final = rb"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_MONTH: Final = rb"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_TIME: Final = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"

# One pattern for each of the three formats. The *name* of the day may be any day's name: origins get
# it wrong more often than the date, and only the date matters.
_IMF_FIXDATE: Final = re.compile(
    _DAY_NAME + rb", ([0-9]{2}) " + _MONTH + rb" ([0-9]{4}) " + _TIME + rb" gmt"
)
_RFC850: Final = re.compile(
    _DAY_NAME_LONG + rb", ([0-9]{2})-" + _MONTH + rb"-([0-9]{2}) " + _TIME + rb" gmt"
)
_ASCTIME: Final = re.compile(
    _DAY_NAME + rb" " + _MONTH + rb" ([0-9]{2}| [0-9]) " + _TIME + rb" ([0-9]{4})"
)

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_LAST: Final = (date.max.toordinal() - _EPOCH_DAY) * 86400 + 86399
_SECONDS_PER_YEAR: Final = 31556952
# The reference for two-digit years when the caller passes no time: they mean 1977 to 2076.
_NO_NOW: Final = 2026
# The longest date of any format has 33 octets; the rest is room for some whitespace.
_LONGEST: Final = 64


def parse_http_date(value: bytes | None, *, now: float | None = None) -> float | None:
    """Seconds since the epoch, or None if ``value`` is None or not a valid HTTP-date.

    RFC 9110 5.6.7: recipients read all three formats. RFC 9111 4.2: letter case does not matter; a
    zone other than GMT makes the date invalid; the leap second ``:60`` becomes ``:59``, "the nearest
    time equal to or earlier than the received value".

    ``now`` (seconds since the epoch; only the year matters) resolves the two-digit years of the RFC 850
    format: one "that appears to be more than 50 years in the future" means "the most recent year in
    the past that had the same last two digits". None: the year 2026.
    """
    if value is None or len(value) > _LONGEST:
        return None
    year = _NO_NOW
    # Between 1970 and 9999; this also excludes nan and the infinities.
    if now is not None and 0.0 <= now <= _LAST:
        year = 1970 + int(now) // _SECONDS_PER_YEAR
    return _parse(value, year)


@lru_cache(maxsize=1024)
def _parse(value: bytes, year_now: int) -> float | None:
    text = value.strip(b" \t").lower()
    if match := _IMF_FIXDATE.fullmatch(text):
        day, month, year_text, hour, minute, second = match.groups()
        year = int(year_text)
    elif match := _RFC850.fullmatch(text):
        day, month, year_text, hour, minute, second = match.groups()
        newest = year_now + 50
        year = newest - (newest - int(year_text)) % 100
    elif match := _ASCTIME.fullmatch(text):
        month, day, hour, minute, second, year_text = match.groups()
        year = int(year_text)
    else:
        return None
    return _seconds(year, _MONTH_NUMBER[month], int(day), int(hour), int(minute), int(second))


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> float | None:
    if hour > 23 or minute > 59 or second > 60:
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:  # 31 Feb, year 0
        return None
    return float(days * 86400 + hour * 3600 + minute * 60 + min(second, 59))
