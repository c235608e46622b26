"""The conditions for storing a response, and the fields to store (RFC 9111 sections 3, 3.1 and 3.5).

`plan` calls `may_store` and `storable_fields`; nothing here knows rules or options. Where LayerGate departs
from RFC 9111, it departs towards privacy. A wrong refusal costs a call to the origin; a wrong permission
shows one user's page to another.

*Responses with Set-Cookie are not stored.* The RFC lets a shared cache store and repeat the field (7.3 only
advises origins to prevent that with ``Cache-Control``). But web frameworks add it in a middleware, far from
the view that sets ``public, max-age=60``, and the cookie identifies a session. `allow_set_cookie` is for apps
whose response is otherwise the same for everybody. A response can say the same with
``no-cache="set-cookie"`` or ``private="set-cookie"``. The field is then left out of the stored response,
unless the rule says that the cookie is the same for everybody, too (``"keep"``). Set-Cookie2 (RFC 2965) is
obsolete and no client acts on it. Alone it is stored like any other field; beside Set-Cookie it is treated
the same way.

*A response without any caching directive is not stored.* By section 3, a plain 200 may be stored because of
its status code alone, and revalidated on every use. But the author of a response that does not mention
caching most likely did not consider it. So the status code counts only if the response has a directive about
storing or freshness (such as a lone ``no-cache``), or if the caller has a lifetime for it from a rule or an
enabled heuristic.

*Qualified private removes fields.* ``private="x-user"`` allows "a shared cache to store a modified response"
(section 3), so the response is stored without those fields. If the argument is unreadable, or names a field
that the response can't do without, the directive counts as plain ``private``; see `cache_control`.

*Authorization applies in both directions.* By section 3.5, the response to a request with Authorization is
not stored unless ``public``, ``must-revalidate`` or ``s-maxage`` allows it. The RFC would let a response that
was stored for an anonymous request answer a later request with Authorization. LayerGate requires
`authorization_allows` for that, too. An app that shows more to signed-in users says so with ``Vary``, or does
not say it at all, and the cache has to be safe in the latter case. Callers check this when they select a
stored response.

*A known user counts like Authorization, but more strictly.* Section 3.5 covers Authorization alone. But users
are also known by an API key, by a client certificate, or by what a proxy or an outer middleware has found out,
and the origin's response does not reflect that. A response to a known user is shared only with ``public`` or
``s-maxage``, whatever its ``Vary``: varying on a cookie does not mean that this cookie identifies the user.
``must-revalidate`` is not enough, because apps use it to control stale responses, never to say who may share
them. The other direction is the same: a response that was stored for unidentified clients does not answer a
known user.

*Some status codes concern a single request.* A 412 answers its preconditions, a 416 its range, a 417 its
expectation, a 408 its connection. None of these is part of a cache key, so none of these responses is stored,
whatever lifetime a blanket ``Cache-Control`` gives it. 428, 429, 431 and 511 "MUST NOT be stored by a cache"
(RFC 6585 sections 3 to 6), because they concern one client.

All other request fields on which a response depends belong in its ``Vary``.
"""

from __future__ import annotations

import enum
from typing import Final, Self

from layergate.config import ONE_REQUEST_STATUSES
from layergate.http.message.cache_control import CacheControl
from layergate.http.message.fields import Fields, Lines, split_list
from layergate.http.rfc9111.freshness import HEURISTICALLY_CACHEABLE, UNDERSTOOD_STATUSES
from layergate.http.rfc9111.selecting import vary_names

__all__ = [
    "NEVER_STORED_FIELDS",
    "STORABLE_METHODS",
    "Bypass",
    "NotStored",
    "authorization_allows",
    "may_store",
    "refusal_by_directives",
    "says_for_all",
    "storable_fields",
    "unstorable_names",
]


