"""Purges as an ordered log, and the marks an instance keeps of it.

Every purge is one append. An entry carries as its *stamp* the log position its instance had applied
when its fetch began; it is invalid if a matching mark is newer. So

- a purge costs the same for one entry and for a million,
- a fill that began before a purge dies on arrival, however late it ends,
- a hit compares two integers (`Entry.checked` and `Invalidations.position`) and looks closer only when a
  purge happened since this entry was last looked at.

Nothing here compares clocks; positions alone decide. The wall time of a mark is kept for one
purpose: a *soft* purge makes an entry stale from that moment on, and the stale windows run from
there (from the first one that concerns the entry, however many follow).

Bounded: tags, keys and prefixes are kept exactly, up to a cap; the oldest beyond it sink into a table of
floors by hash (`_Floors`), where a collision can only invalidate too much, never too little. Patterns (like
Varnish's bans) are found by what they begin with, and tested once per entry; the oldest beyond their cap
becomes the prefix that it begins with, or, if it begins with a star, a floor for everything. What floods
of them void, and what a mark costs, is printed by ``benchmarks/marks.py``.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from layergate.core.entry import Entry
from layergate.errors import KeyRefused

__all__ = [
    "MAX_INVALIDATIONS",
    "MAX_PATTERNS",
    "MAX_PATTERN_LENGTH",
    "Caught",
    "Glob",
    "Invalidation",
    "InvalidationKind",
    "Invalidations",
    "LocalLog",
    "PurgeReceipt",
    "Scope",
    "glob",
    "matcher",
]

InvalidationKind: TypeAlias = Literal["tag", "key", "prefix", "glob", "path", "all"]

MAX_PATTERN_LENGTH: Final = 2048
MAX_PATTERN_STARS: Final = 16
_SHORT: Final = 64  # characters
_SOFT_DEPTH: Final = 4
_SLOTS_PER_MARK: Final = 32  # of a table of floors, for each mark that is kept exactly
_LEAST_SLOTS: Final = 1 << 15
_MOST_SLOTS: Final = 1 << 20  # as a mark takes three of them by 20 bits of a hash each
_WORD: Final = (1 << 64) - 1
_LENGTHS: Final = 256  # by which prefixes, and beginnings of patterns, are looked up
_BUCKET: Final = 2048  # patterns with one beginning: what an entry is tested against at most

MAX_INVALIDATIONS: Final = 32_768
"""Tags, keys and prefixes of each severity that are kept exactly, by default."""
MAX_PATTERNS: Final = 8_192
"""Patterns of each severity, by default."""

Glob: TypeAlias = Callable[[str], bool]


class Invalidation(NamedTuple):
    """One thing purged.

    ``kind``: ``tag`` (entries that carry the tag), ``key`` (the entry, with all its variants, whose
    label equals ``value``), ``prefix`` (labels that start with ``value``), ``glob`` (labels that
    match, ``*`` stands for any run of characters), ``path`` (a glob over what follows the authority
    of a URI label), ``all``.
    ``soft``: make stale instead of gone.
    """

    kind: InvalidationKind
    value: str = ""
    soft: bool = False


class Caught(NamedTuple):
    """A purge that concerns an entry.

    ``kind``, ``value``, ``soft``: as in `Invalidation`; or the kind ``log``: nobody knows any more what was
    purged since this entry was stamped. ``time``: when it was purged, seconds since the epoch; None
    for the kind ``log``, and where so much was purged since that nobody knows.
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


def _path_of(label: str) -> str:
    """What follows the authority in a URI label."""
    authority = label.find("://")
    path = label.find("/", authority + 3) if authority >= 0 else 0
    return label[path:] if path >= 0 else "/"


def _path_glob(pattern: str) -> Glob:
    matches = glob(pattern)

    def matches_path(subject: str) -> bool:
        return matches(_path_of(subject))

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


def _merged(history: _History, more: _History, depth: int) -> _History:
    """Two histories in one, at most ``depth`` long."""
    merged: _History = ()
    for at in sorted((*history, *more)):
        merged = _extended(merged, at, depth)
    return merged


