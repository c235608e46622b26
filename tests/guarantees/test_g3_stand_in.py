"""G3 while the origin fails: what was purged stands in for nothing, on an instance that was cut off when
the purge went through. On a real Valkey, under both adapters, in the gateway, and for `CacheStack`."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from layergate import CacheStack, MemoryLayer
from layergate.errors import ConfigError, FetchTimeout
from layergate.layers.redis import RedisLayer
from tests.fleet.support import Fleet as Worlds
from tests.support.asgi import Gate, OriginCall
from tests.support.connections import Connection
from tests.support.fleet import Fleet
from tests.support.gateway_processes import GatewayProcesses
from tests.support.origin import OriginCall as RemoteCall
from tests.support.proxy import Proxy
from tests.support.waiting import until

pytest_plugins = ("tests.support.redis_servers",)

ON_ERROR = {"cache-control": "max-age=600, stale-if-error=600", "cache-tag": "page"}
PLAIN = {"cache-control": "max-age=600", "cache-tag": "page", "etag": '"1"'}


class Changing:
    """An origin whose page has a version, and which fails when it is told to."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.version, self.failing, self.headers = 1, False, headers

    async def __call__(self, call: RemoteCall) -> None:
        if self.failing:
            await call.reply(b"fails", {}, 503)
        else:
            await call.reply(b"%d" % self.version, self.headers)


# -- processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["uvicorn", pytest.param("gunicorn", marks=pytest.mark.frameworks)]
)
@pytest.mark.parametrize(
    ("headers", "options"),
    [
        (ON_ERROR, {}),
        (PLAIN, {"stale_if_unreachable": 3600}),
    ],
    ids=["stale-if-error", "stale-if-unreachable"],
)
async def test_who_was_cut_off_serves_nothing_purged(
    shared_valkey: Any,
    tmp_path: Path,
    kind: str,
    headers: dict[str, str],
    options: dict[str, Any],
) -> None:
    with Proxy(shared_valkey.port) as proxy:
        urls = [shared_valkey.url, proxy.url]
        layer = {"namespace": shared_valkey.namespace, "max_disconnected": 1.0}
        kinds = [kind, kind]
        async with Fleet(tmp_path, urls, kinds=kinds, layer=layer, options=options) as fleet:
            page = fleet.origin.handlers["/page"] = Changing(headers)
            assert [one.body for one in await fleet.each("/page")] == [b"1", b"1"]
            proxy.refuse()
            page.version, page.failing = 2, True
            purged = await fleet[0].purge(tags=["page"])
            assert purged.final
            for method in ("GET", "HEAD"):
                answer = await fleet[1].get("/page", method)
                assert answer.status == 503
            assert (
                await fleet[1].get("/page", headers={"cache-control": "max-stale"})
            ).status == 503
            asked = {"range": "bytes=0-0"}
            assert (await fleet[1].get("/page", headers=asked)).status == 503
            proxy.resume()
            page.failing = False
            assert (await fleet[1].get("/page")).body == b"2"


async def test_a_gateway_that_was_cut_off_lets_nothing_stand_in(
    shared_valkey: Any, tmp_path: Path
) -> None:
    with Proxy(shared_valkey.port) as proxy:
        settings: dict[str, Any] = {
            "cache": {"stale_if_unreachable": 3600, "shared": proxy.url},
            "shared_namespace": shared_valkey.namespace,
            "workers": 1,
        }
        async with GatewayProcesses(tmp_path, whole=True, **settings) as gateway:
            page = Changing(PLAIN)
            gateway.origin.handlers["/"] = page
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(Connection(gateway.port))
                assert (await client.get("/page")).body == b"1"

                async def hits() -> bool:
                    return (await client.get("/page")).hit

                await until(hits)
                page.failing = True
                proxy.refuse()

                async def fails() -> bool:
                    return (await client.get("/page")).status == 503

                # From the moment on at which it is not trusted any more, and for good.
                await until(fails)
                for _ in range(5):
                    assert await fails()
                proxy.resume()

                async def serves() -> bool:
                    return (await client.get("/page")).body == b"1"

                await until(serves)  # nothing was purged, and it knows that again


# -- one process, where a test says what happens when ----------------------------------------------


async def cut_off(worlds: Worlds, instance: int, proxy: Proxy) -> None:
    proxy.refuse()
    await until(lambda: not worlds[instance].cache.stack.trusted)


async def test_trust_is_looked_at_when_the_stale_response_is_about_to_be_used(
    shared_valkey: Any,
) -> None:
    """It was trusted when the page was selected; the origin took so long to fail that it is not now,
    neither for who made the fetch nor for who joined it."""
    with Proxy(shared_valkey.port) as proxy:
        urls = [shared_valkey.url, proxy.url]
        async with Worlds(urls, shared_valkey.namespace) as worlds:
            gate = Gate()

            @worlds.origin.on("/page")
            async def page(call: OriginCall) -> None:
                if call.number == 1:
                    headers = {"cache-control": "max-age=10, stale-if-error=600"}
                    await call.reply(b"1", 200, headers)
                    return
                await gate.wait()
                await call.reply(b"fails", 503)

            await worlds[1].get("/page")
            await worlds.idle()
            worlds.clock.advance(20)
            leads = asyncio.ensure_future(worlds[1].get("/page"))
            await gate.reached()
            follows = asyncio.ensure_future(worlds[1].get("/page"))
            await until(lambda: worlds[1].cache.stats()["waiters"] == 1)
            await cut_off(worlds, 1, proxy)
            assert (await worlds[0].cache.purge(urls=["http://example.com/page"])).final
            gate.open()
            assert (await leads).status == 503
            assert (await follows).status == 503
            proxy.resume()