class NotStored(enum.Enum):
    """The reasons why a response is not stored.

    The decision, the log and Cache-Status share one value. `may_store` returns the reasons that a request
    and the head of its response decide; the modules that find the others return them. The response to a
    request that bypasses the cache has the reason of its `Bypass`.
    """

    token: str
    """An sf-token, for the ``detail`` of Cache-Status (RFC 9211 section 2.8)."""
    rfc: str
    """Where the reason is from: a section of RFC 9111 if there is no name, or a guarantee."""
    explain: str
    """One English sentence."""

    METHOD = "method", "3", "Responses are stored for GET only."
    STATUS = "status", "3", "A response with this status code is not final, or for one client only."
    NO_STORE = "no-store", "5.2.2.5", "The response says no-store."
    REQUEST_NO_STORE = "request-no-store", "5.2.1.5", "The request says no-store."
    PRIVATE = "private", "5.2.2.7", "The response says private, and this cache is shared."
    AUTHORIZATION = (
        "authorization",
        "3.5",
        "The request has Authorization, and no public, must-revalidate or s-maxage allows sharing.",
    )
    SET_COOKIE = "set-cookie", "G1", "The response sets a cookie, which is private to one client."
    VARY_STAR = "vary-star", "4.1", "The response varies on * or on something unreadable."
    NO_FRESHNESS = (
        "no-freshness",
        "3",
        "Nothing in the response or the rules says it may be stored.",
    )
    PARTIAL = (
        "partial",
        "3.3",
        "The response is a part, but none that can be checked: one range of bytes, asked for as one.",
    )
    NOT_MODIFIED = "not-modified", "3", "A 304 updates a stored response, it is none itself."
    VALIDATOR = (
        "validator",
        "4.3.4",
        "The 304 confirms with a strong entity tag what has a weak one, so it updates nothing stored.",
    )
    MUST_UNDERSTAND = (
        "must-understand",
        "5.2.2.3",
        "The response says must-understand, and its status code is not one this cache implements.",
    )
    TOO_LARGE = "too-large", "G7", "The body is larger than the configured cap."
    INCOMPLETE = "incomplete", "G6", "The body broke off before its end."
    LENGTH_MISMATCH = "length-mismatch", "G6", "The body is not as long as its Content-Length says."
    SUPERSEDED = (
        "superseded",
        "G2",
        "The lease ran out during the fetch, and another instance took it over.",
    )
    MALFORMED = (
        "malformed",
        "RFC 9110 5.5",
        "A field of the response has a line break, a NUL or a name that HTTP does not allow.",
    )
    TRAILERS = "trailers", "3.1", "The response has trailer fields, which are not stored."
    REQUEST_BODY = "request-body", "G9", "The request has a body, which is no part of a cache key."
    RANGE = (
        "range",
        "3.3",
        "The request asks for a range in a unit or a form that this cache does not know.",
    )
    PRECONDITION = (
        "precondition",
        "4.3.2",
        "The request has If-Match or If-Unmodified-Since, which only an origin can evaluate.",
    )
    RULE = "rule", "G1", "A rule keeps this request out of the cache."
    USER = "user", "G1", "The app knows its user, and no public or s-maxage allows sharing."
    COOKIE = (
        "cookie",
        "G1",
        "A rule's lifetime, or a guessed one, is not for a request with a cookie or credentials.",
    )
    PATH = (
        "path",
        "G1",
        "The path can be read in more than one way, and a rule's lifetime is not for such a target.",
    )
    TOKEN = (
        "token",
        "G1",
        "A rule's lifetime, or a guessed one, is not for a response with a CSRF token or a nonce.",
    )
    SECURITY = (
        "security",
        "G1",
        "The route asks who is calling, and no public or s-maxage allows sharing.",
    )
    KEY_TOO_LONG = "key-too-long", "G7", "The cache key is longer than the configured cap."
    HOST = "host", "G9", "The request's host is missing, malformed or not one of those allowed."
    TAGS = (
        "tags",
        "G7",
        "The response has more tags or cache groups, or longer ones, than the caps allow.",
    )
    VARIANTS = (
        "variants",
        "G7",
        "As many variants of its target are stored as max_variants allows, and all of them are read.",
    )
    TAG_TEMPLATE = (
        "tag-template",
        "G3",
        "A tag of the rule names a parameter that this route lacks, or grows too long to be purged.",
    )
    PURGED = "purged", "G3", "The response was purged while it was being fetched."
    EXPIRED = "expired", "4.2", "Stale on arrival, with neither a validator nor a stale window."
    NO_ROOM = "no-room", "G7", "No layer takes a response of this size now."
    BUDGET = "budget", "G5", "Too many bytes of other bodies were being received to be stored."
    STREAM = "stream", "G8", "The response is a stream of events, and only a rule would store it."
    UPGRADE = "upgrade", "G8", "The request asks for another protocol."

    def __new__(cls, token: str, rfc: str, explain: str) -> Self:
        self = object.__new__(cls)
        self._value_ = token
        self.token = token
        self.rfc = rfc
        self.explain = explain
        return self


