"""Equal is not the same: 1, True and 1.0 are equal, and so are a list and its copy."""

from __future__ import annotations

import math
from typing import Any

from layergate.core.entry import Entry
from layergate.http.message.stored import StoredResponse

_TIMES = ("created", "fresh_until", "stale_while_revalidate", "stale_if_error", "expires")


def same(one: Any, other: Any) -> bool:
    """Of the same type, all the way down, and equal (NaN is NaN, and 0.0 is not -0.0)."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one.items(), other.items()))
    if isinstance(one, (set, frozenset)):
        return same(sorted(one, key=repr), sorted(other, key=repr))
    if isinstance(one, StoredResponse):
        slots = {*StoredResponse.__slots__, *type(one).__slots__}
        names = [name for name in slots if name != "_fields"]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


def assert_same_entry(one: Entry, other: Entry) -> None:
    assert same(one.value, other.value), (one.value, other.value)
    assert same([getattr(one, name) for name in _TIMES], [getattr(other, name) for name in _TIMES])
    assert same(one.tags, other.tags)
    assert one.size == other.size
    assert one.stamp == one.checked == 0