class _Floors:
    """Where marks go that are too many: three slots of a table for each, by its value's hash, which hold
    the newest position of all whose slot it is.

    What was marked has three slots at least as high as its mark. What was not is taken for marked only
    if all three of its own are high by chance: of n marks in a table of m slots, (1 - e^(-3n/m))^3 of
    everything else.

    Eight bytes a slot, and as many again for times (``timed``), and where positions need more bits.
    """

    __slots__ = ("_high", "_low", "_mask", "_slots", "_times")

    def __init__(self, slots: int, *, timed: bool) -> None:
        self._slots = slots
        self._mask = slots - 1
        self._low = array("Q", bytes(8 * slots))
        self._high: array[int] | None = None  # bits from the 65th on
        self._times = array("d", [_UNKNOWN]) * slots if timed else None

    def _of(self, value: str) -> tuple[int, int, int]:
        digest, mask = hash(value), self._mask
        return digest & mask, digest >> 20 & mask, digest >> 40 & mask

    def _position(self, slot: int) -> int:
        high = self._high
        return self._low[slot] if high is None else high[slot] << 64 | self._low[slot]

    def add(self, value: str, at: _At) -> None:
        high = at.position >> 64
        if high and self._high is None:
            self._high = array("Q", bytes(8 * self._slots))
        for slot in self._of(value):
            if self._times is not None:
                time = self._times[slot]
                self._times[slot] = at.time if time == _UNKNOWN else min(time, at.time)
            if at.position > self._position(slot):
                if self._high is not None:
                    # First: who reads in between, without a lock, finds it too high, if anything.
                    self._high[slot] = high
                self._low[slot] = at.position & _WORD

    def since(self, value: str, since: int) -> float | None:
        """As `_Exact.since`; the time is `_UNKNOWN` where none is kept."""
        slots = self._of(value)
        for slot in slots:
            if self._position(slot) <= since:
                return None
        if self._times is None:
            return _UNKNOWN
        # Each is that of the first of several marks, so none is later than this value's own.
        return max(self._times[slot] for slot in slots)


_UNKNOWN: Final = float("-inf")


class _Exact:
    """value -> marks. Past ``cap`` values the oldest sinks into the floors.

    ``newest``: the highest position of all.

    Written by one thread at a time, read by any without a lock: so a mark is never out of sight,
    not even while it is moved.
    """

    __slots__ = ("_cap", "_depth", "_exact", "_floors", "newest")

    def __init__(self, cap: int, depth: int) -> None:
        self._cap = cap
        self._depth = depth
        self._exact: OrderedDict[str, _History] = OrderedDict()
        self._floors: _Floors | None = None
        self.newest = -1

    def add(self, value: str, history: _History) -> None:
        value = _short(value)
        exact = self._exact
        exact[value] = _merged(exact.get(value, ()), history, self._depth)
        exact.move_to_end(value)  # the order is, but for patterns that sank, the order of age
        self.newest = max(self.newest, history[-1].position)
        if len(exact) > self._cap:
            oldest = next(iter(exact))
            floors = self._floors
            if floors is None:
                slots = 1 << (self._cap * _SLOTS_PER_MARK - 1).bit_length()
                slots = max(_LEAST_SLOTS, min(_MOST_SLOTS, slots))
                # A hard mark's time is nobody's business.
                floors = self._floors = _Floors(slots, timed=self._depth > 1)
            for sunk in exact[oldest]:
                floors.add(oldest, sunk)
            del exact[oldest]  # only now that the floors hold it

    def since(self, value: str, since: int) -> float | None:
        """The earliest time of the marks of ``value`` after position ``since``, or None."""
        if self.newest <= since:
            return None
        value = _short(value)
        time = _after(self._exact.get(value, ()), since)
        if self._floors is not None:
            floor = self._floors.since(value, since)
            if floor is not None and (time is None or floor < time):
                return floor
        return time

    def __len__(self) -> int:
        return len(self._exact)


class _Lengths:
    """The lengths of the beginnings that are looked up in a text: not too many."""

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: tuple[int, ...] = ()

    def cut(self, text: str) -> str:
        """``text``, or as much of its beginning as has one of the lengths, if there are too many. It is
        looked up from now on."""
        length = len(text)
        if length not in self.all:
            if len(self.all) >= _LENGTHS:
                length = max((one for one in self.all if one < length), default=0)
            if length not in self.all:
                self.all = (*self.all, length)
        return text[:length]


class _Prefixes:
    """Beginnings of texts -> marks. ``newest``: as in `_Exact`."""

    __slots__ = ("_exact", "_lengths")

    def __init__(self, cap: int, depth: int) -> None:
        self._exact = _Exact(cap, depth)
        self._lengths = _Lengths()

    def add(self, value: str, history: _History) -> bool:
        """False, and nothing is added, for one that would have to be that of everything."""
        value = self._lengths.cut(value)
        if value:
            self._exact.add(value, history)
        return bool(value)

    @property
    def newest(self) -> int:
        return self._exact.newest

    def times(self, text: str, since: int) -> list[tuple[str, float]]:
        """The prefixes of ``text`` that were marked after ``since``, each with the earliest time."""
        if self._exact.newest <= since:
            return []
        found = [
            (text[:length], self._exact.since(text[:length], since))
            for length in self._lengths.all
            if length <= len(text)
        ]
        return [(value, time) for value, time in found if time is not None]

    def __len__(self) -> int:
        return len(self._exact)


