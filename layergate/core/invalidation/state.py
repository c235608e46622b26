"""The purges that one instance has applied: what `Stack` asks about every entry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from layergate.core.entry import Entry
from layergate.core.invalidation.floors import UNKNOWN
from layergate.core.invalidation.globs import Glob, path_of
from layergate.core.invalidation.history import History, Moment, earliest_after, merged
from layergate.core.invalidation.records import Caught, Invalidation, matcher
from layergate.core.invalidation.tables import ExactTable, PatternTable, PrefixTable

__all__ = ["MAX_INVALIDATIONS", "MAX_PATTERNS", "Invalidations"]

MAX_INVALIDATIONS: Final = 32_768
"""How many tags, keys and prefixes are kept exactly by default, of each kind and severity."""
MAX_PATTERNS: Final = 8_192
"""How many patterns are kept by default, of each severity."""

_SOFT_DEPTH: Final = 4  # soft purges of the same thing that are told apart

_Match: TypeAlias = tuple[str, str, float]  # kind, value, time


class _Severity:
    """All hard purges, or all soft ones.

    ``depth``: how many purges of the same thing are told apart, see `history`.
    """

    __slots__ = (
        "_depth", "all", "globs", "keys", "path_globs", "path_prefixes", "prefixes", "tags",
    )  # fmt: skip

    def __init__(self, max_invalidations: int, max_patterns: int, depth: int) -> None:
        self.tags = ExactTable(max_invalidations, depth)
        self.keys = ExactTable(max_invalidations, depth)
        self.prefixes = PrefixTable(max_invalidations, depth)
        self.path_prefixes = PrefixTable(max_invalidations, depth)
        self.globs = PatternTable(max_patterns, depth)
        self.path_globs = PatternTable(max_patterns, depth)
        self.all: History = ()
        self._depth = depth

    def add(self, invalidation: Invalidation, matches: Glob | None, moment: Moment) -> None:
        """Take in one purge. ``matches``: its `matcher`."""
        kind, value = invalidation.kind, invalidation.value
        if kind == "tag":
            self.tags.add(value, (moment,))
        elif kind == "key":
            self.keys.add(value, (moment,))
        elif kind == "prefix":
            self._add_prefix(value, (moment,))
        elif matches is None:
            self._add_all((moment,))
        elif kind == "path":
            self.path_globs.add(value, matches, moment, self._add_path_prefix)
        else:
            self.globs.add(value, matches, moment, self._add_prefix)

    def _add_prefix(self, prefix: str, history: History) -> None:
        if not self.prefixes.add(prefix, history):
            self._add_all(history)

    def _add_path_prefix(self, prefix: str, history: History) -> None:
        if not self.path_prefixes.add(prefix, history):
            self._add_all(history)

    def _add_all(self, history: History) -> None:
        self.all = merged(self.all, history, self._depth)

    def earliest_after(self, position: int, tags: Iterable[str], label: str) -> float | None:
        """The earliest time of the purges after ``position`` that match; None if none does."""
        return min((time for _, _, time in self.matching(position, tags, label)), default=None)

    def matching(self, position: int, tags: Iterable[str], label: str) -> list[_Match]:
        """The purges after ``position`` that match an entry with these tags and this label, each
        with its earliest time."""
        found: list[_Match] = []
        # Patterns before prefixes: a pattern that moves to a prefix meanwhile is found in one of
        # them.
        for value, time in self.globs.matching(label, label, position):
            found.append(("glob", value, time))
        path = ""
        if max(self.path_globs.newest, self.path_prefixes.newest) > position:
            path = path_of(label)
        for value, time in self.path_globs.matching(path, label, position):
            found.append(("path", value, time))
        for value, time in self.path_prefixes.matching(path, position):
            found.append(("path", value + "*", time))
        for value, time in self.prefixes.matching(label, position):
            found.append(("prefix", value, time))
        if self.tags.newest > position:
            for tag in tags:
                purged = self.tags.earliest_after(tag, position)
                if purged is not None:
                    found.append(("tag", tag, purged))
        for kind, value, at in (
            ("key", label, self.keys.earliest_after(label, position)),
            ("all", "", earliest_after(self.all, position)),
        ):
            if at is not None:
                found.append((kind, value, at))
        return found


class Invalidations:
    """All that one instance knows of the log.

    ``position``  the last log position that was applied. It only grows.
    ``floor``     entries with a stamp below it are gone, because the purges since are no longer
                  known (see `rise`). It only grows.
    ``changes``   how often ``position`` or ``floor`` has changed. If two readings are equal,
                  nothing was purged in between; if they differ by one, exactly one record was
                  applied, whatever the log counts its positions by.

    The log calls `apply` and `rise`, one thread at a time. Any thread may call the other methods,
    without a lock.
    """

    __slots__ = ("_hard", "_soft", "changes", "floor", "position")

    def __init__(
        self, *, max_invalidations: int = MAX_INVALIDATIONS, max_patterns: int = MAX_PATTERNS
    ) -> None:
        self.position = 0
        self.floor = 0
        self.changes = 0
        self._hard = _Severity(max_invalidations, max_patterns, 1)
        self._soft = _Severity(max_invalidations, max_patterns, _SOFT_DEPTH)

    def apply(self, position: int, invalidations: Iterable[Invalidation], time: float) -> None:
        """Apply the log record at ``position``, made at ``time`` (seconds since the epoch).

        Raises KeyRefused, with nothing applied, for a pattern that `glob` refuses.
        """
        moment = Moment(position, time)
        for invalidation, matches in [
            (invalidation, matcher(invalidation)) for invalidation in invalidations
        ]:
            (self._soft if invalidation.soft else self._hard).add(invalidation, matches, moment)
        self.changes += 1
        # Last: a reader that sees the new position also finds the purges, and the change.
        self.position = position

    def rise(self, floor: int) -> None:
        """Drop every entry with a stamp below position ``floor``, because records in between were
        lost. Afterwards ``position`` is at least ``floor``."""
        self.changes += 1
        self.floor = max(self.floor, floor)
        self.position = max(self.position, floor)

    def purged_since(
        self, since: int, tags: Iterable[str], label: str, *, soft: bool = False
    ) -> bool:
        """Whether a purge after position ``since`` matches these tags or this label.

        ``soft``: whether soft purges count too.
        """
        if since < self.floor:
            return True
        tags = tuple(tags)
        return self._hard.earliest_after(since, tags, label) is not None or (
            soft and self._soft.earliest_after(since, tags, label) is not None
        )

    def admit(self, entry: Entry, label: str) -> bool:
        """Check an entry against the purges since it was last checked. False if it is purged.

        A soft purge that matches makes the entry stale as of the time of the purge. Afterwards the
        entry counts as checked up to the current position.
        """
        position = self.position  # read first, so that a purge during the check is not missed
        since = entry.checked
        if entry.stamp < self.floor:
            return False
        if self._hard.earliest_after(since, entry.tags, label) is not None:
            return False
        time = self._soft.earliest_after(since, entry.tags, label)
        if time is not None:
            entry.outdate(time)
        # Never backward: an instance that is ahead of this one may have stamped the entry.
        if position > since:
            entry.checked = position
        return True

    def catching(self, entry: Entry, label: str) -> tuple[Caught, ...]:
        """Why `admit` refuses an entry or makes it stale: the hard purges since it was last
        checked, and the soft purge that ended its freshness lifetime. Changes nothing."""
        if entry.stamp < self.floor:
            return (Caught("log", "", False, None),)
        hard = self._hard.matching(entry.checked, entry.tags, label)
        ended = entry.stale_from
        unchecked = self._soft.earliest_after(entry.checked, entry.tags, label)
        if unchecked is not None and unchecked < ended:
            ended = unchecked
        # From the stamp on, because a soft purge that was checked has ended the lifetime already. A
        # purge that has moved to the floors since may look like one of these.
        soft = self._soft.matching(entry.stamp, entry.tags, label)
        return (
            *(
                Caught(kind, value, False, None if time == UNKNOWN else time)
                for kind, value, time in hard
            ),
            *(Caught(kind, value, True, time) for kind, value, time in soft if time == ended),
        )

    def counts(self) -> dict[str, int]:
        """How many purges are kept, by kind: ``tags``, ``keys``, ``prefixes``, ``patterns``."""
        hard, soft = self._hard, self._soft
        return {
            "tags": len(hard.tags) + len(soft.tags),
            "keys": len(hard.keys) + len(soft.keys),
            "prefixes": sum(len(one.prefixes) + len(one.path_prefixes) for one in (hard, soft)),
            "patterns": sum(len(one.globs) + len(one.path_globs) for one in (hard, soft)),
        }
