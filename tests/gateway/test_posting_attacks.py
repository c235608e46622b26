"""Can somebody who may POST put a body of his choosing where others GET? (RFC 9110 9.3.3: "Responses to
POST requests are only cacheable when they include explicit freshness information and a Content-Location
header field that has the same value as the POST's target URI".)

The origin here writes back what was posted, as a guest book or a search form does; what it says of
that is each test's.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.support.gateways import FRESH, TOKEN, Call, Gateway, gateway
from tests.support.http1 import Response, reply, request
from tests.support.waiting import until

OWN = b"Content-Location: /"
EVIL = b"<evil>"


def writes_back(gate: Gateway, *lines: bytes) -> None:
    """Whatever is posted is the response, with these lines; a GET is answered ``clean``."""

    async def script(seen: Call) -> None:
        body = seen.body if seen.method == b"POST" else b"clean"
        told = (
            lines if seen.method == b"POST" else (FRESH, *(one for one in lines if b"Vary" in one))
        )
        seen.writer.write(reply(body, *told))

    gate.origin.otherwise = script


async def post(gate: Gateway, *lines: bytes, target: bytes = b"/", **more: bytes) -> Response:
    length = b"Content-Length: %d" % len(EVIL)
    return await gate.get(target, length, *lines, method=b"POST", body=EVIL, **more)


async def poisons(gate: Gateway, *lines: bytes) -> bool:
    """Does a GET of another client get what was posted before?"""
    assert (await post(gate, *lines)).body == EVIL
    got = await gate.get()
    assert got.body in (b"clean", EVIL)
    assert (got.body == EVIL) is got.hit
    return got.body == EVIL


async def test_the_origin_has_said_all_there_is_to_say():
    """The one way to be reused: 200, freshness of its own, a Content-Location that is the target."""
    async with gateway() as gate:
        writes_back(gate, FRESH, OWN)
        assert await poisons(gate)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((FRESH,), id="nothing-but-freshness"),
        pytest.param((OWN,), id="nothing-but-the-location"),
        pytest.param((OWN, b"Cache-Control: public"), id="no-lifetime"),
        pytest.param((OWN, b"Last-Modified: Mon, 01 Jan 2001 00:00:00 GMT"), id="guessable"),
        pytest.param((OWN, b"Cache-Control: max-age=60, no-store"), id="no-store"),
        pytest.param((OWN, b"Cache-Control: max-age=60, private"), id="private"),
        pytest.param((OWN, b"Cache-Control: max-age=60, no-cache"), id="no-cache"),
        pytest.param((OWN, FRESH, b"CDN-Cache-Control: no-store"), id="targeted-no-store"),
        pytest.param((OWN, FRESH, b"Set-Cookie: sid=1"), id="set-cookie"),
        pytest.param((OWN, FRESH, b"Vary: *"), id="vary-star"),
        pytest.param((OWN, FRESH, b"Vary: Content-Type"), id="vary-content-type"),
        pytest.param((OWN, FRESH, b"Vary: Content-Length"), id="vary-content-length"),
        pytest.param((OWN, FRESH, b"Content-Range: bytes 0-5/6"), id="content-range"),
        pytest.param((OWN, FRESH, b"Age: 60"), id="stale"),
        pytest.param((FRESH, b"Content-Location: /other"), id="another-path"),
        pytest.param((FRESH, b"Content-Location: /?x"), id="another-query"),
        pytest.param((FRESH, b"Content-Location: /#x"), id="a-fragment"),
        pytest.param((FRESH, b"Content-Location:"), id="an-empty-one"),
        pytest.param((FRESH, b"Content-Location: /, /other"), id="a-list"),
        pytest.param((FRESH, OWN, b"Content-Location: /other"), id="two"),
        pytest.param((FRESH, OWN, OWN), id="twice"),
        pytest.param((FRESH, b"Content-Location: http://evil.test/"), id="another-origin"),
        pytest.param((FRESH, b"Content-Location: https://shop.test/"), id="another-scheme"),
        pytest.param((FRESH, b"Content-Location: http://shop.test:81/"), id="another-port"),
        pytest.param((FRESH, b"Content-Location: http://u@shop.test/"), id="userinfo"),
        pytest.param((FRESH, b"Content-Location: http://shop.test.evil.test/"), id="a-longer-host"),
        pytest.param((FRESH, b"Location: /"), id="location"),
    ],
)
async def test_a_post_whose_response_says_less(lines):
    async with gateway() as gate:
        writes_back(gate, *lines)
        assert not await poisons(gate, b"Content-Type: text/plain")


@pytest.mark.parametrize("status", [b"201 Created", b"203 X", b"206 X", b"303 See Other", b"404 X"])
async def test_a_post_that_is_answered_otherwise(status):
    async with gateway() as gate:
        gate.origin.otherwise = reply(EVIL, FRESH, OWN, status=status)
        await post(gate)
        gate.origin.otherwise = reply(b"clean", FRESH)
        assert (await gate.get()).body == b"clean"


async def test_content_location_puts_it_nowhere_else():
    """Neither under the URL that it names, nor under the one that was asked for."""
    async with gateway() as gate:
        for named in (b"/victim", b"http://victim.test/", b"//victim.test/", b"../victim"):
            writes_back(gate, FRESH, b"Content-Location: " + named)
            await post(gate, target=b"/attack/x")
            for target, host in ((b"/victim", b"shop.test"), (b"/attack/x", b"shop.test"),
                                 (b"/", b"victim.test"), (b"/attack/x", b"victim.test")):  # fmt: skip
                got = await gate.get(target, host=host)
                assert got.body == b"clean", (named, target, host)


async def test_a_post_to_a_host_of_ones_own():
    """An origin that answers for any host tells each of them its own; and what is under one is under
    no other, however it is written."""
    async with gateway() as gate:
        writes_back(gate, FRESH, OWN)
        for host in (b"evil.test", b"shop.test:81", b"shop.test."):
            await post(gate, host=host)
        for host in (b"SHOP.test", b"shop.test:80"):  # the same site: not stored at all
            await post(gate, host=host)
        absolute = request(b"http://evil.test/", b"Content-Length: 6", method=b"POST", body=EVIL)
        assert (await gate.exchange(absolute)).body == EVIL
        await post(
            gate, b"X-Forwarded-Host: shop.test", b"X-Forwarded-Proto: https", host=b"evil.test"
        )
        assert (await gate.get()).body == b"clean"
        assert (await gate.get(b"/", host=b"evil.test")).body == EVIL


@pytest.mark.parametrize(
    "target", [b"/%76ictim", b"//victim", b"/./victim", b"/x/../victim", b"/victim;", b"/victim%3f"]
)
async def test_a_post_to_another_spelling(target):
    """An origin that takes it for the victim's names that; it is stored for the spelling, if at all."""
    async with gateway() as gate:
        writes_back(gate, FRESH, b"Content-Location: /victim")
        await post(gate, target=target)
        assert (await gate.get(b"/victim")).body == b"clean"


