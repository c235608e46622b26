"""`Shared`: entries in one system, the log and the leases in another."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from layergate import CacheStack, ConfigError, HttpCache, MemoryLayer, Shared
from layergate.core.backoff import Backoff
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining
from layergate.layers.host import HostLayer
from layergate.layers.redis import RedisLayer
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.testing.layers import LayerConformance
from tests.support.example_layer import SqliteLayer
from tests.support.nodes import Exact

SECRET = "a secret of more than 16 bytes"


def of(folder: Path, **options: Any) -> Shared:
    return Shared(
        bodies=SqliteLayer(folder / "bodies.db", timeout=5.0, **options),
        coordination=SqliteLayer(folder / "coordination.db", timeout=5.0, **options),
    )


class TestOnALoop(LayerConformance):
    stats_keys: ClassVar[frozenset[str]] = frozenset()

    def setup_method(self) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        super().setup_method()

    def teardown_method(self) -> None:
        try:
            super().teardown_method()
        finally:
            self._folder.cleanup()

    def runtime(self) -> Any:
        return LoopRuntime()

    async def make_layer(self) -> Layer:
        layer: Any = of(Path(self._folder.name))
        self.world = self.runtime()
        self.log, _ = layer.join(Joining(Invalidations(), self.world, Counters(), ()))
        assert await self.log.catch_up()
        layer._joined = layer._joined._replace(positions=Exact(self.log))
        made: Layer = layer
        return made

    async def close_layer(self, layer: Any) -> None:
        await self.log.leave()
        await self.world.aclose(1.0)
        await layer.aclose()


class TestOnThreads(TestOnALoop):
    def runtime(self) -> Any:
        return ThreadRuntime()

    def call(self, answer: Any) -> Any:
        return run_blocking(answer) if isinstance(answer, Awaitable) else answer  # type: ignore[arg-type]


def rows(file: Path, table: str) -> int:
    with sqlite3.connect(file) as opened:
        (count,) = opened.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


async def fetch() -> bytes:
    fetch.calls += 1  # type: ignore[attr-defined]
    return b"%d" % fetch.calls  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _uncalled() -> None:
    fetch.calls = 0  # type: ignore[attr-defined]


async def test_entries_are_in_one_and_the_log_and_leases_in_the_other(tmp_path: Path) -> None:
    stack = CacheStack([MemoryLayer("1MB"), of(tmp_path)])
    assert await stack.get("key", fetch, ttl=60, tags=["t"]) == b"1"
    assert (await stack.invalidate_by_tag("t")).final
    assert await stack.get("key", fetch, ttl=60, tags=["t"]) == b"2"
    await stack.aclose()
    assert rows(tmp_path / "bodies.db", "blobs") == 1
    assert rows(tmp_path / "bodies.db", "cells") == 0
    assert rows(tmp_path / "coordination.db", "blobs") == 0
    assert rows(tmp_path / "coordination.db", "cells") >= 2


def remove(folder: Path, name: str) -> None:
    for path in folder.glob(f"{name}*"):
        path.unlink()


async def test_nothing_purged_comes_back_from_bodies_when_the_log_is_lost(tmp_path: Path) -> None:
    """All processes have gone, and the coordination has lost its end, or everything: what the bodies
    hold is of a log that is not known any more."""
    stack = CacheStack([MemoryLayer("1MB"), of(tmp_path)])
    assert await stack.get("key", fetch, ttl=60, tags=["t"]) == b"1"
    await stack.aclose()
    kept = (tmp_path / "bodies.db").read_bytes()  # with the entry that is purged next
    stack = CacheStack([MemoryLayer("1MB"), of(tmp_path)])
    assert await stack.get("key", fetch, ttl=60, tags=["t"]) == b"1"
    assert (await stack.invalidate_by_tag("t")).final
    await stack.aclose()
    remove(tmp_path, "coordination.db")
    remove(tmp_path, "bodies.db")
    (tmp_path / "bodies.db").write_bytes(kept)
    stack = CacheStack([MemoryLayer("1MB"), of(tmp_path)])
    assert await stack.get("key", fetch, ttl=60, tags=["t"]) == b"2"
    assert stack.layers[1].stats()["other_log"] == 1
    await stack.aclose()


async def test_an_entry_beyond_the_end_of_the_log_shows_that_its_end_was_lost(
    tmp_path: Path,
) -> None:
    """The coordination was put back to an older state while no process was there to see it, and with it
    the purge of "old" was lost. "new", which was stored later, tells of that."""

    async def started() -> CacheStack:
        stack = CacheStack([MemoryLayer("1MB"), of(tmp_path)])
        await stack.join()
        return stack

    stack = await started()
    assert await stack.get("old", fetch, ttl=60, tags=["t"]) == b"1"
    await stack.aclose()
    before = (tmp_path / "coordination.db").read_bytes()
    bodies = (tmp_path / "bodies.db").read_bytes()
    stack = await started()
    assert (await stack.invalidate_by_tag("t")).final
    assert await stack.get("new", fetch, ttl=60) == b"2"
    await stack.aclose()
    with sqlite3.connect(tmp_path / "bodies.db") as now:
        now.execute("ATTACH ? AS was", (str(tmp_path / "was.db"),))
        (tmp_path / "was.db").write_bytes(bodies)
        now.execute("INSERT OR IGNORE INTO main.blobs SELECT * FROM was.blobs")
    remove(tmp_path, "coordination.db")
    (tmp_path / "coordination.db").write_bytes(before)
    stack = await started()
    log = stack.shared_log
    assert await stack.get("new", fetch, ttl=60) == b"3"
    assert stack.layers[1].stats()["unaccounted"] == 1
    assert await stack.get("old", fetch, ttl=60, tags=["t"]) == b"4"
    del log
    await stack.aclose()


async def test_an_entry_that_is_ahead_of_this_process_is_used_once_it_has_caught_up(
    tmp_path: Path,
) -> None:
    one, other = (CacheStack([MemoryLayer("1MB"), of(tmp_path)]) for _ in range(2))
    await other.join()
    await one.join()
    purging = asyncio.create_task(one.invalidate_by_tag("x"))
    while one.shared_log.applied == 0:  # type: ignore[union-attr]
        await asyncio.sleep(0)
    assert await one.get("key", fetch, ttl=60) == b"1"
    assert await other.get("key", fetch, ttl=60) == b"1"
    assert other.layers[1].stats()["unaccounted"] == 0
    assert (await purging).final
    await one.aclose()
    await other.aclose()


async def test_without_its_bodies_it_still_purges_and_fetches_once(tmp_path: Path) -> None:
    (tmp_path / "bodies").mkdir()
    layers = [
        Shared(
            bodies=SqliteLayer(tmp_path / "bodies", timeout=5.0),  # a folder: it cannot be opened
            coordination=SqliteLayer(tmp_path / "coordination.db", timeout=5.0),
        )
        for _ in range(2)
    ]
    one, other = (CacheStack([MemoryLayer("1MB"), layer]) for layer in layers)
    assert await one.get("key", fetch, ttl=60, tags=["t"]) == b"1"
    assert await one.get("key", fetch, ttl=60, tags=["t"]) == b"1"  # of its memory
    await other.join()
    assert (await other.invalidate_by_tag("t")).final
    assert await one.get("key", fetch, ttl=60, tags=["t"]) == b"2"
    assert layers[0].stats()["errors"] >= 1
    await one.aclose()
    await other.aclose()


def test_each_option_has_one_owner(tmp_path: Path) -> None:
    backoff = Backoff(0.1, 0.2)
    layer = Shared(
        bodies=SqliteLayer(
            tmp_path / "a", name="big", ttl=9.0, namespace="shop", max_size="1MB", secret=SECRET,
            max_disconnected=1.0, timeout=0.7,
        ),
        coordination=SqliteLayer(
            tmp_path / "b", name="small", max_size="2MB", secret=SECRET, max_disconnected=3.0,
            lease_term=4.0, log_length=2000, timeout=0.3, backoff=backoff,
        ),
    )  # fmt: skip
    assert (layer.name, layer.ttl, layer.namespace) == ("big", 9.0, "shop")
    assert (layer.max_disconnected, layer.lease_term, layer.log_length) == (3.0, 4.0, 2000)
    assert (layer.timeout, layer.bodies.timeout) == (0.3, 0.7)
    assert layer._backoff is backoff
    assert layer._max_size == 1024 * 1024
    assert SECRET not in repr(layer)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    bodies = SqliteLayer(tmp_path / "a")
    for wrong, says in (
        ({"bodies": bodies, "coordination": "redis://h"}, "coordination must be a layer"),
        ({"bodies": MemoryLayer("1MB"), "coordination": bodies}, "bodies must be a layer"),
        ({"bodies": bodies, "coordination": HostLayer(tmp_path / "f")}, "coordination must be"),
        ({"bodies": bodies, "coordination": bodies}, "must be two layers"),
        ({"bodies": of(tmp_path), "coordination": bodies}, "bodies must be a layer of one"),
        (
            {"bodies": bodies, "coordination": SqliteLayer(tmp_path / "b", secret=SECRET)},
            "secret must be the same",
        ),
    ):
        with pytest.raises(ConfigError, match=says):
            Shared(**wrong)


def test_it_is_what_shared_takes(tmp_path: Path) -> None:
    cache = HttpCache(shared=of(tmp_path))
    assert [layer.name for layer in cache.stack.layers] == ["memory", "sqlite"]
    asyncio.run(cache.aclose())


async def test_both_systems_tell_their_numbers(tmp_path: Path) -> None:
    layer = Shared(
        bodies=SqliteLayer(tmp_path / "a"), coordination=RedisLayer("redis://127.0.0.1:1/0")
    )
    stack = CacheStack([layer])
    assert await stack.get("key", fetch, ttl=60) == b"1"
    stats = layer.stats()
    assert stats["breaker"] == 0
    assert stats["coordination_connects"] >= 1
    await stack.aclose()
