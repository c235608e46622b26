"""The guarantees, where they are about parts of a response: G2, G3, G5, G6, G7, G8."""

from __future__ import annotations

import asyncio
import re

import pytest

from layergate import OriginAborted
from layergate.http.extensions.groups import MAX_GROUPS
from layergate.http.message.key import primary_key
from layergate.http.rfc9111.combining import MAX_PARTS
from tests.support.asgi import Gate, OriginCall, World
from tests.support.waiting import until

BODY = bytes(range(256)) * 4
ETAG = {"cache-control": "max-age=60", "etag": '"a"', "cache-tag": "film"}


def span_of(value: str | None, size: int = len(BODY)) -> tuple[int, int]:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", value or "bytes=0-")
    assert match is not None
    first, last = match.groups()
    if not first:
        return size - int(last), size
    return int(first), min(int(last) + 1, size) if last else size


def asks(first: int, last: int | str = "", **more: str) -> dict[str, dict[str, str]]:
    return {"headers": {"range": f"bytes={first}-{last}", **more}}


class Film(World):
    """An origin with one long thing. ``asked``: the Range of each call. ``lies``: lines that take the
    place of its own; ``sends``: what takes the place of the octets; ``gate``: before the last octet."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.asked: list[str | None] = []
        self.lies: dict[str, str] = {}
        self.sends: bytes | None = None
        self.gate: Gate | None = None
        self.origin.handlers["/"] = self.handler

    async def handler(self, call: OriginCall) -> None:
        asked = call.header("range")
        self.asked.append(asked)
        first, stop = span_of(asked)
        octets = BODY[first:stop] if self.sends is None else self.sends
        headers = {**ETAG, "content-range": f"bytes {first}-{stop - 1}/{len(BODY)}", **self.lies}
        if asked is None:
            del headers["content-range"]
        await call.start(200 if asked is None else 206, headers)
        await call.chunk(octets[:-1])
        if self.gate is not None:
            await self.gate.wait()
        await call.end(octets[-1:])


# -- G2 --------------------------------------------------------------------------------------------


async def test_identical_ranges_are_fetched_once():
    world = Film()
    world.gate = Gate()
    calls = [world.call("/", **asks(0, 99)) for _ in range(10)]
    await world.waiting(0)
    await world.gate.reached()
    world.gate.open()
    for call in calls:
        await call.done()
        assert (call.status, call.body) == (206, BODY[:100])
        assert call.header("content-range") == "bytes 0-99/1024"
    assert world.asked == ["bytes=0-99"]
    world.assert_nothing_left()


async def test_other_ranges_and_the_whole_do_not_wait_for_it():
    world = Film()
    gate = world.gate = Gate()
    slow = world.call("/", **asks(0, 99))
    await gate.reached()
    world.gate = None
    assert (await world.get("/", **asks(100, 199))).body == BODY[100:200]
    assert (await world.get("/", **asks(0, 99, **{"if-range": '"x"'}))).body == BODY[:100]
    assert (await world.get("/")).body == BODY
    gate.open()
    assert (await slow.done()).body == BODY[:100]
    assert (await world.get("/")).hit, "the part does not take the place of the whole"
    world.assert_nothing_left()


async def test_the_rest_is_fetched_once_for_all():
    world = Film()
    await world.get("/", **asks(0, 599))
    world.gate = Gate()
    calls = [world.call("/") for _ in range(5)]
    await world.gate.reached()
    late = world.call("/")
    world.gate.open()
    for call in (*calls, late):
        await call.done()
        assert (call.status, call.body) == (200, BODY)
        assert call.header("content-length") == "1024"
        assert call.header("content-range") is None
    assert world.asked == ["bytes=0-599", "bytes=600-"]
    assert (await world.get("/")).hit
    world.assert_nothing_left()


async def test_a_variant_of_the_range_that_is_known_by_its_head_is_joined():
    world = Film()
    world.lies = {"vary": "accept-language"}
    world.gate = Gate()
    german = {"accept-language": "de"}
    first = world.call("/", **asks(0, 99, **german))
    await world.gate.reached()
    second = world.call("/", **asks(0, 99, **german))
    whole = world.call("/", headers=german)
    await world.gate.reached(2)
    world.gate.open()
    for call, expected in ((first, BODY[:100]), (second, BODY[:100]), (whole, BODY)):
        assert (await call.done()).body == expected
    assert sorted(map(str, world.asked)) == ["None", "bytes=0-99"]


# -- G3 --------------------------------------------------------------------------------------------

PURGES = [{"tags": ["film"]}, {"urls": ["http://example.com/"]}, {"everything": True}]


@pytest.mark.parametrize("what", PURGES)
@pytest.mark.parametrize("soft", [False, True])
async def test_a_purge_of_one_part_is_a_purge_of_all(what, soft):
    world = Film()
    await world.get("/", **asks(0, 99))
    world.lies = {"cache-tag": "other"}
    await world.get("/", **asks(200, 299))
    assert (await world.get("/", **asks(0, 99))).hit
    await world.cache.purge(**what, soft=soft)
    for first in (0, 200):
        assert not (await world.get("/", **asks(first, first + 99))).hit


@pytest.mark.parametrize("what", PURGES)
async def test_what_is_purged_while_the_rest_is_fetched_is_no_part_of_the_answer(what):
    """The head of the rest comes after the purge: the stored part is not used any more."""
    world = Film()
    await world.get("/", **asks(0, 599))
    gate = Gate()

    async def handler(call: OriginCall) -> None:
        await gate.wait()
        await world.handler(call)

    world.origin.handlers["/"] = handler
    call = world.call("/")
    await gate.reached()
    await world.cache.purge(**what)
    gate.open()
    assert (await call.done()).body == BODY
    assert world.asked == ["bytes=0-599", "bytes=600-", None]


@pytest.mark.parametrize("what", PURGES)
async def test_nothing_that_was_purged_is_stored_with_the_rest(what):
    """The purge comes after the head: this client has its answer, nobody else does."""
    world = Film()
    await world.get("/", **asks(0, 599))
    gate = world.gate = Gate()
    call = world.call("/")
    await gate.reached()
    await world.cache.purge(**what)
    world.gate = None
    after = await world.get("/")
    assert not after.hit
    gate.open()
    assert (await call.done()).body == BODY
    assert world.asked == ["bytes=0-599", "bytes=600-", None]
    assert (await world.get("/")).body == BODY


async def test_a_purge_of_the_stored_part_is_one_of_what_it_is_completed_to():
    """The rest has other tags than what it completes: half of the answer was purged all the same."""
    world = Film()
    await world.get("/", **asks(0, 599))
    world.lies = {"cache-tag": "other"}
    gate = world.gate = Gate()
    call = world.call("/")
    await gate.reached()
    await world.cache.purge(tags=["film"])
    world.gate = None
    after = world.call("/")
    await until(lambda: len(world.asked) == 3 or after.started)
    gate.open()
    assert (await after.done()).body == (await call.done()).body == BODY
    assert world.asked == ["bytes=0-599", "bytes=600-", None]


# -- G6 --------------------------------------------------------------------------------------------


async def test_a_refresh_of_a_part_is_no_answer_to_an_if_range():
    """A background refresh does not repeat the client's If-Range, so what it brings may be of
    another representation than that client has the rest of."""
    world = World()
    gate: Gate | None = None
    conditions: list[str | None] = []
    tag, octets = '"a"', b"A" * 1024

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        conditions.append(call.header("if-range"))
        if gate is not None:
            await gate.wait()
        said = {"cache-control": "max-age=10, stale-while-revalidate=60", "etag": tag}
        if call.header("if-range") in (None, tag):
            first, stop = span_of(call.header("range"))
            said["content-range"] = f"bytes {first}-{stop - 1}/1024"
            await call.reply(octets[first:stop], 206, said)
        else:
            await call.reply(octets, 200, said)

    resumes = asks(0, 99, **{"if-range": '"a"'})
    await world.get("/", **resumes)
    world.clock.advance(20)
    tag, octets, gate = '"b"', b"B" * 1024, Gate()
    assert (await world.get("/", **resumes)).body == b"A" * 100  # stale
    await gate.reached()
    sure = world.call("/", **asks(0, 99, **{"if-range": '"a"', "cache-control": "no-cache"}))
    await until(lambda: len(conditions) == 3 or world.cache.stats()["waiters"] == 1)
    gate.open()
    await sure.done()
    assert (sure.status, sure.body) == (200, b"B" * 1024)
    assert conditions == ['"a"', None, '"a"']


@pytest.mark.parametrize("sends", [b"", b"x", BODY[600:-1]])
async def test_a_rest_that_is_too_short_breaks_off(sends):
    world = Film()
    await world.get("/", **asks(0, 599))
    world.sends = sends
    call = world.call("/")
    with pytest.raises(OriginAborted):
        await call.done()
    assert call.body == BODY[:600] + sends and not call.complete
    world.assert_nothing_left()
    world.sends = None
    assert (await world.get("/")).body == BODY


@pytest.mark.parametrize("stored", [(0, 599), (400, 1023)])
async def test_a_rest_that_is_too_long_breaks_off(stored):
    world = Film()
    await world.get("/", **asks(*stored))
    world.sends = b"x" * 900
    call = world.call("/")
    with pytest.raises(OriginAborted):
        await call.done()
    assert not call.complete
    # What is stored behind the missing piece is not sent in the wrong place.
    assert BODY[400:] not in call.body
    world.assert_nothing_left()
    world.sends = None
    assert (await world.get("/")).body == BODY


async def test_a_part_that_the_app_breaks_off_is_not_stored():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(206, {**ETAG, "content-range": "bytes 0-99/1024"})
        await call.chunk(b"half")
        raise RuntimeError("boom")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="boom"):
            await world.get("/", **asks(0, 99))
    assert world.entries == 0
    world.assert_nothing_left()


@pytest.mark.parametrize(
    "lies",
    [
        {"content-range": "bytes 0-99/1024"},
        {"content-range": "bytes 601-1023/1024"},
        {"content-range": "bytes 600-1023/*, bytes 1-2/*"},
        {"content-range": "bytes */1024"},
        {"content-range": "bytes 600-1023/2048"},
        {"content-range": "bytes 600-" + "9" * 30 + "/" + "9" * 31},
        {"content-length": "1"},
        {"content-encoding": "gzip"},
        {"etag": '"b"'},
        {"etag": 'W/"a"'},
        {"cache-control": "no-store"},
        {"set-cookie": "a=b"},
        {"vary": "*"},
        {"content-type": "multipart/byteranges; boundary=x", "content-range": ""},
    ],
)
async def test_an_origin_that_lies_about_the_rest_is_asked_for_all(lies):
    world = Film()
    await world.get("/", **asks(0, 599))

    async def handler(call: OriginCall) -> None:
        world.lies = lies if call.header("range") else {}
        await world.handler(call)

    world.origin.handlers["/"] = handler
    call = await world.get("/")
    assert (call.status, call.body) == (200, BODY)
    assert world.asked == ["bytes=0-599", "bytes=600-", None]
    world.assert_nothing_left()


@pytest.mark.parametrize("says", [None, 'params=("utm" "b")'])
async def test_the_rest_of_another_target_is_no_rest(says):
    """A strong validator is one among the representations of a target. What No-Vary-Search made
    equivalent is one target as long as the rest says so too."""
    world = Film(no_vary_search=True)
    world.lies = {"no-vary-search": 'params=("utm")'}
    await world.get("/", query=b"utm=1", **asks(0, 599))
    assert (await world.get("/", query=b"utm=2", **asks(0, 99))).hit
    world.lies = {} if says is None else {"no-vary-search": says}
    call = await world.get("/", query=b"utm=2")
    assert (call.status, call.body) == (200, BODY)
    assert world.asked == ["bytes=0-599", "bytes=600-", None]
    world.assert_nothing_left()


async def test_a_206_that_nobody_asked_for_is_passed_on():
    world = World()
    headers = {**ETAG, "content-range": "bytes 0-99/1024"}
    world.origin.answers("/", headers, BODY[:100], 206)
    for number in range(1, 4):
        call = await world.get("/")
        assert (call.status, call.body, call.hit) == (206, BODY[:100], False)
        assert world.origin.total == number
    assert not (await world.get("/", headers={"range": "bytes=0-9"})).hit


# -- G5 and G7 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("date", [None, "Mon, 01 Jan 2024 00:00:00 GMT"])
async def test_a_304_that_takes_the_strength_of_a_part_s_validator_asks_anew(date):
    """If-Range has a date, which is a strong validator by the part's Date, and by the 304's is not:
    then the part that was selected is none that this request may have."""
    world = World()
    modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    asked: list[str | None] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        asked.append(call.header("if-modified-since"))
        said = {"cache-control": "max-age=10", "last-modified": modified}
        if asked[-1] is not None:
            await call.reply(b"", 304, said | ({} if date is None else {"date": date}))
            return
        said |= {"date": "Tue, 02 Jan 2024 00:00:00 GMT", "content-range": "bytes 0-99/1024"}
        await call.reply(BODY[:100], 206, said)

    resumes = asks(0, 99, **{"if-range": modified})
    await world.get("/", **resumes)
    world.clock.advance(20)
    call = await world.get("/", **resumes)
    assert (call.status, call.body) == (206, BODY[:100])
    assert asked == [None, modified, None]
    world.assert_nothing_left()


async def test_the_groups_of_parts_have_a_cap():
    world = Film()
    for first in range(0, 400, 20):
        groups = ", ".join(f'"{first}-{n}"' for n in range(100))
        world.lies = {"cache-groups": groups}
        await world.get("/", **asks(first, first + 19))
    entry = world.cache.stack.peek(primary_key("http", b"example.com", "/", b"/", b"", ""))
    assert entry is not None
    assert len(entry.tags) <= MAX_GROUPS + 1


async def test_parts_of_one_target_have_a_cap():
    world = Film()
    for first in range(0, 1000, 20):
        await world.get("/", **asks(first, first + 9))
    entry = world.cache.stack.peek(primary_key("http", b"example.com", "/", b"/", b"", ""))
    assert entry is not None
    assert len(entry.value.parts) == MAX_PARTS
    assert (await world.get("/", **asks(980, 989))).hit


async def test_a_part_over_the_cap_on_bodies_is_passed_on():
    world = Film(max_body=500)
    for _ in range(2):
        call = await world.get("/", **asks(0, 599))
        assert call.body == BODY[:600] and "too-large" in call.cache_status
    for first in (0, 300, 600):
        await world.get("/", **asks(first, first + 249))
    assert (await world.get("/", **asks(600, 849))).hit
    assert not (await world.get("/", **asks(0, 249))).hit, "too much together"
    world.assert_nothing_left()


async def test_a_range_over_the_cap_leaves_the_parts_where_they_are():
    world = Film(max_body=500)
    await world.get("/", **asks(0, 99))
    for asked in (asks(0), asks(50, 800)):
        call = await world.get("/", **asked)
        assert call.status == 206 and "too-large" in call.cache_status
    assert world.asked[1:] == ["bytes=0-", "bytes=50-800"]
    assert (await world.get("/", **asks(0, 99))).hit


async def test_without_a_budget_the_rest_comes_all_the_same():
    world = Film(max_inflight=600)
    await world.get("/", **asks(0, 599))
    assert world.cache.engine.budget.take(500, cap=600)
    call = await world.get("/")
    assert call.body == BODY
    world.cache.engine.budget.give(500)
    world.assert_nothing_left()
    assert not (await world.get("/")).hit


@pytest.mark.parametrize(
    "value",
    [
        "bytes=" + "0-," * 500,
        "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 1000, 2)),
        "bytes=" + ",".join("0-1023" for _ in range(1000)),
        "bytes=" + "," * 3000 + "0-1",
    ],
)
async def test_many_ranges_are_no_way_to_much_work(value):
    world = Film()
    await world.get("/")
    call = await world.get("/", headers={"range": value})
    assert call.hit
    assert (call.status, call.body) == (200, BODY)


async def test_overlapping_ranges_are_sent_once():
    world = Film()
    await world.get("/")
    call = await world.get("/", headers={"range": "bytes=" + ",".join(["0-"] * 32)})
    assert (call.status, call.body) == (206, BODY)


# -- G8 --------------------------------------------------------------------------------------------


async def test_what_is_stored_is_sent_before_the_rest_is_here():
    world = Film()
    await world.get("/", **asks(0, 599))
    world.gate = Gate()
    async with world.call("/") as call:
        await world.gate.reached()
        await until(lambda: call.body == BODY[:-1])
        assert not call.complete
        world.gate.open()
        assert (await call.done()).body == BODY


async def test_a_client_that_leaves_leaves_the_rest_to_the_store():
    world = Film()
    await world.get("/", **asks(0, 599))
    world.gate = Gate()
    call = world.call("/")
    await world.gate.reached()
    await call.cancel()
    world.gate.open()
    await world.idle()
    assert (await world.get("/")).hit
    world.assert_nothing_left()


async def test_a_part_is_streamed():
    world = Film()
    world.gate = Gate()
    async with world.call("/", **asks(0, 99)) as call:
        await world.gate.reached()
        await until(lambda: call.body == BODY[:99])
        world.gate.open()
        await call.done()
    await asyncio.sleep(0)
    world.assert_nothing_left()
