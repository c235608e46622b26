"""Time a hit among a thousand entries and among a million, and measure the memory of an entry.

    python benchmarks/entries.py [--entries 1000000] [--repeats 15]

Each part runs in its own process, so that its resident set contains nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from _apps import BODY
from _measure import (
    Case,
    ask,
    describe_machine,
    measure,
    paired,
    print_table,
    scope_for,
    verdict,
)
from layergate import LayerGate

SMALL = 1_000
SAMPLE = 200_000
"""Requests drawn in advance: enough that the entries they touch exceed a processor's cache."""


def resident() -> int:
    """Bytes of physical memory that this process uses."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        # The maximum so far; bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Catalogue:
    """An app that answers every path. ``distinct``: each body is a separate object."""

    def __init__(self, *, distinct: bool) -> None:
        self.distinct = distinct
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        body = scope["path"].encode().ljust(len(BODY), b" ") if self.distinct else BODY
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"public, max-age=86400"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def harness(scope: Any, receive: Any, send: Any) -> None:
    """The floor for many different scopes: the processor-cache misses of the harness itself."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": BODY, "more_body": False})


class BareDict:
    """The minimum for a hit in any dict-based cache: look up the path, send the value."""

    def __init__(self, entries: int) -> None:
        self.kept = {f"/item/{number}": [b"x", [(b"age", b"0")]] for number in range(entries)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, headers = self.kept[scope["path"]]
        await send({"type": "http.response.start", "status": 200, "headers": [*headers]})
        await send({"type": "http.response.body", "body": BODY, "more_body": False})


async def fill(gate: Callable[..., Awaitable[None]], numbers: Iterable[int]) -> None:
    messages: list[Any] = []
    forever = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return await forever

    async def send(message: Any) -> None:
        messages.append(message)

    for number in numbers:
        await gate(scope_for(f"/item/{number}"), receive, send)
        messages.clear()


async def latency(entries: int, repeats: int) -> dict[str, Any]:
    small_app, large_app = Catalogue(distinct=False), Catalogue(distinct=False)
    small = LayerGate(small_app, memory="64GB")
    large = LayerGate(large_app, memory="64GB")
    await fill(small, range(SMALL))
    began = time.perf_counter()
    await fill(large, range(entries))
    filled = time.perf_counter() - began

    pick = random.Random(9111)
    hot = pick.sample(range(SMALL), SMALL)
    uniform = pick.choices(range(entries), k=min(SAMPLE, entries))
    # All cases share the same prepared scopes, so iterating over them costs each the same.
    base = scope_for("/")
    scopes = {
        name: [
            base | {"path": f"/item/{number}", "raw_path": f"/item/{number}".encode()}
            for number in numbers
        ]
        for name, numbers in (
            ("hot", hot),
            ("uniform", uniform),
            ("uniform, few", [number % SMALL for number in uniform]),
        )
    }
    for gate, app, some in (
        (small, small_app, scopes["hot"]),
        (large, large_app, scopes["uniform"]),
    ):
        calls = app.calls
        for scope in some[:2000]:
            answer = await ask(gate, scope)
            if "; hit" not in answer.cache_status or app.calls != calls:
                raise SystemExit(f"no hit on {scope['path']}: {answer.cache_status!r}")
    few_dict, many_dict = BareDict(SMALL), BareDict(entries)
    # Otherwise every full collection traverses a million entries. That is a cost of any heap of this
    # size, not of a hit.
    gc.collect()
    gc.freeze()
    cases = {
        "floor hot": Case("", harness, scopes["hot"]),
        "floor uniform": Case("", harness, scopes["uniform"]),
        "floor uniform, few": Case("", harness, scopes["uniform, few"]),
        "dict small uniform": Case("", few_dict, scopes["uniform, few"]),
        "dict large uniform": Case("", many_dict, scopes["uniform"]),
        "small hot": Case("", small, scopes["hot"]),
        "small uniform": Case("", small, scopes["uniform, few"]),
        "large hot": Case("", large, scopes["hot"]),
        "large uniform": Case("", large, scopes["uniform"]),
    }
    await measure(list(cases.values()), repeats)
    # The time of a hit without the harness in the same round, and the whole time.
    walks = {"hot": "floor hot", "uniform": "floor uniform"}
    few = {"hot": "floor hot", "uniform": "floor uniform, few"}
    result: dict[str, Any] = {"filled": filled}
    for row, small_name, large_name, walk in (
        ("hot", "small hot", "large hot", "hot"),
        ("uniform", "small uniform", "large uniform", "uniform"),
        ("dict", "dict small uniform", "dict large uniform", "uniform"),
    ):
        result[row] = {
            "small": paired(cases[small_name], cases[few[walk]]),
            "large": paired(cases[large_name], cases[walks[walk]]),
            "whole": cases[large_name].median / cases[small_name].median,
        }
    return result


async def memory(entries: int, *, traced: bool) -> dict[str, Any]:
    """Bytes per entry beyond its body: the growth of the process, minus the bodies."""
    gate = LayerGate(Catalogue(distinct=True), memory="64GB")
    await fill(gate, range(-100, 0))
    if traced:
        tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0] if traced else resident()
    await fill(gate, range(entries))
    gc.collect()
    after = tracemalloc.get_traced_memory()[0] if traced else resident()
    return {"over": (after - before) / entries - len(BODY)}


def in_a_process(part: str, **options: int) -> dict[str, Any]:
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--part", part, *arguments],
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{part} failed; see the output above")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def report(entries: int, repeats: int) -> None:
    print(describe_machine())
    times = in_a_process("latency", entries=entries, repeats=repeats)
    rows = []
    for name, what in (
        ("hot", f"requests for the same {SMALL:,}"),
        ("uniform", "requests for all, at random"),
        ("dict", "requests for all, at random, bare dict"),
    ):
        small, large, whole = (times[name][part] for part in ("small", "large", "whole"))
        ratio = large / small if small > 0 else float("nan")
        rows.append(
            [
                what,
                f"{small * 1e6:.2f}",
                f"{large * 1e6:.2f}",
                f"{ratio:.2f}",
                f"{whole:.2f}",
                "" if name == "dict" else verdict(ratio, 1.2),
            ]
        )
    print_table(
        f"A hit among {SMALL:,} entries and among {entries:,}, without the harness "
        f"(filled in {times['filled']:.0f} s, {times['filled'] / entries * 1e6:.0f} us per entry)",
        ["", f"us, {SMALL:,}", f"us, {entries:,}", "ratio", "ratio with harness", "target"],
        rows,
    )
    count = min(entries, 200_000)
    grown = in_a_process("resident", entries=count)["over"]
    traced = in_a_process("traced", entries=min(count, 50_000))["over"]
    print_table(
        f"Memory per entry, beyond its {len(BODY):,} bytes of body (headers count as overhead)",
        ["", "bytes", "target"],
        [
            [f"resident set, {count:,} entries", f"{grown:.0f}", verdict(grown, 1536)],
            [
                f"tracemalloc, {min(count, 50_000):,} entries",
                f"{traced:.0f}",
                verdict(traced, 1536),
            ],
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--part", choices=["latency", "resident", "traced"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is None:
        report(options.entries, options.repeats)
    elif options.part == "latency":
        print(json.dumps(asyncio.run(latency(options.entries, options.repeats))))
    else:
        traced = options.part == "traced"
        print(json.dumps(asyncio.run(memory(options.entries, traced=traced))))
    sys.stdout.flush()
    if options.part:
        os._exit(0)  # skip freeing a million entries one by one


if __name__ == "__main__":
    main()