_BY_TOKEN: Final = {reason.token: reason for reason in NotStored}


class Bypass(enum.Enum):
    """The reasons why the cache has no part in a request: it is forwarded untouched.

    ``not_stored``: the reason why its response is not stored either. ``token``, ``rfc`` and ``explain`` are
    the same for both.
    """

    METHOD = "method"
    REQUEST_BODY = "request-body"
    UPGRADE = "upgrade"
    PRECONDITION = "precondition"
    KEY_TOO_LONG = "key-too-long"
    HOST = "host"
    RULE = "rule"
    RANGE = "range"

    def __init__(self, token: str) -> None:
        self.not_stored = _BY_TOKEN[token]
        self.token = token
        self.rfc = self.not_stored.rfc
        self.explain = self.not_stored.explain


STORABLE_METHODS: Final = frozenset({"GET"})
"""Section 3: "the request method is understood by the cache".

A stored response to GET answers HEAD, and a response to HEAD may freshen it (4.3.5), but is not stored
itself.
"""


def may_store(
    *,
    method: str,
    request_fields: Fields,
    request_cc: CacheControl,
    status: int,
    fields: Fields,
    cc: CacheControl,
    explicit_lifetime: bool,
    allow_set_cookie: bool = False,
    allow_authorization: bool = False,
) -> NotStored | None:
    """None if the response may be stored, or the first reason why not (RFC 9111 section 3).

    ``request_fields`` and ``request_cc`` are the request's, ``status``, ``fields`` and ``cc`` the
    response's. ``explicit_lifetime``: the caller has a lifetime from a rule or a heuristic, which
    counts as "a cache extension that allows it to be cached". ``allow_set_cookie``: store the response
    although it sets cookies. ``allow_authorization``: the lifetime comes from a rule by which the
    response is the same for all authorized clients.

    Responses with ``no-cache`` or ``max-age=0`` may be stored, too; they are then revalidated.
    """
    if method not in STORABLE_METHODS:
        return NotStored.METHOD
    # "the response status code is final": 1xx is not final, and other numbers are not status codes.
    if not 200 <= status <= 599 or status in ONE_REQUEST_STATUSES:
        return NotStored.STATUS
    # "if the response status code is 206 or 304 ...: the cache understands the response status
    # code". A 206 that `combining` can read arrives here as the 200 of which it is a part. In a 200,
    # Content-Range has no meaning (RFC 9110 14.4: "For this specification, only the 206 (Partial Content)
    # and 416 ... status codes describe a meaning"). But an origin that adds it to the response to a range
    # may have used the wrong status code.
    if status == 304:
        return NotStored.NOT_MODIFIED
    if status == 206 or (b"content-range" in fields and b"range" in request_fields):
        return NotStored.PARTIAL
    refused = refusal_by_directives(request_cc, cc, status)
    if refused is not None:
        return refused
    # "if the cache is shared: the Authorization header field is not present in the request ... or a
    # response directive is present that explicitly allows shared caching"
    if (
        b"authorization" in request_fields
        and not allow_authorization
        and not authorization_allows(cc)
    ):
        return NotStored.AUTHORIZATION
    if (
        not allow_set_cookie
        and b"set-cookie" in fields
        and b"set-cookie" not in cc.private_fields
        and b"set-cookie" not in cc.no_cache_fields
    ):
        return NotStored.SET_COOKIE
    if b"vary" in fields and vary_names(fields) is None:
        return NotStored.VARY_STAR
    # "the response contains at least one of the following: a public response directive; ... an
    # Expires header field; a max-age response directive; ... an s-maxage response directive; a
    # cache extension that allows it to be cached; or a status code that is defined as heuristically
    # cacheable". An unusable max-age counts as present; it only makes the response stale.
    if (
        cc.public
        or cc.max_age is not None
        or cc.s_maxage is not None
        or cc.invalid_freshness
        or explicit_lifetime
        or b"expires" in fields
        or (status in HEURISTICALLY_CACHEABLE and cc.has_explicit)
    ):
        return None
    return NotStored.NO_FRESHNESS


