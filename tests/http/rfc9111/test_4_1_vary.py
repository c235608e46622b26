"""RFC 9111 section 4.1: Vary and the secondary key."""

import pytest

from layergate.http.message.fields import Fields
from layergate.http.message.key import others_of, variant_key
from layergate.http.rfc9111.selecting import STAR, normalize, secondary_key, vary_names

NAMES = [
    ("absent", [], ()),
    ("empty", [b""], ()),
    ("one", [b"Accept"], (b"accept",)),
    ("sorted", [b"Foo, Bar"], (b"bar", b"foo")),
    ("once", [b"foo, FOO, Foo"], (b"foo",)),
    ("lines", [b"Foo", b"Bar,,"], (b"bar", b"foo")),
    # 'A stored response with a Vary header field value containing a member "*" always fails to
    # match.'
    ("star", [b"*"], None),
    ("star-star", [b"*, *"], None),
    ("star-star-lines", [b"*", b"*"], None),
    ("empty-star", [b", *"], None),
    ("empty-star-lines", [b"", b"*"], None),
    ("star-foo", [b"*, Foo"], None),
    ("foo-star", [b"Foo, *"], None),
    ("foo-star-lines", [b"Foo", b" * "], None),
    # What is not a field name says that there is something we do not know.
    ("spaces", [b"Foo Bar"], None),
    ("quoted", [b'"Foo"'], None),
    ("quoted-star", [b'"foo, *"'], None),
    ("not-ascii", [b"Foo, \xff"], None),
    ("nul", [b"Foo\x00"], None),
    ("colon", [b"Foo: Bar"], None),
    ("long", [b", ".join([b"x"] * 2000 + [b"*"])], None),
]


@pytest.mark.parametrize(
    ("values", "expected"), [pytest.param(*row[1:], id=f"4.1-{row[0]}") for row in NAMES]
)
def test_names(values, expected):
    assert vary_names(Fields([(b"Vary", value) for value in values])) == expected


def test_star_is_the_member():
    assert vary_names(Fields([(b"vary", STAR)])) is None


