"""RFC 9111 sections 4.1, 4.3.1 and 4.3.4: variants that a request does not select, validated.

What a client sees of it is in the scenarios (``nominated-…``).
"""

from hypothesis import given
from hypothesis import strategies as st

from layergate.core.entry import Entry
from layergate.http.engine.markers import HitForMiss
from layergate.http.message.fields import Fields
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.storing import NotStored
from layergate.http.rfc9111.variants import (
    CODING,
    MAX_TAGS,
    MAX_TAGS_LENGTH,
    Codings,
    identified,
    named,
    nominated,
    nominating_line,
)


def asked(*lines: tuple[bytes, bytes]) -> Request:
    return Request(
        method="GET",
        scheme="http",
        host=b"example.org",
        path="/",
        key=b"",
        fields=Fields(lines),
        has_body=False,
        obey_directives=True,
    )


def entry(tag: bytes, body: bytes, *lines: tuple[bytes, bytes], status: int = 200, **kw) -> Entry:
    fields = [(b"etag", tag), (b"vary", b"Foo"), *lines]
    stored = StoredResponse(status, fields, body, generated=0.0, response_time=0.0, **kw)
    return Entry(stored, created=0.0, fresh_until=60.0)


def tags(*entries: Entry) -> bytes:
    return nominating_line(entries)[1]


ONE, TWO = entry(b'"1"', b"one"), entry(b'"2"', b"two")


def test_all_with_a_strong_tag_are_nominated():
    assert nominated(asked(), [TWO, ONE]) == (TWO, ONE)
    assert nominated(asked(), [TWO]) == (TWO,)
    assert nominating_line([TWO, ONE]) == (b"if-none-match", b'"2", "1"')


def test_what_may_not_be_the_answer_is_not():
    doubtful = ONE.distrusted(30.0)
    marker = Entry(HitForMiss(NotStored.PRIVATE), created=0.0, fresh_until=60.0)
    without_credentials_only = entry(b'"3"', b"three", without_credentials_only=True)
    cookie = asked((b"cookie", b"a=b"))
    assert nominated(asked(), [doubtful, marker, TWO]) == (TWO,)
    assert nominated(asked(), [without_credentials_only, TWO]) == (without_credentials_only, TWO)
    assert nominated(cookie, [without_credentials_only, TWO, ONE]) == (TWO, ONE)
    assert nominated(asked(), [entry(b'"3"', b"three", status=203), TWO]) == (TWO,)
    assert nominated(asked(), [entry(b'"3"', b"three", (b"vary", b"*")), TWO]) == (TWO,)


strong = st.binary(min_size=1, max_size=120).map(lambda raw: b'"%b"' % raw.hex().encode())
anything = st.one_of(strong, st.binary(max_size=40), strong.map(lambda tag: b"W/" + tag))


@given(st.lists(st.tuples(anything, st.binary(max_size=2)), max_size=40))
def test_what_is_sent_is_bounded_and_each_tag_names_one_body(stored):
    entries = [entry(tag, body) for tag, body in stored]
    chosen = nominated(asked(), entries)
    assert len(chosen) <= MAX_TAGS
    assert set(map(id, chosen)) <= set(map(id, entries))
    if chosen:
        value = tags(*chosen)
        assert len(value) <= MAX_TAGS_LENGTH
        assert len(set(value.split(b", "))) == len(chosen)
    for one in chosen:
        (tag,) = one.value.fields.all(b"etag")
        assert named(chosen, Fields([(b"etag", tag)])) is one
        assert named(chosen, Fields([(b"etag", b"W/" + tag)])) is None
        assert named(chosen, Fields([(b"etag", tag), (b"etag", tag)])) is None
    assert named(chosen, Fields([])) is None


def test_another_stored_response_is_identified_by_the_same_strong_tag_only():
    for theirs, ours, same in (
        ([(b"etag", b'"1"')], [(b"etag", b'"1"')], True),
        ([(b"etag", b'"1"')], [(b"etag", b'"2"')], False),
        ([(b"etag", b'W/"1"')], [(b"etag", b'W/"1"')], False),
        ([(b"etag", b'"1"')], [(b"etag", b'W/"1"')], False),
        ([], [(b"etag", b'"1"')], False),
        ([(b"etag", b'"1"')], [], False),
        ([], [], False),
        ([(b"last-modified", b"x")], [(b"last-modified", b"x")], False),
    ):
        assert identified(Fields(ours), Fields(theirs)) is same, (theirs, ours)


def test_a_304_that_varies_on_more_names_none():
    for vary, found in ((b"Foo", ONE), (b"", ONE), (b"Foo, Bar", None), (b"*", None)):
        assert named((TWO, ONE), Fields([(b"etag", b'"1"'), (b"vary", vary)])) is found


def test_the_codings_that_are_known_are_bounded():
    codings = Codings()
    codings.note(Fields([]))
    codings.note(Fields([(CODING, b"br, gzip")]))
    codings.note(Fields([(CODING, b"gzip,br")]))
    codings.note(Fields([(CODING, b"x" * 300)]))
    lines = [fields.lines for fields in codings.others(Fields([(b"a", b"1"), (CODING, b"x")]))]
    assert lines == [[(b"a", b"1")], [(b"a", b"1"), (CODING, b"br,gzip")]]
    for number in range(100):
        codings.note(Fields([(CODING, b"x%d" % number)]))
    known = [fields.get(CODING) for fields in codings.others(Fields([]))]
    assert known == [b"x%d" % number for number in range(68, 100)]
