"""The two values that stand under a cache key in place of a response.

`variant_index` keeps `VariantIndex`, `hit_for_miss` keeps `HitForMiss`. Both are plain data; `http.wire`
writes them to a shared layer.
"""

from __future__ import annotations

from typing import NamedTuple

from layergate.http.rfc9111.storing import NotStored

__all__ = ["HitForMiss", "VariantIndex"]


class VariantIndex(NamedTuple):
    """The variants of a target whose responses vary; stored under its primary key.

    ``names``: the sets of request fields that select a variant, most recent first.
    ``variants``: the keys of the stored variants, oldest first; see `admission`.
    ``expires``: the end of each variant, seconds since the epoch; empty if the ends are unknown.
    """

    names: tuple[tuple[bytes, ...], ...]
    variants: tuple[bytes, ...]
    expires: tuple[int, ...] = ()


class HitForMiss(NamedTuple):
    """A short-lived marker: the target is not shareable, so its requests are not collapsed.

    ``witnesses``: digests of the requests that the marker applies to (see `witness`); empty: all.
    """

    reason: NotStored
    witnesses: tuple[bytes, ...] = ()
