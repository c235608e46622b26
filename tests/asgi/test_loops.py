"""Loops that end with their request: test clients, `asyncio.run` for each call, threads with a loop
each. What is stored is stored when the response has ended; a loop that ends leaves no task, no socket
and no member of the fleet behind (any warning is a failure here, see pyproject.toml)."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio.from_thread
import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import Response

from layergate import Admin, CacheStack, HttpCache, LayerGate, MemoryLayer
from layergate.layers.redis import RedisLayer
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.asgi import Call, OriginCall, World, scope_of
from tests.support.nodes import settle
from tests.support.proxy import Proxy
from tests.support.redis_servers import SharedValkey
from tests.support.waiting import until

with warnings.catch_warnings():  # of what it says of its own dependencies
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

pytest_plugins = ("tests.support.redis_servers",)

TOKEN = {"authorization": "Bearer token-of-the-tests"}
PATHS = [f"/page/{number}" for number in range(40)]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What asyncio says of tasks that were destroyed, it only logs."""
    yield
    gc.collect()
    said = [record for record in caplog.records if record.name in ("asyncio", "layergate")]
    assert not [record.getMessage() for record in said if record.levelno >= logging.ERROR]


def layer_of(shared_valkey: SharedValkey) -> RedisLayer:
    return RedisLayer(
        shared_valkey.url,
        namespace=shared_valkey.namespace,
        timeout=20.0,
        connect_timeout=20.0,
        max_disconnected=60.0,
    )


class Site:
    """An application as FastAPI's tutorial tests it, with a real Valkey. It counts its calls.

    A busy machine may stand still for seconds. An instance that hears nothing for as long as its limits
    allow asks the origin, as it should, and has no membership left to give up. So no limit here is
    shorter than that.
    """

    def __init__(self, fleet: SharedValkey, **options: Any) -> None:
        self.valkey = fleet
        self.calls: Counter[str] = Counter()
        self.answers: dict[str, Callable[[int, str | None], Response]] = {}
        self.cache = HttpCache(
            layers=[
                MemoryLayer("4MB"),
                layer_of(fleet),
            ],
            admin=Admin(token="token-of-the-tests"),
            layer_timeout=20.0,
            **options,
        )
        self.app = FastAPI()
        self.app.add_middleware(LayerGate, cache=self.cache)

        @self.app.api_route("/{path:path}", methods=["GET", "POST"])
        async def page(path: str) -> Response:
            self.calls[path] += 1
            number = self.calls[path]
            made = self.answers.get(path)
            if made is not None:
                return made(number, None)
            return Response(f"{path} {number}", headers={"cache-control": "max-age=60"})

    @property
    def members(self) -> int:
        """How many instances purges wait for, by what is in the Valkey."""
        log: Any = self.cache.stack.shared_log
        return int(self.valkey.cli("ZCARD", log._journal.keys[2].decode()))

    def purged(self, client: Any, **what: Any) -> dict[str, Any]:
        answer = client.post("/_layergate/purge", json=what, headers=TOKEN)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()["result"]
        return result


def hit(answer: Any) -> bool:
    return "; hit" in answer.headers["cache-status"]


def connected(site: Site, log: Any) -> bool:
    """Is nothing under way?"""
    pools = log._journal._client._pools.values()
    listens = site.valkey.cli("PUBSUB", "NUMSUB", log._journal.own_channel(log.instance))[1]
    return bool(listens) and not any(pool.batcher._tasks for pool in pools)


@pytest.fixture
def fleet(shared_valkey: SharedValkey) -> SharedValkey:
    """A Valkey whose log has settled: its first purge waits for no instance that may be unknown."""
    first = HttpCache(runtime=ThreadRuntime(), layers=[layer_of(shared_valkey)])
    assert run_blocking(first.stack.catch_up())
    run_blocking(first.aclose())
    settle(shared_valkey, shared_valkey.namespace)
    return shared_valkey


@pytest.fixture
def site(fleet: SharedValkey) -> Site:
    return Site(fleet)


