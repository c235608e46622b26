"""Under which key a response is stored, and by which tags a purge of its URLs reaches it there.

Without the option ``no_vary_search``, and without a proxy that tells the app of another host, the key
is that of the request's target and there are no such tags.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.http.engine.settings import Settings
from layergate.http.extensions.no_vary_search import (
    SearchVariance,
    class_key,
    tag_of,
    variance_of,
)
from layergate.http.message.fields import Fields
from layergate.http.message.key import target_of
from layergate.http.message.request import Request
from layergate.http.privacy.forwarding import public_labels, public_tag
from layergate.http.rfc9111.plan import Plan

__all__ = ["Place", "place_of", "tags_of_target"]


class Place(NamedTuple):
    """``primary``: the primary key. ``variance``: what the response's No-Vary-Search says, or None.
    ``tags``: what the response is tagged with, beside its own tags."""

    primary: bytes
    variance: SearchVariance | None
    tags: tuple[str, ...]


def place_of(settings: Settings, request: Request, plan: Plan) -> Place:
    """Where a response to ``request``, planned so, is stored."""
    public = _public_tags(settings, request)
    variance = variance_of(Fields(plan.lines)) if settings.no_vary_search else None
    if variance is None:
        return Place(request.exact, None, public)
    tags = (tag_of(request.exact), *public)
    return Place(class_key(request.exact, variance), variance, tags)


def tags_of_target(settings: Settings, primary: bytes, request: Request) -> tuple[str, ...]:
    """The tags by which purges reach a fetch whose response is not known yet. ``primary``: the key
    that the request looked under."""
    public = _public_tags(settings, request)
    return (tag_of(primary), *public) if primary != request.exact else public


def _public_tags(settings: Settings, request: Request) -> tuple[str, ...]:
    """The tags by which a purge of the target as clients know it reaches the response, if a proxy
    tells the app of another host."""
    names = settings.forwarding.names
    if names.isdisjoint(request.fields.names()):
        return ()
    labels = public_labels(target_of(request.exact), request.fields, names)
    return tuple(public_tag(label) for label in labels)