@pytest.mark.parametrize("grace", [None, 600, 0])
async def test_an_option_prefers_availability(shared_valkey: Any, grace: float | None) -> None:
    with Proxy(shared_valkey.port) as proxy:
        urls = [shared_valkey.url, proxy.url]
        options: dict[str, Any] = {"stale_if_untrusted": grace}
        async with Worlds(urls, shared_valkey.namespace, **options) as worlds:

            @worlds.origin.on("/page")
            async def page(call: OriginCall) -> None:
                headers = {"cache-control": "max-age=10, stale-if-error=600"}
                failing = call.number > 1
                await call.reply(b"1", 503 if failing else 200, {} if failing else headers)

            await worlds[1].get("/page")
            await worlds.idle()
            await cut_off(worlds, 1, proxy)
            answer = await worlds[1].get("/page")
            if grace:
                assert answer.status == 200 and answer.body == b"1"
                assert "stale-if-error" in answer.cache_status
            else:
                assert answer.status == 503
            proxy.resume()


async def test_no_wait_ends_with_what_may_have_been_purged(shared_valkey: Any) -> None:
    """``collapse_fallback`` and ``origin_timeout``, of an instance that is not trusted."""
    with Proxy(shared_valkey.port) as proxy:
        urls = [shared_valkey.url, proxy.url]
        options: dict[str, Any] = {
            "collapse_timeout": 0.05,
            "collapse_fallback": "504",
            "origin_timeout": 0.05,
        }
        async with Worlds(urls, shared_valkey.namespace, **options) as worlds:
            gate = Gate()

            @worlds.origin.on("/page")
            async def page(call: OriginCall) -> None:
                if call.number > 1:
                    await gate.wait()
                headers = {"cache-control": "max-age=10, stale-if-error=600"}
                await call.reply(b"%d" % call.number, 200, headers)

            await worlds[1].get("/page")
            await worlds.idle()
            worlds.clock.advance(1)
            await cut_off(worlds, 1, proxy)
            leads = asyncio.ensure_future(worlds[1].get("/page"))
            await gate.reached()
            assert (await worlds[1].get("/page")).status == 504
            assert not leads.done()
            gate.open()
            assert (await leads).body == b"2"
            proxy.resume()


async def test_what_may_have_been_purged_is_no_part_of_an_answer(shared_valkey: Any) -> None:
    with Proxy(shared_valkey.port) as proxy:
        urls = [shared_valkey.url, proxy.url]
        async with Worlds(urls, shared_valkey.namespace) as worlds:
            asked: list[str | None] = []

            @worlds.origin.on("/page")
            async def page(call: OriginCall) -> None:
                asked.append(call.header("range"))
                first, last = map(
                    int, (call.header("range") or "").removeprefix("bytes=").split("-")
                )
                said = {"etag": '"1"', "content-range": f"bytes {first}-{last}/100"}
                headers = {"cache-control": "max-age=600", **said}
                await call.reply(b"x" * (last + 1 - first), 206, headers)

            await worlds[1].get("/page", headers={"range": "bytes=0-3"})
            await worlds.idle()
            await worlds[1].get("/page", headers={"range": "bytes=0-5"})  # is completed
            await worlds.idle()
            worlds.clock.advance(1)
            await cut_off(worlds, 1, proxy)
            await worlds[1].get("/page", headers={"range": "bytes=0-9"})
            assert asked == ["bytes=0-3", "bytes=4-5", "bytes=0-9"]
            proxy.resume()


async def test_a_value_that_may_have_been_purged_stands_in_for_no_fetch(
    shared_valkey: Any,
) -> None:
    def stack(url: str, **options: Any) -> CacheStack:
        layer = RedisLayer(url, namespace=shared_valkey.namespace, max_disconnected=1.0)
        return CacheStack([MemoryLayer("1MB"), layer], ttl=600, **options)

    async def one() -> str:
        return "one"

    async def fails() -> str:
        raise OSError("the source is away")

    async def hangs() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def fails_for_all(_: Any) -> dict[Any, Any]:
        return {"k": await fails()}

    with Proxy(shared_valkey.port) as proxy:
        whole, cut, lenient = (
            stack(shared_valkey.url),
            stack(proxy.url),
            stack(proxy.url, stale_if_untrusted=600),
        )
        windows: dict[str, Any] = {"stale_if_error": 600.0, "stale_while_revalidate": 600.0}
        for each in (whole, cut, lenient):
            assert await each.get("k", one, tags=["t"], **windows) == "one"
        proxy.refuse()
        await until(lambda: not cut.trusted and not lenient.trusted)
        receipt = await whole.invalidate_by_tag("t")
        assert receipt.final
        with pytest.raises(OSError):
            await cut.get("k", fails, **windows)
        with pytest.raises(OSError):
            await cut.mget(["k"], fails_for_all, **windows)
        limits: list[dict[str, Any]] = [
            {"timeout": 0.05},
            {"soft_timeout": 0.05, "timeout": 0.1},
        ]
        for limit in limits:
            with pytest.raises(FetchTimeout):
                await cut.get("k", hangs, **windows, **limit)
        assert await cut.get("k", default="nothing") == "nothing"
        assert await lenient.get("k", fails, **windows) == "one"
        proxy.resume()
        for each in (whole, cut, lenient):
            await each.aclose(0.1)


def test_the_option_is_checked() -> None:
    with pytest.raises(ConfigError, match="stale_if_untrusted must be >= 0 seconds, got -1"):
        CacheStack([MemoryLayer("1MB")], stale_if_untrusted=-1)
