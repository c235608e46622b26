"""RFC 9111 sections 4.2.1 and 4.2.2: the freshness lifetime. Times in seconds around NOW."""

import pytest

from layergate.http.message.cache_control import DELTA_MAX, parse_cache_control
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.freshness import (
    HEURISTIC_CAP,
    HEURISTICALLY_CACHEABLE,
    UNDERSTOOD_STATUSES,
    freshness_lifetime,
)
from tests.support.dates import http_date

NOW = 1_700_000_000.0


def at(delta: float) -> bytes:
    return http_date(NOW + delta)


def lifetime(*lines, status=200, fraction=None):
    fields = Fields(lines)
    cc = parse_cache_control(fields.get(b"cache-control"))
    return freshness_lifetime(fields, cc, status, response_time=NOW, heuristic_fraction=fraction)


def cc(value: bytes) -> tuple[bytes, bytes]:
    return (b"Cache-Control", value)


DATE = (b"Date", at(0))
FUTURE = (b"Expires", at(3600))
ROWS = [
    # "If the cache is shared and the s-maxage response directive ... is present, use its value"
    ("s-maxage", "4.2.1", [cc(b"s-maxage=60")], 60, "s-maxage"),
    ("s-maxage-shorter", "4.2.1", [cc(b"max-age=3600, s-maxage=1")], 1, "s-maxage"),
    ("s-maxage-first", "4.2.1", [cc(b"s-maxage=1, max-age=3600")], 1, "s-maxage"),
    ("s-maxage-lines", "4.2.1", [cc(b"max-age=3600"), cc(b"s-maxage=1")], 1, "s-maxage"),
    ("s-maxage-longer", "4.2.1", [cc(b"max-age=1, s-maxage=3600")], 3600, "s-maxage"),
    ("s-maxage-expires", "4.2.1", [(b"expires", at(-10)), cc(b"max-age=0, s-maxage=9")],
     9, "s-maxage"),
    # "If the max-age response directive ... is present, use its value"
    ("max-age", "4.2.1", [cc(b"max-age=60")], 60, "max-age"),
    ("max-age-0", "4.2.1", [cc(b"max-age=0")], 0, "max-age"),
    ("max-age-0-future-expires", "4.2.1", [FUTURE, cc(b"max-age=0"), DATE], 0, "max-age"),
    ("max-age-past-expires", "4.2.1", [(b"Expires", at(-7200)), cc(b"max-age=9"), DATE],
     9, "max-age"),
    ("max-age-bad-expires", "4.2.1", [(b"Expires", b"0"), cc(b"max-age=9"), DATE], 9, "max-age"),
    ("max-age-infinite", "1.2.2", [cc(b"max-age=99999999999")], DELTA_MAX, "max-age"),
    ("max-age-twice", "4.2.1", [cc(b"max-age=1800"), cc(b"max-age=1")], 1800, "max-age"),
    ("no-cache-is-no-lifetime", "4.2.1", [cc(b"max-age=60, no-cache")], 60, "max-age"),
    # "invalid freshness information ... to be stale"
    ("invalid", "4.2.1", [cc(b"max-age=a")], 0, "invalid"),
    ("invalid-expires-future", "4.2.1", [FUTURE, cc(b"max-age=a"), DATE], 0, "invalid"),
    ("invalid-s-maxage", "4.2.1", [cc(b"s-maxage=1.5, max-age=60")], 0, "invalid"),
    ("invalid-spaced", "4.2.1", [cc(b"max-age =60"), FUTURE], 0, "invalid"),
    # Nothing explicit
    ("none", "4.2.1", [DATE], 0, "none"),
    ("none-last-modified", "4.2.2", [DATE, (b"last-modified", at(-99999))], 0, "none"),
    ("none-pragma", "5.4", [(b"pragma", b"no-cache")], 0, "none"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "seconds", "source"),
    [pytest.param(*row[2:], id=f"{row[1]}-{row[0]}") for row in ROWS],
)
def test_explicit(lines, seconds, source):
    assert lifetime(*lines) == (seconds, source)


DAY = 86400
HEURISTIC_ROWS = [
    # 4.2.2: "no more than some fraction of the interval since that time. A typical setting ... 10%."
    ("tenth-of-a-day", 200, [DATE, (b"last-modified", at(-DAY))], 8640, "heuristic"),
    ("without-date", 200, [(b"last-modified", at(-1000))], 100, "heuristic"),
    ("against-date", 200, [(b"date", at(-500)), (b"last-modified", at(-1500))], 100, "heuristic"),
    ("capped", 200, [DATE, (b"last-modified", at(-3650 * DAY))], HEURISTIC_CAP, "heuristic"),
    ("modified-in-the-future", 200, [DATE, (b"last-modified", at(DAY))], 0, "none"),
    ("modified-now", 200, [DATE, (b"last-modified", at(0))], 0, "none"),
    ("modified-garbage", 200, [DATE, (b"last-modified", b"yesterday")], 0, "none"),
    ("nothing-to-go-by", 200, [DATE], 0, "none"),
    # "A cache MUST NOT use heuristics to determine freshness when an explicit expiration time is
    # present in the stored response."
    ("max-age", 200, [DATE, (b"last-modified", at(-DAY)), cc(b"max-age=0")], 0, "max-age"),
    ("expires", 200, [DATE, (b"last-modified", at(-DAY)), (b"expires", b"0")], 0, "expires"),
    ("invalid", 200, [DATE, (b"last-modified", at(-DAY)), cc(b"max-age=x")], 0, "invalid"),
    # 4.2.2: those that "have been marked as explicitly cacheable (e.g., with a public response directive)"
    ("599", 599, [DATE, (b"last-modified", at(-DAY))], 0, "none"),
    ("599-public", 599, [DATE, (b"last-modified", at(-DAY)), cc(b"public")], 8640, "heuristic"),
    # RFC 9110 15.1
    *((f"{code}", code, [DATE, (b"last-modified", at(-DAY))], 8640, "heuristic")
      for code in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)),
    *((f"{code}", code, [DATE, (b"last-modified", at(-DAY))], 0, "none")
      for code in (201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "lines", "seconds", "source"),
    [pytest.param(*row[1:], id=f"4.2.2-{row[0]}") for row in HEURISTIC_ROWS],
)
def test_heuristic(status, lines, seconds, source):
    result = lifetime(*lines, status=status, fraction=0.1)
    assert result.seconds == pytest.approx(seconds)
    assert result.source == source


@pytest.mark.parametrize("fraction", [0.0, -1.0, float("nan")])
def test_a_useless_fraction_is_no_lifetime(fraction):
    assert lifetime(DATE, (b"last-modified", at(-DAY)), fraction=fraction) == (0, "none")


def test_status_sets():
    assert {206, 304}.isdisjoint(UNDERSTOOD_STATUSES)  # never stored
    assert HEURISTICALLY_CACHEABLE.difference(UNDERSTOOD_STATUSES) == {206}
    assert 599 not in UNDERSTOOD_STATUSES
