"""Purges as an ordered log, and the marks an instance keeps of it.

Every purge is one append. An entry carries as its *stamp* the log position its instance had applied
when its fetch began; it is invalid if a matching mark is newer. So

- a purge costs the same for one entry and for a million,
- a fill that began before a purge dies on arrival, however late it ends,
- a hit compares two integers (`Entry.checked` and `Marks.position`) and looks closer only when a
  purge happened since this entry was last looked at.

Nothing here compares clocks; positions alone decide. The wall time of a mark is kept for one
purpose: a *soft* purge makes an entry stale from that moment on, and the stale windows run from there.

Bounded: tags and keys are kept exactly, up to a cap; the oldest beyond it sink into a table of
floors by hash, where a collision can only invalidate too much, never too little. Patterns (like
Varnish's bans) are tested once per entry; the oldest beyond their cap becomes a floor for everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from layergate.core.entry import Entry
from layergate.errors import KeyRefused

__all__ = ["Glob", "LocalLog", "Mark", "MarkKind", "Marks", "MAX_PATTERN_LENGTH", "glob"]

MarkKind: TypeAlias = Literal["tag", "key", "prefix", "glob", "path", "all"]

MAX_PATTERN_LENGTH: Final = 2048
MAX_PATTERN_STARS: Final = 16
_FLOORS: Final = 4096  # power of two

Glob: TypeAlias = Callable[[str], bool]


class Mark(NamedTuple):
    """One thing purged.

    ``kind``: ``tag`` (entries that carry the tag), ``key`` (the entry, with all its variants, whose
    label equals ``value``), ``prefix`` (labels that start with ``value``), ``glob`` (labels that
    match, ``*`` stands for any run of characters), ``path`` (a glob over what follows the authority
    of a URI label), ``all``.
    ``soft``: make stale instead of gone.
    """

    kind: MarkKind
    value: str = ""
    soft: bool = False


def glob(pattern: str) -> Glob:
    """A matcher for ``pattern``, in which only ``*`` is special.

    Linear in the subject's length: no regular expression, so no pattern can make a hit slow.
    Raises KeyRefused for an empty or oversized pattern.
    """
    if not pattern:
        raise KeyRefused("pattern must not be empty; use '*' to match everything")
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise KeyRefused(
            f"pattern must be at most {MAX_PATTERN_LENGTH} characters, got {len(pattern)}"
        )
    head, *rest = pattern.split("*")
    if not rest:
        return pattern.__eq__
    if len(rest) > MAX_PATTERN_STARS:
        raise KeyRefused(f"pattern must have at most {MAX_PATTERN_STARS} '*', got {len(rest)}")
    tail = rest.pop()
    middle = [part for part in rest if part]
    floor = len(head) + len(tail)

    def matches(subject: str) -> bool:
        if len(subject) < floor or not subject.startswith(head) or not subject.endswith(tail):
            return False
        start, end = len(head), len(subject) - len(tail)
        for part in middle:
            found = subject.find(part, start, end)
            if found < 0:
                return False
            start = found + len(part)
        return True

    return matches


def _path_glob(pattern: str) -> Glob:
    matches = glob(pattern)

    def matches_path(subject: str) -> bool:
        authority = subject.find("://")
        path = subject.find("/", authority + 3) if authority >= 0 else 0
        return matches(subject[path:] if path >= 0 else "/")

    return matches_path


def _prefix(value: str) -> Glob:
    def matches(subject: str) -> bool:
        return subject.startswith(value)

    return matches


class _At(NamedTuple):
    position: int
    time: float


_NEVER: Final = _At(0, 0.0)


class _Exact:
    """value -> newest mark. Past ``cap`` values the oldest sinks into a floor shared by its hash."""

    __slots__ = ("_cap", "_exact", "_floors")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._exact: dict[str, _At] = {}
        self._floors: list[_At] | None = None

    def add(self, value: str, at: _At) -> None:
        exact = self._exact
        exact.pop(value, None)  # re-inserted at the end: the dict's order is the order of age
        exact[value] = at
        if len(exact) > self._cap:
            oldest = next(iter(exact))
            sunk = exact.pop(oldest)
            if self._floors is None:
                self._floors = [_NEVER] * _FLOORS
            slot = hash(oldest) & (_FLOORS - 1)
            if sunk.position > self._floors[slot].position:
                self._floors[slot] = sunk

    def newest(self, value: str) -> _At:
        at = self._exact.get(value, _NEVER)
        if self._floors is not None:
            floor = self._floors[hash(value) & (_FLOORS - 1)]
            if floor.position > at.position:
                return floor
        return at

    def __len__(self) -> int:
        return len(self._exact)


class _Pattern(NamedTuple):
    at: _At
    matches: Glob


class _Severity:
    """All marks of one severity (hard, or soft)."""

    __slots__ = ("_max_patterns", "all", "keys", "patterns", "tags")

    def __init__(self, max_marks: int, max_patterns: int) -> None:
        self.tags = _Exact(max_marks)
        self.keys = _Exact(max_marks)
        self.patterns: dict[tuple[MarkKind, str], _Pattern] = {}
        self.all = _NEVER
        self._max_patterns = max_patterns

    def add(self, mark: Mark, at: _At) -> None:
        kind, value = mark.kind, mark.value
        if kind == "tag":
            self.tags.add(value, at)
        elif kind == "key":
            self.keys.add(value, at)
        elif kind == "all":
            self.all = at
        else:
            matches = (
                _prefix(value)
                if kind == "prefix"
                else _path_glob(value)
                if kind == "path"
                else glob(value)
            )
            # Copied, not changed in place: `newest` may be walking the old one in another thread.
            patterns = {k: p for k, p in self.patterns.items() if k != (kind, value)}
            patterns[kind, value] = _Pattern(at, matches)
            if len(patterns) > self._max_patterns:
                oldest = next(iter(patterns))
                self.all = max(self.all, patterns.pop(oldest).at)
            self.patterns = patterns

    def newest(self, since: int, tags: Iterable[str], label: str) -> _At:
        """The newest mark after ``since`` that matches, or _NEVER."""
        newest = self.all if self.all.position > since else _NEVER
        at = self.keys.newest(label)
        if at.position > since and at.position > newest.position:
            newest = at
        for tag in tags:
            at = self.tags.newest(tag)
            if at.position > since and at.position > newest.position:
                newest = at
        # Newest last, so walk backwards and stop at what was already seen.
        for pattern in reversed(self.patterns.values()):
            if pattern.at.position <= max(since, newest.position):
                break
            if pattern.matches(label):
                newest = pattern.at
                break
        return newest


class Marks:
    """What one instance knows of the log: its position and the marks that can still matter.

    ``position`` is the last log position applied; it only grows. Marks are applied by one writer at
    a time (the log's business) and read by anyone.
    """

    __slots__ = ("_hard", "_soft", "position")

    def __init__(self, *, max_marks: int = 100_000, max_patterns: int = 512) -> None:
        self.position = 0
        self._hard = _Severity(max_marks, max_patterns)
        self._soft = _Severity(max_marks, max_patterns)

    def apply(self, position: int, marks: Iterable[Mark], time: float) -> None:
        """Take in the log record at ``position``, made at ``time`` (seconds since the epoch)."""
        at = _At(position, time)
        for mark in marks:
            (self._soft if mark.soft else self._hard).add(mark, at)
        # Last: a reader that sees the new position finds its marks.
        self.position = position

    def purged_since(self, since: int, tags: Iterable[str], label: str) -> bool:
        """Is something with these tags and this label gone by a hard purge after ``since``?"""
        return self._hard.newest(since, tags, label).position > 0

    def admit(self, entry: Entry, label: str) -> bool:
        """Look closer at an entry whose ``checked`` is behind. False if it was purged.

        A soft purge makes it stale from the time of the purge on. Afterwards it counts as checked.
        """
        position = self.position  # before looking, so that a mark that comes meanwhile is not lost
        since = entry.checked
        if self._hard.newest(since, entry.tags, label).position:
            return False
        soft = self._soft.newest(since, entry.tags, label)
        if soft.position and soft.time < entry.fresh_until:
            entry.fresh_until = soft.time
        entry.checked = position
        return True

    def counts(self) -> dict[str, int]:
        """How many marks of each kind are held."""
        hard, soft = self._hard, self._soft
        return {
            "tags": len(hard.tags) + len(soft.tags),
            "keys": len(hard.keys) + len(soft.keys),
            "patterns": len(hard.patterns) + len(soft.patterns),
        }


class LocalLog:
    """The log of a single process: an append is applied before it returns."""

    __slots__ = ("_lock", "_marks")

    def __init__(self, marks: Marks, lock: AbstractContextManager[Any]) -> None:
        self._marks = marks
        self._lock = lock

    async def append(self, marks: tuple[Mark, ...], time: float) -> tuple[int, int]:
        """Append and apply. Returns (instances that applied it, instances alive): (1, 1)."""
        with self._lock:
            self._marks.apply(self._marks.position + 1, marks, time)
        return 1, 1
