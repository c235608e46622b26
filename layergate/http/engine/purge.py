"""Purging: from what a purge names, or an unsafe request changes, to invalidations in the log.

`Cache.purge` calls `purge`, and the driver `after_unsafe`, with the head of a response to an unsafe
method before its client sees that. `store` and `update` call `invalidate_key` where they drop what
other instances may hold too. Nothing here looks for stored responses to delete: an entry that an
invalidation matches is invalid wherever it is held (G3).
"""

# Purges name what users wrote. A check that the declared types make redundant is the check that
# turns a mistake into a readable error.
# mypy: disable-error-code="redundant-expr"

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from layergate.config import MAX_TAG_LENGTH
from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation, PurgeReceipt, glob
from layergate.errors import KeyRefused, PurgeRefused
from layergate.http.engine.engine import Engine
from layergate.http.engine.settings import Settings
from layergate.http.extensions.groups import group_invalidations
from layergate.http.extensions.no_vary_search import reaching
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import label_of
from layergate.http.message.stored import StoredResponse
from layergate.http.message.uri import canonical_uri, label_pattern, label_prefix, twin, uri_label
from layergate.http.privacy.forwarding import public_tag
from layergate.http.rfc9111.invalidation import invalidated_uris, invalidates

__all__ = [
    "after_unsafe",
    "invalidate_key",
    "named_invalidations",
    "purge",
    "purge_invalidations",
    "unsafe_invalidations",
]


async def purge(engine: Engine, named: Iterable[Sequence[Invalidation]]) -> PurgeReceipt:
    """Append what `named_invalidations` made of a purge, and count the stored responses it matches."""
    return await engine.stack.purge(
        [
            (*_reaching(engine.settings, invalidations), *_public_invalidations(invalidations))
            for invalidations in named
        ],
        counts=_is_response,
    )


async def after_unsafe(engine: Engine, uri: str, method: str, status: int, lines: Lines) -> None:
    """Invalidate what an unsafe request has changed (4.4). Arguments as for `unsafe_invalidations`."""
    invalidations = unsafe_invalidations(engine.settings, uri, method, status, lines)
    if invalidations:
        # The client of an unsafe request does not wait for an instance that stands still.
        await engine.stack.invalidate(invalidations, wait=engine.settings.layer_timeout)


def unsafe_invalidations(
    settings: Settings, uri: str, method: str, status: int, lines: Lines
) -> tuple[Invalidation, ...]:
    """The invalidations of a response with this head to ``method`` on the target ``uri`` (RFC 9111 4.4,
    RFC 9875 section 3). Empty: it changes nothing."""
    fields = Fields(lines)
    groups = group_invalidations(uri, method, status, fields)
    if not invalidates(method, status):
        return groups
    # Nothing is stored under a longer URI.
    uris = [one for one in invalidated_uris(uri, fields) if len(one) <= settings.max_key_length]
    return _reaching(settings, (*_of_uris(uris, soft=False, either=True), *groups))


async def invalidate_key(engine: Engine, key: bytes, *, soft: bool = False) -> None:
    """Invalidate what other instances hold of the target of ``key``. Does nothing without a shared
    log, when there are no others."""
    if engine.stack.shared_log is not None:
        invalidations = (Invalidation("key", label_of(key), soft),)
        await engine.stack.invalidate(_reaching(engine.settings, invalidations), wait=0.0)


def _reaching(
    settings: Settings, invalidations: Sequence[Invalidation]
) -> tuple[Invalidation, ...]:
    """The invalidations, with those that reach what No-Vary-Search makes equivalent."""
    return reaching(invalidations) if settings.no_vary_search else tuple(invalidations)


def purge_invalidations(**what: Any) -> tuple[Invalidation, ...]:
    """The invalidations of a purge in one tuple. Arguments as for `named_invalidations`.

    Raises PurgeRefused.
    """
    return tuple(
        invalidation
        for invalidations in named_invalidations(**what)
        for invalidation in invalidations
    )


def named_invalidations(
    *,
    tags: Iterable[str] = (),
    urls: Iterable[str] = (),
    prefixes: Iterable[str] = (),
    hosts: Iterable[str] = (),
    patterns: Iterable[str] = (),
    everything: bool = False,
    soft: bool = False,
    schemes: str = "either",
) -> list[list[Invalidation]]:
    """The invalidations of each thing that a purge names. See `Cache.purge` for the arguments.

    Raises PurgeRefused.
    """
    if schemes not in ("either", "exact"):
        raise PurgeRefused(f"schemes must be 'either' or 'exact', got {schemes!r}")
    either = schemes == "either"
    named = [[Invalidation("tag", _checked_tag(tag), soft)] for tag in _texts(tags, "tags")]
    named += [_of_url(url, soft=soft, either=either) for url in _texts(urls, "urls")]
    named += [_of_prefix(prefix, soft=soft) for prefix in _texts(prefixes, "prefixes")]
    named += [_of_host(host, soft=soft) for host in _texts(hosts, "hosts")]
    named += [[_of_pattern(pattern, soft=soft)] for pattern in _texts(patterns, "patterns")]
    if not isinstance(everything, bool) or not isinstance(soft, bool):
        raise PurgeRefused("everything and soft must be True or False")
    if everything:
        named.append([Invalidation("all", "", soft)])
    if not named:
        raise PurgeRefused(
            "a purge must name something: tags, urls, prefixes, hosts, patterns or everything"
        )
    return named


