"""`decide` and `stale_if_error`: what holds for every request, every stored response, every time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.core.entry import Entry
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.message.cache_control import MAX_STALE_ANY
from layergate.http.message.fields import Fields
from layergate.http.message.key import primary_key
from layergate.http.message.request import Request
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.decision import Decision, bypass_reason, decide, stale_if_error
from layergate.http.rfc9111.storing import Bypass, NotStored

NOW = 1_700_000_000.0
FORWARDED = {Decision.REVALIDATE, Decision.MISS}

seconds = st.integers(0, 120) | st.sampled_from([2**31, 2**31 - 1])
deltas = st.integers(-120, 120).map(float) | st.floats(-120, 120, allow_nan=False)


@st.composite
def directives(draw) -> bytes:
    parts = []
    for name in ("max-age", "min-fresh", "max-stale", "stale-if-error"):
        if draw(st.booleans()):
            parts.append(f"{name}={draw(seconds)}")
    for name in ("max-stale", "no-cache", "no-store", "only-if-cached"):
        if draw(st.sampled_from([False, False, False, True])):
            parts.append(name)
    return ", ".join(parts).encode()


def request_with(lines, method="GET", obey=True) -> Request:
    return Request(
        method=method,
        scheme="http",
        host=b"example.org",
        path="/",
        key=primary_key("http", b"example.org", "/", b"/", b""),
        fields=Fields([(b"host", b"example.org"), *lines]),
        has_body=False,
        obey_directives=obey,
    )


@st.composite
def requests(draw) -> Request:
    lines = []
    if draw(st.booleans()):
        lines.append((b"cache-control", draw(directives())))
    for name, value in (
        (b"cookie", b"a=b"),
        (b"authorization", b"Basic eDp5"),
        (b"pragma", b"no-cache"),
        (b"if-none-match", b'"x"'),
    ):
        if draw(st.sampled_from([False, False, True])):
            lines.append((name, value))
    method = draw(st.sampled_from(["GET", "HEAD"]))
    return request_with(lines, method, obey=draw(st.sampled_from([True, True, True, False])))


@st.composite
def entries(draw) -> Entry:
    """What `policy.plan_storage` may have made: no windows where must_revalidate forbids them, but for
    s-maxage beside windows of its own."""
    no_cache = draw(st.booleans())
    windows = 0 if no_cache else 120
    swr = float(draw(st.integers(0, windows)))
    sie = float(draw(st.integers(0, windows)))
    generated = NOW - draw(st.integers(0, 120))
    stored = StoredResponse(
        200,
        [(b"etag", b'"x"')],
        b"body",
        generated=generated,
        response_time=NOW,
        no_cache=no_cache,
        must_revalidate=no_cache or draw(st.booleans()),
        without_credentials_only=draw(st.booleans()),
        shared_with_authorization=draw(st.booleans()),
        immutable=draw(st.booleans()),
    )
    return Entry(
        stored,
        created=NOW,
        fresh_until=NOW + draw(deltas),
        stale_while_revalidate=swr,
        stale_if_error=sie,
        expires=NOW + 10_000,
    )


later = st.integers(0, 300).map(float) | st.floats(0, 300, allow_nan=False)
anything = (requests(), entries(), later)
same_every_time = settings(max_examples=60, derandomize=True, deadline=None)


def verdict_at(request, entry, after):
    return decide(request, entry, NOW + after)


@same_every_time
@given(*anything)
def test_no_cache_is_never_used_unvalidated(request, entry, after):
    decision, *_ = verdict_at(request, entry, after)
    if entry.value.no_cache or request.directives.no_cache:
        assert decision not in (Decision.HIT, Decision.STALE)


@same_every_time
@given(*anything)
def test_stale_is_a_hit_only_if_the_client_said_so_and_the_origin_lets_it(request, entry, after):
    decision, *_ = verdict_at(request, entry, after)
    staleness = NOW + after - entry.fresh_until
    if decision is Decision.HIT and staleness >= 0:
        assert not entry.value.must_revalidate
        allowed = request.directives.max_stale
        assert allowed is not None
        assert allowed == MAX_STALE_ANY or staleness <= allowed


@same_every_time
@given(*anything)
def test_the_window_is_used_inside_of_it_only(request, entry, after):
    decision, *_ = verdict_at(request, entry, after)
    if decision is Decision.STALE:
        staleness = NOW + after - entry.fresh_until
        assert 0 <= staleness < entry.stale_while_revalidate
        # A client that says how old or how fresh has not asked for this.
        asked = request.directives
        assert not asked.min_fresh
        assert asked.max_age is None or asked.max_stale is not None


@same_every_time
@given(*anything)
def test_what_the_client_asks_for_is_what_it_gets(request, entry, after):
    decision, *_ = verdict_at(request, entry, after)
    if decision is not Decision.HIT:
        return
    asked, now = request.directives, NOW + after
    age = now - entry.value.generated
    slack = asked.max_stale or 0
    # RFC 8246: of what is immutable and fresh, a reload need not ask.
    reload = asked.max_age == 0 and entry.value.immutable and now < entry.fresh_until
    if asked.max_age is not None and asked.max_stale != MAX_STALE_ANY and not reload:
        assert age <= asked.max_age + slack
    if asked.min_fresh is not None:
        assert entry.fresh_until - now >= asked.min_fresh


@same_every_time
@given(*anything, later)
def test_once_not_fresh_never_fresh_again(request, entry, after, more):
    """Time only makes it worse: used while fresh, used while stale, not used without validation."""

    def rank(time) -> int:
        decision, *_ = verdict_at(request, entry, time)
        if decision in (Decision.HIT, Decision.STALE):
            return 0 if NOW + time < entry.fresh_until else 1
        return 3 if decision is Decision.MISS else 2  # a miss: not for this client, at any time

    assert rank(after + more) >= rank(after)
    assert (rank(after + more) == 3) == (rank(after) == 3)


@same_every_time
@given(requests(), entries() | st.none(), later)
def test_only_if_cached_never_forwards(request, entry, after):
    decision, fwd, _ = verdict_at(request, entry, after)
    if request.directives.only_if_cached:
        assert decision not in FORWARDED
    else:
        assert decision is not Decision.GATEWAY_TIMEOUT
    assert bool(fwd) == (decision in FORWARDED)
    assert fwd in ("", "uri-miss", "request", "stale")


@same_every_time
@given(*anything)
def test_only_if_cached_changes_nothing_else(request, entry, after):
    lines = [line for line in request.fields.lines if line[0] not in (b"host", b"cache-control")]
    control = request.fields.get(b"cache-control") or b""
    rest = b",".join(part for part in control.split(b",") if b"only-if-cached" not in part)
    added = rest + b",only-if-cached"
    with_it, without = (
        request_with([*lines, (b"cache-control", value)], request.method) for value in (added, rest)
    )
    one, *_ = verdict_at(with_it, entry, after)
    other, *_ = verdict_at(without, entry, after)
    assert one is (Decision.GATEWAY_TIMEOUT if other in FORWARDED else other)


@same_every_time
@given(*anything)
def test_what_is_anonymous_is_never_for_cookies(request, entry, after):
    decision, *_ = verdict_at(request, entry, after)
    if entry.value.without_credentials_only and request.cookie:
        assert decision in (Decision.MISS, Decision.GATEWAY_TIMEOUT)


@same_every_time
@given(*anything)
def test_authorization_needs_a_response_that_allows_it(request, entry, after):
    decision, *_ = verdict_at(request, entry, after)
    if request.authorization and not entry.value.shared_with_authorization:
        assert decision in (Decision.MISS, Decision.GATEWAY_TIMEOUT)


@same_every_time
@given(*anything)
def test_ignored_directives_decide_nothing(request, entry, after):
    lines = [line for line in request.fields.lines if line[0] != b"host"]
    deaf = request_with(lines, request.method, obey=False)
    mute = request_with(
        [line for line in lines if line[0] not in (b"cache-control", b"pragma")], request.method
    )
    assert verdict_at(deaf, entry, after) == verdict_at(mute, entry, after)


@same_every_time
@given(*anything)
def test_the_method_makes_no_difference(request, entry, after):
    lines = [line for line in request.fields.lines if line[0] != b"host"]
    get, head = (request_with(lines, method) for method in ("GET", "HEAD"))
    assert verdict_at(get, entry, after) == verdict_at(head, entry, after)


@same_every_time
@given(
    requests(), st.sampled_from([HitForMiss(NotStored.PRIVATE), VariantIndex((), ())]) | st.none()
)
def test_what_is_no_response_is_a_miss(request, value):
    entry = None if value is None else Entry(value, created=NOW, fresh_until=NOW + 60)
    decision, *_ = decide(request, entry, NOW)
    expected = Decision.GATEWAY_TIMEOUT if request.directives.only_if_cached else Decision.MISS
    assert decision is expected


@same_every_time
@given(*anything)
def test_stale_if_error_inside_a_window_only(request, entry, after):
    allowed = stale_if_error(request, entry, NOW + after)
    staleness = NOW + after - entry.fresh_until
    if not allowed:
        return
    assert not entry.value.no_cache
    asked = request.directives.stale_if_error
    by_origin = staleness < entry.stale_if_error
    by_client = asked is not None and not entry.value.must_revalidate and staleness < asked
    assert by_origin or by_client


@same_every_time
@given(*anything, later)
def test_stale_if_error_ends_for_good(request, entry, after, more):
    if not stale_if_error(request, entry, NOW + after):
        assert not stale_if_error(request, entry, NOW + after + more)


@same_every_time
@given(st.sampled_from(["POST", "PUT", "DELETE", "OPTIONS", "get", "FOO", ""]), st.booleans())
def test_other_methods_pass(method, range_):
    lines = [(b"range", b"bytes=0-1")] if range_ else []
    assert bypass_reason(request_with(lines, method), max_key_length=8192) is Bypass.METHOD