def refusal_by_directives(
    request_cc: CacheControl, cc: CacheControl, status: int
) -> NotStored | None:
    """Why a response with the directives ``cc`` is not stored, by these and by those of its request."""
    # Section 5.2.2.3: "the cache SHOULD ignore the no-store directive if it understands and
    # implements the status code's caching requirements". The request's no-store still applies.
    if cc.must_understand:
        if status not in UNDERSTOOD_STATUSES:
            return NotStored.MUST_UNDERSTAND
    elif cc.no_store:
        return NotStored.NO_STORE
    if request_cc.no_store:
        return NotStored.REQUEST_NO_STORE
    # "the private response directive is either not present or allows a shared cache to store a
    # modified response": `storable_fields` leaves out the fields that `private_fields` lists.
    return NotStored.PRIVATE if cc.private else None


def authorization_allows(cc: CacheControl) -> bool:
    """True if a response may be shared although its request has Authorization.

    Section 3.5: "the following response directives have such an effect: must-revalidate (Section
    5.2.2.2), public (Section 5.2.2.9), and s-maxage (Section 5.2.2.10)."
    """
    return cc.public or cc.must_revalidate or cc.s_maxage is not None


def says_for_all(cc: CacheControl) -> bool:
    """True if a response may be shared although its user is known by other means than Authorization.

    This is stricter than 3.5: ``must-revalidate`` is not enough. See the beginning of this module.
    """
    return cc.public or cc.s_maxage is not None


NEVER_STORED_FIELDS: Final = frozenset({
    # Section 3.1: "The Connection header field and fields whose names are listed in it", and those
    # of RFC 9110 7.6.1 that are to be removed "whether or not they appear as a connection-option".
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade",
    # "Header fields that are specific to the proxy that a cache uses ... MUST NOT be stored".
    b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization",
    # Section 4: to be generated for each use, "replacing any present in the response".
    b"age",
})  # fmt: skip
"""Lower-case names of the fields that are never stored."""


def unstorable_names(fields: Fields, cc: CacheControl) -> frozenset[bytes]:
    """The names of the fields of a response that 3.1 excludes from storage.

    These are `NEVER_STORED_FIELDS`, the fields that Connection lists, and the fields that a qualified
    ``no-cache`` or ``private`` names.
    """
    names = NEVER_STORED_FIELDS
    connection = fields.get(b"connection")
    if connection is not None:
        names = names.union(split_list(connection.lower()))
    if cc.no_cache_fields or cc.private_fields:
        names = names | cc.no_cache_fields | cc.private_fields
    return names


def storable_fields(
    fields: Fields, cc: CacheControl, *, drop: frozenset[bytes] = frozenset()
) -> Lines:
    """The lines of a response to be stored, in order, duplicates kept (RFC 9111 section 3.1).

    "Caches MUST include all received response header fields — including unrecognized ones — when
    storing a response", except those of `unstorable_names` and the caller's ``drop`` (lower-case
    names).
    """
    names = unstorable_names(fields, cc)
    if drop:
        names |= drop
    return [line for line in fields.lines if line[0] not in names]
