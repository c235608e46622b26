"""RFC 9110 section 5.6.7, HTTP-date, as RFC 9111 section 4.2 has caches read it."""

import locale
import os
import time
from datetime import UTC, datetime

import pytest

from layergate.http.message.dates import parse_http_date


def utc(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


NOV_1994 = utc(1994, 11, 6, 8, 49, 37)
ROWS = [
    # "A recipient that parses a timestamp value in an HTTP field MUST accept all three"
    ("imf-fixdate", b"Sun, 06 Nov 1994 08:49:37 GMT", NOV_1994),
    ("rfc850", b"Sunday, 06-Nov-94 08:49:37 GMT", NOV_1994),
    ("asctime", b"Sun Nov  6 08:49:37 1994", NOV_1994),
    ("asctime-two-digits", b"Sun Nov 06 08:49:37 1994", NOV_1994),
    ("epoch", b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ("before-epoch", b"Wed, 31 Dec 1969 23:59:59 GMT", -1.0),
    ("leap-day", b"Thu, 29 Feb 2024 12:00:00 GMT", utc(2024, 2, 29, 12)),
    ("last", b"Fri, 31 Dec 9999 23:59:59 GMT", utc(9999, 12, 31, 23, 59, 59)),
    ("whitespace-around", b" \tSun, 06 Nov 1994 08:49:37 GMT ", NOV_1994),
    # RFC 9111 4.2: "a cache recipient SHOULD match the field value case-insensitively"
    ("case", b"sUN, 06 nOV 1994 08:49:37 gmt", NOV_1994),
    ("case-rfc850", b"SUNDAY, 06-NOV-94 08:49:37 GMT", NOV_1994),
    ("case-asctime", b"SUN NOV  6 08:49:37 1994", NOV_1994),
    # "the nearest time equal to or earlier than the received value"
    ("leap-second", b"Sat, 31 Dec 2016 23:59:60 GMT", utc(2016, 12, 31, 23, 59, 59)),
    # Origins get the name of the day wrong; the date decides.
    ("wrong-day-name", b"Mon, 06 Nov 1994 08:49:37 GMT", NOV_1994),
    # RFC 9111 4.2: "SHOULD consider a date with a zone abbreviation other than "GMT" to be invalid"
    *((f"zone-{zone.decode().strip()}", b"Sun, 06 Nov 1994 08:49:37" + zone, None)
      for zone in (b" UTC", b" EST", b" AEST", b" +0000", b" Z", b" GMT+1", b"")),
    *((name, value, None) for name, value in {
        "absent": None,
        "empty": b"",
        "zero": b"0",
        "number": b"784111777",
        "no-comma": b"Sun 06 Nov 1994 08:49:37 GMT",
        "no-day-name": b"06 Nov 1994 08:49:37 GMT",
        "no-such-day-name": b"Foo, 06 Nov 1994 08:49:37 GMT",
        "long-day-name": b"Sunday, 06 Nov 1994 08:49:37 GMT",
        "two-digit-year": b"Sun, 06 Nov 94 08:49:37 GMT",
        "one-digit-day": b"Sun, 6 Nov 1994 08:49:37 GMT",
        "one-digit-hour": b"Sun, 06 Nov 1994 8:49:37 GMT",
        "spaces": b"Sun, 06  Nov 1994 08:49:37 GMT",
        "dashes": b"Sun, 06-Nov-1994 08:49:37 GMT",
        "periods": b"Sun, 06 Nov 1994 08.49.37 GMT",
        "two": b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "trailing": b"Sun, 06 Nov 1994 08:49:37 GMT;",
        "newline": b"Sun, 06 Nov 1994 08:49:37 GMT\n",
        "day-0": b"Sun, 00 Nov 1994 08:49:37 GMT",
        "day-31": b"Sun, 31 Nov 1994 08:49:37 GMT",
        "no-leap-day": b"Sun, 29 Feb 2023 08:49:37 GMT",
        "month": b"Sun, 06 Foo 1994 08:49:37 GMT",
        "year-0": b"Sun, 06 Nov 0000 08:49:37 GMT",
        "hour-24": b"Sun, 06 Nov 1994 24:00:00 GMT",
        "minute-60": b"Sun, 06 Nov 1994 08:60:00 GMT",
        "second-61": b"Sun, 06 Nov 1994 08:49:61 GMT",
        "rfc850-short-day": b"Sun, 06-Nov-94 08:49:37 GMT",
        "rfc850-day-31": b"Sunday, 31-Nov-94 08:49:37 GMT",
        "asctime-zone": b"Sun Nov  6 08:49:37 1994 GMT",
        "asctime-one-space": b"Sun Nov 6 08:49:37 1994",
        "asctime-day-0": b"Sun Nov  0 08:49:37 1994",
        "other-digits": "Sun, 0٦ Nov 1994 08:49:37 GMT".encode(),
        "not-ascii": b"\xff" * 29,
        "long": b" " * 100000 + b"Sun, 06 Nov 1994 08:49:37 GMT",
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_parse(value, expected):
    assert parse_http_date(value) == expected


# "MUST interpret a timestamp that appears to be more than 50 years in the future as representing
# the most recent year in the past that had the same last two digits."
@pytest.mark.parametrize(
    ("digits", "year_now", "year"),
    [
        ("94", 2026, 1994), ("50", 2026, 2050), ("76", 2026, 2076), ("77", 2026, 1977),
        ("26", 2026, 2026), ("00", 2026, 2000), ("99", 1999, 1999), ("00", 1999, 2000),
        ("49", 1999, 2049), ("50", 1999, 1950), ("05", 2095, 2105), ("46", 2095, 2046),
    ],
)  # fmt: skip
def test_two_digit_years(digits, year_now, year):
    value = f"Friday, 15-Jan-{digits} 00:00:00 GMT".encode()
    assert parse_http_date(value, now=utc(year_now, 7, 1)) == utc(year, 1, 15)


@pytest.mark.parametrize("now", [None, float("nan"), float("inf"), float("-inf"), -1.0, 1e300])
def test_two_digit_years_without_a_usable_time(now):
    assert parse_http_date(b"Friday, 15-Jan-50 00:00:00 GMT", now=now) == utc(2050, 1, 15)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no tzset on this platform")
def test_neither_time_zone_nor_locale_matters(monkeypatch):
    """RFC 9111 4.2: "MUST NOT allow local time zones to influence the calculation"."""
    before = locale.setlocale(locale.LC_ALL)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        for name in ("de_DE.UTF-8", "C.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_ALL, name)
            except locale.Error:
                continue
            assert parse_http_date(b"Mon, 07 Nov 1994 08:49:37 GMT") == NOV_1994 + 86400
    finally:
        locale.setlocale(locale.LC_ALL, before)
        os.environ.pop("TZ", None)
        monkeypatch.undo()
        time.tzset()
