"""RFC 9111 sections 4.2.3 and 5.1: the age a response has when it arrives. Seconds around NOW."""

import pytest

from layergate.http.message.cache_control import DELTA_MAX
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.freshness import initial_age
from tests.support.dates import http_date

NOW = 1_700_000_000.0


def date(delta: float) -> tuple[bytes, bytes]:
    return (b"Date", http_date(NOW + delta))


def age(value: bytes) -> tuple[bytes, bytes]:
    return (b"Age", value)


ROWS = [
    # 4.2.3, the first way: "apparent_age = max(0, response_time - date_value)"
    ("no-fields", "4.2.3", [], 0, 0),
    ("date-now", "4.2.3", [date(0)], 0, 0),
    ("date-old", "4.2.3", [date(-7200)], 0, 7200),
    ("date-in-the-future", "4.2.3", [date(7200)], 0, 0),
    ("date-invalid", "4.2.3", [(b"date", b"foo")], 0, 0),
    # 4.2.3, the second way: "corrected_age_value = age_value + response_delay"
    ("delay", "4.2.3", [date(0)], 3, 3),
    ("age-and-delay", "4.2.3", [date(0), age(b"30")], 3, 33),
    ("clock-set-back", "4.2.3", [date(0), age(b"30")], -60, 30),
    # 4.2.3, conservatively: "corrected_initial_age = max(apparent_age, corrected_age_value)"
    ("apparent-older", "4.2.3", [date(-100), age(b"30")], 3, 100),
    ("corrected-older", "4.2.3", [date(-10), age(b"30")], 3, 33),
    ("fast-date", "4.2.3", [date(10), age(b"15")], 0, 15),
    # 5.1: "SHOULD use the first member of the field value, discarding subsequent ones"
    ("old-then-0", "5.1", [age(b"7200, 0")], 0, 7200),
    ("0-then-old", "5.1", [age(b"0, 7200")], 0, 0),
    ("old-then-0-lines", "5.1", [age(b"7200"), age(b"0")], 0, 7200),
    ("0-then-old-lines", "5.1", [age(b"0"), age(b"7200")], 0, 0),
    ("twice-same", "5.1", [age(b"3600"), age(b"3600")], 0, 3600),
    ("empty-members", "5.1", [age(b" , 7,")], 0, 7),
    # "contains something other than a non-negative integer ... a cache SHOULD ignore the field"
    ("alpha", "5.1", [age(b"abc")], 0, 0),
    ("negative", "5.1", [age(b"-7200")], 0, 0),
    ("float", "5.1", [age(b"7200.0")], 0, 0),
    ("parameter", "5.1", [age(b"7200;foo=bar")], 0, 0),
    ("empty", "5.1", [age(b"")], 0, 0),
    ("alpha-then-old", "5.1", [age(b"abc, 7200")], 0, 0),
    ("quoted", "5.1", [age(b'"7"')], 0, 0),
    ("superscript", "5.1", [age("²".encode())], 0, 0),
    # 1.2.2: overflow
    ("2^31-1", "1.2.2", [age(b"2147483647")], 0, 2147483647),
    ("2^31", "1.2.2", [age(b"2147483648")], 0, DELTA_MAX),
    ("2^31+1", "1.2.2", [age(b"2147483649")], 0, DELTA_MAX),
    ("huge", "1.2.2", [age(b"9" * 5000)], 0, DELTA_MAX),
    ("zeros", "1.2.2", [age(b"0" * 5000 + b"9")], 0, 9),
]


@pytest.mark.parametrize(
    ("lines", "delay", "expected"),
    [pytest.param(*row[2:], id=f"{row[1]}-{row[0]}") for row in ROWS],
)
def test_initial_age(lines, delay, expected):
    assert initial_age(Fields(lines), request_time=NOW - delay, response_time=NOW) == expected
