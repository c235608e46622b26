"""Time ASGI apps without a server: interleaved rounds, medians, paired differences, tables."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Answer",
    "Case",
    "ask",
    "describe_machine",
    "measure",
    "median",
    "paired",
    "print_table",
    "scope_for",
    "verdict",
]

ASGIApp = Callable[..., Awaitable[None]]
Scope = dict[str, Any]

BLOCK_SECONDS = 0.02
"""Target length of a timed block: long enough for the timer, short enough for the noise of the machine."""


def scope_for(
    path: str = "/item",
    *,
    method: str = "GET",
    headers: Sequence[tuple[bytes, bytes]] = ((b"host", b"bench.example"), (b"accept", b"*/*")),
    query: bytes = b"",
) -> Scope:
    """A request scope like uvicorn's."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query,
        "headers": list(headers),
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.2", 80),
        "state": {},
        "extensions": {},
    }


@dataclass
class Answer:
    """A complete response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cache_status(self) -> str:
        return self.headers.get("cache-status", "")


async def ask(app: ASGIApp, scope: Scope) -> Answer:
    """Send one request like a server: an empty body, then no message until the client disconnects."""
    messages: list[Mapping[str, Any]] = []
    received = False

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received:
            await asyncio.Event().wait()
        received = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        messages.append(message)

    async with asyncio.timeout(20):
        await app(dict(scope), receive, send)
    return Answer(
        messages[0]["status"],
        {
            bytes(name).decode("latin-1").lower(): bytes(value).decode("latin-1")
            for name, value in messages[0]["headers"]
        },
        b"".join(message.get("body", b"") for message in messages[1:]),
    )


@dataclass
class Case:
    """One row to time: an app, and the requests to send to it in turn."""

    name: str
    app: ASGIApp
    scopes: Sequence[Scope]
    seconds: list[float] = field(default_factory=list)
    """Seconds per request, one value for each round."""
    count: int = 0
    """Requests in a timed block."""
    position: int = 0
    clock: Callable[[], float] = time.perf_counter
    """Seconds. ``time.process_time`` excludes other processes and includes all threads of this one."""

    async def block(self, count: int) -> float:
        """Seconds for ``count`` requests.

        Each request gets a copy of its scope, because frameworks modify it. The floor includes the same
        copy.
        """
        app, scopes = self.app, self.scopes
        messages: list[Any] = []
        keep, drop = messages.append, messages.clear
        forever = asyncio.get_running_loop().create_future()

        async def receive() -> Any:
            return await forever

        async def send(message: Any) -> None:
            keep(message)

        start, length = self.position, len(scopes)
        picked = [scopes[(start + index) % length] for index in range(count)]
        self.position = (start + count) % length
        began = self.clock()
        for scope in picked:
            await app(scope.copy(), receive, send)
            drop()
        return self.clock() - began

    async def calibrate(self) -> None:
        """Warm up, and determine the number of requests in a block."""
        async with asyncio.timeout(60):
            await self.block(1)
            count = 1
            while True:
                elapsed = await self.block(count)
                if elapsed >= BLOCK_SECONDS / 4:
                    break
                count *= 4
        self.count = max(1, round(count * BLOCK_SECONDS / elapsed))

    @property
    def median(self) -> float:
        """Seconds per request."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range, as a fraction of the median."""
        if len(self.seconds) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


async def measure(cases: Sequence[Case], repeats: int) -> None:
    """Run ``repeats`` rounds, each with every case once, in a random order.

    A slow phase of the machine then affects all cases, and the medians exclude it.
    """
    for case in cases:
        await case.calibrate()
    order = list(cases)
    shuffle = random.Random(1).shuffle
    for _ in range(repeats):
        shuffle(order)
        for case in order:
            case.seconds.append(await case.block(case.count) / case.count)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def paired(one: Case, other: Case) -> float:
    """The extra cost of ``one`` over ``other`` in the same round; the median of all rounds."""
    return median([a - b for a, b in zip(one.seconds, other.seconds, strict=True)])


def verdict(value: float, target: float, *, at_least: bool = False) -> str:
    """The target, followed by "met" or "NOT MET"."""
    met = value >= target if at_least else value <= target
    return f"{'>=' if at_least else '<='} {target:g}  {'met' if met else 'NOT MET'}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, with the first and the last column aligned left and the others aligned right."""
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    print(f"\n{title}\n")
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = [
            f"{cell:<{width}}" if index in (0, len(columns) - 1) else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(("  " + "  ".join(cells)).rstrip())
    print(end="", flush=True)


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123
            model = next(line for line in info if "model name" in line).partition(":")[2].strip()
    except (OSError, StopIteration):
        pass
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"Python {platform.python_version()} on {platform.system()}, {os.cpu_count()} x {model}{load}"
