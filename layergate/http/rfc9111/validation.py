"""Validation: conditional requests, and the effect of their responses (RFC 9111 sections 3.2 and 4.3).

Three kinds of functions: a client's preconditions are evaluated against a stored response
(`not_modified`); the cache's own preconditions go to the origin (`conditional_lines`); and a 304 or a
response to HEAD renews a stored response or does not (`freshens`, `head_matches`, `updated_fields`).

*A departure from 4.3.4.* Middleware that compresses (Django's GZipMiddleware, nginx) weakens the entity
tag of a 200, but not that of a 304: ``W/"x"`` is stored, the 304 has ``"x"``. No stored response has that
strong validator, so "the cache MUST NOT use the new response to update any stored responses". LayerGate
follows this rule. By the letter it would now have to ask again without validators, and every revalidation
would cost two calls. But LayerGate sent only its own tag, and the origin compares weakly (RFC 9110
13.1.2), so the origin has confirmed that the stored response is unchanged. Therefore the stored response
answers this request and those that wait for the same fetch (`same_but_for_strength`), but is not updated.
The next request asks again, and from the second such 304 on it asks without validators, because only a
200 can make the stored response fresh. A tag that differs in more than its strength still means that the
representation has changed: ask again.
"""

from __future__ import annotations

import re
from typing import Final

from layergate.http.extensions.targeted import policy_of
from layergate.http.message.cache_control import CacheControl, parse_cache_control
from layergate.http.message.dates import parse_http_date
from layergate.http.message.etags import is_weak, parse_etag_list, strong_match, weak_match
from layergate.http.message.fields import Fields, Lines
from layergate.http.rfc9111.selecting import vary_names, with_vary
from layergate.http.rfc9111.storing import unstorable_names

__all__ = [
    "conditional_lines",
    "freshens",
    "has_validator",
    "head_matches",
    "not_modified",
    "not_modified_lines",
    "same_but_for_strength",
    "updated_fields",
]

_UNSAFE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def not_modified(request_fields: Fields, stored_fields: Fields, *, response_time: float) -> bool:
    """True if a GET or HEAD gets a 304 from a stored *200* (RFC 9111 4.3.2).

    ``response_time`` is when the stored response was received (seconds since the epoch). "the If-Match and If-Unmodified-Since conditional header fields are not
    applicable to a cache". Do not call this for other stored status codes. RFC 9110 13.2.1:
    "A server MUST ignore all received preconditions if its response to the same request without
    those conditions ... would have been a status code other than a 2xx (Successful) or 412".
    """
    if_none_match = request_fields.get(b"if-none-match")
    if if_none_match is not None:
        # RFC 9110 13.1.3: "A recipient MUST ignore If-Modified-Since if the request contains an
        # If-None-Match header field", even an empty one.
        tags = parse_etag_list(if_none_match)
        if tags is None:
            return True
        etag = stored_fields.first(b"etag")
        # 13.1.2: "A recipient MUST use the weak comparison function".
        return etag is not None and any(weak_match(tag, etag) for tag in tags)
    # 13.1.3: "MUST ignore the If-Modified-Since header field if the received field value is not a
    # valid HTTP-date, the field value has more than one member". Two lines are not a valid date.
    since = parse_http_date(request_fields.get(b"if-modified-since"), now=response_time)
    if since is None:
        return False
    # "a cache SHOULD use the stored response's Date field value (or, if no Date field is present,
    # the time that the stored response was received) to evaluate the conditional."
    modified = parse_http_date(stored_fields.first(b"last-modified"), now=response_time)
    if modified is None:
        modified = parse_http_date(stored_fields.first(b"date"), now=response_time)
    return (response_time if modified is None else modified) <= since


def has_validator(fields: Fields) -> bool:
    """True if a stored response can be validated, that is, if it has `conditional_lines`."""
    return bool(conditional_lines(fields))


