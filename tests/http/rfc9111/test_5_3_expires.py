"""RFC 9111 section 5.3 with 4.2 and 4.2.1: Expires. Times in seconds around NOW (in 2023)."""

from datetime import UTC, datetime

import pytest

from layergate.http.message.cache_control import DELTA_MAX, EMPTY
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.freshness import freshness_lifetime
from tests.support.dates import http_date

NOW = 1_700_000_000.0
IN_2050 = datetime(2050, 8, 18, 2, 1, 18, tzinfo=UTC).timestamp() - NOW


def at(delta: float) -> bytes:
    return http_date(NOW + delta)


def lifetime(*lines):
    return freshness_lifetime(Fields(lines), EMPTY, 200, response_time=NOW)


def expires(value: bytes) -> tuple[bytes, bytes]:
    return (b"expires", value)


DATE = (b"date", at(0))
ROWS = [
    # 4.2.1: "use its value minus the value of the Date response header field (using the time the
    # message was received if it is not present...)"
    ("future", "4.2.1", [expires(at(3600)), DATE], 3600, "expires"),
    ("past", "4.2.1", [expires(at(-3600)), DATE], 0, "expires"),
    ("now", "4.2.1", [expires(at(0)), DATE], 0, "expires"),
    ("older-than-date", "4.2.1", [expires(at(300)), (b"date", at(400))], 0, "expires"),
    ("date-slow", "4.2.1", [expires(at(10)), (b"date", at(-10))], 20, "expires"),
    ("date-fast", "4.2.1", [expires(at(20)), (b"date", at(10))], 10, "expires"),
    ("no-date", "4.2.1", [expires(at(60))], 60, "expires"),
    ("bad-date", "4.2.1", [expires(at(60)), (b"date", b"foo")], 60, "expires"),
    ("cap", "1.2.2", [expires(b"Fri, 31 Dec 9999 23:59:59 GMT"), DATE], DELTA_MAX, "expires"),
    # "either the first occurrence should be used or the response should be considered stale"
    ("twice-same", "4.2.1", [expires(at(60)), DATE, expires(at(60))], 60, "expires"),
    ("twice-different", "4.2.1", [expires(at(60)), DATE, expires(at(61))], 0, "invalid"),
    ("twice-combined", "4.2.1", [expires(at(60) + b", " + at(60)), DATE], 0, "expires"),
    # 5.3: "A cache recipient MUST interpret invalid date formats, especially the value "0", as
    # representing a time in the past (i.e., "already expired")."
    *((name, "5.3", [expires(value), DATE], 0, "expires") for name, value in {
        "0": b"0",
        "empty": b"",
        "minus-1": b"-1",
        "utc": b"Thu, 18 Aug 2050 02:01:18 UTC",
        "aest": b"Thu, 18 Aug 2050 02:01:18 AEST",
        "two-digit-year": b"Thu, 18 Aug 50 02:01:18 GMT",
        "no-comma": b"Thu 18 Aug 2050 02:01:18 GMT",
        "spaces": b"Thu, 18  Aug  2050 02:01:18 GMT",
        "dashes": b"Thu, 18-Aug-2050 02:01:18 GMT",
        "periods": b"Thu, 18 Aug 2050 02.01.18 GMT",
        "one-digit-hour": b"Thu, 18 Aug 2050 2:01:18 GMT",
        "iso": b"2050-08-18T02:01:18Z",
    }.items()),
    # 4.2: "a cache recipient SHOULD match the field value case-insensitively"
    *((name, "4.2", [expires(value), DATE], IN_2050, "expires") for name, value in {
        "case-weekday": b"THU, 18 Aug 2050 02:01:18 GMT",
        "case-month": b"Thu, 18 AUG 2050 02:01:18 GMT",
        "case-zone": b"Thu, 18 Aug 2050 02:01:18 gMT",
        "rfc850": b"Thursday, 18-Aug-50 02:01:18 GMT",
        "asctime": b"Thu Aug 18 02:01:18 2050",
        "asctime-wrong-day-name": b"Mon Aug 18 02:01:18 2050",
    }.items()),
    ("32-bit", "4.2", [expires(b"Tue, 19 Jan 2038 14:14:08 GMT"), DATE], 447523248, "expires"),
    ("far", "4.2", [expires(b"Sun, 21 Nov 2286 04:46:39 GMT"), DATE], DELTA_MAX, "expires"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "seconds", "source"),
    [pytest.param(*row[2:], id=f"{row[1]}-{row[0]}") for row in ROWS],
)
def test_expires(lines, seconds, source):
    assert lifetime(*lines) == (seconds, source)
