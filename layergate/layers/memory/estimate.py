"""How many bytes of memory a Python object takes, for entries whose producer does not know it."""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

__all__ = ["estimate_size"]

_MAX_OBJECTS: Final = 10_000
_FLAT: Final = frozenset({bytes, str, bytearray, int, float, complex, bool, type(None)})
_SHARED: Final = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
)


def estimate_size(value: object) -> int:
    """About how many bytes ``value`` takes, with everything it refers to.

    Exact for None, numbers, str, bytes and bytearray. Containers are walked through (each object
    once, so cycles end), other objects through ``__dict__`` and ``__slots__``. Classes, functions
    and modules count nothing, because they are shared. After some ten thousand objects the rest is
    extrapolated.
    """
    if value.__class__ in _FLAT:
        return sys.getsizeof(value)
    total = visited = 0
    seen: set[int] = set()
    walks = [_Walk((value,), 1, 0)]
    while walks:
        walk = walks[-1]
        for child in walk.children:
            if id(child) in seen or isinstance(child, _SHARED):
                walk.done += 1
                continue
            if visited >= _MAX_OBJECTS:
                return _extrapolated(walks, total)
            walk.done += 1
            seen.add(id(child))
            visited += 1
            total += sys.getsizeof(child, 64)
            if child.__class__ not in _FLAT:
                inner, count = _children(child)
                if inner:
                    walks.append(_Walk(inner, count, total))
                    break
        else:
            walks.pop()
    return total


class _Walk:
    """A container that is being walked through: ``done`` of its ``count`` children have been
    visited.

    ``start`` is the total in bytes before the first of them.
    """

    __slots__ = ("children", "count", "done", "start")

    def __init__(self, children: Sequence[object], count: int, start: int) -> None:
        self.children: Iterator[object] = iter(children)
        self.count = count
        self.done = 0
        self.start = start


def _extrapolated(walks: Sequence[_Walk], total: int) -> int:
    """The total, on the assumption that the rest of every open container is like what was
    visited."""
    for walk in reversed(walks):
        if walk.done:
            total += (total - walk.start) * (walk.count - walk.done) // walk.done
    return total


def _children(value: object) -> tuple[Sequence[object], int]:
    """The objects that ``value`` refers to, and their number.

    They are a copy, so that a container may change while it is walked through, and no more than
    will be visited. So there may be fewer than their number says.
    """
    cut = _MAX_OBJECTS + 1
    found: list[object] = []
    count = 0
    if isinstance(value, dict):
        for pair in list(islice(value.items(), cut)):
            found.extend(pair)
        count = 2 * len(value)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        found.extend(islice(value, cut))
        count = len(value)
    elif isinstance(value, memoryview):
        return (value.obj,), 1
    attributes: list[object] = []
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        attributes.append(own)
    for cls in type(value).__mro__:
        # Slots are found by their descriptors, which finds mangled names, and calls no property.
        for member in cls.__dict__.values():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    attributes.append(member.__get__(value, cls))
                except AttributeError:
                    continue  # a slot that was never set
    return attributes + found, len(attributes) + count
