"""No-Vary-Search: what the field says, and which queries it makes equivalent."""

from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.core.invalidation import MAX_PATTERN_LENGTH, Invalidation, Invalidations, glob
from layergate.http.engine.purge import purge_invalidations
from layergate.http.extensions.no_vary_search import (
    MAX_PARAMS,
    SearchVariance,
    class_key,
    path_key,
    purge_label,
    reaching,
    reduced,
    search_tag,
    tag_of,
    variance_of,
)
from layergate.http.message.fields import Fields
from layergate.http.message.key import label_of, primary_key, query_of, variant_key


def said(*values: str | bytes) -> SearchVariance | None:
    raw = [value.encode("latin-1") if isinstance(value, str) else value for value in values]
    return variance_of(Fields([(b"No-Vary-Search", value) for value in raw]))


READ = [
    ("params", (True, True, ())),
    ("params=?1", (True, True, ())),
    ('params=("a")', (True, False, (b"a",))),
    ('params=("b" "a" "b")', (True, False, (b"a", b"b"))),
    ('params, except=("x")', (True, True, (b"x",))),
    ("params, except=()", (True, True, ())),
    ("key-order", (False, False, ())),
    ("key-order=?1", (False, False, ())),
    ('params, key-order, except=("x")', (False, True, (b"x",))),
    ('key-order, params=("a")', (False, False, (b"a",))),
    ('params=("a"), unknown=1, another', (True, False, (b"a",))),
    ('params=("a";p=1);q', (True, False, (b"a",))),
    ('params=("%C3%A9+%E6%B0%97")', (True, False, ("é 気".encode(),))),
    ('params=("%zz" "%4" "%41")', (True, False, (b"%4", b"%zz", b"A"))),
    ('params=("")', (True, False, (b"",))),
    ('params=("a"), params=("b")', (True, False, (b"b",))),
]


@pytest.mark.parametrize(("value", "expected"), READ, ids=[value for value, _ in READ])
def test_what_is_said(value, expected):
    assert said(value) == SearchVariance(*expected)


ALL = [
    # What means the same as no field at all ...
    "", "params=?0", "params=()", "key-order=?0", "unknown-key",
    # ... and what is void, since some of it is not understood.
    'key-order="not a boolean"', 'params="not a boolean or inner list"', "params=(not-a-string)",
    'params=("a"), except=("x")', "params=(), except=()", 'params=?0, except=("x")',
    "params, except=(not-a-string)", 'params, except="not an inner list"', "params, except=?1",
    "params, except", 'except=("x")', "except=()", "key-order=1", "params=1", "params=(1)",
    'params=("a"', 'params=("a",)', "Params", "params;", '"params"', "params,", ",params",
    'params=("é")', "key-order=()", 'key-order, params=("a" b)', "key-order=?2",
    'params=%"a"', 'params=(%"a")', "params=(:YQ==:)", "params\x00", "x" * 5000 + ", params",
    "params=(" + " ".join(f'"{n}"' for n in range(MAX_PARAMS + 1)) + ")",
]  # fmt: skip


@pytest.mark.parametrize("value", ALL)
def test_all_of_the_query_counts(value):
    assert said(value) is None


def test_as_many_names_as_may_be_and_lines_that_are_one():
    names = " ".join(f'"{n}"' for n in range(MAX_PARAMS))
    variance = said(f"params=({names})")
    assert variance is not None and len(variance.names) == MAX_PARAMS
    assert said('params=("a")', "key-order") == SearchVariance(False, False, (b"a",))
    assert variance_of(Fields([])) is None


@given(st.binary(max_size=200) | st.text(alphabet='params=()"?10,;key-order except', max_size=60))
def test_whatever_is_said_is_read_or_void(value):
    variance = said(value)
    assert variance is None or variance.names == tuple(sorted(set(variance.names)))


# -- equivalence -----------------------------------------------------------------------------------

