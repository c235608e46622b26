"""What a layer says that it costs and promises (`Capabilities`), measured on real servers.

The tables in the documentation are made of the same numbers: `tests/test_docs.py` compares them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from layergate import CacheStack, MemoryLayer
from layergate.layers.schemes import layer_of
from tests.systems.test_robustness import SERVERS

pytestmark = pytest.mark.systems


@pytest.mark.parametrize("name", SERVERS)
async def test_calls(name: str, tmp_path: Path) -> None:
    made: Any = SERVERS[name]
    with made(tmp_path) as server:
        options: dict[str, Any] = {"timeout": 5.0, "connect_timeout": 5.0, "max_disconnected": 8.0}
        if name == "memcached":
            options["look_every"] = 60.0
        layer: Any = layer_of(server.url(), namespace="costs", **options)
        stack = CacheStack([MemoryLayer("1MB"), layer])
        told = layer.capabilities

        async def fetch() -> bytes:
            return b"value"

        def calls() -> int:
            return int(layer.stats()["round_trips"])

        async def cost(work: Awaitable[Any]) -> int:
            """Until nothing more is asked."""
            before = calls()
            await work
            asked = -1
            while asked != calls():
                asked = calls()
                await asyncio.sleep(0.1)
            return asked - before

        await stack.join()
        for number in range(4):  # it connects
            await stack.get(f"first {number}", fetch, ttl=60)
        assert (await stack.invalidate_by_tag("t")).final  # of a new log, which takes its time
        found: dict[str, list[int]] = {"hit": [], "miss": [], "purge": [], "heartbeat": []}
        for number in range(5):
            key = f"key {number}"
            # Right after a heartbeat, so that none of those in the background is counted.
            log: Any = stack.shared_log
            found["heartbeat"].append(await cost(log.sync()))
            found["miss"].append(await cost(stack.get(key, fetch, ttl=60, tags=["t"])))
            found["hit"].append(await cost(layer.get(key)))
            found["purge"].append(await cost(stack.invalidate_by_tag("t")))
        await stack.aclose()
    for what, counts in found.items():
        # (A heartbeat in the background may have come in between, or two of them.)
        assert min(counts) <= getattr(told, what) <= sorted(counts)[3], (what, counts, told)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_purge_is_final_as_soon_as_it_is_said(name: str, tmp_path: Path) -> None:
    """With another instance that has to hear of it."""
    made: Any = SERVERS[name]
    with made(tmp_path) as server:
        stacks = []
        for _ in range(2):
            layer: Any = layer_of(
                server.url(), namespace="final", timeout=5.0, max_disconnected=4.0
            )
            assert layer.capabilities.final_after == "milliseconds"
            stacks.append(CacheStack([MemoryLayer("1MB"), layer]))
            await stacks[-1].join()
        loop = asyncio.get_running_loop()
        await stacks[0].invalidate_by_tag("t")  # of a new log
        took = []
        for number in range(20):
            began = loop.time()
            receipt = await stacks[number % 2].invalidate_by_tag("t")
            took.append(loop.time() - began)
            assert receipt.final
            assert (receipt.applied, receipt.instances) == (2, 2)
        # Less than a heartbeat: it was told, or it looked.
        assert sorted(took)[10] < 1.0, took
        for stack in stacks:
            await stack.aclose()
