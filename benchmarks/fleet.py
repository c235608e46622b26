"""Measure the shared layer on a private Valkey, compared with bare Redis commands and with a peer.

* A hit in Redis through the stack, compared with a bare ``GET`` of the same bytes on the same client.
* A purge by tag with many tagged entries, until it is applied on three instances, each its own process.
  The peer, cashews, keeps a set of keys for each tag.
* The cost of a miss beyond the origin's own time, with the lookup and the lease in Redis.

python benchmarks/fleet.py [--entries 1000,100000,1000000] [--purges 200] [--skip-cashews]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio

from _apps import BODY
from _measure import describe_machine, print_table, scope_for
from _valkey import valkey
from layergate import HttpCache, LayerGate, MemoryLayer
from layergate.core.entry import Entry
from layergate.core.stack import Stack
from layergate.http.message.stored import StoredResponse
from layergate.http.wire import VALUES
from layergate.layers.redis import RedisLayer
from layergate.runtime.loop import LoopRuntime

LINES = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"max-age=300"),
    (b"etag", b'"33a64df551425fcc55e4d42a148795d9f25f89d4"'),
    (b"content-length", b"%d" % len(BODY)),
]
ROUNDS = 9


def entry(now: float, tags: tuple[str, ...] = (), stamp: int = 0) -> Entry:
    stored = StoredResponse(200, LINES, BODY, generated=now, response_time=now)
    return Entry(
        stored, created=now, fresh_until=now + 3600, tags=tags, stamp=stamp, size=stored.size
    )


async def timed(work: Callable[[], Awaitable[Any]], count: int) -> float:
    """Seconds per call of ``work``, the mean of ``count`` calls in a row."""
    begun = time.perf_counter()
    for _ in range(count):
        await work()
    return (time.perf_counter() - begun) / count


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} us"


# -- a hit -----------------------------------------------------------------------------------------


async def hits(port: int) -> None:
    client = redis.asyncio.Redis(port=port)
    layer = RedisLayer(client, namespace="hits")
    stack = Stack([layer], runtime=LoopRuntime(), values=VALUES)
    assert await stack.catch_up()
    keys = [b"key %d" % number for number in range(64)]
    for key in keys:
        await stack.store(key, entry(time.time(), ("a", "b"), stack.invalidations.position))
    names = [layer.blob_name(key) for key in keys]
    assert await client.get(names[0]) is not None
    assert (await stack.lookup(keys[0])) is not None

    async def bare() -> None:
        await client.get(names[0])

    async def ours() -> None:
        assert await stack.lookup(keys[0]) is not None

    async def bare_64() -> None:
        await asyncio.gather(*(client.get(name) for name in names))

    async def ours_64() -> None:
        await asyncio.gather(*(stack.lookup(key) for key in keys))

    cases: dict[str, tuple[Callable[[], Awaitable[None]], int, int]] = {
        "bare GET, alone": (bare, 400, 1),
        "L2 hit, alone": (ours, 400, 1),
        "bare GETs, 64 at once": (bare_64, 12, 64),
        "L2 hits, 64 at once": (ours_64, 12, 64),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS + 1):
        for name in random.sample(list(cases), len(cases)):
            work, count, each = cases[name]
            times[name].append(await timed(work, count) / each)
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    rows = []
    for name, target in (("alone", 1.3), ("64 at once", 0.5)):
        floor = medians[f"bare GET{'s' if name != 'alone' else ''}, {name}"]
        mine = medians[f"L2 hit{'s' if name != 'alone' else ''}, {name}"]
        met = "met" if mine <= target * floor else "NOT met"
        rows.append(
            (
                name,
                microseconds(floor),
                microseconds(mine),
                f"{mine / floor:.2f} x",
                f"{target} x {met}",
            )
        )
    print_table("A hit in Redis, 2 KB", ("requests", "bare GET", "L2 hit", "ratio", "target"), rows)
    await stack.disconnect()
    await client.aclose()


# -- a purge ---------------------------------------------------------------------------------------


async def member(port: int) -> None:
    """One of three instances: join, print "ready", and leave when the input ends."""
    stack = purging(port)
    assert await stack.catch_up()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await stack.leave()
    await stack.disconnect()


def purging(port: int) -> Stack:
    layers: list[Any] = [
        MemoryLayer("64MB"),
        RedisLayer(f"redis://127.0.0.1:{port}", namespace="purges"),
    ]
    return Stack(layers, runtime=LoopRuntime(), values=VALUES)


async def fill(port: int, stack: Stack, have: int, want: int) -> None:
    """Write up to ``want`` entries with one common tag, in the form that the layer uses."""
    layer: Any = stack.layers[1]
    async with redis.asyncio.Redis(port=port) as client:
        for start in range(have, want, 5_000):
            pipe = client.pipeline(transaction=False)
            for number in range(start, min(start + 5_000, want)):
                key = b"entry %d" % number
                small = Entry(number, created=0, fresh_until=time.time() + 9e5, tags=("all", "x"))
                small.stamp = stack.invalidations.position
                name = layer.blob_name(key)
                pipe.set(name, layer._encoded(layer._joined, name, small))
            await pipe.execute()


async def purges(port: int, sizes: list[int], count: int) -> list[tuple[str, ...]]:
    members = [
        subprocess.Popen(  # noqa: ASYNC220 - before any task runs on the loop
            [sys.executable, __file__, "--member", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    rows: list[tuple[str, ...]] = []
    try:
        for process in members:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        stack = purging(port)
        assert await stack.catch_up()
        from layergate.core.invalidation import Invalidation

        # The first purge waits until an instance that an earlier server knew can no longer be alive.
        receipt = await stack.invalidate((Invalidation("tag", "x"),))
        assert receipt[:3] == (3, 3, True), receipt
        have = 0
        for size in sizes:
            await fill(port, stack, have, size)
            have = size
            assert await stack.lookup(b"entry %d" % (size - 1)) is not None
            times = []
            for _ in range(count):
                begun = time.perf_counter()
                receipt = await stack.invalidate((Invalidation("tag", "all"),))
                times.append(time.perf_counter() - begun)
                assert receipt[:3] == (3, 3, True), receipt
            assert await stack.lookup(b"entry %d" % (size - 1)) is None
            # The next size starts from nothing, because the purge removed all entries.
            have = 0
            times.sort()
            p99 = times[math.ceil(0.99 * len(times)) - 1]
            met = "met" if p99 <= 0.010 else "NOT met"
            rows.append(
                (
                    f"{size:,}",
                    f"{statistics.median(times) * 1e3:.2f} ms",
                    f"{p99 * 1e3:.2f} ms",
                    f"10 ms {met}",
                )
            )
        await stack.leave()
        await stack.disconnect()
    finally:
        for process in members:
            process.communicate()
    return rows


async def cashews_purges(port: int, sizes: list[int]) -> dict[int, str]:
    """The time of one ``delete_tags``. Its cost grows with the number of entries with the tag."""
    from cashews import Cache

    found = {}
    for size in sizes:
        cache = Cache()
        cache.setup(f"redis://127.0.0.1:{port}/1", client_side=False)
        await cache.clear()
        for start in range(0, size, 500):
            await asyncio.gather(
                *(
                    cache.set(f"entry:{number}", number, expire=3600, tags=("all",))
                    for number in range(start, min(start + 500, size))
                )
            )
        begun = time.perf_counter()
        await cache.delete_tags("all")
        found[size] = f"{(time.perf_counter() - begun) * 1e3:,.1f} ms"
        await cache.close()
    return found


# -- a miss ----------------------------------------------------------------------------------------


async def misses(port: int) -> None:
    async def origin(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": LINES})
        await send({"type": "http.response.body", "body": BODY})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    alone = HttpCache(memory="64MB")
    fleet = HttpCache(memory="64MB", shared=f"redis://127.0.0.1:{port}")
    apps: dict[str, Any] = {
        "origin": origin,
        "memory": LayerGate(origin, cache=alone),
        "fleet": LayerGate(origin, cache=fleet),
    }
    number = 0
    times: dict[str, list[float]] = {name: [] for name in apps}
    for turn in range(ROUNDS + 1):
        for name in random.sample(list(apps), len(apps)):
            app = apps[name]
            spent = []
            for _ in range(100):
                number += 1
                scope = scope_for(f"/item/{number}")
                begun = time.perf_counter()
                await app(scope, receive, send)
                spent.append(time.perf_counter() - begun)
                # Storing in the background is not part of the response time.
                while fleet.runtime.pending():  # noqa: ASYNC110
                    await asyncio.sleep(0)
            if turn:
                times[name].append(statistics.median(spent))
    medians = {name: statistics.median(each) for name, each in times.items()}
    over = medians["fleet"] - medians["origin"]
    met = "met" if over <= 0.001 else "NOT met"
    rows = [
        ("memory only", microseconds(medians["memory"] - medians["origin"]), ""),
        ("memory and Redis", microseconds(over), f"1 ms {met}"),
    ]
    print_table("A miss, beyond the origin's own time", ("layers", "cost", "target"), rows)
    await fleet.aclose()
    await alone.aclose()


async def run(options: argparse.Namespace) -> None:
    with valkey() as port:
        await hits(port)
    with valkey() as port:
        await misses(port)
    with valkey() as port:
        rows = await purges(port, options.entries, options.purges)
    peer: dict[int, str] = {}
    if not options.skip_cashews:
        with valkey() as port:
            peer = await cashews_purges(port, [size for size in options.entries if size <= 100_000])
    table = [
        (*row, peer.get(size, "not run")) for row, size in zip(rows, options.entries, strict=True)
    ]
    print_table(
        "A purge by tag, until it is applied on 3 instances",
        ("entries with the tag", "p50", "p99", "target", "cashews: delete_tags, 1 instance"),
        table,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", default="1000,100000,1000000")
    parser.add_argument("--purges", type=int, default=200)
    parser.add_argument("--skip-cashews", action="store_true")
    parser.add_argument("--member", type=int)
    options = parser.parse_args()
    if options.member:
        asyncio.run(member(options.member))
        return
    options.entries = [int(size) for size in options.entries.split(",")]
    print(describe_machine())
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