EQUIVALENT = [
    ("key-order", "", "", True),
    ("key-order", "a=x", "%61=%78", True),
    ("key-order", "a=\xc3\xa9", "a=%C3%A9", True),
    ("key-order", "a=x&&&&", "a=x", True),
    ("key-order", "a=", "a", True),
    ("key-order", "a=%20", "a=+", True),
    ("key-order", "a=1&b=2", "b=2&a=1", True),
    ("key-order", "a=1&b=2&a=3", "a=1&a=3&b=2", True),
    ("key-order", "a=1&a=2", "a=2&a=1", False),
    ("key-order", "a=1", "a=1&b", False),
    ("key-order", "a=1", "A=1", False),
    ("key-order", "a=b=c", "a=b%3Dc", True),
    ("key-order", "a%3Db=c", "a=b%3Dc", False),
    ("key-order", "a=b%26c=d", "a=b&c=d", False),
    ("key-order", "a=%2B", "a=+", False),
    ("key-order", "a=1;b=2", "b=2;a=1", False),
    ("key-order", "a=%f6", "a=%ef%bf%bd", False),  # the departure
    ('params=("u")', "a=1&u=2", "a=1", True),
    ('params=("u")', "u=2&a=1&u", "a=1", True),
    ('params=("u")', "%75=2", "", True),
    ('params=("u")', "a=1&b=2", "b=2&a=1", False),
    ('params=("u")', "U=1", "", False),
    ('params=("u")', "u%00=1", "", False),
    ('params=("%C3%A9+%E6%B0%97")', "%C3%A9%20%E6%B0%97=3", "\xc3\xa9+\xe6\xb0\x97=4", True),
    ("params", "a=1", "b=2&c", True),
    ('params, except=("id")', "id=1&x=2", "y=3&id=1", True),
    ('params, except=("id")', "id=1", "id=2", False),
    ('params, except=("id")', "id=1", "", False),
    ('params, except=("id")', "id", "id=", True),
    ('params, except=("a" "b")', "a=1&b=2", "b=2&a=1", False),
    ('key-order, params, except=("a" "b")', "a=1&b=2", "b=2&z&a=1", True),
]


@pytest.mark.parametrize(
    ("value", "one", "two", "same"), EQUIVALENT, ids=[f"{v} {a} {b}" for v, a, b, _ in EQUIVALENT]
)
def test_equivalence(value, one, two, same):
    variance = said(value)
    assert variance is not None
    queries = [text.encode("latin-1") for text in (one, two)]
    assert (reduced(queries[0], variance) == reduced(queries[1], variance)) is same
    keys = [primary_key("http", b"h", "/p", b"/p", query) for query in queries]
    assert (class_key(keys[0], variance) == class_key(keys[1], variance)) is same


def parsed(query: bytes) -> list[tuple[bytes, bytes]]:
    """application/x-www-form-urlencoded, as the URL standard has it."""
    pairs = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            name, value = (unquote_to_bytes(text.replace(b"+", b" ")) for text in (name, value))
            pairs.append((name, value))
    return pairs


def equivalent(one: bytes, two: bytes, variance: SearchVariance) -> bool:
    """The comparison that the draft describes, step by step."""
    lists = []
    for query in (one, two):
        kept = [pair for pair in parsed(query) if (pair[0] in variance.names) is variance.only]
        lists.append(kept if variance.ordered else sorted(kept, key=lambda pair: pair[0]))
    return lists[0] == lists[1]


pieces = st.sampled_from(
    [b"a", b"b", b"c", b"=", b"&", b"+", b"%20", b"%61", b"%2", b"%", b"1", b"%26", b"\xff"]
)
queries = st.lists(pieces, max_size=8).map(b"".join)
variances = st.builds(
    SearchVariance,
    st.booleans(),
    st.booleans(),
    st.sets(st.sampled_from([b"a", b"b", b"", b"a b", b"%2"]), max_size=3).map(
        lambda s: tuple(sorted(s))
    ),
)


@settings(max_examples=125)
@given(queries, queries, variances)
def test_reduced_queries_are_equal_if_and_only_if_they_are_equivalent(one, two, variance):
    same = equivalent(one, two, variance)
    assert (reduced(one, variance) == reduced(two, variance)) is same
    assert reduced(reduced(one, variance), variance) == reduced(one, variance)


hosts, paths = st.sampled_from([b"h", b"h2"]), st.sampled_from(["/", "/p", "/p?", "/é"])
targets = st.builds(
    lambda scheme, host, path, query, root: primary_key(scheme, host, path, None, query, root),
    st.sampled_from(["http", "https", "ws"]), hosts, paths, queries, st.sampled_from(["", "/r"]),
)  # fmt: skip