@pytest.mark.parametrize(
    "line",
    [b"Cookie: sid=1", b"Authorization: Basic eDp5", b"X-Api-Key: k", b"X-Forwarded-User: alice",
     b"Cookie: theme=dark"],
)  # fmt: skip
async def test_what_was_posted_with_credentials_is_its_users(line):
    """Unless the response says that it is for all, or is selected by the credential."""
    async with gateway() as gate:
        writes_back(gate, FRESH, OWN)
        assert not await poisons(gate, line)
        name = line.partition(b":")[0]
        for said in (b"public, max-age=60", b"s-maxage=60"):
            writes_back(gate, b"Cache-Control: " + said, OWN)
            assert await poisons(gate, line)
        writes_back(gate, b"Cache-Control: public, max-age=60", OWN, b"Vary: " + name)
        assert not await poisons(gate, line)
        other = name + b": somebody-else"
        assert (await gate.get(b"/", other)).body == b"clean"


@pytest.mark.parametrize(
    "line",
    [b"X-HTTP-Method-Override: PUT", b"X-HTTP-Method: DELETE", b"X-Method-Override: GET",
     b"x-http-METHOD-override: get"],
)  # fmt: skip
async def test_a_post_that_is_taken_for_another_method(line):
    """The origin answers a PUT, or a GET whose content no key has, and says what it says of those."""
    async with gateway() as gate:
        writes_back(gate, b"Cache-Control: public, max-age=60", OWN)
        assert not await poisons(gate, line)


