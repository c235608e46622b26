"""RFC 9111 section 3 over all status codes, the unknown ones included.

What is expected is written down here once more, from the RFCs, not taken from the code."""

from __future__ import annotations

from typing import Any

import pytest

from layergate.config import Options
from layergate.http.message.fields import Fields
from layergate.http.message.request import Request
from layergate.http.rfc9111.plan import Plan, plan_storage
from layergate.http.rfc9111.storing import NotStored

NOW = 1_700_000_000.0

# RFC 9110 15.1: "Responses with status codes that are defined as heuristically cacheable (e.g., 200,
# 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, and 501 in this specification)"
HEURISTIC = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}
# What a status code of RFC 9110 or 6585 says of one request, or of one client.
ONE_REQUEST = {407, 408, 412, 416, 417, 425, 426, 428, 429, 431, 511}
PARTS = {206, 304}
FINAL = set(range(200, 600))
# RFC 9110's final status codes, but for those.
KNOWN = {
    *range(200, 206), 300, 301, 302, 303, 307, 308,
    *range(400, 407), 409, 410, 411, 413, 414, 415, 421, 422, *range(500, 506),
}  # fmt: skip

REQUEST = Request(
    method="GET",
    scheme="http",
    host=b"example.com",
    path="/",
    key=b"",
    fields=Fields([]),
    has_body=False,
    obey_directives=True,
)


def planned(status: int, control: bytes | None, **options: Any) -> Plan | NotStored:
    lines = [(b"date", b"Tue, 14 Nov 2023 22:13:20 GMT")]
    lines += [(b"last-modified", b"Tue, 14 Nov 2023 21:13:20 GMT")]
    if control is not None:
        lines.append((b"cache-control", control))
    return plan_storage(
        REQUEST,
        status,
        Fields(lines),
        None,
        Options(**options),
        request_time=NOW,
        response_time=NOW,
    )


def fresh(control: bytes | None, **options: Any) -> set[int]:
    """The status codes with which this is stored, and fresh for some time."""
    found = set()
    for status in range(-1, 1000):
        plan = planned(status, control, **options)
        if isinstance(plan, Plan) and plan.fresh_until > NOW:
            found.add(status)
    return found


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        # "the response contains at least one of the following": explicit freshness is enough, also
        # for a status code that nobody has heard of (RFC 9110 15: it is "equivalent to the x00 status
        # code of that class", which says nothing against storing it).
        (b"max-age=60", FINAL - ONE_REQUEST - PARTS),
        (b"s-maxage=60", FINAL - ONE_REQUEST - PARTS),
        (b"public, max-age=60", FINAL - ONE_REQUEST - PARTS),
        # "the must-understand cache directive is present: the cache understands the response status"
        (b"must-understand, max-age=60", KNOWN),
        # 5.2.2.3: "the cache SHOULD ignore the no-store directive if it understands and implements"
        (b"must-understand, no-store, max-age=60", KNOWN),
        (b"no-store, max-age=60", set()),
        (b"private, max-age=60", set()),
        (b"must-understand, private, max-age=60", set()),
        (b"public", set()),
        (None, set()),
    ],
)
def test_explicit_freshness(control: bytes | None, expected: set[int]) -> None:
    assert fresh(control) == expected


def test_4_2_2_heuristics_are_for_status_codes_that_say_so_or_what_is_public() -> None:
    assert fresh(None, heuristic=0.1) == HEURISTIC
    assert fresh(b"stale-if-error=5", heuristic=0.1) == HEURISTIC
    assert fresh(b"public", heuristic=0.1) == FINAL - ONE_REQUEST - PARTS
    assert fresh(b"must-understand", heuristic=0.1) == HEURISTIC & KNOWN
    assert fresh(b"max-age=x", heuristic=0.1) == set()


# -- RFC 9110 5.5 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "stored"),
    [
        ((b"x-a", b"a b\t\xfc\x01"), True),
        ((b"x-a", b""), True),
        ((b"x!#$%&'*+-.^_`|~9", b"1"), True),
        ((b"x-a", b"a\r\n b"), False),  # obs-fold
        ((b"x-a", b"a\r\nset-cookie: b=c"), False),
        ((b"x-a", b"a\n"), False),
        ((b"x-a", b"\r"), False),
        ((b"x-a", b"a\0b"), False),
        ((b"", b"a"), False),
        ((b"x a", b"a"), False),
        ((b"x-a ", b"a"), False),
        ((b"x-a:", b"a"), False),
        ((b"x-\xfc", b"a"), False),
        ((b"x-a\r\nx-b", b"a"), False),
    ],
)
def test_what_is_no_field_is_not_stored(line: tuple[bytes, bytes], stored: bool) -> None:
    plan = plan_storage(
        REQUEST,
        200,
        Fields([(b"cache-control", b"max-age=60"), line]),
        None,
        Options(),
        request_time=NOW,
        response_time=NOW,
    )
    assert isinstance(plan, Plan) if stored else plan is NotStored.MALFORMED
