"""A request as the engine handles it, whichever adapter it came through."""

from __future__ import annotations

from typing import Final

from layergate.http.message.cache_control import EMPTY, CacheControl, parse_cache_control
from layergate.http.message.credentials import Credential, strongest_credential
from layergate.http.message.fields import Fields
from layergate.http.message.ranges import RangeSpec, parse_range

__all__ = ["CONDITIONAL_FIELDS", "PER_RESPONSE_FIELDS", "Request"]

CONDITIONAL_FIELDS: Final = frozenset(
    {b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range"}
)
"""The preconditions of RFC 9110 section 13.1. A request that renews a stored response carries
LayerGate's own preconditions and none of the client's."""

PER_RESPONSE_FIELDS: Final = CONDITIONAL_FIELDS | {b"cache-control", b"pragma", b"range"}
"""The fields by which a client asks something of a single response. A fetch that the cache makes for
itself does not repeat them."""


class Request:
    """A request, with the facts that decide how the cache treats it.

    ``host``: the Host field as received. ``path``: the decoded path, which rules match.
    ``exact``: the primary key of the target, see `key.primary_key`; ``target_length``: the length of
    that key, to which ``max_key_length`` applies.
    ``key``: the key to look under: ``exact``, or the key of all targets that No-Vary-Search makes
    equivalent to this one. ``exactly``: True once the shared key has turned out not to apply; the
    request then looks under ``exact`` only.
    ``has_body``: content was announced or seen.
    ``cookie``: the request has a Cookie or another field that identifies its client (see
    `credentials`), or is personal.
    ``personal``: the user is known: from a credential in a field other than Authorization, or from
    the app or its server (a session, a login, a client certificate).
    ``secured``: the route that answers the request is known to declare authentication.
    ``outcome``: ``hit``, ``stale``, ``revalidated`` (answered from the store after the app confirmed the
    stored response), ``miss``, ``bypass`` (the request did not concern the cache) or ``collapsed``
    (answered from another request's fetch), as far as it is known. ``layer``: the name of the layer that
    answers the request, or "". ``reason``: why it was forwarded, or its response was not stored.
    ``directives``: the request's Cache-Control. Without one, ``Pragma: no-cache`` counts as
    ``no-cache`` (RFC 9111 5.4, for HTTP/1.0 clients).
    ``ranges``: the byte ranges that a GET asks for; None without a Range, or with one that LayerGate
    can't read. Other methods have no ranges: "GET is the only method" with range handling
    (RFC 9110 14.2).
    ``arrived``: when the cache first saw the request, seconds of `Runtime.monotonic`; 0 before that.
    ``waited``: the request waited for another request's fetch, on this instance or another.
    """

    __slots__ = (
        "arrived", "authorization", "cookie", "directives", "exact", "exactly", "fields", "has_body",
        "host", "key", "layer", "method", "outcome", "path", "personal", "ranges", "reason", "scheme",
        "secured", "target_length", "waited",
    )  # fmt: skip

    def __init__(
        self,
        *,
        method: str,
        scheme: str,
        host: bytes,
        path: str,
        key: bytes,
        fields: Fields,
        has_body: bool,
        obey_directives: bool,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.host = host
        self.path = path
        self.key = self.exact = key
        self.exactly = False
        self.fields = fields
        self.has_body = has_body
        self.target_length = len(key)
        self.authorization = b"authorization" in fields
        credential = strongest_credential(fields.names())
        self.cookie = credential is not Credential.NONE
        self.personal = credential is Credential.IDENTITY
        directives: CacheControl = EMPTY
        if obey_directives:
            control = fields.get(b"cache-control")
            if control is not None:
                directives = parse_cache_control(control)
            elif b"no-cache" in (fields.get(b"pragma") or b"").lower():
                directives = parse_cache_control(b"no-cache")
        self.directives = directives
        self.ranges: tuple[RangeSpec, ...] | None = None
        if method == "GET" and b"range" in fields:
            self.ranges = parse_range(fields.get(b"range"))
        self.secured = False
        self.arrived = 0.0
        self.waited = False
        self.outcome = "miss"
        self.layer = self.reason = ""

    def mark_personal(self, personal: bool) -> None:
        """Record whether the app knows the user by something other than the request's fields."""
        self.personal |= personal
        self.cookie |= personal

    @property
    def foreign_range(self) -> bool:
        """True for a GET whose Range has a unit or a form that only the app may understand."""
        return self.ranges is None and self.method == "GET" and b"range" in self.fields

    def for_refresh(self, *, part: bool = False) -> Request:
        """This request as the cache repeats it for itself (RFC 9111 4.3.1): a GET without
        `PER_RESPONSE_FIELDS`. ``part``: keep the Range."""
        dropped = PER_RESPONSE_FIELDS - {b"range"} if part else PER_RESPONSE_FIELDS
        lines = [line for line in self.fields.lines if line[0] not in dropped]
        copy = Request.__new__(Request)
        copy.method = "GET"
        copy.scheme = self.scheme
        copy.host = self.host
        copy.path = self.path
        copy.key, copy.exact, copy.exactly = self.key, self.exact, self.exactly
        copy.fields = Fields(lines)
        copy.has_body = False
        copy.target_length = self.target_length
        copy.authorization = self.authorization
        copy.cookie = self.cookie
        copy.directives = EMPTY
        copy.ranges = self.ranges if part else None
        copy.personal, copy.secured = self.personal, self.secured
        copy.arrived = self.arrived
        copy.waited = False
        copy.outcome = "miss"
        copy.layer = copy.reason = ""
        return copy
