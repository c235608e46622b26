"""All scenarios, through a fleet: each step goes to another instance, one ASGI, one WSGI,
with nothing in common but a Redis. What one has stored, refused, validated or invalidated, the other
knows, to the letter of the rows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from layergate import Admin, HttpCache, LayerGate, MemoryLayer, Rule
from layergate.layers.redis import RedisLayer
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.scenarios import asgi, wsgi
from tests.scenarios.checks import check_step, script_of
from tests.scenarios.model import TOKEN, Scenario, Step
from tests.scenarios.rows import FILES, SCENARIOS, File
from tests.support.clocks import LoopClock, ThreadClock
from tests.support.nodes import settle
from tests.support.redis_servers import Valkey

# Rows whose expectation is about one process, each with the reason.
_OWN_COPY = "an instance's memory keeps a fresh response that another one has replaced early"
_AT_HAND = "an instance sends the tags of the variants that its own memory holds"
_OWN_SAYING = "an instance's memory keeps what a path's responses said before"
_OWN_INDEX = "an instance's memory keeps an index of variants that another one has changed"
_OWN_MEMORY = "a variant is chosen by its language from what an instance has in memory"
_OWN_COUNT = "an instance learns by itself which validators bring nothing"
NOT_IN_A_FLEET: dict[str, str] = {
    "304-strong-for-weak": _OWN_COUNT,
    "304-strong-for-weak-swr": _OWN_COUNT,
    "combine-not-length": _OWN_COPY,
    "combine-not-overlap": _OWN_COPY,
    "combine-whole-changed": _OWN_COPY,
    "part-not-covering": _OWN_COPY,
    "part-not-nominated": _AT_HAND,
    "part-purged-all-by-tag-of-another": _OWN_COPY,
    "part-variant-and-default": _OWN_INDEX,
    "304-updates-none-that-varies-on-less": _OWN_INDEX,
    "rest-adds-vary": _OWN_INDEX,
    "req-no-cache": _OWN_COPY,
    "reload-not-an-ordinary-one": _OWN_COPY,
    "rule-head-freshens": _OWN_COPY,
    "304-silent-updates-the-one-asked-about": _OWN_INDEX,
    "304-updates-all-that-could-be-chosen": _OWN_INDEX,
    "304-weak-updates-the-most-recent": _OWN_INDEX,
    "head-freshens-all-that-could-be-chosen": _OWN_INDEX,
    "head-outdates-all-that-could-be-chosen": _OWN_INDEX,
    "rule-request-directives": _OWN_COPY,
    "search-said-last": _OWN_SAYING,
    "search-said-later-for-a-stale-one": _OWN_COPY,
    "search-vary-then-said": _OWN_INDEX,
    "told-no-cache": _OWN_COPY,
    "vary-cap": _OWN_COPY,
    "vary-default-later": _OWN_INDEX,
    "vary-each-its-validator": _AT_HAND,
    "vary-then-none-then-vary": _OWN_INDEX,
    **{row.id: _OWN_MEMORY for row in SCENARIOS if row.options.get("language_match")},
}

# A path that is not UTF-8 is another one to each interface, and so has two keys.
_OWN_DECODING = "ASGI and WSGI decode a path that is not UTF-8 differently"
NOT_IN_A_FLEET |= {
    one.id: _OWN_DECODING
    for one in SCENARIOS
    if one.id.startswith(("path-overlong", "path-plain-latin-1"))
}
NOT_IN_A_FLEET |= {one.id: _AT_HAND for one in SCENARIOS if one.id.startswith("nominated-")}

NAMESPACE = "scenarios"


def _shared(url: str) -> RedisLayer:
    # A busy machine may stand still for seconds. An instance that has heard nothing for longer than
    # `max_disconnected` asks the origin, as it should, and not what the row is about.
    return RedisLayer(
        url, namespace=NAMESPACE, timeout=5.0, connect_timeout=5.0, max_disconnected=20.0
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        first = HttpCache(runtime=ThreadRuntime(), layers=[_shared(server.url)])
        assert run_blocking(first.stack.catch_up())
        run_blocking(first.aclose())
        settle(server, NAMESPACE)
        yield server


def _emptied(server: Valkey) -> str:
    """A Redis without entries and leases; the log stays, so that nobody waits for it to settle."""
    cursor = "0"
    while True:
        cursor, keys = server.cli("SCAN", cursor, "MATCH", f"{NAMESPACE}:*", "COUNT", 1000)
        if keys:
            server.cli("UNLINK", *keys)
        if int(cursor) == 0:
            return server.url


def _apart(caches: list[HttpCache]) -> bool:
    """Has one of them heard of a purge that another has not yet?"""
    positions = {
        cache.stack.shared_log.stats()["log_position"] for cache in caches if cache.stack.shared_log
    }
    return len(positions - {0}) > 1  # 0: has not asked for anything yet


class _Twin(ThreadClock):
    """The clock of another instance."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__()
        self._clock = clock._clock