@given(targets, targets, variances, variances)
def test_g9_a_key_is_that_of_a_class_of_targets_and_of_nothing_else(one, two, this, that):
    before, query, after = query_of(one)
    assert before + b"%d:%b" % (len(query), query) + after == one
    first, second = class_key(one, this), class_key(two, that)
    (b1, q1, a1), (b2, q2, a2) = query_of(one), query_of(two)
    same = (b1, a1, this) == (b2, a2, that) and equivalent(q1, q2, this)
    assert (first == second) is same
    assert (path_key(one) == path_key(two)) is ((b1, a1) == (b2, a2))
    others = {one, two, path_key(one), path_key(two), variant_key(one, b"x"), one + b"\x00cookie"}
    others |= {variant_key(path_key(one), b"x"), variant_key(one, b"x") + b"\x00cookie"}
    assert {first, second, variant_key(first, b"x")}.isdisjoint(others)


@given(targets, variances)
def test_g3_a_purge_of_any_equivalent_target_names_the_tag(key, variance):
    tag = tag_of(key)
    assert tag == tag_of(class_key(key, variance)) == tag_of(path_key(key))
    assert tag == search_tag(label_of(key)) == search_tag(label_of(key).partition("?")[0])
    assert label_of(variant_key(class_key(key, variance), b"x")) == label_of(
        class_key(key, variance)
    )


# -- purges ------------------------------------------------------------------------------------------

paths = st.sampled_from(["/", "/p", "/p/", "/pp", "/q", "/*", "/p%2A"])
searches = st.text("ab=&?*", max_size=6)
said_so = st.sampled_from([
    SearchVariance(True, False, (b"a",)), SearchVariance(False, False, ()),
    SearchVariance(True, True, ()), SearchVariance(True, True, (b"b",)),
])  # fmt: skip
written = st.lists(st.sampled_from(["/", "p", "q", "?", "a", "b", "=", "&", "*"]), max_size=8)


def purges(kind: str, text: str) -> dict[str, Any]:
    match kind:
        case "urls":
            return {"urls": ["http://h/" + text]}
        case "prefixes":
            return {"prefixes": ["h/" + text]}
        case "patterns":
            return {"patterns": ["http://h/" + text]}
        case "paths":
            return {"patterns": ["/" + text]}
        case _:
            return {"patterns": ["*" + text]}


@settings(max_examples=200)
@given(
    paths, searches, searches, said_so, st.sampled_from(["urls", "prefixes", "patterns", "paths", "any"]), written,
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_g3_what_purges_one_of_the_equivalent_urls_purges_what_is_stored_for_them(
    path, one, two, variance, kind, text, mounted, variant
):
    """Whatever is found by one of them is gone."""
    root = "/root" if mounted else ""
    stored, asked = (
        primary_key("http", b"h", path, path.encode(), query.encode(), root) for query in (one, two)
    )
    if class_key(stored, variance) != class_key(asked, variance):
        return
    invalidations = purge_invalidations(**purges(kind, "".join(text)))
    log = Invalidations()
    log.apply(1, invalidations, 0.0)
    meant = log.purged_since(0, (), label_of(asked))
    reached = Invalidations()
    reached.apply(1, reaching(invalidations), 0.0)
    key = class_key(stored, variance)
    if variant:
        key = variant_key(key, b"x")
    if meant:
        assert reached.purged_since(0, (tag_of(stored),), purge_label(key))
    # And what is stored for one target alone is purged by what names it, and by nothing else.
    for exact in (stored, variant_key(stored, b"x"), path_key(stored)):
        assert purge_label(exact) == label_of(exact)
        assert reached.purged_since(0, (), label_of(exact)) == log.purged_since(
            0, (), label_of(exact)
        )


@pytest.mark.parametrize("kind", ["prefix", "glob", "path"])
@pytest.mark.parametrize("ending", ["", "?", "*", "*" * 15, "?" + "*" * 16])
def test_the_longest_pattern_has_one_that_is_none_too_long(kind, ending):
    value = ("http://h/" if kind != "path" else "/") + "p" * MAX_PATTERN_LENGTH
    value = value[: MAX_PATTERN_LENGTH - len(ending)] + ending
    invalidations = reaching([Invalidation(kind, value)])
    Invalidations().apply(1, invalidations, 0.0)
    assert len(invalidations) == (1 if kind == "prefix" and "?" not in ending else 2)
    path = "http://h" * (kind == "path") + value.partition("?")[0].partition("*")[0]
    assert kind == "prefix" or any(
        glob(one.value)((path if one.kind == "glob" else path[8:]) + "?\0") for one in invalidations
    )