class _Pattern(NamedTuple):
    history: _History
    matches: Glob


class _Patterns:
    """Patterns, by what they begin with. ``newest``: as in `_Exact`."""

    __slots__ = ("_cap", "_depth", "_lengths", "_order", "_starts", "newest")

    def __init__(self, cap: int, depth: int) -> None:
        self._cap = cap
        self._depth = depth
        self._order: OrderedDict[str, str] = OrderedDict()  # pattern -> beginning, oldest first
        self._starts: dict[str, dict[str, _Pattern]] = {}
        self._lengths = _Lengths()
        self.newest = -1

    def add(
        self, value: str, matches: Glob, at: _At, sink: Callable[[str, _History], None]
    ) -> None:
        """``sink``: takes the beginning and the history of one that is dropped."""
        start = self._order.get(value)
        if start is None:
            start = self._lengths.cut(value.partition("*")[0])
        # Copied, not changed in place: `times` may be walking the old one in another thread.
        patterns = dict(self._starts.get(start, ()))
        before = patterns.pop(value, None)
        history = _extended(() if before is None else before.history, at, self._depth)
        patterns[value] = _Pattern(history, matches)
        self._starts[start] = patterns
        self._order[value] = start
        self._order.move_to_end(value)
        self.newest = at.position
        if len(patterns) > min(_BUCKET, self._cap):
            self._drop(next(iter(patterns)), sink)
        if len(self._order) > self._cap:
            self._drop(next(iter(self._order)), sink)

    def _drop(self, value: str, sink: Callable[[str, _History], None]) -> None:
        start = self._order.pop(value)
        patterns = dict(self._starts[start])
        # First: a pattern that sinks is seen here or there.
        sink(value.partition("*")[0], patterns.pop(value).history)
        if patterns:
            self._starts[start] = patterns
        else:
            del self._starts[start]

    def times(self, text: str, label: str, since: int) -> list[tuple[str, float]]:
        """The patterns that were marked after ``since`` and match ``label``, each with the earliest
        time. ``text``: what they begin like."""
        if self.newest <= since:
            return []
        found = []
        for length in self._lengths.all:
            patterns = self._starts.get(text[:length]) if length <= len(text) else None
            if patterns is None:
                continue
            # The newest is the last: walk backwards and stop at what was already seen.
            for value, pattern in reversed(patterns.items()):
                if pattern.history[-1].position <= since:
                    break
                if pattern.matches(label):
                    time = _after(pattern.history, since)
                    assert time is not None
                    found.append((value, time))
        return found

    def __len__(self) -> int:
        return len(self._order)


class _Severity:
    """All marks of one severity (hard, or soft).

    ``depth``: how many marks of one and the same thing are told apart. A hard mark need not be:
    the newest says it all. A soft one must, for the windows run from the *first* that an entry met.
    """

    __slots__ = (
        "_depth", "all", "globs", "keys", "path_globs", "path_prefixes", "prefixes", "tags",
    )  # fmt: skip

    def __init__(self, max_marks: int, max_patterns: int, depth: int) -> None:
        self.tags = _Exact(max_marks, depth)
        self.keys = _Exact(max_marks, depth)
        self.prefixes = _Prefixes(max_marks, depth)
        self.path_prefixes = _Prefixes(max_marks, depth)
        self.globs = _Patterns(max_patterns, depth)
        self.path_globs = _Patterns(max_patterns, depth)
        self.all: _History = ()
        self._depth = depth

    def add(self, invalidation: Invalidation, matches: Glob | None, at: _At) -> None:
        kind, value = invalidation.kind, invalidation.value
        if kind == "tag":
            self.tags.add(value, (at,))
        elif kind == "key":
            self.keys.add(value, (at,))
        elif kind == "prefix":
            self._sink(value, (at,))
        elif matches is None:
            self._everything((at,))
        elif kind == "path":
            self.path_globs.add(value, matches, at, self._sink_path)
        else:
            self.globs.add(value, matches, at, self._sink)

    def _sink(self, start: str, history: _History) -> None:
        if not self.prefixes.add(start, history):
            self._everything(history)

    def _sink_path(self, start: str, history: _History) -> None:
        if not self.path_prefixes.add(start, history):
            self._everything(history)

    def _everything(self, history: _History) -> None:
        self.all = _merged(self.all, history, self._depth)

    def since(self, since: int, tags: Iterable[str], label: str) -> float | None:
        """The earliest time of the marks after ``since`` that match; None if none does."""
        return min((time for _, _, time in self.catching(since, tags, label)), default=None)

    def catching(self, since: int, tags: Iterable[str], label: str) -> list[_Named]:
        """What `since` finds, by name."""
        found: list[_Named] = []
        # Patterns first, then what they sink into: one that sinks meanwhile is seen here or there.
        for value, time in self.globs.times(label, label, since):
            found.append(("glob", value, time))
        path = ""
        if max(self.path_globs.newest, self.path_prefixes.newest) > since:
            path = _path_of(label)
        for value, time in self.path_globs.times(path, label, since):
            found.append(("path", value, time))
        for value, time in self.path_prefixes.times(path, since):
            found.append(("path", value + "*", time))
        for value, time in self.prefixes.times(label, since):
            found.append(("prefix", value, time))
        if self.tags.newest > since:
            for tag in tags:
                marked = self.tags.since(tag, since)
                if marked is not None:
                    found.append(("tag", tag, marked))
        for kind, value, at in (
            ("key", label, self.keys.since(label, since)),
            ("all", "", _after(self.all, since)),
        ):
            if at is not None:
                found.append((kind, value, at))
        return found


