"""G9: two requests that the app can tell apart never share a key."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from layergate.http.message.key import label_of, primary_key, target_of, variant_key
from layergate.http.message.uri import uri_label
from tests.support.asgi import FRESH, OriginCall, World, scope_of

TRICKY = "abAB/%.;,:?#&=0123456789 -_~\u00e9\u20ac\x00"
TEXT = st.text(alphabet=TRICKY, max_size=6)
BYTES = st.binary(max_size=6) | TEXT.map(str.encode)
TARGET = st.tuples(
    st.sampled_from(["http", "https", "ws", ""]),
    BYTES,
    TEXT,
    st.none() | BYTES,
    BYTES,
)


@given(TARGET, TARGET)
@example(("http", b"h", "/a", None, b"b"), ("http", b"h", "/a", b"/a", b"b"))
@example(("http", b"h", "/ab", b"/a", b"b"), ("http", b"h", "/ab", b"/ab", b""))
@example(("http", b"h", "/a/b", b"/a%2Fb", b""), ("http", b"h", "/a/b", b"/a/b", b""))
@example(("http", b"h", "/%", None, b""), ("http", b"h", "/%", b"/%25", b""))
@example(("http", b"h", "/%", None, b""), ("http", b"h", "/%25", b"/%25", b""))
@settings(max_examples=250, deadline=None, derandomize=True)
def test_distinct_targets_have_distinct_keys(one, other):
    """A server that does not tell the raw path leaves the app nothing to look at but the path."""
    if primary_key(*one) == primary_key(*other):
        (*parts, raw, query), (*others, second_raw, second_query) = one, other
        assert (parts, query) == (others, second_query)
        assert raw == second_raw or None in (raw, second_raw)
    else:
        assert one != other


@given(TARGET, BYTES, TARGET, BYTES)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_a_variant_is_never_another_targets_key(one, secondary, other, second):
    a, b = primary_key(*one), primary_key(*other)
    assert variant_key(a, secondary) != b
    if a != b or secondary != second:
        assert variant_key(a, secondary) != variant_key(b, second)


PATH = st.lists(st.sampled_from(["a", "b c", "\u00e9", "%", "x?y", "x#y", "", "A", ";p", "."])).map(
    lambda parts: "/" + "/".join(parts)
)


@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from([b"example.com", b"example.com:8080", b"[::1]:99", b"a.b"]),
    PATH,
    st.booleans(),
    st.sampled_from([b"", b"q", b"a=b&c=%20", b"/?", b"?"]),
)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_the_label_is_that_of_the_target_uri_with_or_without_a_raw_path(
    scheme, host, path, told, query
):
    encoded = quote(path, safe="/;:@!$&'()*+,=~")
    raw = encoded.encode() if told else None
    key = variant_key(primary_key(scheme, host, path, raw, query), b"x")
    expected = f"{scheme}://{host.decode()}{encoded}"
    expected = f"{expected}?{query.decode()}" if query else expected
    assert target_of(key) == expected
    assert label_of(key) == uri_label(expected)


SEEN = ["scheme", "host", "path", "raw_path", "query_string", "root_path"]
REQUEST = st.fixed_dictionaries(
    {
        "scheme": st.sampled_from(["http", "https"]),
        "host": st.sampled_from(["a.example", "b.example", "a.example:8080"]),
        "path": st.sampled_from(["/", "/a", "/a/b", "/a b", "/A", "//a", "/a/", "/%61"]),
        "raw_path": st.sampled_from([None, b"/", b"/a", b"/a/b", b"/a%2Fb", b"/%61", b"/a%20b"]),
        "query": st.sampled_from([b"", b"a", b"a=1&b=2", b"b=2&a=1", b"%61"]),
        "root_path": st.sampled_from(["", "/a", "/other"]),
    }
)


@given(st.lists(REQUEST, min_size=2, max_size=6))
@settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
async def test_requests_that_the_app_can_tell_apart_never_share_a_response(requests):
    """Through the middleware: the answer describes exactly the request that was made."""
    world = World()

    def describe(scope) -> bytes:
        raw = scope["raw_path"]
        if raw is None:
            raw = quote(scope["path"]).encode()
        parts = [scope["scheme"], dict(scope["headers"])[b"host"], scope["path"], raw]
        parts += [scope["query_string"], scope["root_path"]]
        return repr(parts).encode()

    async def handler(call: OriginCall) -> None:
        await call.reply(describe(call.scope), headers=FRESH)

    world.origin.handlers = dict.fromkeys(
        ["/", "/a", "/a/b", "/a b", "/A", "//a", "/a/", "/%61"], handler
    )
    for request in requests * 2:
        assert (await world.get(**request)).body == describe(scope_of(**request))


@pytest.mark.parametrize(
    "pair",
    [
        ({"query": b"a=1&b=2"}, {"query": b"b=2&a=1"}),
        ({"query": b"a"}, {"query": b"a="}),
        ({"query": b"a%20b"}, {"query": b"a+b"}),
        ({"path": "/a", "raw_path": b"/a"}, {"path": "/a", "raw_path": b"/%61"}),
        ({"path": "/a/b", "raw_path": b"/a%2Fb"}, {"path": "/a/b", "raw_path": b"/a/b"}),
        ({"path": "/x"}, {"path": "/x/"}),
        ({"path": "/x"}, {"path": "//x"}),
        ({"scheme": "http"}, {"scheme": "https"}),
        ({"host": "a.example"}, {"host": "b.example"}),
        ({"host": "a.example"}, {"host": "a.example:8080"}),
        ({"root_path": "/v1"}, {"root_path": "/v2"}),
    ],
)
async def test_requests_alike_but_not_the_same_are_kept_apart(pair):
    world = World()
    numbers = []
    for request in [*pair, *pair]:
        numbers.append((await world.get(**{"path": "/x", **request})).body)
    assert numbers[0] == numbers[2] and numbers[1] == numbers[3]
    assert numbers[0] != numbers[1]


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "QUERY", "get", "PROPFIND"])
async def test_other_methods_never_share_with_get(method):
    world = World()
    await world.get("/x")
    call = await world.get("/x", method=method)
    assert call.body == b"/x 2" and not call.hit


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "a.example"), ("host", "b.example")],
        [("host", "a.example, b.example")],
        [("host", "a.example/path")],
        [("host", "user@a.example")],
        [("host", "a.example?x")],
        [("host", "a.example#x")],
        [("host", "a example")],
        [("host", "")],
        [],
    ],
)
async def test_a_host_that_is_none_or_several_is_passed(headers):
    world = World()
    for number in (1, 2):
        call = await world.get("/x", host=None, headers=headers)
        assert call.body == b"/x %d" % number
    assert world.entries == 0


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_purge_by_url_names_one_target_in_all_its_spellings(data):
    from layergate.core.invalidation import Invalidations
    from layergate.http.engine.purge import purge_invalidations

    scheme = data.draw(st.sampled_from(["http", "https"]))
    host = data.draw(st.sampled_from([b"a.example", b"a.example:8080"]))
    path, other = data.draw(PATH), data.draw(PATH)
    queries = st.sampled_from([b"", b"q", b"q&r"])
    query, second = data.draw(queries), data.draw(queries)
    assume((path, query) != (other, second))

    def key(path: str, query: bytes) -> bytes:
        raw = quote(path, safe="/;:@!$&'()*+,=~").encode()
        return primary_key(scheme, host, path, raw, query)

    invalidations = Invalidations()
    invalidations.apply(1, purge_invalidations(urls=[target_of(key(path, query))]), 0.0)
    mine, its = label_of(key(path, query)), label_of(key(other, second))
    assert invalidations.purged_since(0, (), mine)
    assert invalidations.purged_since(0, (), its) is (mine == its)
