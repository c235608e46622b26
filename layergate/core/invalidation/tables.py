"""The purges that an instance remembers, one table for each way to select entries, bounded in
number.

`ExactTable` holds tags and keys, `PrefixTable` prefixes, `PatternTable` patterns. When a table is
full, its oldest purge moves to a coarser place: from an `ExactTable` to `Floors`, from a
`PatternTable` to the prefix that the pattern begins with (or, if it begins with a star, to a purge
of everything). A coarser place may invalidate more, never less. A purge is written to its new place
before it leaves the old one, so a reader in another thread always finds it.

One thread writes at a time; any thread may read without a lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

from layergate.core.invalidation.floors import Floors
from layergate.core.invalidation.globs import Glob
from layergate.core.invalidation.history import History, Moment, earliest_after, extended, merged

__all__ = ["ExactTable", "PatternTable", "PrefixTable"]

_LONGEST_VALUE: Final = 64  # characters that are kept as they are
_SLOTS_PER_VALUE: Final = 32  # of `Floors`, for each value that an `ExactTable` may hold
_LEAST_SLOTS: Final = 1 << 15
_MOST_SLOTS: Final = 1 << 20  # a purge takes three of them, by 20 bits of a hash each
_MAX_LENGTHS: Final = 256  # different lengths by which prefixes are looked up
_MAX_PATTERNS_PER_START: Final = 2048  # an entry is tested against these at most

Demote: TypeAlias = Callable[[str, History], None]
"""Takes the prefix that stands for a dropped pattern, and the pattern's history."""


def _bounded(value: str) -> str:
    """``value``, or a digest of it if it is long.

    Tables are bounded by number of values, and clients choose the URLs of unsafe requests.
    """
    if len(value) <= _LONGEST_VALUE:
        return value
    digest_size = _LONGEST_VALUE // 4
    return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=digest_size).hexdigest()


class ExactTable:
    """Purges by value: at most ``cap`` values, each with a history of ``depth``.

    ``newest``: the highest position of all purges in the table; -1 if it is empty.
    """

    __slots__ = ("_cap", "_depth", "_exact", "_floors", "newest")

    def __init__(self, cap: int, depth: int) -> None:
        self._cap = cap
        self._depth = depth
        self._exact: OrderedDict[str, History] = OrderedDict()
        self._floors: Floors | None = None
        self.newest = -1

    def add(self, value: str, history: History) -> None:
        value = _bounded(value)
        exact = self._exact
        exact[value] = merged(exact.get(value, ()), history, self._depth)
        # Keeps the values in order of age, except for prefixes of dropped patterns.
        exact.move_to_end(value)
        self.newest = max(self.newest, history[-1].position)
        if len(exact) > self._cap:
            oldest = next(iter(exact))
            floors = self._floors
            if floors is None:
                slots = 1 << (self._cap * _SLOTS_PER_VALUE - 1).bit_length()
                slots = max(_LEAST_SLOTS, min(_MOST_SLOTS, slots))
                # Only soft purges, whose depth is above 1, need times.
                floors = self._floors = Floors(slots, timed=self._depth > 1)
            for moment in exact[oldest]:
                floors.add(oldest, moment)
            del exact[oldest]  # only now, when the floors hold it

    def earliest_after(self, value: str, position: int) -> float | None:
        """The earliest time of the purges of ``value`` after ``position``; None if there are
        none."""
        if self.newest <= position:
            return None
        value = _bounded(value)
        time = earliest_after(self._exact.get(value, ()), position)
        if self._floors is not None:
            floor = self._floors.earliest_after(value, position)
            if floor is not None and (time is None or floor < time):
                return floor
        return time

    def __len__(self) -> int:
        return len(self._exact)


class _Lengths:
    """The lengths at which beginnings of a text are looked up, at most `_MAX_LENGTHS` of them."""

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: tuple[int, ...] = ()

    def cut(self, prefix: str) -> str:
        """``prefix``, and note its length. If there are too many lengths already, as much of its
        beginning as has one of them."""
        length = len(prefix)
        if length not in self.all:
            if len(self.all) >= _MAX_LENGTHS:
                length = max((one for one in self.all if one < length), default=0)
            if length not in self.all:
                self.all = (*self.all, length)
        return prefix[:length]