_Named: TypeAlias = tuple[str, str, float]


def matcher(invalidation: Invalidation) -> Glob | None:
    """What a pattern mark matches; None for the other kinds. Raises KeyRefused."""
    match invalidation.kind:
        case "tag" | "key" | "all":
            return None
        case "prefix":
            return _prefix(invalidation.value)
        case "glob":
            return glob(invalidation.value)
        case "path":
            return _path_glob(invalidation.value)
    raise KeyRefused(
        f"mark kind must be tag, key, prefix, glob, path or all, got {invalidation.kind!r}"
    )


class Invalidations:
    """What one instance knows of the log: its position and the marks that can still matter.

    ``position`` is the last log position applied; it only grows. ``floor``: what is stamped below it
    is gone, for nobody knows any more what was purged since; it only grows too (see `rise`).
    ``changes``: how many times either has changed. Between two equal readings nothing was purged; one
    apart, one record was taken in and nothing else, whatever the log counts its positions by. Marks
    are applied by one writer at a time (the log's business) and read by anyone.
    """

    __slots__ = ("_hard", "_soft", "changes", "floor", "position")

    def __init__(
        self, *, max_marks: int = MAX_INVALIDATIONS, max_patterns: int = MAX_PATTERNS
    ) -> None:
        self.position = 0
        self.floor = 0
        self.changes = 0
        self._hard = _Severity(max_marks, max_patterns, 1)
        self._soft = _Severity(max_marks, max_patterns, _SOFT_DEPTH)

    def apply(self, position: int, invalidations: Iterable[Invalidation], time: float) -> None:
        """Take in the log record at ``position``, made at ``time`` (seconds since the epoch).

        Raises KeyRefused, with nothing taken in, for a pattern that `glob` refuses.
        """
        at = _At(position, time)
        for invalidation, matches in [
            (invalidation, matcher(invalidation)) for invalidation in invalidations
        ]:
            (self._soft if invalidation.soft else self._hard).add(invalidation, matches, at)
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
            *(
                Caught(kind, value, False, None if time == _UNKNOWN else time)
                for kind, value, time in hard
            ),
            *(Caught(kind, value, True, time) for kind, value, time in soft if time == ended),
        )

    def counts(self) -> dict[str, int]:
        """How many marks of each kind are held."""
        hard, soft = self._hard, self._soft
        return {
            "tags": len(hard.tags) + len(soft.tags),
            "keys": len(hard.keys) + len(soft.keys),
            "prefixes": sum(len(one.prefixes) + len(one.path_prefixes) for one in (hard, soft)),
            "patterns": sum(len(one.globs) + len(one.path_globs) for one in (hard, soft)),
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

    def __init__(self, invalidations: Invalidations, lock: AbstractContextManager[Any]) -> None:
        self._marks = invalidations
        self._lock = lock

    async def append(
        self,
        invalidations: tuple[Invalidation, ...],
        time: float,
        *,
        wait: float | None = None,  # noqa: ARG002 - nobody to wait for
    ) -> PurgeReceipt:
        """Append and apply.

        Raises KeyRefused, with nothing applied, for a pattern that `glob` refuses.
        """
        with self._lock:
            self._marks.apply(self._marks.position + 1, invalidations, time)
        return PurgeReceipt(1, 1)
