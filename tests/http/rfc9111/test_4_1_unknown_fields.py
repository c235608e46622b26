"""RFC 9111 section 4.1: values of a field whose definition nobody here knows are left as they are."""

from hypothesis import example, given
from hypothesis import strategies as st

from layergate.http.message.fields import Fields
from layergate.http.rfc9111.selecting import normalize, secondary_key

UNKNOWN = st.sampled_from([b"x-user", b"foo", b"x-forwarded-for", b"origin", b"user-agent"])
# What a list's normalization would touch, and what our own keys are made of.
VALUE = st.text('u1,; \t"\\:=-\0', max_size=6).map(str.encode)
LONG = st.integers(1022, 1027).map(lambda size: b"x" * size)
LINES = st.lists(st.one_of(VALUE, VALUE, LONG), max_size=3)


def trimmed(lines: list[bytes]) -> list[bytes]:
    return [line.strip(b" \t") for line in lines]


@given(UNKNOWN, LINES, LINES)
@example(b"x-user", [b"u1"], [b"u1,"])
@example(b"x-user", [b"u1"], [b",u1"])
@example(b"x-user", [b"a, b"], [b"a,b"])
@example(b"x-user", [b"a", b"b"], [b"a, b"])
@example(b"x-user", [b"a", b"b"], [b"\0\x001:a1:b"])
@example(b"x-user", [b"a" * 1024, b"b"], [b"1024:" + b"a" * 1024 + b"1:b"])
def test_two_values_are_one_only_if_their_trimmed_lines_are_equal(name, one, other):
    same = trimmed(one) == trimmed(other)
    assert (normalize(name, one) == normalize(name, other)) is same
    fields, others = (Fields([(name, line) for line in lines]) for lines in (one, other))
    assert (secondary_key((name,), fields) == secondary_key((name,), others)) is same


@given(st.lists(VALUE, max_size=4))
def test_the_crumbs_of_a_cookie_are_one_cookie(crumbs):
    """RFC 9113 section 8.2.3."""
    joined = [b"; ".join(crumbs)] if crumbs else []
    assert normalize(b"cookie", crumbs) == normalize(b"cookie", joined)
