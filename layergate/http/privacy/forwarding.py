"""What proxies tell an application of the request's scheme, host, port and prefix (G9).

Behind a proxy that ends TLS, an application takes the scheme from ``X-Forwarded-Proto``, the host
from ``X-Forwarded-Host`` and so on, and redirects or builds links with them. Few responses say so in
``Vary``. One request with another value would then be answered, and stored, for everybody: a redirect
loop, or links to somebody else's host. So these fields select a response as if ``Vary`` named them:
what the application is told differently is another variant of the same target. Variants are bounded
in number, and a purge of the URL reaches all of them.

The URL that clients know may then be another than the target's. What is stored is tagged with it
(`public_labels`), so that a purge of that URL reaches it, too.

``X-Forwarded-For`` tells nothing of that, and is not one of them. Of ``Forwarded`` (RFC 7239) only the
parameters other than ``for`` and ``by`` count.

A request with none of these fields selects by ``Vary`` alone. One with some of the five usual ones
selects by all five, and one with any other by all there are: so a target has few sets of names to
select by, whatever clients send.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from layergate.http.message.fields import Fields
from layergate.http.message.uri import uri_label

__all__ = [
    "FORWARDING_FIELDS",
    "WHOLE",
    "Forwarding",
    "forwarding_of",
    "public_labels",
    "public_tag",
    "told_by_forwarded",
]

_USUAL: Final = frozenset({
    b"forwarded", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix",
    b"x-forwarded-proto",
})  # fmt: skip

FORWARDING_FIELDS: Final = (
    "Forwarded", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Proto",
    # The scheme.
    "CF-Visitor", "CloudFront-Forwarded-Proto", "Fastly-SSL", "Front-End-Https", "X-AppEngine-Https",
    "X-ARR-SSL", "X-Client-Scheme", "X-Forwarded-Protocol", "X-Forwarded-Scheme", "X-Forwarded-Ssl",
    "X-HTTPS", "X-Original-Proto", "X-Original-Scheme", "X-Proto", "X-Scheme", "X-SSL", "X-Url-Scheme",
    # The host and the port.
    "X-Backend-Host", "X-Envoy-Original-Host", "X-Forwarded-Server", "X-Gateway-Host", "X-Host",
    "X-Host-Override", "X-HTTP-Host-Override", "X-Original-Host", "X-Original-Port", "X-Port",
    "X-Real-Host", "X-Server-Name",
    # The path and what is in front of it.
    "X-Base-Path", "X-Envoy-Original-Path", "X-Forwarded-Context", "X-Forwarded-Path",
    "X-Forwarded-Uri", "X-Forwarded-URL", "X-HTTP-DestinationURL", "X-Ingress-Path", "X-Original-Uri",
    "X-Original-URL", "X-Override-URL", "X-Proxy-Prefix", "X-Replaced-Path", "X-Request-Uri",
    "X-Rewrite-Uri", "X-Rewrite-URL", "X-Script-Name",
    # The method.
    "X-Forwarded-Method", "X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override",
    "X-Original-Method",
)  # fmt: skip
"""The fields that the option ``forwarding_fields`` stands for by default."""

WHOLE: Final = b"forwarded;"
"""Among the names that select a response: all of ``Forwarded``, since ``Vary`` names it. By itself the
name stands for what `told_by_forwarded` leaves of it."""


class Forwarding:
    """``names``: of the request fields, lower-case, by which the application may be told where it is."""

    __slots__ = ("every", "names", "usual")

    def __init__(self, names: Collection[bytes]) -> None:
        self.names = frozenset(names)
        # Names that are nobody's default are of an application that is told by them all the time.
        rare = self.names.intersection(_DEFAULTS) - _USUAL
        self.usual = tuple(sorted(self.names - rare))
        self.every = tuple(sorted(self.names))

    def told(self, fields: Iterable[bytes]) -> tuple[bytes, ...]:
        """The names by which a request whose ``fields`` have these names selects, besides those that
        ``Vary`` names. Empty: the application is told nothing."""
        present = self.names.intersection(fields)
        if not present:
            return ()
        return self.usual if present.issubset(self.usual) else self.every

    def selecting(self, vary: tuple[bytes, ...], fields: Iterable[bytes]) -> tuple[bytes, ...]:
        """All names that select a response with this ``Vary`` to a request with these ``fields``;
        sorted, each once."""
        told = self.told(fields)
        if b"forwarded" in vary:
            told = (*told, WHOLE)
        return tuple(sorted({*vary, *told})) if told else vary

    def all_selecting(self, vary: tuple[bytes, ...]) -> set[tuple[bytes, ...]]:
        """All that `selecting` returns for responses with this ``vary``, whatever their requests
        have."""
        return {self.selecting(vary, names) for names in ((), self.usual, self.every)}

    def part_of(self, names: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Which of the three that `told` returns is in these ``names``."""
        if self.names.issubset(names):
            return self.every
        return self.usual if set(self.usual).issubset(names) else ()

    def covers(self, names: tuple[bytes, ...], fields: Iterable[bytes]) -> bool:
        """May what is selected by these ``names`` answer a request with these ``fields``? Not if the
        application is told something by a field that is not among them."""
        return self.names.intersection(fields).issubset(names)


