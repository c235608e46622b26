"""What a purge is about to reach: a bounded look through what this process holds, before it is applied.

A purge itself never looks for entries (see `invalidation`). This is for who asks for one and wants to
know whether there was anything of that name, or whether they have mistyped it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from layergate.core.entry import Entry
from layergate.core.invalidation import Glob, Invalidation, matcher
from layergate.core.layer import Key

__all__ = ["MOST", "MOST_BY_LABEL", "PART", "Matched", "Matching"]

MOST: Final = 10_000
"""Entries that are looked at for one purge by tags: some 10 ms of work, measured."""
MOST_BY_LABEL: Final = 5_000
"""As many if their labels are needed, which takes longer: some 20 ms."""
PART: Final = 100
"""Of these, as many as are looked at without a pause: less than a millisecond."""


class Matched(NamedTuple):
    """``matched``, ``matched_at_least``, ``seen``, ``unknown``: see `PurgeReceipt`."""

    matched: int | None = None
    matched_at_least: bool = False
    seen: bool | None = None
    unknown: tuple[str, ...] = ()


class Matching:
    """Which of the things that a purge names are met among entries, and by how many of these.

    ``named``: the marks of each thing. Raises KeyRefused for a pattern that `glob` refuses.
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
        """Is this entry one of those that are named? ``label``: gives the label of its key."""
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
        """Has everything that is named met some entry?"""
        return not self._unseen
