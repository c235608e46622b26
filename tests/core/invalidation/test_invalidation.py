"""Purges never invalidate too little, whichever table overflows; a glob matches what its regular
expression would."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.core.entry import Entry
from layergate.core.invalidation import (
    MAX_PATTERN_LENGTH,
    Invalidation,
    Invalidations,
    LocalLog,
    glob,
)
from layergate.errors import KeyRefused
from layergate.runtime.loop import LoopRuntime

pieces = st.text(alphabet="ab.*", max_size=12)
subjects = st.text(alphabet="ab.", max_size=14)


@given(pattern=pieces.filter(bool), subject=subjects)
@settings(max_examples=150)
def test_a_glob_is_the_regex_with_dot_star(pattern: str, subject: str) -> None:
    regex = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert glob(pattern)(subject) == (re.fullmatch(regex, subject, re.DOTALL) is not None)


@pytest.mark.parametrize("pattern", ["", "x" * (MAX_PATTERN_LENGTH + 1), "*a" * 17])
def test_a_glob_that_cannot_be_is_refused(pattern: str) -> None:
    with pytest.raises(KeyRefused):
        glob(pattern)


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [("x" * MAX_PATTERN_LENGTH, "x" * MAX_PATTERN_LENGTH), ("*a" * 16, "a" * 16)],
)
def test_a_glob_at_its_limits_matches(pattern: str, subject: str) -> None:
    assert glob(pattern)(subject)
    assert not glob(pattern)(subject[:-1])


@pytest.mark.parametrize(
    ("pattern", "label", "matches"),
    [
        ("/a/*", "https://h/a/b", True),
        ("/a/*", "https://h:8080/a/", True),
        ("/a/*", "https://h/b/a/b", False),
        ("/", "https://h", True),
        ("/a?u=http://x/y", "https://h/a?u=http://x/y", True),
        ("plain*", "plain-key", True),
    ],
)
def test_a_path_purge_sees_what_follows_the_authority(
    pattern: str, label: str, matches: bool
) -> None:
    invalidations = Invalidations()
    invalidations.apply(1, [Invalidation("path", pattern)], 0.0)
    assert invalidations.purged_since(0, (), label) is matches


def entry(stamp: int = 0, tags: tuple[str, ...] = (), fresh_until: float = 1e6) -> Entry:
    return Entry("v", created=0.0, fresh_until=fresh_until, stamp=stamp, tags=tags)


TAGS = ["t0", "t1", "t2", "t3"]
LABELS = ["a", "ab", "b", "bb"]
any_purge = st.one_of(
    st.builds(Invalidation, st.just("tag"), st.sampled_from(TAGS), st.booleans()),
    st.builds(Invalidation, st.just("key"), st.sampled_from(LABELS), st.booleans()),
    st.builds(Invalidation, st.just("prefix"), st.sampled_from(["a", "ab", "b"]), st.booleans()),
    st.builds(
        Invalidation, st.just("glob"), st.sampled_from(["*b", "a*", "b", "*"]), st.booleans()
    ),
    st.builds(Invalidation, st.just("all"), st.just(""), st.booleans()),
)


def matches(purge: Invalidation, tags: tuple[str, ...], label: str) -> bool:
    match purge.kind:
        case "tag":
            return purge.value in tags
        case "key":
            return purge.value == label
        case "prefix":
            return label.startswith(purge.value)
        case "glob":
            return re.fullmatch(purge.value.replace("*", ".*"), label) is not None
    return True


@given(
    log=st.lists(any_purge, max_size=30),
    stamp=st.integers(0, 10),
    tags=st.sets(st.sampled_from(TAGS), max_size=2).map(tuple),
    label=st.sampled_from(LABELS),
    caps=st.sampled_from([(1, 1), (2, 1), (3, 2), (100, 100)]),
    looked_at=st.sets(st.integers(1, 30), max_size=3),
)
@settings(max_examples=150)
def test_purges_never_invalidate_too_little(log, stamp, tags, label, caps, looked_at) -> None:
    exact = caps == (100, 100)
    invalidations = Invalidations(max_invalidations=caps[0], max_patterns=caps[1])
    subject = entry(stamp, tags)
    admitted = True
    for position, purge in enumerate(log, 1):
        invalidations.apply(position, [purge], float(position))
        if position in looked_at and position >= stamp:
            admitted = admitted and invalidations.admit(subject, label)
    hits = [
        (position, purge)
        for position, purge in enumerate(log, 1)
        if position > stamp and matches(purge, tags, label)
    ]
    hard = any(not purge.soft for _, purge in hits)
    soft = [float(position) for position, purge in hits if purge.soft]
    caught = invalidations.catching(subject, label)
    lifetime = subject.stale_from
    gone = not invalidations.admit(subject, label)
    assert any(not one.soft for one in caught) is gone  # the same, by name
    if not gone:
        assert all(one.time == subject.stale_from for one in caught)
        assert caught or subject.stale_from == lifetime
    admitted = admitted and not gone
    if hard:
        assert not admitted
    if admitted and soft:
        assert subject.stale_from <= soft[0]  # stale from the first, not from the last
    if exact:
        assert admitted is not hard
        assert invalidations.purged_since(stamp, tags, label) is hard
        assert invalidations.purged_since(stamp, tags, label, soft=True) is bool(hits)
        if admitted and not soft:
            assert subject.stale_from == 1e6
        if admitted and 0 < len(soft) <= 4:
            assert subject.stale_from == soft[0]


def test_a_purge_in_the_floors_still_counts_and_later_entries_live() -> None:
    invalidations = Invalidations(max_invalidations=10)
    for number in range(1, 1001):
        invalidations.apply(number, [Invalidation("tag", f"t{number}")], 0.0)
    assert invalidations.counts()["tags"] == 10
    for number in range(1, 1001):
        assert invalidations.purged_since(number - 1, (f"t{number}",), "k")
        assert not invalidations.purged_since(1000, (f"t{number}",), "k")


def test_a_reader_finds_a_purge_while_it_is_moved() -> None:
    """Readers take no lock, so there must be no gap between removing and adding."""
    invalidations = Invalidations(max_invalidations=2)
    invalidations.apply(1, [Invalidation("tag", "t")], 0.0)
    seen: list[bool] = []

    class Spy(type(invalidations._hard.tags._exact)):  # type: ignore[misc]
        def move_to_end(self, key: str, last: bool = True) -> None:
            seen.append(invalidations.purged_since(0, ("t",), "k"))
            super().move_to_end(key, last)
            seen.append(invalidations.purged_since(0, ("t",), "k"))

        def __delitem__(self, key: str) -> None:
            seen.append(invalidations.purged_since(0, ("t",), "k"))
            super().__delitem__(key)
            seen.append(invalidations.purged_since(0, ("t",), "k"))

    invalidations._hard.tags._exact = Spy(invalidations._hard.tags._exact)
    for position, tag in enumerate(["t", "u", "v", "w"], 2):
        invalidations.apply(position, [Invalidation("tag", tag)], 0.0)
    assert len(seen) >= 8
    assert all(seen)


async def test_a_refused_pattern_changes_nothing() -> None:
    invalidations = Invalidations()
    log = LocalLog(invalidations, LoopRuntime().lock())
    with pytest.raises(KeyRefused):
        await log.append((Invalidation("tag", "t"), Invalidation("glob", "")), 0.0)
    assert invalidations.position == 0
    assert not invalidations.purged_since(0, ("t",), "k")
    with pytest.raises(KeyRefused, match="kind"):
        await log.append((Invalidation("tags", "t"),), 0.0)  # type: ignore[arg-type]
    assert (await log.append((Invalidation("tag", "t"),), 0.0))[:4] == (1, 1, True, "process")
    assert invalidations.position == 1


def test_an_entry_is_looked_at_once_per_purge() -> None:
    invalidations = Invalidations()
    subject = entry(tags=("t",))
    invalidations.apply(1, [Invalidation("tag", "other")], 0.0)
    assert invalidations.admit(subject, "k")
    assert subject.checked == 1


def test_a_soft_purge_makes_stale_and_never_fresh_again() -> None:
    invalidations = Invalidations()
    subject = entry(tags=("t",), fresh_until=100.0)
    invalidations.apply(1, [Invalidation("tag", "t", soft=True)], 40.0)
    invalidations.apply(2, [Invalidation("tag", "t", soft=True)], 60.0)
    assert invalidations.admit(subject, "k")
    assert subject.stale_from == 40.0
    invalidations.apply(3, [Invalidation("all", soft=True)], 80.0)
    assert invalidations.admit(subject, "k")
    assert subject.stale_from == 40.0


def test_every_change_is_counted_and_nothing_else() -> None:
    invalidations = Invalidations()
    invalidations.apply(7, (Invalidation("tag", "a"), Invalidation("all")), 1.0)
    assert invalidations.changes == 1
    with pytest.raises(KeyRefused):
        invalidations.apply(8, (Invalidation("glob", ""),), 1.0)
    invalidations.admit(entry(), "x")
    assert invalidations.changes == 1
    invalidations.rise(9)
    assert invalidations.changes == 2
