"""The hit path and the way through `Cache.open` agree: whatever `peek` answers, `open` would too."""

import asyncio

from hypothesis import example, given, settings
from hypothesis import strategies as st

from layergate import HttpCache, MemoryLayer, Rule
from layergate.http.engine.answers import Lead, Serve
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.feed import Feed
from layergate.http.engine.markers import HitForMiss
from layergate.http.message.fields import Fields
from layergate.http.message.key import primary_key
from layergate.http.message.request import Request
from tests.support.clocks import LoopClock

HOST = b"example.org"
KEY = primary_key("http", HOST, "/", b"/", b"")


def request_of(lines, *, obey: bool, method: str = "GET") -> Request:
    fields = Fields([(b"host", HOST), *lines])
    return Request(
        method=method,
        scheme="http",
        host=HOST,
        path="/",
        key=KEY,
        fields=fields,
        has_body=(fields.get(b"content-length") or b"0") != b"0" or b"transfer-encoding" in fields,
        obey_directives=obey,
    )


values = st.sampled_from([b"a", b"b", b"a, b", b"b,a", b"", b"A"])
lifetimes = st.sampled_from([b"0", b"1", b"10", b"60"])


@st.composite
def some(draw, pool, most=4):
    return draw(st.lists(st.sampled_from(pool), max_size=most, unique=True))


