"""G2 from the first request on: processes that have just started, and still join the fleet, share one
fetch. A fleet that is away costs no more than its budget (G5)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from layergate import CacheStack, HttpCache, LayerGate, MemoryLayer
from layergate.layers.redis import RedisLayer
from layergate.wsgi import LayerGate as WsgiLayerGate
from layergate.wsgi import ThreadRuntime
from tests.support.asgi import Call, Gate, Lifespan, Origin, OriginCall, World, scope_of
from tests.support.proxy import Proxy
from tests.support.waiting import until, wait_until
from tests.support.wsgi import ask

pytest_plugins = ("tests.support.redis_servers",)

ROOT = Path(__file__).parent.parent.parent
FRESH = {"cache-control": "max-age=60"}
COUNT, REQUESTS = 6, 28


@pytest.fixture
def proxies(shared_valkey: Any) -> Iterator[list[Proxy]]:
    """A line of its own for each instance. Nothing comes through yet."""
    with ExitStack() as stack:
        lines = [stack.enter_context(Proxy(shared_valkey.port)) for _ in range(COUNT)]
        for line in lines:
            line.blackhole()
        yield lines


def layer(line: Proxy, namespace: str, **options: Any) -> RedisLayer:
    settings = {"timeout": 0.1, "connect_timeout": 20.0, **options}
    return RedisLayer(f"redis://127.0.0.1:{line.port}/0", namespace=namespace, **settings)


@pytest.fixture
async def worlds(proxies: list[Proxy], shared_valkey: Any) -> AsyncIterator[list[World]]:
    origin = Origin()
    worlds = [World(origin=origin, shared=layer(line, shared_valkey.namespace)) for line in proxies]
    yield worlds
    for world in worlds:
        await world.cache.aclose()


async def through(proxies: list[Proxy]) -> None:
    """The servers answer now."""
    for line in proxies:
        await asyncio.to_thread(line.resume)


async def tried(worlds: list[World], times: int = 3) -> None:
    """Until each instance has tried so often to join, or has fetched instead."""
    logs: list[Any] = [world.cache.stack.shared_log for world in worlds]
    await until(lambda: worlds[0].origin.total or all(log.turns.begun >= times for log in logs))


async def test_a_burst_that_comes_while_all_still_join_is_one_call(
    worlds: list[World], proxies: list[Proxy]
) -> None:
    origin, gate = worlds[0].origin, Gate()

    @origin.on("/page")
    async def page(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"%d" % call.number, 200, FRESH)

    calls = [worlds[number % COUNT].call("/page") for number in range(REQUESTS)]
    await tried(worlds)
    assert origin.total == 0  # nobody went ahead
    await through(proxies)
    await gate.reached()
    await until(lambda: sum(world.count("lease_wait") for world in worlds) == COUNT - 1)
    gate.open()
    assert {(await call.done()).body for call in calls} == {b"1"}
    assert origin.total == 1
    # And it was fetched by an instance of the fleet: what it stored is there for all of them.
    for world in worlds:
        await world.idle()
        assert (await world.get("/page")).hit
        world.assert_nothing_left()
    assert origin.total == 1


async def test_who_joins_late_waits_for_those_who_have_joined(
    worlds: list[World], proxies: list[Proxy]
) -> None:
    origin, gate = worlds[0].origin, Gate()

    @origin.on("/page")
    async def page(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"%d" % call.number, 200, FRESH)

    await through(proxies[:1])
    first = worlds[0].call("/page")
    await gate.reached()
    late = [worlds[number % 2 + 1].call("/page") for number in range(10)]
    await tried(worlds[1:3])
    gate.open()
    assert (await first.done()).body == b"1"
    await worlds[0].idle()
    await through(proxies[1:3])
    answers = [await call.done() for call in late]
    assert {answer.body for answer in answers} == {b"1"}
    assert origin.total == 1


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_g5_a_fleet_that_is_away_costs_its_budget_and_each_process_one_call(
    proxies: list[Proxy], shared_valkey: Any, how: str
) -> None:
    origin = Origin()
    worlds = [
        World(origin=origin, shared=layer(line, shared_valkey.namespace, connect_timeout=0.3))
        for line in proxies[:3]
    ]
    gate = Gate()

    @origin.on("/page")
    async def page(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"one", 200, FRESH)

    if how == "refused":
        for line in proxies[:3]:
            await asyncio.to_thread(line.refuse)
    calls = [worlds[number % 3].call("/page") for number in range(12)]
    await gate.reached(3)
    await until(lambda: all(world.stat("waiters") == 3 for world in worlds))
    gate.open()
    assert {(await call.done()).body for call in calls} == {b"one"}
    assert origin.total == 3
    for world in worlds:
        await world.cache.aclose()


async def test_who_came_before_a_fetch_shares_it_though_its_instance_joins_meanwhile(
    worlds: list[World], proxies: list[Proxy]
) -> None:
    """The wait for the fleet has ended, the fetch begins without it, and then it is there."""
    world, gate = worlds[0], Gate()
    log: Any = world.cache.stack.shared_log

    @world.origin.on("/page")
    async def page(call: OriginCall) -> None:
        await gate.wait()
        await call.reply(b"%d" % call.number, 200, FRESH)

    calls = [world.call("/page") for _ in range(5)]
    await tried(worlds[:1])
    log.patience._join_by = float("-inf")  # too long
    await gate.reached()
    await world.waiting(4)
    await through(proxies)
    await until(lambda: world.cache.stack.trusted)
    # Who comes now may know of a purge that this fetch was not told of. It has a lease of its own.
    later = world.call("/page")
    await gate.reached(2)
    gate.open()
    assert {(await call.done()).body for call in calls} == {b"1"}
    assert (await later.done()).body == b"2"
    assert world.origin.total == 2
    await world.idle()
    assert (await world.get("/page")).body == b"2"
    world.assert_nothing_left()


async def test_a_server_with_a_lifespan_takes_requests_once_it_has_joined(
    worlds: list[World], proxies: list[Proxy]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await worlds[0].origin(scope, receive, send)
            return
        for phase in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{phase}"
            await send({"type": f"lifespan.{phase}.complete"})

    gated = LayerGate(app, cache=worlds[0].cache)
    lifespan = Lifespan(gated)
    starting = asyncio.create_task(lifespan.start())
    await tried(worlds[:1])
    assert not lifespan.sent
    await through(proxies)
    await starting
    assert worlds[0].cache.stack.trusted
    answer = await Call(gated, scope_of("/page")).done()
    assert answer.status == 200 and worlds[0].cache.stack.leases is not None
    await lifespan.stop()


async def test_values_are_fetched_once_while_all_still_join(
    proxies: list[Proxy], shared_valkey: Any
) -> None:
    stacks = [
        CacheStack([MemoryLayer("1MB"), layer(line, shared_valkey.namespace)]) for line in proxies
    ]
    fetched = 0

    async def fetch() -> int:
        nonlocal fetched
        fetched += 1
        return fetched

    values = [
        asyncio.ensure_future(stacks[number % COUNT].get("key", fetch, ttl=60))
        for number in range(REQUESTS)
    ]
    logs: list[Any] = [stack.shared_log for stack in stacks]
    await until(lambda: fetched or all(log.turns.begun >= 3 for log in logs))
    assert fetched == 0
    await through(proxies)
    assert set(await asyncio.gather(*values)) == {1}
    assert fetched == 1
    for stack in stacks:
        await stack.aclose()


# -------------------------------------------------------------------------------------- threads


def test_threads_that_ask_while_all_still_join_cost_one_call(
    proxies: list[Proxy], shared_valkey: Any
) -> None:
    calls: Counter[str] = Counter()
    lock = threading.Lock()

    def origin(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            calls["/page"] += 1
            number = calls["/page"]
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"%d" % number]

    apps = [
        WsgiLayerGate(
            origin,
            cache=HttpCache(
                runtime=ThreadRuntime(),
                layers=[MemoryLayer("1MB"), layer(line, shared_valkey.namespace)],
            ),
        )
        for line in proxies
    ]
    logs: list[Any] = [app.cache.stack.shared_log for app in apps]
    answers: list[bytes] = []

    def client(number: int) -> None:
        answers.append(ask(apps[number % COUNT], "/page").body)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(REQUESTS)]
    for thread in threads:
        thread.start()
    # In each process one tries to join (or what runs beside them does), and the others wait for it.
    waits = REQUESTS - COUNT
    wait_until(lambda: calls or sum(log.turns.waiting for log in logs) >= waits)
    # Longer than an operation may take, so that an impatient one has gone ahead.
    time.sleep(0.3)
    assert not calls
    for line in proxies:
        line.resume()
    for thread in threads:
        thread.join(30)
    assert answers == [b"1"] * REQUESTS
    assert calls["/page"] == 1
    for app in apps:
        app.close()


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_the_first_request_imports_nothing(world: str, shared_valkey: Any) -> None:
    """Threads that import a package at once find it half made; then each fetches for itself."""
    script = f"""
        import json, sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from tests.support.asgi import Call, scope_of
        from tests.support.wsgi import ask, in_threads
        import asyncio, layergate, layergate.wsgi

        errors, calls = [], []

        def tell(event, facts):
            if event == "layer_error":
                errors.append(repr(facts["error"]))

        async def app(scope, receive, send):
            calls.append(1)
            head = [(b"cache-control", b"max-age=60")]
            await send({{"type": "http.response.start", "status": 200, "headers": head}})
            await send({{"type": "http.response.body", "body": b"one"}})

        def plain(environ, start_response):
            calls.append(1)
            start_response("200 OK", [("Cache-Control", "max-age=60")])
            return [b"one"]

        async def burst(gate):
            everybody = [Call(gate, scope_of("/page")) for _ in range(16)]
            for one in everybody:
                await one.done()
            await gate.cache.aclose()

        shared = {shared_valkey.url!r}
        if {world!r} == "asgi":
            gate = layergate.LayerGate(app, shared=shared, hooks=[tell])
        else:
            gate = layergate.wsgi.LayerGate(plain, shared=shared, hooks=[tell])
        before = set(sys.modules)
        if {world!r} == "asgi":
            asyncio.run(burst(gate))
        else:
            barrier = threading.Barrier(16)
            in_threads(16, lambda: (barrier.wait(), ask(gate, "/page")))
        new = [name for name in set(sys.modules) - before if name.startswith(("redis", "layergate"))]
        print(json.dumps([new, errors, len(calls)]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], [], 1], done.stderr