_DEFAULTS: Final = frozenset(name.lower().encode("ascii") for name in FORWARDING_FIELDS)


@lru_cache(maxsize=64)
def forwarding_of(names: tuple[str, ...] | None) -> Forwarding:
    """The `Forwarding` for the option ``forwarding_fields``; None: the fields that are usual."""
    return Forwarding(_DEFAULTS if names is None else [name.encode("ascii") for name in names])


# RFC 7239 section 4: one forwarded-pair, and what ends it.
_PAIR: Final = re.compile(
    rb"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"(?:[^\"\\]|\\.)*\"))?[ \t]*([;,]|\Z)",
    re.DOTALL,
).match


def told_by_forwarded(value: bytes) -> bytes:
    """What of a ``Forwarded`` field is not about the addresses of the client and the proxies. The
    elements keep their places, since applications take the first or the last. A value that RFC 7239
    does not allow is kept as it is."""
    kept: list[bytes] = []
    at = 0
    while at < len(value):
        pair = _PAIR(value, at)
        if pair is None:
            return value
        name, told, end = pair.groups()
        if name is not None and name.lower() not in (b"for", b"by"):
            kept.append(name.lower() + b"=" + told)
        kept.append(end)
        at = pair.end()
    return b"".join(kept)


# -- the URL that clients know ---------------------------------------------------------------------

_HOSTS: Final = (b"x-forwarded-host", b"x-original-host", b"x-real-host", b"x-host")
_HOST_PAIR: Final = re.compile(rb"(?:\A|[;,\s])host=\"?([^\";,\s]+)", re.IGNORECASE).findall
_MOST: Final = 4  # labels of one request
_LONGEST: Final = 512  # bytes of a field; nobody has such a host


def public_labels(target: str, fields: Fields, names: Collection[bytes]) -> tuple[str, ...]:
    """The labels (see `uri`) under which clients may know what the app calls ``target``, an absolute
    URI, by those of ``names`` that are among a request's ``fields``. They may be wrong; that purges
    too much, if anything."""

    def value(name: bytes) -> bytes:
        told = b",".join(fields.all(name)) if name in names else b""
        return told if len(told) <= _LONGEST else b""

    hosts: list[bytes] = []
    for name in _HOSTS:
        told = [one.strip(b" \t") for one in value(name).split(b",")]
        hosts += (told[0], told[-1])  # of several proxies; apps take the first or the last
    hosts += _HOST_PAIR(value(b"forwarded"))
    scheme, _, rest = target.partition("://")
    own, slash, path = rest.partition("/")
    prefix = value(b"x-forwarded-prefix").decode("latin-1").strip().strip("/")
    paths = [slash + path, *([f"/{prefix}{slash}{path}"] if prefix else ())]
    port = value(b"x-forwarded-port").decode("latin-1").strip()
    authorities = [host.decode("latin-1") for host in dict.fromkeys(hosts) if host] or [own]
    found: dict[str, None] = {}
    for authority in authorities:
        named = [authority]
        if port.isdecimal() and ":" not in authority.rpartition("]")[2]:
            named.append(f"{authority}:{port}")
        for one in named:
            for way in paths:
                found[uri_label(f"{scheme}://{one}{way}")] = None
    found.pop(uri_label(target), None)
    return tuple(found)[:_MOST]


def public_tag(label: str) -> str:
    """What a response is tagged with that clients know under ``label``, by http or https. No response
    can be tagged so itself: a field's value has no NUL."""
    rest = label.partition("://")[2].encode("utf-8", "surrogatepass")
    return f"\x00public {blake2b(rest, digest_size=16).hexdigest()}"
