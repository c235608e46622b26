"""A request as the cache sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Self

from layergate.errors import ExplainRefused
from layergate.http.message.cache_control import EMPTY, CacheControl, parse_cache_control
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.ranges import RangeSpec, parse_range
from layergate.http.message.uri import canonical_uri
from layergate.http.privacy.identity import Says, names_who
from layergate.http.rfc9111.validation import CONDITIONAL_FIELDS

__all__ = ["OUTCOMES", "Asked", "Request", "checked_lines"]

# How a request may end. Only ``bypass`` was none of the cache's business; ``collapsed`` is answered
# from another request's fetch, ``revalidated`` from what is stored, after the app confirmed it.
OUTCOMES: Final = ("hit", "stale", "revalidated", "miss", "bypass", "collapsed")

_OF_ONE_ANSWER: Final = CONDITIONAL_FIELDS | {b"cache-control", b"pragma", b"range"}


class Request:
    """What both adapters hand to the engine.

    ``host``: the Host field as it came. ``path``: the decoded path that rules match.
    ``exact``: see `key.primary_key`; ``target_length``: its length, for the cap on it.
    ``key``: the same, or that of all targets which No-Vary-Search makes equivalent to this one, if
    that is where to look. ``exactly``: not to look there again, since what came was not for all.
    ``has_body``: content was announced or seen.
    ``cookie``: it has a Cookie or another field that says who asks (see `identity`), or is personal.
    ``personal``: its user is known: by a credential in a field other than Authorization, or by what
    the app or its server found out (a session, a login, a client certificate).
    ``secured``: the route that answers it declares that it asks who is calling, as far as is known.
    ``outcome``: what became of it, as far as it is known: one of `OUTCOMES`; ``layer``: the name of
    the layer that answers it, or ""; ``reason``: why it was forwarded, or its response not stored.
    ``directives``: the request's Cache-Control; ``Pragma: no-cache`` counts as ``no-cache`` when
    there is none (RFC 9111 5.4, for HTTP/1.0 clients).
    ``ranges``: the byte ranges that a GET asks for; None: none, or none that we understand. For any
    other method there are none: "GET is the only method" with range handling (RFC 9110 14.2).
    ``arrived``: when the cache first looked at it, seconds of `Runtime.monotonic`; 0 before.
    ``waited``: for another request's fetch, here or on another instance.
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
        who = names_who(fields.names())
        self.cookie = who is not Says.NOTHING
        self.personal = who is Says.IDENTITY
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
        """Note that the app knows its user by something outside of the request's fields."""
        self.personal |= personal
        self.cookie |= personal

    @property
    def foreign_range(self) -> bool:
        """Does a GET ask for a range in a unit or a form that we do not understand? The app may."""
        return self.ranges is None and self.method == "GET" and b"range" in self.fields

    def for_refresh(self, *, part: bool = False) -> Request:
        """This request as the cache makes it on its own (RFC 9111 4.3.1): a GET, without what the
        client asked of this one answer (preconditions, directives, and a range unless ``part``)."""
        dropped = _OF_ONE_ANSWER - {b"range"} if part else _OF_ONE_ANSWER
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


_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_NO_VALUE: Final = re.compile(r"[\r\n\0]").search
_NOT_SENT: Final = re.compile(r"[^\x21-\x7e]")


class Asked(NamedTuple):
    """A request that somebody asks about, as it would come over the wire. ``authority``, ``path``,
    ``query``: as they are written in the URL, but for the host's case and a default port.
    ``lines`` have a Host, which may be another one."""

    method: str
    scheme: str
    authority: str
    path: bytes
    query: bytes
    lines: Lines

    @classmethod
    def of(cls, method: Any, url: Any, headers: Any) -> Self:
        """``headers``: as for `checked_lines`. Raises ExplainRefused for what could not be sent."""
        if not isinstance(method, str) or not _TOKEN(method):
            raise ExplainRefused(f"method must be a method such as 'GET', got {method!r}")
        if not isinstance(url, str):
            raise ExplainRefused(f"url must be an absolute http(s) URL, got {url!r}")
        try:
            # What cannot be in a URL goes over the wire in UTF-8, percent-encoded.
            sent = _NOT_SENT.sub(
                lambda char: "".join(f"%{byte:02X}" for byte in char[0].encode()), url
            )
        except UnicodeEncodeError:
            sent = ""
        canonical = canonical_uri(sent)
        if canonical is None:
            got = "one with '@'" if "@" in url else repr(url)  # a password is not to be repeated
            raise ExplainRefused(
                f"url must be an absolute http(s) URL without a password, got {got}; write"
                " 'https://host/path'"
            )
        scheme, _, rest = canonical.partition("://")
        # The host as clients write it in Host; the rest byte for byte, since keys are.
        host = re.split("[/?]", rest, maxsplit=1)[0]
        target = re.split("[/?#]", sent.partition("://")[2], maxsplit=1)
        target_path = sent.partition("://")[2][len(target[0]) :].partition("#")[0]
        path, _, query = target_path.partition("?")
        lines = checked_lines(headers, "headers")
        if all(name != b"host" for name, _ in lines):
            lines.insert(0, (b"host", host.encode()))
        return cls(method, scheme, host, path.encode() or b"/", query.encode(), lines)


def checked_lines(headers: Any, what: str) -> Lines:
    """Header lines, their names in lower case, of a mapping or a list of (name, value), all text.
    None: none. Raises ExplainRefused for what could not be sent; it names ``what``."""
    lines: Lines = []
    pairs: Iterable[Any] = headers.items() if isinstance(headers, dict) else headers or []
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise ExplainRefused(
            f"{what} must be an object or a list of [name, value], got {headers!r}"
        )
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ExplainRefused(f"{what} must hold [name, value] pairs, got {pair!r}")
        name, value = pair
        if not isinstance(name, str) or not _TOKEN(name):
            raise ExplainRefused(f"{what} must have names that HTTP allows, got {name!r}")
        if not isinstance(value, str) or _NO_VALUE(value):
            # (the value itself may be somebody's secret)
            raise ExplainRefused(
                f"{what} must have text without line breaks as values, see {name!r}"
            )
        try:
            lines.append((name.lower().encode(), value.strip(" \t").encode("latin-1")))
        except UnicodeEncodeError:
            raise ExplainRefused(
                f"{what} must have values in latin-1, one character for each byte, see {name!r}"
            ) from None
    return lines