def test_what_is_left_out_is_in_the_table() -> None:
    assert {scenario.id for scenario in SCENARIOS} >= set(NOT_IN_A_FLEET)


# Who is asked first is a part of the row. Every sixth row, now the one first, now the other; twice as many
# in `make test-systems`, and all of them, both ways, in `make soak`.
FIRST = ("asgi", "wsgi")
ROWS = [
    pytest.param(
        scenario,
        first,
        id=f"{scenario.id}-{FIRST[first]}",
        marks=() if number // 3 % 4 < 2 else pytest.mark.systems,
    )
    for number, scenario in enumerate(SCENARIOS)
    for first in [number // 3 % 2]
    if number % 3 == 0 and scenario.id not in NOT_IN_A_FLEET
]


@pytest.mark.parametrize(("scenario", "first"), ROWS)
async def test_scenario(server: Valkey, scenario: Scenario, first: int) -> None:
    await _check(server, scenario, first)


@pytest.mark.soak
@pytest.mark.parametrize("first", [0, 1], ids=FIRST)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
async def test_scenarios_of(server: Valkey, file: File, first: int) -> None:
    failures: list[Exception] = []
    for scenario in file.scenarios:
        if scenario.id not in NOT_IN_A_FLEET:
            try:
                await _check(server, scenario, first)
            except Exception as failure:
                failure.add_note(scenario.id)
                failures.append(failure)
    if failures:
        raise ExceptionGroup(file.name, failures)


async def _check(server: Valkey, scenario: Scenario, first: int) -> None:
    url = _emptied(server)
    clock = LoopClock()
    twin = _Twin(clock)
    runtimes: list[Any] = [clock, twin]
    caches = [
        HttpCache(
            runtime=runtime,
            layers=[
                MemoryLayer("4MB", clock=runtime.now),
                _shared(url),
            ],
            rules=[Rule(**rule) for rule in scenario.rules],
            admin=Admin(token=TOKEN),
            **{"layer_timeout": 5.0, **scenario.options},
        )
        for runtime in runtimes
    ]
    origins: list[Any] = [asgi.Origin(clock), wsgi.Origin(twin)]
    loop_app = LayerGate(origins[0], cache=caches[0])
    thread_app = WSGILayerGate(origins[1], cache=caches[1])
    try:
        if any(step.method == "POST" for step in scenario.steps):
            # As at the start of a server: with its first contact an instance hears of many purges,
            # and what answers a POST is not stored beside any.
            await caches[0].stack.join()
            await asyncio.to_thread(run_blocking, caches[1].stack.join())
        for number, step in enumerate(scenario.steps, 1):
            clock.time += step.advance
            which = (first + number - 1) % 2
            origin = origins[which]
            origin.script = script_of(step)
            origin.seen = []
            tasks: list[asyncio.Future[Any]] = []

            async def begin(
                step: Step, count: int = 1, which: int = which, tasks: list[Any] = tasks
            ) -> None:
                for _ in range(count):
                    asked: Any
                    if which == 0:
                        asked = asgi.ask(loop_app, step)
                    else:
                        asked = asyncio.to_thread(wsgi.ask, thread_app, step, validate=False)
                    tasks.append(asyncio.ensure_future(asked))
                if origins[which].gate is not None:
                    async with asyncio.timeout(10):
                        while len(origins[which].seen) + caches[which].stats()["waiters"] < len(
                            tasks
                        ):
                            await asyncio.sleep(0.001)

            if step.concurrent > 1 or step.meanwhile is not None:
                origin.gate = asyncio.Event() if which == 0 else threading.Event()
            await begin(step, step.concurrent)
            if step.meanwhile is not None:
                clock.time += step.meanwhile.advance
                await begin(step.meanwhile)
            if origin.gate is not None:
                origin.gate.set()
            answers = list(await asyncio.gather(*tasks))
            origin.gate = None
            async with asyncio.timeout(10):
                while any(runtime.pending() for runtime in runtimes) or _apart(caches):
                    await asyncio.sleep(0.001)
            check_step(f"{scenario.id}, step {number} ({scenario.rfc})", step, answers, origin.seen)
    finally:
        await caches[0].aclose()
        await asyncio.to_thread(thread_app.close)
