"""The request fields by which proxies describe the public URL: scheme, host, port and prefix (G9).

Behind a proxy that terminates TLS, an application reads the scheme from ``X-Forwarded-Proto``, the host
from ``X-Forwarded-Host`` and so on, and builds redirects and links with them. Few responses list these
fields in ``Vary``. One request with a different value would then decide the response that is stored for
everybody: a redirect loop, or links to another host. So these fields select a response as if ``Vary``
listed them: different values lead to different variants of the same target. The number of variants is
bounded, and a purge of the URL reaches all of them.

The public URL may then differ from the target. A stored response is tagged with its public URLs
(`public_labels`), so that a purge of a public URL reaches it too.

``X-Forwarded-For`` describes the client, not the URL, and is not one of these fields. Of ``Forwarded``
(RFC 7239), all parameters except ``for`` and ``by`` count.

A request with none of these fields selects by ``Vary`` alone. One with any of the five usual fields
selects by all five; one with any rare field selects by all fields. So a target has few sets of names to
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
"""The default of the option ``forwarding_fields``."""

WHOLE: Final = b"forwarded;"
"""A name for the whole value of ``Forwarded``, used if ``Vary`` lists that field. The plain name selects
by the parameters that `told_by_forwarded` keeps."""


class Forwarding:
    """``names``: the lower-case names of the request fields that may describe the public URL."""

    __slots__ = ("every", "names", "usual")

    def __init__(self, names: Collection[bytes]) -> None:
        self.names = frozenset(names)
        # A name that is not a default was configured because every request has it, so it is usual.
        rare = self.names.intersection(_DEFAULTS) - _USUAL
        self.usual = tuple(sorted(self.names - rare))
        self.every = tuple(sorted(self.names))

    def told(self, fields: Iterable[bytes]) -> tuple[bytes, ...]:
        """The names that select in addition to ``Vary``, for a request with these ``fields``.

        Empty if no field describes the public URL.
        """
        present = self.names.intersection(fields)
        if not present:
            return ()
        return self.usual if present.issubset(self.usual) else self.every

    def selecting(self, vary: tuple[bytes, ...], fields: Iterable[bytes]) -> tuple[bytes, ...]:
        """All names that select a response with this ``Vary`` to a request with these ``fields``,
        sorted, without duplicates."""
        told = self.told(fields)
        if b"forwarded" in vary:
            told = (*told, WHOLE)
        return tuple(sorted({*vary, *told})) if told else vary

    def all_selecting(self, vary: tuple[bytes, ...]) -> set[tuple[bytes, ...]]:
        """Every possible result of `selecting` for a response with this ``vary``."""
        return {self.selecting(vary, names) for names in ((), self.usual, self.every)}

    def part_of(self, names: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The result of `told` that these ``names`` contain."""
        if self.names.issubset(names):
            return self.every
        return self.usual if set(self.usual).issubset(names) else ()

    def covers(self, names: tuple[bytes, ...], fields: Iterable[bytes]) -> bool:
        """True if a response selected by ``names`` can answer a request with these ``fields``: no other
        field of the request describes the public URL."""
        return self.names.intersection(fields).issubset(names)


_DEFAULTS: Final = frozenset(name.lower().encode("ascii") for name in FORWARDING_FIELDS)


@lru_cache(maxsize=64)
def forwarding_of(names: tuple[str, ...] | None) -> Forwarding:
    """The `Forwarding` for the option ``forwarding_fields``; None: the default."""
    return Forwarding(_DEFAULTS if names is None else [name.encode("ascii") for name in names])


# RFC 7239 section 4: one forwarded-pair, and its delimiter.
_PAIR: Final = re.compile(
    rb"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"(?:[^\"\\]|\\.)*\"))?[ \t]*([;,]|\Z)",
    re.DOTALL,
).match


def told_by_forwarded(value: bytes) -> bytes:
    """A ``Forwarded`` field without the addresses of the client and the proxies.

    The elements keep their positions, because applications read the first or the last one. A value
    that RFC 7239 does not allow is returned unchanged.
    """
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


# -- public URLs -----------------------------------------------------------------------------------

_HOSTS: Final = (b"x-forwarded-host", b"x-original-host", b"x-real-host", b"x-host")
_HOST_PAIR: Final = re.compile(rb"(?:\A|[;,\s])host=\"?([^\";,\s]+)", re.IGNORECASE).findall
_MOST: Final = 4  # labels of one request
_LONGEST: Final = 512  # bytes of a field; no host is longer


def public_labels(target: str, fields: Fields, names: Collection[bytes]) -> tuple[str, ...]:
    """The labels (see `uri`) of the public URLs that ``target``, an absolute URI, may have.

    They come from those of ``names`` that are among a request's ``fields``. A wrong label can only make
    a purge remove too much.
    """

    def value(name: bytes) -> bytes:
        told = b",".join(fields.all(name)) if name in names else b""
        return told if len(told) <= _LONGEST else b""

    hosts: list[bytes] = []
    for name in _HOSTS:
        told = [one.strip(b" \t") for one in value(name).split(b",")]
        hosts += (told[0], told[-1])  # of several values, apps read the first or the last
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
    """The tag of a response whose public URL has this ``label``, with either http or https.

    The tag has a NUL. A field value can't contain one, so no response can carry such a tag itself.
    """
    rest = label.partition("://")[2].encode("utf-8", "surrogatepass")
    return f"\x00public {blake2b(rest, digest_size=16).hexdigest()}"