def conditional_lines(stored_fields: Fields) -> Lines:
    """The preconditions that validate a single stored response (RFC 9111 section 4.3.1).

    "MUST send the relevant entity tags", "SHOULD send the Last-Modified value". Both are repeated byte
    for byte, even if the origin sent an invalid tag, several tags, or an invalid date: it may recognize
    its own value. Values that would mean something else are not repeated: control characters, and
    ``*``, which matches any response. Empty if the response has no validator.
    """
    lines: Lines = []
    etag = stored_fields.get(b"etag")
    # `parse_etag_list` drops a "*" among other members, so search for the literal.
    if etag and not _UNSAFE.search(etag) and _without_star(etag):
        lines.append((b"if-none-match", etag))
    modified = stored_fields.first(b"last-modified")
    if modified and not _UNSAFE.search(modified):
        lines.append((b"if-modified-since", modified))
    return lines


def _without_star(etag: bytes) -> bool:
    if b"*" not in etag:
        return bool(etag.strip(b" \t,"))
    return bool(parse_etag_list(etag)) and b"*" not in {
        part.strip(b" \t") for part in etag.split(b",")
    }


def freshens(stored_fields: Fields, response_fields: Fields) -> bool:
    """True if a 304 renews the one stored response whose `conditional_lines` were sent (4.3.4).

    If False, the 304 is about another representation, "the cache MUST NOT use the new response to
    update" the stored one, and the caller has to ask again without preconditions.

    A 304 without any validator renews the stored response. By the letter it would identify only a
    stored response "that also lacks a validator". But no other validators were sent, so it can't mean
    another response, and some origins omit them.
    """
    etag = response_fields.first(b"etag")
    stored = stored_fields.first(b"etag") or b""
    if etag:
        # "If the new response contains one or more strong validators ... All the stored responses
        # in the initial set with one of those same strong validators are identified for update."
        return weak_match(etag, stored) if is_weak(etag) else strong_match(etag, stored)
    # Last-Modified is "implicitly weak" (RFC 9110 8.8.2.2), so it only counts without an entity tag.
    modified = response_fields.first(b"last-modified")
    return modified is None or _same_time(modified, stored_fields.first(b"last-modified"))


def same_but_for_strength(stored_fields: Fields, response_fields: Fields) -> bool:
    """True if a 304 confirms the stored response without renewing it: the stored tag is weak, and the 304
    has the same tag as a strong one.

    The stored tag must be the only one that was sent. See the beginning of this module.
    """
    stored, tags = stored_fields.all(b"etag"), response_fields.all(b"etag")
    return (
        len(stored) == len(tags) == 1
        and is_weak(stored[0])
        and not is_weak(tags[0])
        and weak_match(stored[0], tags[0])
        and parse_etag_list(stored[0]) == stored
    )


def _same_time(a: bytes, b: bytes | None) -> bool:
    if a == b:
        return True
    time = parse_http_date(a)
    return time is not None and time == parse_http_date(b)


# Fields that an update leaves unchanged. 3.2: "Header fields that the cache's stored response
# depends upon", "Header fields that are automatically processed and removed by the recipient" and
# "The Content-Length header field". The stored body keeps its coding, whatever label middleware puts on a
# 304. A digest belongs to the body that it came with. Content-Type *is* updated: the stored body does not
# depend on it.
_NOT_UPDATED: Final = frozenset({
    b"content-length", b"content-encoding", b"content-range",
    b"content-md5", b"content-digest", b"repr-digest", b"digest",
})  # fmt: skip

# G1: a 304 sets cookies only for the client that it answers.
_COOKIES: Final = frozenset({b"set-cookie", b"set-cookie2"})


