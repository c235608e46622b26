"""A gateway that forwards to itself, or to one that forwards to it (RFC 8586, RFC 9110 7.6.3)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from layergate.gateway.upstream_options import UpstreamOptions
from tests.support.gateways import Call, Gateway, Origin
from tests.support.waiting import until

EVERY_LOOP = True

SOON = 5.0  # seconds; who waits for its own fetch does so for collapse_timeout, 30


def _leads_to(gateway: Gateway, other: Gateway) -> None:
    """Have the one forward to the other."""
    gateway.reload(upstreams=[UpstreamOptions(f"http://127.0.0.1:{other.port}")])


@pytest.mark.parametrize("workers", [1, 2], ids=["itself", "each other"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_a_loop_is_told_at_once(workers, method):
    """Though the second request is for what the first one is fetching."""
    async with Origin() as origin, Gateway(origin) as one, Gateway(origin) as two:
        _leads_to(one, one if workers == 1 else two)
        _leads_to(two, one)
        async with asyncio.timeout(SOON):
            for _ in range(2):
                response = await one.ask("/", method=method)
                assert response.status == 508
                assert "; hit" not in response.cache_status
                # One round, and no more.
                assert sum(pool.open for each in (one, two) for pool in each.proxy.pools) <= workers
        assert not origin.requests


async def test_many_that_go_round_at_once():
    async with Origin() as origin, Gateway(origin) as gateway:
        _leads_to(gateway, gateway)
        async with asyncio.timeout(SOON):
            answers = await asyncio.gather(*(gateway.ask(f"/{n % 4}") for n in range(20)))
        assert {answer.status for answer in answers} == {508}
        assert not gateway.worker.cache.stats()["flights"]


async def test_what_is_stale_stands_in_as_for_any_other_error():
    """No loop takes away what is there."""
    async with Origin() as origin, Gateway(origin) as gateway:
        origin.answers(
            "/", b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 3\r\n\r\none"
        )
        await gateway.ask("/")
        _leads_to(gateway, gateway)
        assert (await gateway.ask("/")).hit
        async with asyncio.timeout(SOON):
            assert (await gateway.ask("/", "Cache-Control: no-cache")).status == 508
        assert (await gateway.ask("/")).hit


@pytest.mark.parametrize("told", [None, "other;id=1, x.example:80;a=b"])
async def test_one_gateway_in_front_of_another(told):
    """Both of the same name: two tiers, that share fetches and hit."""
    async with (
        Origin() as origin,
        Gateway(origin) as inner,
        Gateway(UpstreamOptions(f"http://127.0.0.1:{inner.port}")) as outer,
    ):
        lines = [] if told is None else [f"CDN-Loop: {told}"]
        async with asyncio.timeout(SOON):
            answers = await asyncio.gather(*(outer.ask("/", *lines) for _ in range(5)))
            again = await outer.ask("/", *lines)
        assert {(one.status, one.body) for one in (*answers, again)} == {(200, b"/ 1")}
        assert again.hit
        ids = origin.last.all("cdn-loop")
        if told is not None:
            assert ids.pop(0) == told
        assert len(set(ids)) == len(ids) == 2
        assert all(re.fullmatch(r"layergate;id=[0-9a-f]{16}", one) for one in ids)
        assert origin.last.header("via") == "1.1 layergate, 1.1 layergate"
        assert (await inner.ask("/")).hit


async def test_what_others_write_about_it_is_understood():
    """RFC 8586: ``cdn-info = cdn-id *( OWS ";" OWS parameter )``, in a list, on several lines."""
    async with Origin() as origin, Gateway(origin) as gateway:
        await gateway.ask("/a")
        (own,) = origin.last.all("cdn-loop")
        spaced = own.replace(";", " ; ")
        for lines in (
            [f"CDN-Loop: {own}"], [f"CDN-Loop: a, {spaced}, b"], ["CDN-Loop: a", f"CDN-Loop: {own}", "CDN-Loop: b"],
        ):  # fmt: skip
            assert (await gateway.ask("/b", *lines)).status == 508
        for no in (own.upper(), own + "0", own[:-1], "layergate", f'"{own}"'):
            assert (await gateway.ask(f"/c?{no[-5:-1]}", f"CDN-Loop: {no}")).status == 200
        # None of that is for anybody else; and what is stored is no loop.
        assert (await gateway.ask("/b")).status == 200
        assert (await gateway.ask("/b", f"CDN-Loop: {own}")).hit


async def test_a_reload_is_no_new_gateway():
    async with Origin() as origin, Gateway(origin) as gateway:
        seen: list[Any] = []
        for path in ("/a", "/b"):
            await gateway.ask(path)
            seen.append(origin.last.all("cdn-loop"))
            gateway.reload()
        assert seen[0] == seen[1]


async def test_without_a_name_nothing_is_said():
    async with Origin() as origin, Gateway(origin, via=None) as gateway:
        assert (await gateway.ask("/", "CDN-Loop: a")).status == 200
        assert origin.last.all("cdn-loop") == ["a"]


ROUNDS = "Via: " + ", ".join(["1.1 layergate"] * 8)


async def test_rounds_that_a_client_invents_are_its_own():
    """Via can be written by anybody. Nobody waits for the answer to such a request, it makes no marker, and
    it takes no refresh that another one would do."""
    async with Origin() as origin, Gateway(origin) as gateway:
        go_on = asyncio.Event()

        @origin.on("/stale")
        async def handler(call: Call) -> None:
            await go_on.wait()
            lines = ["Cache-Control: max-age=0, stale-while-revalidate=600"]
            await call.reply(200, lines, b"%d" % call.number)

        assert (await gateway.ask("/cold", ROUNDS)).status == 508
        assert gateway.worker.cache.stats()["events"]["fetch"] == 0
        answers = await asyncio.gather(
            *(gateway.ask("/cold", *[ROUNDS] * (n < 3)) for n in range(10))
        )
        assert [one.status for one in answers] == [508] * 3 + [200] * 7
        assert origin.calls["/cold"] == 1
        go_on.set()
        assert (await gateway.ask("/stale")).body == b"1"
        assert (await gateway.ask("/stale", ROUNDS)).status == 508
        assert gateway.stat("refresh") == 0
        assert (await gateway.ask("/stale")).body == b"1"
        await until(lambda: gateway.stat("store") == 3)
        assert (await gateway.ask("/stale")).body == b"2"
