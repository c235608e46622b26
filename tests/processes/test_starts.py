"""G2 for the first burst after a start, over and over (`make soak`): what is identical is fetched once,
however early it comes. Prints how many calls each start has cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.connections import Answer, Connection
from tests.support.fleet import ROOT, Instance
from tests.support.origin import FRESH, Origin, OriginCall
from tests.support.processes import Process

pytest_plugins = ("tests.support.redis_servers",)

STARTS, PROCESSES, REQUESTS = 30, 6, 28


async def asked(instance: Instance) -> Answer:
    """The answer to a request that comes as soon as the server takes any."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with Connection(instance.port, bound=60.0) as connection:
                    connection.ask("/page")
                    return await connection.answer()
            except OSError:
                await asyncio.sleep(0.002)


async def start(folder: Path, url: str, namespace: str, kind: str, more: list[str]) -> Origin:
    async with Origin() as origin:

        @origin.on("/page")
        async def page(call: OriginCall) -> None:
            await asyncio.sleep(0.2)  # so that the last process comes while it is under way
            await call.reply(b"one", FRESH)

        instances = [
            Instance(
                folder,
                origin,
                url,
                kind=kind,
                # What is tested is not whether six processes find a core soon enough.
                layer={"namespace": namespace, "timeout": 2.0, "connect_timeout": 10.0},
                options={"layer_timeout": 5.0},
            )
            for _ in range(PROCESSES)
        ]
        try:
            for one in instances:
                command = [*one._command(), *more]
                one._process = Process(command, log=one._log, cwd=ROOT, environ=one._environ)
            answers = await asyncio.gather(
                *(asked(instances[number % PROCESSES]) for number in range(REQUESTS))
            )
        finally:
            for one in instances:
                one.close()
        assert {answer.status for answer in answers} == {200}
        return origin


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        pytest.param("uvicorn", [], id="uvicorn"),
        pytest.param("uvicorn", ["--lifespan", "off"], id="uvicorn-without-lifespan"),
        pytest.param("gunicorn", [], id="gunicorn-threads"),
        pytest.param("stack", ["--lifespan", "off"], id="values"),
    ],
)
async def test_the_first_burst_after_a_start_is_one_call(
    tmp_path: Path, shared_valkey: Any, kind: str, more: list[str]
) -> None:
    costs: Counter[int] = Counter()
    for number in range(STARTS):
        namespace = f"{shared_valkey.namespace}-{number}"
        origin = await start(tmp_path, shared_valkey.url, namespace, kind, more)
        costs[origin.calls["/page"]] += 1
        print(f"start {number}: {origin.calls['/page']} calls")  # noqa: T201
    assert costs == {1: STARTS}