def updated_fields(
    stored: Lines,
    new: Fields,
    cc: CacheControl,
    *,
    targets: tuple[bytes, ...] = (),
    drop: frozenset[bytes] = frozenset(),
    allow_set_cookie: bool = False,
) -> Lines:
    """The stored lines, updated from a 304 or a HEAD response (RFC 9111 section 3.2).

    "the cache MUST add each header field in the provided response to the stored response,
    replacing field values that are already present". All lines of a name are replaced together. ``cc`` is the
    Cache-Control of ``new``, ``targets`` as for `policy_of`; ``drop`` and ``allow_set_cookie`` are the
    caller's, as for `storable_fields` and `may_store`.

    The exceptions are those of the RFC and, unless allowed, cookies. If ``new`` has no Date, the result
    has none, because the stored Date belongs to the older message.

    *An update never makes the response available to more requests than before* (G1), whatever ``new``
    omits: a 304 passes through other middleware than a 200. Its Vary is added to the stored one, because
    all of those fields selected the stored body. Fields that a qualified ``no-cache`` or ``private`` in
    either Cache-Control names are removed from the stored response, whose Cache-Control lists them from
    then on.
    """
    before = Fields(stored)
    private, no_cache = _qualified(before, targets)
    excepted = unstorable_names(new, cc).union(drop, private, no_cache) - {b"vary"}
    removed = excepted
    excepted = excepted | _NOT_UPDATED
    if not allow_set_cookie:
        excepted |= _COOKIES
    added = [line for line in new.lines if line[0] not in excepted]
    replaced = removed.union([name for name, _ in added], (b"date",))
    lines = [line for line in stored if line[0] not in replaced] + added
    if private or no_cache:
        now = parse_cache_control(Fields(lines).get(b"cache-control"))
        for directive, names in (
            (b"private", private - now.private_fields),
            (b"no-cache", no_cache - now.no_cache_fields),
        ):
            if names:
                value = b'%b="%b"' % (directive, b", ".join(sorted(names)))
                lines.append((b"cache-control", value))
    return with_vary(lines, vary_names(before) or ())


def _qualified(
    fields: Fields, targets: tuple[bytes, ...]
) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """The fields that a qualified ``private`` and a qualified ``no-cache`` list, in this order."""
    plain = parse_cache_control(fields.get(b"cache-control"))
    ours = policy_of(fields, targets).directives
    return (
        plain.private_fields | ours.private_fields,
        plain.no_cache_fields | ours.no_cache_fields,
    )


def head_matches(
    stored_fields: Fields, head_fields: Fields, *, stored_length: int | None = None
) -> bool:
    """True if a 200 to HEAD describes the stored response to GET (RFC 9111 section 4.3.5).

    "if the stored response and HEAD response have matching values for any received validator
    fields (ETag and Last-Modified) and, if the HEAD response has a Content-Length header field,
    the value of Content-Length matches that of the stored response, the cache SHOULD update the
    stored response ...; otherwise, the cache SHOULD consider the stored response to be stale."

    ``stored_length`` is the length of the stored body in bytes. None: use the stored Content-Length;
    without that, no length matches.
    """
    etag = head_fields.get(b"etag")
    if etag is not None and etag != stored_fields.get(b"etag"):
        return False
    modified = head_fields.first(b"last-modified")
    if modified is not None and not _same_time(modified, stored_fields.first(b"last-modified")):
        return False
    length = head_fields.get(b"content-length")
    if length is None:
        return True
    if stored_length is not None:
        return length.lstrip(b"0") == (b"%d" % stored_length).lstrip(b"0")
    return length == stored_fields.get(b"content-length")


# Representation metadata (RFC 9110 section 8) that 15.4.5 does not list. 15.4.5 lists Content-Location.
_NOT_IN_304: Final = frozenset({
    b"content-digest", b"content-encoding", b"content-language", b"content-length", b"content-md5",
    b"content-range", b"content-type", b"digest", b"repr-digest",
})  # fmt: skip


def not_modified_lines(lines: Lines) -> Lines:
    """The lines of a stored 200 that belong in a 304 generated from it (RFC 9110 section 15.4.5).

    The 304 "MUST generate" Content-Location, Date, ETag, Vary, Cache-Control and Expires; "a
    sender SHOULD NOT generate representation metadata other than the above listed fields unless
    said metadata exists for the purpose of guiding cache updates (e.g., Last-Modified might be
    useful if the response does not have an ETag field)". Other fields are kept, such as those for
    security policies and CORS.
    """
    has_etag = any(name == b"etag" for name, _ in lines)
    return [
        line
        for line in lines
        if line[0] not in _NOT_IN_304 and not (has_etag and line[0] == b"last-modified")
    ]