async def test_what_the_request_says_of_no_store_is_kept():
    async with gateway() as gate:
        writes_back(gate, FRESH, OWN)
        assert not await poisons(gate, b"Cache-Control: no-store")


async def test_vary_is_of_the_post_as_it_came():
    """Who gets it sends the same as the one who posted; nobody else does."""
    async with gateway() as gate:
        writes_back(gate, FRESH, OWN, b"Vary: Accept, Origin")
        await post(gate, b"Accept: a/b", b"Origin: https://evil.test")
        assert (await gate.get(b"/", b"Accept: a/b")).body == b"clean"
        assert (await gate.get(b"/")).body == b"clean"
        sent = (b"Accept: a/b", b"Origin: https://evil.test")
        assert (await gate.get(b"/", *sent)).body == EVIL


async def test_no_vary_search_does_not_spread_it():
    """Of GETs it says that a parameter makes no difference; of what was posted, nothing."""
    async with gateway(cache={"no_vary_search": True}) as gate:
        said = b'No-Vary-Search: params=("utm")'
        writes_back(gate, FRESH, b"Content-Location: /?utm=1", said)
        await post(gate, target=b"/?utm=1")
        for target in (b"/", b"/?utm=2", b"/?utm=1"):
            assert (await gate.get(target)).body == b"clean"


@pytest.mark.parametrize("target", [b"/", b"/?x=1"])
async def test_purge_finds_it(target):
    """By URL, as whatever else is stored there."""
    async with gateway() as gate:
        writes_back(gate, FRESH, b"Content-Location: " + target)
        await post(gate, target=target)
        assert (await gate.get(target)).body == EVIL
        right = b"Authorization: Bearer " + TOKEN.encode()
        assert (await gate.get(target, right, method=b"PURGE")).status == 200
        assert (await gate.get(target)).body == b"clean"


async def test_a_post_held_open_over_a_purge():
    """Its content comes slowly, so it began before the purge, and its response comes after it."""
    async with gateway() as gate:
        writes_back(gate, FRESH, OWN)
        client = await gate.client()
        await client.send(request(b"/", b"Content-Length: 6", method=b"POST", body=EVIL[:3]))
        await until(lambda: EVIL[:3] in gate.origin.bytes, "the content")
        right = b"Authorization: Bearer " + TOKEN.encode()
        assert (await gate.get(b"/", right, method=b"PURGE")).status == 200
        await client.send(EVIL[3:])
        assert (await client.response("POST")).body == EVIL
        assert (await gate.get()).body == b"clean"


async def test_who_waits_for_a_get_is_not_answered_with_a_post():
    async with gateway() as gate:
        begun, go = asyncio.Event(), asyncio.Event()

        async def script(seen: Call) -> None:
            if seen.method == b"POST":
                seen.writer.write(reply(seen.body, FRESH, OWN))
                return
            begun.set()
            await go.wait()
            seen.writer.write(reply(b"clean", FRESH))

        gate.origin.otherwise = script
        waiting = [asyncio.create_task(gate.get()) for _ in range(3)]
        await begun.wait()
        await post(gate)
        go.set()
        assert {(await one).body for one in waiting} == {b"clean"}


async def test_a_post_that_is_cut_short_is_not_stored():
    """By its client, once the head of the response is out, or by the origin."""
    async with gateway() as gate:
        more = asyncio.Event()

        async def script(seen: Call) -> None:
            if seen.method != b"POST":
                seen.writer.write(reply(b"clean", FRESH))
                return
            seen.writer.write(reply(b"", FRESH, OWN, b"Content-Length: 6", length=False) + b"<ev")
            await more.wait()
            seen.writer.close()

        gate.origin.otherwise = script
        length = b"Content-Length: 6"
        for by_client in (True, False):
            more.clear()
            client = await gate.client()
            await client.send(request(b"/", length, method=b"POST", body=EVIL))
            assert await client.exactly(15) == b"HTTP/1.1 200 OK"
            if by_client:
                await client.close()
                await gate.idle()
            more.set()
            if not by_client:
                await client.remains()
            assert (await gate.get()).body == b"clean"