# id, name, values of the first request, of the second, whether they match.
MATCHES = [
    ("same", b"foo", [b"1"], [b"1"], True),
    ("different", b"foo", [b"1"], [b"2"], False),
    ("case-of-unknown", b"foo", [b"a"], [b"A"], False),
    # "If ... a header field is absent from a request, it can only match another request if it is
    # also absent there."
    ("absent-presented", b"foo", [b"1"], [], False),
    ("absent-stored", b"foo", [], [b"1"], False),
    ("absent-both", b"foo", [], [], True),
    ("absent-empty", b"foo", [], [b""], False),
    ("absent-comma", b"foo", [], [b","], False),
    # "adding or removing whitespace, where allowed in the header field's syntax": of what is not known
    # to be a list, at the ends.
    ("ends", b"foo", [b"1,2"], [b" 1,2\t"], True),
    ("space-inside", b"foo", [b"1,2"], [b"1, 2"], False),
    ("space-before-comma", b"foo", [b"1,2"], [b"1 ,2"], False),
    ("empty-member-last", b"foo", [b"u1"], [b"u1,"], False),
    ("empty-member-first", b"foo", [b"u1"], [b",u1"], False),
    ("empty-members", b"foo", [b"u1,,u2"], [b"u1,u2"], False),
    ("x-forwarded-for", b"x-forwarded-for", [b"a, b"], [b"a,b"], False),
    ("origin", b"origin", [b"http://a"], [b"http://a,"], False),
    ("space-in-list", b"accept-charset", [b"utf-8,*"], [b" utf-8 ,\t* "], True),
    ("empty-members-of-list", b"prefer", [b"a"], [b",a,"], True),
    ("space-in-member", b"foo", [b"a b"], [b"a  b"], False),
    ("space-in-quotes", b"foo", [b'"1,2"'], [b'"1, 2"'], False),
    ("space-in-cookie", b"cookie", [b"a=1,2"], [b"a=1, 2"], False),
    ("space-in-user-agent", b"user-agent", [b"x (a,b)"], [b"x (a, b)"], False),
    ("space-around-cookie", b"cookie", [b"a=1"], [b" a=1 "], True),
    # "combining multiple header field lines with the same field name": of lists
    ("combine", b"accept-charset", [b"1, 2"], [b"1", b"2"], True),
    ("combine-order", b"accept-charset", [b"1, 2"], [b"2", b"1"], False),
    ("combine-no-list", b"foo", [b"1, 2"], [b"1", b"2"], False),
    ("combine-no-list-semicolon", b"foo", [b"1; 2"], [b"1", b"2"], False),
    ("lines-same", b"foo", [b"1", b"2"], [b" 1", b"2 "], True),
    ("lines-order", b"foo", [b"1", b"2"], [b"2", b"1"], False),
    ("lines-empty", b"foo", [b"1", b""], [b"1"], False),
    ("lines-shifted", b"foo", [b"1", b"23"], [b"12", b"3"], False),
    ("lines-long", b"foo", [b"x" * 2000, b"y"], [b"x" * 2000 + b", y"], False),
    ("lines-long-same", b"foo", [b"x" * 2000, b"y"], [b"x" * 2000, b"y "], True),
    ("combine-not-one", b"foo", [b"12"], [b"1", b"2"], False),
    ("combine-cookie", b"cookie", [b"a=1; b=2"], [b"a=1", b"b=2"], True),
    # "reordering field values when order is not significant; case-normalization, where values are
    # defined to be case-insensitive"
    ("order-of-unknown", b"foo", [b"1, 2"], [b"2, 1"], False),
    # RFC 9110 12.5.4: the order of equal weights is taken for a preference by some
    ("lang-order", b"accept-language", [b"en, de"], [b"de, en"], False),
    ("lang-order-of-weights", b"accept-language", [b"en;q=0.5, de"], [b"de, en;q=0.5"], True),
    ("lang-case", b"accept-language", [b"en, de"], [b"eN, De"], True),
    ("lang-space", b"accept-language", [b"en, de"], [b" en ,   de"], True),
    ("lang-different", b"accept-language", [b"en"], [b"de"], False),
    ("lang-weight", b"accept-language", [b"en;q=0.5, de"], [b"en, de;q=0.5"], False),
    ("lang-q-order", b"accept-language", [b"de;q=0.5,en"], [b"en, de; q=0.50"], True),
    ("enc-order", b"accept-encoding", [b"gzip, br"], [b"br,gzip"], True),
    ("enc-case", b"accept-encoding", [b"GZIP"], [b"gzip"], True),
    ("enc-q-1", b"accept-encoding", [b"gzip;q=1.000"], [b"gzip"], True),
    ("enc-q-1-dot", b"accept-encoding", [b"gzip;Q=1."], [b"gzip"], True),
    ("enc-q-0", b"accept-encoding", [b"gzip;q=0.0"], [b"gzip;q=0"], True),
    ("enc-refused", b"accept-encoding", [b"gzip;q=0"], [b"gzip"], False),
    ("enc-twice", b"accept-encoding", [b"gzip, gzip"], [b"gzip"], True),
    ("enc-empty", b"accept-encoding", [b""], [], False),
    ("enc-bad-q", b"accept-encoding", [b"br;q=2, gzip"], [b"gzip, br;q=2"], False),
    ("enc-long-q", b"accept-encoding", [b"br;q=0.1234"], [b"br;q=0.123"], False),
    ("enc-parameter", b"accept-encoding", [b"br;x=1, gzip"], [b"gzip, br;x=1"], False),
    ("accept-order", b"accept", [b"text/html, */*;q=0.8"], [b"*/*;q=0.80,Text/HTML"], True),
    ("accept-parameter", b"accept", [b"a/b;Level=1"], [b"a/b; level=1"], True),
    ("accept-parameter-value", b"accept", [b"a/b;p=X"], [b"a/b;p=x"], False),
    ("accept-quoted", b"accept", [b'a/b;p="x", c/d'], [b'c/d, a/b;p="x"'], False),
    ("accept-after-q", b"accept", [b"a/b;q=1;x=1"], [b"a/b;x=1;q=1"], False),
    ("accept-no-type", b"accept", [b";q=1, a/b"], [b"a/b, ;q=1"], False),
    # Values over 1 KB are hashed.
    ("long-same", b"foo", [b"x" * 2000], [b" " + b"x" * 2000], True),
    ("long-different", b"foo", [b"x" * 2000], [b"x" * 2001], False),
    ("long-lang", b"accept-language", [b"en, " * 400 + b"de"], [b"EN," * 400 + b"De"], True),
]