class PrefixTable:
    """Purges by prefix. ``cap``, ``depth``, ``newest``: as for `ExactTable`."""

    __slots__ = ("_exact", "_lengths")

    def __init__(self, cap: int, depth: int) -> None:
        self._exact = ExactTable(cap, depth)
        self._lengths = _Lengths()

    def add(self, prefix: str, history: History) -> bool:
        """False, with nothing added, if the prefix would have to be the one of every text."""
        prefix = self._lengths.cut(prefix)
        if prefix:
            self._exact.add(prefix, history)
        return bool(prefix)

    @property
    def newest(self) -> int:
        return self._exact.newest

    def matching(self, text: str, position: int) -> list[tuple[str, float]]:
        """The prefixes of ``text`` that were purged after ``position``, each with its earliest
        time."""
        if self._exact.newest <= position:
            return []
        found = [
            (text[:length], self._exact.earliest_after(text[:length], position))
            for length in self._lengths.all
            if length <= len(text)
        ]
        return [(value, time) for value, time in found if time is not None]

    def __len__(self) -> int:
        return len(self._exact)


class _Pattern(NamedTuple):
    history: History
    matches: Glob


class PatternTable:
    """Purges by pattern, found by the text before their first star, and tested once per entry.

    ``cap``, ``depth``, ``newest``: as for `ExactTable`.
    """

    __slots__ = ("_cap", "_depth", "_lengths", "_order", "_starts", "newest")

    def __init__(self, cap: int, depth: int) -> None:
        self._cap = cap
        self._depth = depth
        self._order: OrderedDict[str, str] = OrderedDict()  # pattern -> its start, oldest first
        self._starts: dict[str, dict[str, _Pattern]] = {}
        self._lengths = _Lengths()
        self.newest = -1

    def add(self, pattern: str, matches: Glob, moment: Moment, demote: Demote) -> None:
        """Take in that ``pattern``, compiled to ``matches``, was purged at ``moment``. ``demote``
        is called for each pattern that has to go."""
        start = self._order.get(pattern)
        if start is None:
            start = self._lengths.cut(pattern.partition("*")[0])
        # A copy: `matching` may be iterating over the old one in another thread.
        patterns = dict(self._starts.get(start, ()))
        before = patterns.pop(pattern, None)
        history = extended(() if before is None else before.history, moment, self._depth)
        patterns[pattern] = _Pattern(history, matches)
        self._starts[start] = patterns
        self._order[pattern] = start
        self._order.move_to_end(pattern)
        self.newest = moment.position
        if len(patterns) > min(_MAX_PATTERNS_PER_START, self._cap):
            self._drop(next(iter(patterns)), demote)
        if len(self._order) > self._cap:
            self._drop(next(iter(self._order)), demote)

    def _drop(self, pattern: str, demote: Demote) -> None:
        start = self._order.pop(pattern)
        patterns = dict(self._starts[start])
        # Before the pattern leaves this table, so that a reader finds it in one of the two places.
        demote(pattern.partition("*")[0], patterns.pop(pattern).history)
        if patterns:
            self._starts[start] = patterns
        else:
            del self._starts[start]

    def matching(self, text: str, label: str, position: int) -> list[tuple[str, float]]:
        """The patterns that were purged after ``position`` and match ``label``, each with its
        earliest time. ``text``: the label from where the patterns begin."""
        if self.newest <= position:
            return []
        found = []
        for length in self._lengths.all:
            patterns = self._starts.get(text[:length]) if length <= len(text) else None
            if patterns is None:
                continue
            # The newest is last: go backwards, and stop at the first that was seen already.
            for value, pattern in reversed(patterns.items()):
                if pattern.history[-1].position <= position:
                    break
                if pattern.matches(label):
                    time = earliest_after(pattern.history, position)
                    assert time is not None
                    found.append((value, time))
        return found

    def __len__(self) -> int:
        return len(self._order)