@st.composite
def request_lines(draw):
    """Each field at most once, as on the hit path."""
    lines = []
    for name in (b"foo", b"accept", b"accept-language"):
        if draw(st.booleans()):
            lines.append((name, draw(values)))
    if draw(st.sampled_from([False, True])):
        parts = draw(some([b"no-cache", b"no-store", b"only-if-cached", b"max-stale", b"foo=1"], 1))
        for name in (b"max-age", b"min-fresh", b"max-stale"):
            if draw(st.sampled_from([False, False, True])):
                parts.append(name + b"=" + draw(lifetimes))
        lines.append((b"cache-control", b", ".join(parts)))
    for name, value in (
        (b"cookie", b"a=b"),
        (b"authorization", b"Basic eDp5"),
        (b"pragma", b"no-cache"),
        (b"if-none-match", b'"x"'),
        (b"if-modified-since", b"Tue, 14 Nov 2023 22:13:20 GMT"),
        (b"if-match", b'"x"'),
        (b"if-unmodified-since", b"Tue, 14 Nov 2023 22:13:20 GMT"),
        (b"if-range", b'"x"'),
        (b"range", b"bytes=0-1"),
        (b"upgrade", b"foo"),
        (b"content-length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"x-other", b"1"),
    ):
        if draw(st.integers(0, 11)) == 0:
            lines.append((name, value))
    return draw(st.permutations(lines))


@st.composite
def responses(draw):
    status = draw(st.sampled_from([200, 200, 200, 204, 301, 404, 503]))
    parts = draw(
        some([b"public", b"must-revalidate", b"no-cache", b"proxy-revalidate", b"must-understand",
              b"stale-while-revalidate=30", b"stale-if-error=30", b'no-cache="x-a"'], 3)
    )  # fmt: skip
    for name in (b"max-age", b"s-maxage"):
        if draw(st.booleans()):
            parts.append(name + b"=" + draw(lifetimes))
    lines = [(b"cache-control", b", ".join(parts))] if parts else []
    vary = draw(
        st.sampled_from([None, None, b"Foo", b"Foo, Accept", b"accept-language", b"", b"*"])
    )
    if vary is not None:
        lines.append((b"vary", vary))
    lines += draw(
        some([(b"etag", b'"x"'), (b"last-modified", b"Tue, 14 Nov 2023 22:13:20 GMT"),
              (b"x-a", b"1"), (b"x-a", b"2"), (b"age", b"5"), (b"set-cookie", b"a=b"),
              (b"cache-status", b"Origin; hit"), (b"cache-tag", b"t"), (b"connection", b"x-a")], 5)
    )  # fmt: skip
    return status, lines, b"" if status == 204 else draw(st.binary(max_size=8))


RULES = [
    (),
    (),
    (Rule("*", ttl=20),),
    (Rule("*", ttl=20, allow_cookie=True, allow_authorization=True, vary=["accept"]),),
    (Rule("*", ttl=20, override=True, stale_while_revalidate=10),),
]


async def fill(cache: HttpCache, lines, response) -> None:
    """One request, answered by the origin unless the store can."""
    status, head, body = response
    answer = await cache.open(request_of(lines, obey=cache.options.request_directives))
    exchange = getattr(answer, "exchange", None) or getattr(answer, "refresh", None)
    if not isinstance(exchange, Exchange):
        return
    feed = Feed(cache, exchange, lambda: False)
    await feed.head(status, head)
    await feed.part(body, more=False)
    await feed.end()


async def compare(cache: HttpCache, lines) -> bool:
    fields = {b"host": HOST, **dict(lines)}
    peeked = cache.peek(KEY, fields)
    if peeked is None:
        return False
    if isinstance(peeked, HitForMiss):
        # Known not to be shareable: then `open` has the request forwarded on its own.
        answer = await cache.open(request_of(lines, obey=cache.options.request_directives))
        assert isinstance(answer, Lead) and answer.exchange.uncollapsed, answer
        assert answer.exchange.entry is None and not answer.exchange.conditional, answer
        return False
    stored, sent = peeked
    for method in ("GET", "HEAD"):
        request = request_of(lines, obey=cache.options.request_directives, method=method)
        answer = await cache.open(request)
        shown = f"peek: {stored.status} {sent}; open: {answer}"
        assert isinstance(answer, Serve), shown
        assert answer.refresh is None, shown
        assert answer.response.status == stored.status, shown
        assert sorted(answer.response.lines) == sorted(sent), shown
        assert answer.response.body == (stored.body if method == "GET" else b""), shown
    return True


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    fills=st.lists(st.tuples(request_lines(), responses()), min_size=1, max_size=4),
    asked=st.lists(request_lines(), min_size=1, max_size=4),
    times=st.lists(st.sampled_from([0.0, 0.5, 1.0, 9.0, 10.0, 60.0]), min_size=1, max_size=4),
    rules=st.sampled_from(RULES),
    obey=st.booleans(),
    status=st.booleans(),
)
# A request's max-age that equals the age.
@example(
    fills=[([], (200, [(b"cache-control", b"max-age=60")], b"x"))],
    asked=[[(b"cache-control", b"max-age=10")], [(b"cache-control", b"max-age=0")]],
    times=[0.0, 10.0],
    rules=(),
    obey=True,
    status=True,
)
def test_peek_agrees_with_open(fills, asked, times, rules, obey, status):
    async def run() -> None:
        clock = LoopClock()
        cache = HttpCache(
            runtime=clock,
            layers=[MemoryLayer("1MB", clock=clock.now)],
            rules=list(rules),
            request_directives=obey,
            cache_status=status,
        )
        for lines, response in fills:
            await fill(cache, lines, response)
        for step in times:
            clock.time += step
            for lines in [*asked, *(lines for lines, _ in fills), []]:
                await compare(cache, lines)

    asyncio.run(run())


def test_the_hit_path_is_taken_at_all():
    """The property above is not empty: the plain cases are answered by `peek`."""

    async def run() -> list[bool]:
        clock = LoopClock()
        cache = HttpCache(runtime=clock, layers=[MemoryLayer("1MB", clock=clock.now)])
        plain = (200, [(b"cache-control", b"max-age=60"), (b"vary", b"foo")], b"x")
        await fill(cache, [(b"foo", b"a")], plain)
        asked = [
            [(b"foo", b"a")],
            [(b"foo", b"a"), (b"cookie", b"a=b"), (b"x-other", b"1")],
            [(b"foo", b"a"), (b"cache-control", b"max-age=30, min-fresh=10")],
            [(b"foo", b"b")],
            [],
            [(b"foo", b"a"), (b"cache-control", b"no-cache")],
            [(b"foo", b"a"), (b"authorization", b"Basic eDp5")],
            [(b"foo", b"a"), (b"range", b"bytes=0-1")],
        ]
        return [await compare(cache, lines) for lines in asked]

    assert asyncio.run(run()) == [True, True, True, False, False, False, False, False]
