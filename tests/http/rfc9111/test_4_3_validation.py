"""RFC 9111 section 4.3: preconditions received, preconditions sent, and 304s."""

import pytest

from layergate.http.message.fields import Fields
from layergate.http.message.request import CONDITIONAL_FIELDS
from layergate.http.rfc9111.validation import (
    conditional_lines,
    freshens,
    has_validator,
    not_modified,
    not_modified_lines,
    same_but_for_strength,
)
from tests.support.dates import http_date

NOW = 1_700_000_000.0


def at(delta: float) -> bytes:
    return http_date(NOW + delta)


def inm(value: bytes) -> tuple[bytes, bytes]:
    return (b"If-None-Match", value)


def ims(value: bytes) -> tuple[bytes, bytes]:
    return (b"If-Modified-Since", value)


def etag(value: bytes) -> tuple[bytes, bytes]:
    return (b"ETag", value)


def modified(value: bytes) -> tuple[bytes, bytes]:
    return (b"Last-Modified", value)


DATE = (b"Date", at(0))
TAG = etag(b'"abcdef"')
RECEIVED = [
    ("unconditional", "4.3.2", [], [TAG], False),
    # "A request containing an If-None-Match header field ... indicates that the client wants to
    # validate one or more of its own stored responses in comparison to the stored response"
    ("inm-match", "4.3.2", [inm(b'"abcdef"')], [TAG], True),
    ("inm-other", "4.3.2", [inm(b'"xyz"')], [TAG], False),
    ("inm-first", "4.3.2", [inm(b'"abcdef", "1234", "5678"')], [TAG], True),
    ("inm-middle", "4.3.2", [inm(b'"1234", "abcdef", "5678"')], [TAG], True),
    ("inm-last", "4.3.2", [inm(b'"1234", "5678", "abcdef"')], [TAG], True),
    ("inm-lines", "4.3.2", [inm(b'"1234"'), inm(b'"abcdef"')], [TAG], True),
    ("inm-none-stored", "4.3.2", [inm(b'"abcdef"')], [], False),
    ("inm-star", "RFC 9110 13.1.2", [inm(b"*")], [], True),
    ("inm-star-and-more", "RFC 9110 13.1.2", [inm(b'*, "x"')], [TAG], False),
    ("inm-empty", "RFC 9110 13.1.2", [inm(b"")], [TAG], False),
    ("inm-empty-tag", "RFC 9110 8.8.3", [inm(b'""')], [etag(b'""')], True),
    # "A recipient MUST use the weak comparison function"
    ("inm-weak-both", "RFC 9110 13.1.2", [inm(b'W/"a"')], [etag(b'W/"a"')], True),
    ("inm-weak-sent", "RFC 9110 13.1.2", [inm(b'W/"a"')], [etag(b'"a"')], True),
    ("inm-weak-stored", "RFC 9110 13.1.2", [inm(b'"a"')], [etag(b'W/"a"')], True),
    ("inm-obs-text", "RFC 9110 8.8.3", [inm('"é"'.encode())], [etag('"é"'.encode())], True),
    ("inm-comma", "RFC 9110 8.8.3", [inm(b'"a,b"')], [etag(b'"a,b"')], True),
    ("inm-backslash", "RFC 9110 8.8.3", [inm(b'"a\\", "b"')], [etag(b'"b"')], True),
    ("inm-unquoted-both", "RFC 9110 8.8.3", [inm(b"abc")], [etag(b"abc")], True),
    ("inm-unquoted-sent", "RFC 9110 8.8.3", [inm(b"abc")], [etag(b'"abc"')], False),
    ("inm-unquoted-stored", "RFC 9110 8.8.3", [inm(b'"abc"')], [etag(b"abc")], False),
    # "If-None-Match takes precedence over If-Modified-Since"
    ("inm-match-modified", "4.3.2", [inm(b'"abcdef"'), ims(at(-9))], [TAG, modified(at(-5))], True),
    ("inm-other-unmodified", "4.3.2", [inm(b'"x"'), ims(at(0))], [TAG, modified(at(-5))], False),
    ("inm-empty-unmodified", "4.3.2", [inm(b""), ims(at(0))], [modified(at(-5))], False),
    # "a request containing an If-Modified-Since header field indicates that the client wants to
    # validate one or more of its own stored responses by modification date"
    ("ims-same", "4.3.2", [ims(at(-3000))], [DATE, modified(at(-3000))], True),
    ("ims-later", "4.3.2", [ims(at(-2000))], [DATE, modified(at(-3000))], True),
    ("ims-earlier", "4.3.2", [ims(at(-3001))], [DATE, modified(at(-3000))], False),
    ("ims-rfc850", "RFC 9110 5.6.7", [ims(b"Tuesday, 14-Nov-23 22:13:20 GMT")],
     [modified(at(0))], True),
    # "SHOULD use the stored response's Date field value (or, if no Date field is present, the time
    # that the stored response was received)"
    ("ims-date-same", "4.3.2", [ims(at(0))], [DATE], True),
    ("ims-date-earlier", "4.3.2", [ims(at(-1))], [DATE], False),
    ("ims-received-same", "4.3.2", [ims(at(0))], [], True),
    ("ims-received-earlier", "4.3.2", [ims(at(-1))], [], False),
    ("ims-bad-last-modified", "4.3.2", [ims(at(0))], [DATE, modified(b"x")], True),
    ("ims-bad-date", "4.3.2", [ims(at(-1))], [(b"date", b"x")], False),
    # RFC 9110 13.1.3: "MUST ignore ... if the received field value is not a valid HTTP-date, the
    # field value has more than one member"
    ("ims-invalid", "RFC 9110 13.1.3", [ims(b"tomorrow")], [modified(at(-9))], False),
    ("ims-zone", "RFC 9110 13.1.3", [ims(at(0)[:-3] + b"UTC")], [modified(at(-9))], False),
    ("ims-twice", "RFC 9110 13.1.3", [ims(at(0)), ims(at(0))], [modified(at(-9))], False),
    # "the If-Match and If-Unmodified-Since conditional header fields are not applicable to a cache"
    ("if-match", "4.3.2", [(b"if-match", b'"abcdef"')], [TAG], False),
    ("if-unmodified-since", "4.3.2", [(b"if-unmodified-since", at(0))], [modified(at(-9))], False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_lines", "stored", "expected"),
    [pytest.param(*row[2:], id=f"{row[1]}-{row[0]}") for row in RECEIVED],
)
def test_received_preconditions(request_lines, stored, expected):
    assert not_modified(Fields(request_lines), Fields(stored), response_time=NOW) is expected


SENT = [
    ("nothing", [], []),
    # "MUST send the relevant entity tags"
    ("etag", [TAG], [(b"if-none-match", b'"abcdef"')]),
    ("etag-weak", [etag(b'W/"a"')], [(b"if-none-match", b'W/"a"')]),
    ("etag-unquoted", [etag(b"abcdef")], [(b"if-none-match", b"abcdef")]),
    ("etag-several", [etag(b'"a"'), etag(b'"b"')], [(b"if-none-match", b'"a", "b"')]),
    ("etag-obs-text", [etag(b'"\xff"')], [(b"if-none-match", b'"\xff"')]),
    ("etag-quoted-star", [etag(b'"*"')], [(b"if-none-match", b'"*"')]),
    ("etag-empty", [etag(b"")], []),
    ("etag-star", [etag(b"*")], []),
    ("etag-star-among", [etag(b'"a", *')], []),
    ("etag-newline", [etag(b'"a"\r\nX: y')], []),
    ("etag-nul", [etag(b'"\x00"')], []),
    # "SHOULD send the Last-Modified value"
    ("last-modified", [modified(at(0))], [(b"if-modified-since", at(0))]),
    ("last-modified-odd", [modified(b"v17")], [(b"if-modified-since", b"v17")]),
    ("last-modified-empty", [modified(b"")], []),
    ("last-modified-newline", [modified(b"a\nb")], []),
    # "In most cases, both validators are generated"
    ("both", [modified(at(0)), TAG],
     [(b"if-none-match", b'"abcdef"'), (b"if-modified-since", at(0))]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "expected"), [pytest.param(*row[1:], id=f"4.3.1-{row[0]}") for row in SENT]
)
def test_sent_preconditions(stored, expected):
    assert conditional_lines(Fields(stored)) == expected
    assert has_validator(Fields(stored)) is bool(expected)
    assert CONDITIONAL_FIELDS.issuperset(name for name, _ in expected)


STRONG, WEAK, LM, LM2 = etag(b'"a"'), etag(b'W/"a"'), modified(at(0)), modified(at(1))
RENEWED = [
    # "If the new response contains one or more strong validators ... All the stored responses in
    # the initial set with one of those same strong validators are identified for update."
    ("strong-same", [STRONG], [STRONG], True),
    ("strong-other", [STRONG], [etag(b'"b"')], False),
    ("strong-against-weak", [WEAK], [STRONG], False),
    ("strong-against-none", [LM], [STRONG, LM], False),
    ("strong-decides", [STRONG, LM], [STRONG, LM2], True),
    ("unquoted-same", [etag(b"a")], [etag(b"a")], True),
    # "no strong validators but ... one or more weak validators, and those validators correspond"
    ("weak-same", [WEAK], [WEAK], True),
    ("weak-against-strong", [STRONG], [WEAK], True),
    ("weak-other", [WEAK], [etag(b'W/"b"')], False),
    ("weak-against-none", [LM], [WEAK], False),
    ("date-same", [LM], [LM], True),
    ("date-same-other-format", [LM], [modified(b"Tue Nov 14 22:13:20 2023")], True),
    ("date-other", [LM], [LM2], False),
    ("date-against-none", [], [LM], False),
    ("date-against-etag-only", [STRONG], [LM], False),
    ("date-odd-same", [modified(b"v1")], [modified(b"v1")], True),
    ("date-odd-other", [modified(b"v1")], [modified(b"v2")], False),
    # "does not include any form of validator"
    ("none-none", [], [], True),
    ("none-etag", [STRONG], [], True),
    ("none-empty-etag", [STRONG], [etag(b"")], True),
]


@pytest.mark.parametrize(
    ("stored", "response", "expected"),
    [pytest.param(*row[1:], id=f"4.3.4-{row[0]}") for row in RENEWED],
)
def test_freshens(stored, response, expected):
    assert freshens(Fields(stored), Fields(response)) is expected


def kept(*names: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, b"x") for name in names]


