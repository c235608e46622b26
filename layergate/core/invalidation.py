"""Purges as an ordered log, and the marks an instance keeps of it.

Every purge is one append. An entry carries as its *stamp* the log position its instance had applied
when its fetch began; it is invalid if a matching mark is newer. So

- a purge costs the same for one entry and for a million,
- a fill that began before a purge dies on arrival, however late it ends,
- a hit compares two integers (`Entry.checked` and `Marks.position`) and looks closer only when a
  purge happened since this entry was last looked at.

Nothing here compares clocks; positions alone decide. The wall time of a mark is kept for one
purpose: a *soft* purge makes an entry stale from that moment on, and the stale windows run from
there (from the first one that concerns the entry, however many follow).

Bounded: tags and keys are kept exactly, up to a cap; the oldest beyond it sink into a table of
floors by hash, where a collision can only invalidate too much, never too little. Patterns (like
Varnish's bans) are tested once per entry; the oldest beyond their cap becomes a floor for everything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from layergate.core.entry import Entry
from layergate.errors import KeyRefused

__all__ = [
    "MAX_PATTERN_LENGTH",
    "Caught",
    "Glob",
    "LocalLog",
    "Mark",
    "MarkKind",
    "Marks",
    "PurgeReceipt",
    "Scope",
    "glob",
    "matcher",
]

MarkKind: TypeAlias = Literal["tag", "key", "prefix", "glob", "path", "all"]

MAX_PATTERN_LENGTH: Final = 2048
MAX_PATTERN_STARS: Final = 16
_SHORT: Final = 64  # characters
_FLOORS: Final = 4096  # power of two
_SOFT_DEPTH: Final = 4

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


class Caught(NamedTuple):
    """A purge that concerns an entry.

    ``kind``, ``value``, ``soft``: as in `Mark`; or the kind ``log``: nobody knows any more what was
    purged since this entry was stamped. ``time``: when it was purged, seconds since the epoch; None
    for the kind ``log``.
    """

    kind: str
    value: str
    soft: bool
    time: float | None


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


_History: TypeAlias = tuple[_At, ...]  # positions ascending


def _extended(history: _History, at: _At, depth: int) -> _History:
    """``history`` with ``at`` at its end, at most ``depth`` long.

    Beyond it the two oldest become one, with the position of the newer and the time of the older:
    whatever that one catches, one of the two would have caught, no later.
    """
    history = (*history, at)
    if len(history) > depth:
        first, second, *rest = history
        history = (_At(second.position, min(first.time, second.time)), *rest)
    return history


def _after(history: _History, since: int) -> float | None:
    """The earliest time of the marks after position ``since``; None if there is none."""
    if not history or history[-1].position <= since:
        return None
    return min(at.time for at in history if at.position > since)


def _short(value: str) -> str:
    """``value``, or a digest of it: marks are bounded by number, and clients choose what long URLs
    they send unsafe requests to."""
    if len(value) <= _SHORT:
        return value
    return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=_SHORT // 4).hexdigest()


class _Exact:
    """value -> marks. Past ``cap`` values the oldest sinks into a floor shared by its hash.

    Written by one thread at a time, read by any without a lock: so a mark is never out of sight,
    not even while it is moved.
    """

    __slots__ = ("_cap", "_depth", "_exact", "_floors")

    def __init__(self, cap: int, depth: int) -> None:
        self._cap = cap
        self._depth = depth
        self._exact: OrderedDict[str, _History] = OrderedDict()
        self._floors: list[_At | None] | None = None

    def add(self, value: str, at: _At) -> None:
        value = _short(value)
        exact = self._exact
        exact[value] = _extended(exact.get(value, ()), at, self._depth)
        exact.move_to_end(value)  # the order is the order of age
        if len(exact) > self._cap:
            oldest = next(iter(exact))
            floors = self._floors
            if floors is None:
                floors = self._floors = [None] * _FLOORS
            slot = hash(oldest) & (_FLOORS - 1)
            floor = floors[slot]
            for sunk in exact[oldest]:
                floor = sunk if floor is None else _At(sunk.position, min(floor.time, sunk.time))
                # (what sinks later was marked later: its position is the higher one)
            floors[slot] = floor
            del exact[oldest]  # only now that the floor holds it

    def since(self, value: str, since: int) -> float | None:
        """The earliest time of the marks of ``value`` after position ``since``, or None."""
        value = _short(value)
        time = _after(self._exact.get(value, ()), since)
        if self._floors is not None:
            floor = self._floors[hash(value) & (_FLOORS - 1)]
            if floor is not None and floor.position > since and (time is None or floor.time < time):
                return floor.time
        return time

    def __len__(self) -> int:
        return len(self._exact)


class _Pattern(NamedTuple):
    history: _History
    matches: Glob


class _Severity:
    """All marks of one severity (hard, or soft).

    ``depth``: how many marks of one and the same thing are told apart. A hard mark need not be:
    the newest says it all. A soft one must, for the windows run from the *first* that an entry met.
    """

    __slots__ = ("_depth", "_max_patterns", "all", "keys", "patterns", "tags")

    def __init__(self, max_marks: int, max_patterns: int, depth: int) -> None:
        self.tags = _Exact(max_marks, depth)
        self.keys = _Exact(max_marks, depth)
        self.patterns: dict[tuple[MarkKind, str], _Pattern] = {}
        self.all: _History = ()
        self._max_patterns = max_patterns
        self._depth = depth

    def add(self, mark: Mark, matches: Glob | None, at: _At) -> None:
        kind, value = mark.kind, mark.value
        if kind == "tag":
            self.tags.add(value, at)
        elif kind == "key":
            self.keys.add(value, at)
        elif matches is None:
            self.all = _extended(self.all, at, self._depth)
        else:
            # Copied, not changed in place: `since` may be walking the old one in another thread.
            patterns = dict(self.patterns)
            before = patterns.pop((kind, value), None)
            history = _extended(() if before is None else before.history, at, self._depth)
            patterns[kind, value] = _Pattern(history, matches)
            if len(patterns) > self._max_patterns:
                sunk = patterns.pop(next(iter(patterns))).history
                # Behind the marks for everything that came later, so in the order of positions.
                merged = sorted((*self.all, *sunk))
                everything: _History = ()
                for one in merged:
                    everything = _extended(everything, one, self._depth)
                self.all = everything
            self.patterns = patterns

    def since(self, since: int, tags: Iterable[str], label: str) -> float | None:
        """The earliest time of the marks after ``since`` that match; None if none does."""
        # Read before `all`: a pattern that sinks meanwhile is then seen here or there.
        patterns = self.patterns
        times = [_after(self.all, since), self.keys.since(label, since)]
        times += [self.tags.since(tag, since) for tag in tags]
        # The newest pattern is the last: walk backwards and stop at what was already seen.
        for pattern in reversed(patterns.values()):
            if pattern.history[-1].position <= since:
                break
            if pattern.matches(label):
                times.append(_after(pattern.history, since))
        return min((time for time in times if time is not None), default=None)

    def catching(self, since: int, tags: Iterable[str], label: str) -> list[_Named]:
        """What `since` finds, by name."""
        found: list[tuple[str, str, float | None]] = [
            ("all", "", _after(self.all, since)),
            ("key", label, self.keys.since(label, since)),
        ]
        found += [("tag", tag, self.tags.since(tag, since)) for tag in tags]
        for (kind, value), pattern in self.patterns.items():
            if pattern.matches(label):
                found.append((kind, value, _after(pattern.history, since)))
        return [(kind, value, time) for kind, value, time in found if time is not None]


_Named: TypeAlias = tuple[str, str, float]


def matcher(mark: Mark) -> Glob | None:
    """What a pattern mark matches; None for the other kinds. Raises KeyRefused."""
    match mark.kind:
        case "tag" | "key" | "all":
            return None
        case "prefix":
            return _prefix(mark.value)
        case "glob":
            return glob(mark.value)
        case "path":
            return _path_glob(mark.value)
    raise KeyRefused(f"mark kind must be tag, key, prefix, glob, path or all, got {mark.kind!r}")


class Marks:
    """What one instance knows of the log: its position and the marks that can still matter.

    ``position`` is the last log position applied; it only grows. ``floor``: what is stamped below it
    is gone, for nobody knows any more what was purged since; it only grows too (see `rise`).
    ``changes``: how many times either has changed. Between two equal readings nothing was purged; one
    apart, one record was taken in and nothing else, whatever the log counts its positions by. Marks
    are applied by one writer at a time (the log's business) and read by anyone.
    """

    __slots__ = ("_hard", "_soft", "changes", "floor", "position")

    def __init__(self, *, max_marks: int = 100_000, max_patterns: int = 512) -> None:
        self.position = 0
        self.floor = 0
        self.changes = 0
        self._hard = _Severity(max_marks, max_patterns, 1)
        self._soft = _Severity(max_marks, max_patterns, _SOFT_DEPTH)

    def apply(self, position: int, marks: Iterable[Mark], time: float) -> None:
        """Take in the log record at ``position``, made at ``time`` (seconds since the epoch).

        Raises KeyRefused, with nothing taken in, for a pattern that `glob` refuses.
        """
        at = _At(position, time)
        for mark, matches in [(mark, matcher(mark)) for mark in marks]:
            (self._soft if mark.soft else self._hard).add(mark, matches, at)
        self.changes += 1
        # Last: a reader that sees the new position finds its marks, and that it has changed.
        self.position = position

    def rise(self, floor: int) -> None:
        """Everything stamped before position ``floor`` is gone, and ``position`` is at least there:
        records in between were lost."""
        self.changes += 1
        self.floor = max(self.floor, floor)
        self.position = max(self.position, floor)

    def purged_since(
        self, since: int, tags: Iterable[str], label: str, *, soft: bool = False
    ) -> bool:
        """Is something with these tags and this label gone by a hard purge after ``since``?

        With ``soft`` a soft purge counts too.
        """
        if since < self.floor:
            return True
        tags = tuple(tags)
        return self._hard.since(since, tags, label) is not None or (
            soft and self._soft.since(since, tags, label) is not None
        )

    def admit(self, entry: Entry, label: str) -> bool:
        """Look closer at an entry whose ``checked`` is behind. False if it was purged.

        A soft purge makes it stale from the time of the purge on. Afterwards it counts as checked.
        """
        position = self.position  # before looking, so that a mark that comes meanwhile is not lost
        since = entry.checked
        if entry.stamp < self.floor:
            return False
        if self._hard.since(since, entry.tags, label) is not None:
            return False
        time = self._soft.since(since, entry.tags, label)
        if time is not None:
            entry.outdate(time)
        # Not backwards: an instance that is ahead of this one may have stamped it.
        if position > since:
            entry.checked = position
        return True

    def catching(self, entry: Entry, label: str) -> tuple[Caught, ...]:
        """Why `admit` does not, or makes stale: the hard purges that an entry has met since it was
        last looked at, and the soft one that ended its lifetime. Changes nothing."""
        if entry.stamp < self.floor:
            return (Caught("log", "", False, None),)
        hard = self._hard.catching(entry.checked, entry.tags, label)
        ended = entry.stale_from
        met = self._soft.since(entry.checked, entry.tags, label)
        if met is not None and met < ended:
            ended = met
        # One that has been met is in the lifetime already. (What has sunk into a floor meanwhile may
        # look as if it were one.)
        soft = self._soft.catching(entry.stamp, entry.tags, label)
        return (
            *(Caught(kind, value, False, time) for kind, value, time in hard),
            *(Caught(kind, value, True, time) for kind, value, time in soft if time == ended),
        )

    def counts(self) -> dict[str, int]:
        """How many marks of each kind are held."""
        hard, soft = self._hard, self._soft
        return {
            "tags": len(hard.tags) + len(soft.tags),
            "keys": len(hard.keys) + len(soft.keys),
            "patterns": len(hard.patterns) + len(soft.patterns),
        }


Scope: TypeAlias = Literal["process", "host", "fleet"]


class PurgeReceipt(NamedTuple):
    """How far a purge got when the call returned, and what it met here.

    ``applied`` of the ``instances`` that are alive have applied it. ``final``: it is (G3): all have,
    and the ones cut off treat what they hold as stale by now. False when the shared system is away
    (the purge is applied here, and is made up for everywhere as soon as it is back), or when the
    call was not to wait so long.

    ``scope``: whom these three speak of, and the purge reaches. "process": this process alone, for
    there is no layer that others share; if there are other processes, what they hold is untouched.
    "host": the workers of one gateway. "fleet": all instances that share a layer.
    With ``stale_if_untrusted``, ``final`` does not speak of what an instance that is cut off lets stand
    in for an origin that fails.

    The others tell of the memory of *this process* only, as it was right before the purge, whatever the
    scope is. ``matched``: entries that were named; None if no layer can be looked through.
    ``matched_at_least``: not all could be looked at (`matching.MOST`), so there may be more. ``seen``:
    whether each thing that was named was met; False if something was not, and all there is was
    looked at: perhaps it is held elsewhere, perhaps nowhere, perhaps it is mistyped. None if not
    known. ``unknown``: names of the layers that cannot be looked through, which may hold more.
    """

    applied: int
    instances: int
    final: bool = True
    scope: Scope = "process"
    matched: int | None = None
    matched_at_least: bool = False
    seen: bool | None = None
    unknown: tuple[str, ...] = ()


class LocalLog:
    """The log of a single process: an append is applied before it returns."""

    __slots__ = ("_lock", "_marks")

    trusted_until: Final = float("inf")

    def __init__(self, marks: Marks, lock: AbstractContextManager[Any]) -> None:
        self._marks = marks
        self._lock = lock

    async def append(
        self,
        marks: tuple[Mark, ...],
        time: float,
        *,
        wait: float | None = None,  # noqa: ARG002 - nobody to wait for
    ) -> PurgeReceipt:
        """Append and apply.

        Raises KeyRefused, with nothing applied, for a pattern that `glob` refuses.
        """
        with self._lock:
            self._marks.apply(self._marks.position + 1, marks, time)
        return PurgeReceipt(1, 1)
