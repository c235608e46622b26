"""What a purge will match: a bounded scan of what this process holds, before the purge is applied.

A purge itself never searches for entries (see `invalidation`). This scan is for the receipt: it
tells whether anything of that name was there, or whether the name may be mistyped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from layergate.core.entry import Entry
from layergate.core.invalidation import Glob, Invalidation, matcher
from layergate.core.layer import Key

__all__ = ["MOST", "MOST_BY_LABEL", "PART", "Matched", "Matching"]

MOST: Final = 10_000
"""Entries that are scanned for one purge by tags. Measured at some 10 ms of work."""
MOST_BY_LABEL: Final = 5_000
"""Entries that are scanned if their labels are needed, which takes longer: some 20 ms."""
PART: Final = 100
"""Entries that are scanned without a pause: less than a millisecond."""


class Matched(NamedTuple):
    """What a scan found. See `PurgeReceipt` for the fields."""

    matched: int | None = None
    matched_at_least: bool = False
    seen: bool | None = None
    unknown: tuple[str, ...] = ()


class Matching:
    """Which of the things that a purge names match entries, and how many entries they match.

    ``named``: the invalidations of each thing. Raises KeyRefused for a pattern that `glob` refuses.
    """

    def __init__(self, named: Sequence[Sequence[Invalidation]]) -> None:
        self._tags: dict[str, list[int]] = {}
        self._keys: dict[str, list[int]] = {}
        self._patterns: list[tuple[Glob, int]] = []
        self._all: list[int] = []
        for thing, invalidations in enumerate(named):
            for invalidation in invalidations:
                matches = matcher(invalidation)
                if matches is not None:
                    self._patterns.append((matches, thing))
                elif invalidation.kind == "tag":
                    self._tags.setdefault(invalidation.value, []).append(thing)
                elif invalidation.kind == "key":
                    self._keys.setdefault(invalidation.value, []).append(thing)
                else:
                    self._all.append(thing)
        self._unseen = set(range(len(named)))
        self._by_label = bool(self._keys or self._patterns)
        self.most = MOST_BY_LABEL if self._by_label else MOST

    def meets(self, entry: Entry, key: Key, label: Callable[[Key], str]) -> bool:
        """Whether this entry is named, and note by which of the things. ``label``: gives the
        label of its key."""
        if not self._by_label and not self._all and self._tags.keys().isdisjoint(entry.tags):
            return False
        met = [*self._all]
        for tag in entry.tags:
            if tag in self._tags:
                met += self._tags[tag]
        if self._by_label:
            text = label(key)
            if text in self._keys:
                met += self._keys[text]
            met += [thing for matches, thing in self._patterns if matches(text)]
        self._unseen.difference_update(met)
        return bool(met)

    @property
    def all_seen(self) -> bool:
        """Whether everything that is named has matched an entry."""
        return not self._unseen