# RFC 9110 15.4.5: "MUST generate any of the following header fields that would have been sent in a
# 200 (OK) response to the same request: Content-Location, Date, ETag, and Vary, Cache-Control and
# Expires"
LISTED = (b"content-location", b"date", b"etag", b"vary", b"cache-control", b"expires")
IN_304 = [
    ("listed", LISTED, LISTED),
    # "a sender SHOULD NOT generate representation metadata other than the above listed fields"
    ("metadata",
     (b"content-type", b"content-length", b"content-encoding", b"content-language",
      b"content-range", b"content-md5", b"content-digest", b"repr-digest", b"digest"), ()),
    # "Last-Modified might be useful if the response does not have an ETag field"
    ("last-modified", (b"last-modified", b"date"), (b"last-modified", b"date")),
    ("last-modified-etag", (b"last-modified", b"etag"), (b"etag",)),
    ("others", (b"x-frame-options", b"access-control-allow-origin", b"content-security-policy"),
     (b"x-frame-options", b"access-control-allow-origin", b"content-security-policy")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected"),
    [pytest.param(*row[1:], id=f"RFC 9110 15.4.5-{row[0]}") for row in IN_304],
)
def test_fields_of_a_304(names, expected):
    assert not_modified_lines(kept(*names)) == kept(*expected)


def test_what_differs_in_strength_alone():
    for stored, new, same in (
        ([WEAK], [STRONG], True),
        ([STRONG], [WEAK], False),  # which renews it
        ([WEAK], [WEAK], False),
        ([STRONG], [STRONG], False),
        ([WEAK], [etag(b'"b"')], False),
        ([WEAK], [], False),
        ([], [STRONG], False),
        ([LM], [STRONG], False),
        ([WEAK, WEAK], [STRONG], False),
        ([WEAK], [STRONG, STRONG], False),
        ([etag(b'W/"a", W/"b"')], [STRONG], False),
        ([etag(b"W/")], [etag(b"")], False),
        ([etag(b"W/*")], [etag(b"*")], True),  # no tag, but one and the same
    ):
        assert same_but_for_strength(Fields(stored), Fields(new)) is same, (stored, new)
