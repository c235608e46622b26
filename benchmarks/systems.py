"""Measure the shared systems side by side: Redis (Valkey), PostgreSQL, MongoDB, memcached, a folder of one host.

* A hit below the memory (2 KB, decoded): alone, 64 at the same time, and 64 keys asked for together.
* The CPU that this process spends on a hit.
* A purge until it is final, with a second instance that has to apply it.
* Calls a minute of an instance that serves nothing.

The servers are real ones on this machine: Valkey and PostgreSQL from wheels, memcached if there is one
(`make test-systems` unpacks it), and SecantusDB in the place of a MongoDB. That one is written in Python, so
its numbers say what the client costs, and nothing about MongoDB.

python benchmarks/systems.py [--rounds 5] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from _measure import describe_machine, print_table
from fleet import entry, microseconds, timed
from layergate.core.invalidation import Invalidation
from layergate.core.stack import Stack
from layergate.http.wire import VALUES
from layergate.layers.schemes import layer_of
from layergate.runtime.loop import LoopRuntime
from tests.support.memcached_servers import Memcached
from tests.support.mongo_servers import Mongo
from tests.support.postgres_servers import Postgres
from tests.support.systems import SystemServer, ValkeySystem

SERVERS: dict[str, Callable[[Path], SystemServer]] = {
    "Redis": ValkeySystem,
    "PostgreSQL": lambda folder: Postgres(folder, config={"fsync": "on"}),
    "MongoDB": Mongo,
    "memcached": Memcached,
}
KEYS = [b"key %d" % number for number in range(64)]
IDLE = 10.0  # seconds
PURGES = 100
Work = Callable[[], Awaitable[Any]]


def stack_of(url: str, **options: Any) -> Stack:
    return Stack(
        [layer_of(url, timeout=2.0, connect_timeout=2.0, **options)],
        runtime=LoopRuntime(),
        values=VALUES,
    )


async def measure(urls: dict[str, str], count: int) -> None:
    stacks = {name: stack_of(url) for name, url in urls.items()}
    others = {name: stack_of(url) for name, url in urls.items()}
    for stack in (*stacks.values(), *others.values()):
        assert await stack.catch_up()
    for stack in stacks.values():
        for key in KEYS:
            await stack.store(key, entry(time.time(), ("a",), stack.invalidations.position))
    await _hits(stacks, count)
    await _purges(stacks, others)
    await _idle(stacks)
    for stack in (*stacks.values(), *others.values()):
        await stack.leave()
        await stack.disconnect()


async def _hits(stacks: dict[str, Stack], count: int) -> None:
    times: dict[tuple[str, str], list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for number in range(count + 1):
        for name in random.sample(list(stacks), len(stacks)):
            stack = stacks[name]

            async def alone(stack: Stack = stack) -> None:
                assert await stack.lookup(KEYS[0]) is not None

            async def together(stack: Stack = stack) -> None:
                found = await asyncio.gather(*(stack.lookup(key) for key in KEYS))
                assert all(one is not None for one in found)

            async def many(stack: Stack = stack) -> None:
                layer: Any = stack.layers[0]
                found = layer.get_many(KEYS)
                assert len(await found if inspect.isawaitable(found) else found) == 64

            spent = time.process_time()
            one = await timed(alone, 200)
            spent = (time.process_time() - spent) / 200
            found = {
                "alone": one,
                "64 at once": await timed(together, 10),
                "64 keys": await timed(many, 10),
            }
            if number:  # the first round warms up
                cpu.setdefault(name, []).append(spent)
                for what, seconds in found.items():
                    times.setdefault((name, what), []).append(seconds)
    print_table(
        "A hit below the memory, 2 KB, decoded (medians)",
        ("", "alone", "64 at once", "64 keys in one call", "CPU of a hit", "to Redis"),
        [
            (
                name,
                microseconds(statistics.median(times[name, "alone"])),
                microseconds(statistics.median(times[name, "64 at once"])),
                microseconds(statistics.median(times[name, "64 keys"])),
                microseconds(statistics.median(cpu[name])),
                f"{_ratio(times[name, 'alone'], times[first, 'alone']):.2f} x",
            )
            for name in stacks
            for first in (next(iter(stacks)),)
        ],
    )


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


async def _purges(stacks: dict[str, Stack], others: dict[str, Stack]) -> None:
    rows = []
    times: dict[str, list[float]] = {name: [] for name in stacks}
    not_final = dict.fromkeys(stacks, 0)
    for name, stack in stacks.items():  # of a new log it takes the trust period
        await stack.invalidate((Invalidation("tag", "new"),))
        await others[name].catch_up()
    for number in range(PURGES):
        for name in random.sample(list(stacks), len(stacks)):
            purger = (stacks, others)[number % 2][name]
            began = time.perf_counter()
            receipt = await purger.invalidate((Invalidation("tag", "none"),))
            times[name].append(time.perf_counter() - began)
            not_final[name] += not receipt.final
    for name, each in times.items():
        ordered = sorted(each)
        rows.append(
            (
                name,
                f"{ordered[len(ordered) // 2] * 1000:.2f} ms",
                f"{ordered[int(len(ordered) * 0.99)] * 1000:.2f} ms",
                str(not_final[name]),
            )
        )
    print_table(
        f"A purge until it is final, with two instances ({PURGES} purges)",
        ("", "p50", "p99", "not final"),
        rows,
    )


async def _idle(stacks: dict[str, Stack]) -> None:
    def calls(stack: Stack) -> int:
        layer: Any = stack.layers[0]
        return int(layer.stats().get("round_trips", 0))

    before = {name: calls(stack) for name, stack in stacks.items()}
    await asyncio.sleep(IDLE)
    print_table(
        "Calls a minute of an instance that serves nothing",
        ("", "calls"),
        [
            (
                name,
                f"{(calls(stack) - before[name]) * 60 / IDLE:,.0f}" if name != "a folder" else "0",
            )
            for name, stack in stacks.items()
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=[*SERVERS, "folder"], default=None)
    arguments = parser.parse_args()
    print(describe_machine())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {}
        for name, made in SERVERS.items():
            if arguments.only is not None and name not in arguments.only:
                continue
            try:
                urls[name] = stack.enter_context(made(folder)).url()
            except BaseException as error:  # pytest's, where there is no server
                if type(error).__name__ != "Skipped":
                    raise
                print(f"not measured: {name} ({error})")
        if arguments.only is None or "folder" in arguments.only:
            urls["a folder"] = f"host:{folder}/shared"
        asyncio.run(measure(urls, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
