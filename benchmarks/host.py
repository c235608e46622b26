"""Measure the folder that the processes of one host share, beside a private Valkey and a bare SQLite.

* A hit in memory through the middleware, with and without ``shared="host"`` below: what the comparison with
  the log costs.
* A hit in the folder, beside a hit in a Valkey and a ``SELECT`` of the same bytes.
* A purge until it is final, with four processes on the folder, beside three instances on a Valkey.
* What a miss costs beyond the app, without a shared layer, with the folder, and with a Valkey.
* Hits in the folder by one and by four processes, while another process stores 500 entries a second.

python benchmarks/host.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from _apps import BODY
from _measure import describe_machine, print_table, scope_for, verdict
from _valkey import valkey
from fleet import LINES, entry, microseconds, timed
from layergate import HttpCache, LayerGate, MemoryLayer
from layergate.core.invalidation import Invalidation
from layergate.core.stack import Stack
from layergate.http.wire import VALUES
from layergate.layers.host import HostLayer
from layergate.layers.redis import RedisLayer
from layergate.runtime.loop import LoopRuntime

Work = Callable[[], Awaitable[Any]]
SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None


async def rounds(cases: dict[str, tuple[Work, int]], count: int) -> dict[str, list[float]]:
    """Seconds per call: each case once a round, in a random order, ``count`` rounds after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(count + 1):
        for name in random.sample(list(cases), len(cases)):
            work, number = cases[name]
            times[name].append(await timed(work, number))
    return {name: each[1:] for name, each in times.items()}


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """The median over the rounds of how much slower ``one`` was than ``other``."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


async def origin(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": LINES})
    await send({"type": "http.response.body", "body": BODY})


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


async def memory_hits(folder: str, count: int) -> None:
    gates: dict[str, Any] = {
        "memory": LayerGate(origin, cache=HttpCache()),
        "memory, folder below": LayerGate(origin, cache=HttpCache(shared=f"host:{folder}/a")),
    }
    scope = scope_for()
    cases: dict[str, tuple[Work, int]] = {}
    for name, gate in gates.items():
        for _ in range(3):
            await gate(scope, receive, send)

        async def hit(gate: Any = gate) -> None:
            await gate(scope, receive, send)

        cases[name] = hit, 20_000
    times = await rounds(cases, count)
    with_, without = "memory, folder below", "memory"
    more = ratio(times, with_, without)
    print_table(
        "A hit in memory, 2 KB, through the middleware",
        ("", "without", 'shared="host"', "ratio", "target"),
        [
            (
                "hit",
                microseconds(statistics.median(times[without])),
                microseconds(statistics.median(times[with_])),
                f"{more:.3f} x",
                verdict(more, 1.10),
            )
        ],
    )


async def folder_hits(folder: str, port: int, count: int) -> None:
    host = Stack([HostLayer(f"{folder}/b")], runtime=LoopRuntime(), values=VALUES)
    fleet = Stack(
        [RedisLayer(f"redis://127.0.0.1:{port}", namespace="h")],
        runtime=LoopRuntime(),
        values=VALUES,
    )
    for stack in (host, fleet):
        assert await stack.catch_up()
        await stack.store(b"k", entry(time.time(), ("a",), stack.invalidations.position))
    database = sqlite3.connect(f"{folder}/bare.db")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB)")
    database.execute("INSERT INTO t VALUES (?, ?)", (b"k", BODY))
    database.commit()

    async def in_folder() -> None:
        assert await host.lookup(b"k") is not None

    async def in_valkey() -> None:
        assert await fleet.lookup(b"k") is not None

    async def in_sqlite() -> None:
        assert database.execute("SELECT v FROM t WHERE k = ?", (b"k",)).fetchone() is not None

    times = await rounds(
        {"folder": (in_folder, 2000), "valkey": (in_valkey, 400), "sqlite": (in_sqlite, 2000)},
        count,
    )
    medians = {name: statistics.median(each) for name, each in times.items()}
    to_valkey, to_sqlite = ratio(times, "folder", "valkey"), ratio(times, "folder", "sqlite")
    print_table(
        "A hit below the memory, 2 KB, decoded",
        ("", "folder", "Valkey", "bare SELECT", "to Valkey", "to SELECT", "target"),
        [
            (
                "hit",
                *(microseconds(medians[name]) for name in ("folder", "valkey", "sqlite")),
                f"{to_valkey:.3f} x",
                f"{to_sqlite:.2f} x",
                verdict(to_valkey, 0.1),
            )
        ],
    )
    await fleet.leave()
    await fleet.disconnect()
    database.close()


def stack_of(target: str) -> Stack:
    layer: Any = HostLayer(target) if target.startswith("/") else RedisLayer(target, namespace="p")
    return Stack([MemoryLayer("16MB"), layer], runtime=LoopRuntime(), values=VALUES)


async def member(target: str) -> None:
    """One more process: join, print "ready", and leave when the input ends."""
    stack = stack_of(target)
    assert await stack.catch_up()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await stack.leave()
    await stack.disconnect()


class Helpers:
    """Other processes of this benchmark, for as long as the block lasts."""

    def __init__(self, *commands: Sequence[str]) -> None:
        self._commands = commands

    def __enter__(self) -> Sequence[subprocess.Popen[bytes]]:
        self._started = [
            subprocess.Popen(
                [sys.executable, __file__, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for command in self._commands
        ]
        for process in self._started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        return self._started

    def __exit__(self, *error: object) -> None:
        for process in self._started:
            process.communicate()


async def purges(folder: str, port: int, count: int) -> None:
    rows = []
    for name, target, others in (
        ("folder", f"{folder}/c", 3),
        ("Valkey", f"redis://127.0.0.1:{port}", 2),
    ):
        with Helpers(*([("--member", target)] * others)):
            stack = stack_of(target)
            assert await stack.catch_up()
            await stack.invalidate((Invalidation("tag", "x"),))
            times = []
            for number in range(40 * count):
                begun = time.perf_counter()
                receipt = await stack.invalidate((Invalidation("tag", f"t{number}"),))
                times.append(time.perf_counter() - begun)
                assert receipt[:3] == (others + 1, others + 1, True), receipt
            await stack.leave()
            await stack.disconnect()
        times.sort()
        median = statistics.median(times)
        rows.append(
            (
                f"{name}, {others + 1} processes",
                microseconds(median),
                microseconds(times[len(times) * 99 // 100]),
                verdict(median * 1e6, 100) if name == "folder" else "",
            )
        )
    print_table("A purge until it is final", ("", "median", "p99", "target, us"), rows)


async def misses(folder: str, port: int, count: int) -> None:
    apps: dict[str, Any] = {
        "app alone": origin,
        "memory": LayerGate(origin, cache=HttpCache(memory="64MB")),
        "folder": LayerGate(origin, cache=HttpCache(memory="64MB", shared=f"host:{folder}/d")),
        "Valkey": LayerGate(
            origin, cache=HttpCache(memory="64MB", shared=f"redis://127.0.0.1:{port}")
        ),
    }
    number = 0
    cases: dict[str, tuple[Work, int]] = {}
    for name, app in apps.items():

        async def miss(app: Any = app) -> None:
            nonlocal number
            number += 1
            await app(scope_for(f"/{number}"), receive, send)

        cases[name] = miss, 200
    times = await rounds(cases, count)
    floor = statistics.median(times["app alone"])
    rows = [
        (
            name,
            microseconds(statistics.median(times[name]) - floor),
            f"{ratio(times, name, 'Valkey'):.2f} x",
        )
        for name in ("memory", "folder", "Valkey")
    ]
    print_table("A miss, 2 KB, beyond the app", ("", "more than the app", "to Valkey"), rows)


async def read(folder: str) -> None:
    """Read entries for a second when told to, and print the seconds that one took."""
    stack = Stack([HostLayer(folder)], runtime=LoopRuntime(), values=VALUES)
    assert await stack.catch_up()
    print("ready", flush=True)
    sys.stdin.readline()
    found = tried = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < 1.0:
        for number in range(50):
            tried += 1
            found += await stack.lookup(b"%d" % number) is not None
    took = (time.perf_counter() - begun) / tried
    print(f"{took} {found / tried}", flush=True)


async def write(folder: str) -> None:
    """Store 500 entries a second until the input ends."""
    stack = Stack([HostLayer(folder)], runtime=LoopRuntime(), values=VALUES)
    assert await stack.catch_up()
    for number in range(50):
        await stack.store(b"%d" % number, entry(time.time(), ("a",), stack.invalidations.position))
    print("ready", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    number = 0
    while not ended.done():
        number += 1
        await stack.store(
            b"%d" % (number % 5000), entry(time.time(), ("a",), stack.invalidations.position)
        )
        await asyncio.sleep(1 / 500)


def shared_reads(folder: str) -> None:
    rows = []
    for readers in (1, 4):
        target = f"{folder}/e{readers}"
        with Helpers(("--write", target)), Helpers(*([("--read", target)] * readers)) as processes:
            answers = []
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout is not None
                took, share = process.stdout.readline().split()
                answers.append((float(took), float(share)))
        rows.append(
            (
                f"{readers} reading",
                microseconds(statistics.median(took for took, _ in answers)),
                f"{sum(1 / took for took, _ in answers):,.0f}/s",
                f"{min(share for _, share in answers):.4f}",
            )
        )
    print_table(
        "Hits in the folder while one process stores 500 entries a second (wall time)",
        ("", "a hit", "all hits", "found"),
        rows,
    )


async def main(count: int) -> None:
    print(describe_machine())
    with tempfile.TemporaryDirectory(dir=SHM) as folder, valkey() as port:
        await memory_hits(folder, count)
        await folder_hits(folder, port, count)
        await purges(folder, port, count)
        await misses(folder, port, count)
        shared_reads(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--member", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        asyncio.run(member(options.member))
    elif options.read:
        asyncio.run(read(options.read))
    elif options.write:
        asyncio.run(write(options.write))
    else:
        asyncio.run(main(options.rounds))