def _checked_tag(tag: str) -> str:
    if len(tag) > MAX_TAG_LENGTH:
        raise PurgeRefused(f"tags must be at most {MAX_TAG_LENGTH} characters, got {len(tag)}")
    if "\0" in tag:  # only tags that LayerGate makes itself have one
        raise PurgeRefused(f"tags must not hold a NUL, got {tag!r}")
    return tag


def _of_url(url: str, *, soft: bool, either: bool) -> list[Invalidation]:
    escaped = _escaped(url, "urls")
    if canonical_uri(escaped) is None:
        raise PurgeRefused(f"urls must be absolute http(s) URLs, got {url!r}")
    return _of_uris((escaped,), soft=soft, either=either)


def _of_uris(uris: Iterable[str], *, soft: bool, either: bool) -> list[Invalidation]:
    """The invalidations of absolute URIs. ``either``: under http and under https."""
    labels: dict[str, None] = {}
    for uri in uris:
        own = uri_label(uri)
        labels[own] = None
        other = twin(own) if either else None
        if other is not None:
            labels[other] = None
    return [Invalidation("key", label, soft) for label in labels]


def _of_prefix(prefix: str, *, soft: bool) -> list[Invalidation]:
    before, colon, rest = _escaped(prefix, "prefixes").rpartition("://")
    invalidations = []
    for scheme in (before,) if colon else ("http", "https"):
        text = label_prefix(scheme, rest)
        if text is None:
            raise PurgeRefused(f"prefixes must look like 'host/path', got {prefix!r}")
        invalidations.append(Invalidation("prefix", text, soft))
    return invalidations


def _of_host(host: str, *, soft: bool) -> list[Invalidation]:
    if "/" in host:
        raise PurgeRefused(f"hosts must be host names, got {host!r}; use prefixes for paths")
    invalidations = []
    for scheme in ("http", "https"):
        text = label_prefix(scheme, _escaped(host, "hosts"))
        if text is None:
            raise PurgeRefused(f"hosts must be host names, got {host!r}")
        invalidations.append(Invalidation("prefix", text, soft))
        if ":" not in host.rpartition("]")[2]:  # and on every other port
            invalidations.append(Invalidation("prefix", text[:-1] + ":", soft))
    return invalidations


def _of_pattern(pattern: str, *, soft: bool) -> Invalidation:
    escaped = _escaped(pattern, "patterns")
    if "://" not in escaped and not escaped.startswith(("/", "*")):
        raise PurgeRefused(
            f"patterns must be URLs, or begin with '/' or '*', got {pattern!r}; use prefixes for"
            " 'host/path'"
        )
    text = label_pattern(escaped)
    if text is None:
        raise PurgeRefused(
            f"patterns must not have '..' behind a '*', got {pattern!r}; write what it leads to"
        )
    try:
        glob(text)
    except KeyRefused as error:
        raise PurgeRefused(f"patterns: {error}") from None
    return Invalidation("path" if text.startswith("/") else "glob", text, soft)


def _texts(values: Iterable[str], name: str) -> list[str]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise PurgeRefused(f"{name} must be a list of strings, got {values!r}")
    texts = list(values)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise PurgeRefused(f"{name} must hold non-empty strings, got {text!r}")
    return texts


def _escaped(text: str, name: str) -> str:
    """Characters that a URI cannot hold, as the bytes that clients send for them."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PurgeRefused(f"{name} must not hold lone surrogates, got {text!r}") from None
    return "".join(
        char if char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )


def _public_invalidations(invalidations: Iterable[Invalidation]) -> list[Invalidation]:
    """The invalidations by which a purge of a URL reaches responses that are stored for another host,
    because a proxy told the app of the purged one."""
    tags = dict.fromkeys(
        (public_tag(invalidation.value), invalidation.soft)
        for invalidation in invalidations
        if invalidation.kind == "key"
    )
    return [Invalidation("tag", tag, soft) for tag, soft in tags]


def _is_response(entry: Entry) -> bool:
    return isinstance(entry.value, StoredResponse)