def test_a_client_with_a_loop_for_each_request(site: Site) -> None:
    client = TestClient(site.app)
    for path in PATHS:
        assert not hit(client.get(path))
        assert hit(client.get(path))
    assert set(site.calls.values()) == {1} and len(site.calls) == 40
    assert site.members == 0  # every loop has ended
    result = site.purged(client, purge_everything=True)
    assert (result["applied"], result["instances"]) == (1, 1)
    for path in PATHS:
        assert client.get(path).text.endswith(" 2")
        assert hit(client.get(path))
    assert set(site.calls.values()) == {2}
    assert site.members == 0


def test_a_client_with_one_loop_for_all_requests(site: Site) -> None:
    with TestClient(site.app) as client:
        for path in PATHS:
            client.get(path)
            assert hit(client.get(path))
        assert site.members == 1
        result = site.purged(client, purge_everything=True)
        assert (result["applied"], result["instances"]) == (1, 1)
        for path in PATHS:
            assert client.get(path).text.endswith(" 2")
    assert set(site.calls.values()) == {2}
    assert site.members == 0


@pytest.mark.parametrize("again", [False, True])
def test_an_app_for_each_test(fleet: SharedValkey, again: bool) -> None:
    """What an earlier one stored, a later one finds; nobody waits for one that is over."""
    kept = []
    for _ in range(5):
        site = Site(fleet)
        if again:  # also while it is still referred to
            kept.append(site)
        answer = TestClient(site.app).get("/page/1")
        assert answer.text == "page/1 1"
        assert hit(TestClient(site.app).get("/page/1"))
    assert site.members == 0
    assert site.purged(TestClient(site.app), tags=["x"])["instances"] == 1


