"""Applied purges against a model that remembers all of them.

They never invalidate too little, and never too much while no cap is reached.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation, Invalidations, tables

LABELS = [
    f"{scheme}://{host}{path}"
    for scheme in ("http", "https")
    for host in ("a", "ab", "a:1")
    for path in ("/", "/x", "/xy", "/x/y", "/x?q", "/y/x")
]
PATTERNS = ["*", "*x", "*/y*", "http://*", "http://a/*", "http://a/x", "http*/x*", "https://ab*y"]
PATHS = ["/*", "/x", "/x*", "/*y", "/x/*", "/x?*", "/*x*"]
PREFIXES = ["h", "http:", "http://a", "http://a/", "http://a:", "https://ab/x", "http://a/x/"]
TAGS = ["t0", "t1", "t2"]
invalidations = st.one_of(
    st.builds(Invalidation, st.just("tag"), st.sampled_from(TAGS), st.booleans()),
    st.builds(Invalidation, st.just("key"), st.sampled_from(LABELS), st.booleans()),
    st.builds(Invalidation, st.just("prefix"), st.sampled_from(PREFIXES), st.booleans()),
    st.builds(Invalidation, st.just("glob"), st.sampled_from(PATTERNS), st.booleans()),
    st.builds(Invalidation, st.just("path"), st.sampled_from(PATHS), st.booleans()),
)
rarely_all = st.builds(Invalidation, st.just("all"), st.just(""), st.booleans())


def naive(purge: Invalidation, tags: tuple[str, ...], label: str) -> bool:
    def matches(pattern: str, text: str) -> bool:
        regex = ".*".join(map(re.escape, pattern.split("*")))
        return re.fullmatch(regex, text, re.DOTALL) is not None

    match purge.kind:
        case "tag":
            return purge.value in tags
        case "key":
            return purge.value == label
        case "prefix":
            return label.startswith(purge.value)
        case "glob":
            return matches(purge.value, label)
        case "path":
            return matches(purge.value, "/" + label.split("://")[1].partition("/")[2])
    return True


@given(
    log=st.lists(st.one_of(invalidations, invalidations, invalidations, rarely_all), max_size=40),
    since=st.integers(0, 40),
    tags=st.sets(st.sampled_from(TAGS), max_size=2).map(tuple),
    label=st.sampled_from(LABELS),
    caps=st.sampled_from([(1, 1), (2, 2), (3, 5), (1, 100), (100, 1), (100, 100)]),
    lengths=st.sampled_from([1, 2, 256]),
    shift=st.sampled_from([0, 40, 90]),
)
@settings(max_examples=300, deadline=None)
def test_model(
    log: list[Invalidation],
    since: int,
    tags: tuple[str, ...],
    label: str,
    caps: tuple[int, int],
    lengths: int,
    shift: int,
) -> None:
    """``shift``: the positions of a shared log need more than 64 bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_MAX_LENGTHS", lengths)
        known = Invalidations(max_invalidations=caps[0], max_patterns=caps[1])
        for position, purge in enumerate(log, 1):
            known.apply(position << shift, [purge], float(position))
    since <<= shift
    met = [
        (float(position), purge)
        for position, purge in enumerate(log, 1)
        if position << shift > since and naive(purge, tags, label)
    ]
    hard = any(not purge.soft for _, purge in met)
    soft = [time for time, purge in met if purge.soft]
    gone = known.purged_since(since, tags, label)
    stale = known.purged_since(since, tags, label, soft=True)
    entry = Entry("v", created=0.0, fresh_until=1e6, stamp=since, tags=tags)
    assert known.admit(entry, label) is not gone
    if hard:
        assert gone
    if soft:
        assert stale
        assert gone or entry.stale_from <= soft[0]
    if caps == (100, 100) and lengths == 256:
        assert gone is hard
        assert stale is bool(met)
        if not gone and 0 < len(soft) <= 4:
            assert entry.stale_from == soft[0]
        if not gone and not soft:
            assert entry.outdated is None


@pytest.mark.parametrize("shift", [0, 40, 90])
def test_a_flood_of_keys_voids_little(shift: int) -> None:
    known = Invalidations(max_invalidations=1_000)
    for position in range(1, 4_001):
        known.apply(position << shift, [Invalidation("key", f"http://h/{position}")], 0.0)
    for position in range(1, 4_001):
        assert known.purged_since(position - 1 << shift, (), f"http://h/{position}")
        assert not known.purged_since(4_000 << shift, (), f"http://h/{position}")
    others = sum(known.purged_since(0, (), f"http://h/other/{one}") for one in range(1_000))
    # 3,000 purges in 32,768 slots, three slots each: 1.3 % expected. Ten times that never happens.
    assert others < 130
    assert known.counts()["keys"] == 1_000


@pytest.mark.parametrize("kind", ["prefix", "glob", "path"])
def test_a_flood_of_patterns_voids_only_what_begins_like_them(kind: Any) -> None:
    known = Invalidations(max_invalidations=100, max_patterns=100)
    start = "" if kind == "path" else "http://h"
    for position in range(1, 2_001):
        value = f"{start}/shop/{position}/" + ("" if kind == "prefix" else "*.png")
        known.apply(position, [Invalidation(kind, value)], 0.0)
    for position in (1, 500, 2_000):
        assert known.purged_since(position - 1, (), f"http://h/shop/{position}/a.png")
    spared = [known.purged_since(0, (), f"http://h/blog/{one}/a.png") for one in range(200)]
    assert sum(spared) < 60
    assert not known.purged_since(2_000, (), "http://h/shop/1/a.png")
    counts = known.counts()
    assert counts["prefixes"] + counts["patterns"] <= 300


def test_six_hundred_patterns_are_told_apart() -> None:
    known = Invalidations()
    for position in range(1, 601):
        known.apply(position, [Invalidation("path", f"/*/{position}/*")], 0.0)
    assert known.purged_since(0, (), "http://h/x/600/y")
    assert known.purged_since(0, (), "http://h/x/1/y")
    assert not known.purged_since(0, (), "http://h/x/601/y")


def test_an_idle_process_holds_no_tables() -> None:
    known = Invalidations()
    for position in range(1, 1_001):
        known.apply(
            position,
            [Invalidation("tag", f"t{position}"), Invalidation("key", f"k{position}")],
            0.0,
        )
    assert known._hard.tags._floors is None and known._hard.keys._floors is None