@pytest.mark.parametrize(
    ("name", "first", "second", "match"),
    [pytest.param(*row[1:], id=f"4.1-{row[0]}") for row in MATCHES],
)
def test_matches(name, first, second, match):
    one = Fields([(name, value) for value in first])
    other = Fields([(name, value) for value in second])
    assert (normalize(name, first) == normalize(name, second)) is match
    assert (secondary_key((name,), one) == secondary_key((name,), other)) is match


# RFC 9110 12.5.4, where the app is known not to look at the order of equal weights.
UNORDERED = [
    ("same", [b"en, de"], [b"de, en"], True),
    ("weights", [b"fr;q=0.5, en, de"], [b"de, en, fr;q=0.5"], True),
    ("equal-weights", [b"en;q=0.5, de;q=0.50"], [b"de;q=0.5, en;q=0.5"], True),
    ("lines", [b"en", b"de"], [b"de", b"en"], True),
    ("other-weights", [b"en, de;q=0.5"], [b"de, en;q=0.5"], False),
    ("malformed", [b"en;x, de"], [b"de, en;x"], False),
]


@pytest.mark.parametrize(
    ("first", "second", "match"), [pytest.param(*row[1:], id=row[0]) for row in UNORDERED]
)
def test_languages_without_order(first, second, match):
    one, other = (
        normalize(b"accept-language", values, language_order=False) for values in (first, second)
    )
    assert (one == other) is match


@pytest.mark.parametrize(
    ("names", "agree"),
    [
        ((b"accept-language",), True),
        ((b"accept-language", b"b"), True),
        ((b"a", b"accept-language", b"b"), False),
        ((b"a", b"b"), None),
        ((), None),
    ],
)
def test_variants_that_differ_by_language_alone(names, agree):
    """Their keys have something in common, and nothing else's have it."""
    one = Fields([(b"a", b"1"), (b"accept-language", b"de"), (b"b", b"l2;")])
    other = Fields([(b"a", b"2"), (b"accept-language", b"en"), (b"b", b"l2;")])
    keys = [variant_key(b"key", secondary_key(names, fields)) for fields in (one, other)]
    first, second = (others_of(b"key", key) for key in keys)
    assert bool(first) is (agree is not None)
    assert (first == second) is (agree is not False)
    assert (keys[0] == keys[1]) is (names == ())


def test_fields_not_named_do_not_matter():
    names = (b"foo",)
    one = Fields([(b"Foo", b"1"), (b"Other", b"2")])
    other = Fields([(b"Other", b"3"), (b"foo", b"1")])
    assert secondary_key(names, one) == secondary_key(names, other)


def test_values_stay_with_their_names():
    names = (b"a", b"b")
    assert secondary_key(names, Fields([(b"a", b"1")])) != secondary_key(
        names, Fields([(b"b", b"1")])
    )
    forged = Fields([(b"a", b"1:b=1:2")])
    assert secondary_key(names, forged) != secondary_key(
        names, Fields([(b"a", b"1"), (b"b", b"2")])
    )


def test_nothing_named_is_one_variant():
    assert secondary_key((), Fields([(b"a", b"1")])) == b""


def test_the_hash_of_a_long_value_cannot_be_sent():
    hashed = normalize(b"foo", [b"x" * 2000])
    assert hashed is not None
    assert normalize(b"foo", [hashed]) != hashed
    assert normalize(b"cookie", [hashed]) != hashed