def test_asyncio_run_for_each_call(site: Site) -> None:
    async def get(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(site.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.get(path)

    for path in PATHS[:10]:
        asyncio.run(get(path))
        assert hit(asyncio.run(get(path)))
    receipt = asyncio.run(site.cache.purge(prefixes=["testserver/page"]))
    assert receipt.final and receipt.instances == 1
    assert asyncio.run(get(PATHS[0])).text == "page/0 2"
    assert site.members == 0


def test_values_with_asyncio_run_for_each_call(fleet: SharedValkey) -> None:
    stack = CacheStack([MemoryLayer("1MB"), layer_of(fleet)])
    fetched = []

    async def fetch() -> int:
        fetched.append(1)
        return len(fetched)

    for _ in range(5):
        assert asyncio.run(stack.get("key", fetch, ttl=60)) == 1
    assert asyncio.run(stack.invalidate_by_tag("x")).instances == 1
    asyncio.run(stack.delete("key"))
    assert asyncio.run(stack.get("key", fetch, ttl=60)) == 2
    log: Any = stack.shared_log
    assert fleet.cli("ZCARD", log._journal.keys[2].decode()) == 0


def test_two_caches_in_one_process(fleet: SharedValkey) -> None:
    one, two = Site(fleet), Site(fleet)
    first, second = TestClient(one.app), TestClient(two.app)
    first.get("/page/1")
    assert second.get("/page/1").text == "page/1 1" and not two.calls
    assert one.purged(first, purge_everything=True)["instances"] == 1
    assert second.get("/page/1").text == "page/1 1" and two.calls == {"page/1": 1}
    # One with a loop that goes on, one without.
    with first:
        assert hit(first.get("/page/1"))
        assert two.purged(second, purge_everything=True)["instances"] == 2
        assert first.get("/page/1").text == "page/1 2"
        assert second.get("/page/1").text == "page/1 2"  # and it is shared
    assert one.members == 0


def test_threads_with_a_loop_each(site: Site) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            client = TestClient(site.app)
            for path in PATHS[:12]:
                assert client.get(path).text == f"{path[1:]} 1"
                assert client.get(path).status_code == 200
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert set(site.calls.values()) == {1}
    assert site.purged(TestClient(site.app), purge_everything=True)["instances"] == 1
    assert site.members == 0


def test_a_purge_from_a_thread_of_the_app(site: Site) -> None:
    @site.app.get("/other/purge", include_in_schema=False)
    def unreached() -> None: ...

    def purge() -> Any:
        return anyio.from_thread.run(partial(site.cache.purge, everything=True))

    async def serve() -> Any:
        return await anyio.to_thread.run_sync(purge)

    client = TestClient(site.app)
    client.get("/page/1")
    receipt = asyncio.run(serve())
    assert receipt.final and receipt.instances == 1
    assert client.get("/page/1").text == "page/1 2"


def test_a_loop_that_is_closed_over_what_runs(fleet: SharedValkey) -> None:
    """As test runners do that cancel nothing."""
    sites = [Site(fleet) for _ in range(3)]

    async def get(site: Site, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(site.app)
        log: Any = site.cache.stack.shared_log
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            answer = await client.get(path)
            # A socket that is just being connected is nobody's yet.
            await until(lambda: not log.heartbeat.running or connected(site, log))
        return answer

    for site in sites:
        for path in PATHS[:5]:
            for number in range(2):
                loop = asyncio.new_event_loop()
                answer = loop.run_until_complete(get(site, path))
                loop.close()
                assert hit(answer) or not number
    site = sites[0]
    assert sum(sum(one.calls.values()) for one in sites) == 5
    # None of the three could say good-bye; the next that purges does so for them.
    receipt = asyncio.run(site.cache.purge(everything=True))
    assert receipt.final and receipt.instances == 1
    assert site.members == 0
    for site in sites:  # closes what is left of their last loops
        asyncio.run(site.cache.purge(tags=["x"]))


def test_a_refresh_in_the_background_is_part_of_its_request(site: Site) -> None:
    window = {"cache-control": "max-age=0, stale-while-revalidate=60"}
    site.answers["swr"] = lambda number, _: Response(f"{number}", headers=window)
    client = TestClient(site.app)
    assert [client.get("/swr").text for _ in range(4)] == ["1", "1", "2", "3"]


def test_what_varies_is_validated_or_is_not_shared(site: Site) -> None:
    fresh = {"cache-control": "max-age=60"}
    site.answers["vary"] = lambda number, _: Response(
        f"{number}", headers={**fresh, "vary": "accept-language"}
    )
    site.answers["private"] = lambda number, _: Response(
        f"{number}", headers={"cache-control": "private"}
    )
    client = TestClient(site.app)
    for language in ("de", "en"):
        client.get("/vary", headers={"accept-language": language})
        assert hit(client.get("/vary", headers={"accept-language": language}))
    assert site.calls["vary"] == 2
    assert [client.get("/private").text for _ in range(3)] == ["1", "2", "3"]
    assert site.members == 0


# --------------------------------------------------------------- before the last part of the body


VALIDATED = {"cache-control": "max-age=0", "etag": '"1"'}


@pytest.mark.parametrize("kind", ["shared", "varies", "validated", "kept for validation", "post"])
async def test_memory_has_it_when_the_response_ends(shared_valkey: Any, kind: str) -> None:
    """Whatever the layer below takes."""
    with Proxy(shared_valkey.port) as line:
        layer = RedisLayer(
            f"redis://127.0.0.1:{line.port}/0", namespace=shared_valkey.namespace, timeout=5.0
        )
        world = World(shared=layer, layer_timeout=5.0)
        top = world.cache.stack.layers[0]

        @world.origin.on("/page")
        async def page(call: OriginCall) -> None:
            headers = {"cache-control": "max-age=60"}
            if kind == "varies":
                headers["vary"] = "accept-language"
            elif kind in ("validated", "kept for validation"):
                headers = VALIDATED
            elif kind == "post":
                headers["content-location"] = "http://example.com/page"
            if call.header("if-none-match"):
                await call.reply(b"", 304, headers)
                return
            if kind == "validated" and call.number > 1:
                raise AssertionError("not validated")
            await call.start(200, headers)
            await asyncio.to_thread(line.blackhole)  # what is written below does not arrive
            await call.chunk(b"one ")
            await call.end(b"two")

        assert await world.cache.stack.catch_up()
        stored_then: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def watching(message: Any) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    stored_then.append(len(top))
                await send(message)

            await world.app(scope, receive, watching)

        method = "POST" if kind == "post" else "GET"
        before = len(top)
        call = Call(app, scope_of("/page", method=method))
        await until(lambda: stored_then)
        assert stored_then[0] > before
        await asyncio.to_thread(line.resume)
        await call.done()
        await world.idle()
        await world.cache.aclose()
