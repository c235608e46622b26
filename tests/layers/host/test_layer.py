"""`HostLayer`: the suite that every layer passes, and what is its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from layergate import CacheStack, ConfigError, HttpCache, MemoryLayer
from layergate.core.entry import Entry
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.layer import Layer
from layergate.core.shared import Joining, SharedLayer, Waited
from layergate.core.stack import Stack
from layergate.errors import LayerMissing, LayerUnavailable
from layergate.layers.host import HostLayer, folder, from_url
from layergate.layers.host.leases import HostLease
from layergate.layers.schemes import layer_of, shown_url
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime
from layergate.testing.layers import LayerConformance


class Exactly:
    """Positions that go over the wire as they are. The real ones are coarser, which would be this suite's
    only objection."""

    def __init__(self, log: bytes | None) -> None:
        self.log = log

    def place(self, stamp: int) -> tuple[bytes | None, int]:
        return self.log, stamp

    def stamp(self, log: bytes, position: int) -> int | None:
        return position if log == self.log else None


def joined(layer: HostLayer) -> HostLayer:
    """A layer of a stack that has been used."""
    log, _ = layer.join(Joining(Invalidations(), ThreadRuntime(), Counters(), ()))
    assert log.ready()
    log.positions = Exactly(log.positions.log)  # type: ignore[assignment, misc]
    return layer


class TestConformance(LayerConformance):
    stats_keys = frozenset({"bytes", "budget", "evictions", "rejections"})

    def make_layer(self) -> Layer:
        self.folder = tempfile.mkdtemp()
        return joined(HostLayer(self.folder, size="4MB", large="16MB"))

    def close_layer(self, layer: Layer) -> object:
        shutil.rmtree(self.folder)
        return None


def stack(path: Path, **options: Any) -> Stack:
    """What one process has."""
    return Stack([MemoryLayer("8MB"), HostLayer(path, **options)], runtime=ThreadRuntime())


def entry(one: Stack, value: Any = "v", *tags: str) -> Entry:
    """It is fresh for longer than a busy machine needs for any test."""
    now = one.runtime.now()
    return Entry(
        value, created=now, fresh_until=now + 3600, tags=tags, stamp=one.invalidations.position
    )


def stored(one: Stack, key: str, value: Any = "v", *tags: str) -> None:
    assert run_blocking(one.catch_up())
    assert run_blocking(one.store(key, entry(one, value, *tags)))


def found(one: Stack, key: str) -> Any:
    got = run_blocking(one.lookup(key))
    return None if got is None else (got.entry.value, got.layer)


def test_processes_share_entries_and_purges(tmp_path: Path) -> None:
    one, other = stack(tmp_path / "f"), stack(tmp_path / "f")
    stored(one, "a", "v", "t")
    stored(one, "b", "w")
    assert found(other, "a") == ("v", "host")
    assert found(other, "a") == ("v", "memory")
    receipt = run_blocking(one.invalidate((Invalidation("tag", "t"),)))
    assert receipt[:4] == (2, 2, True, "host")
    assert other.peek("a") is None
    assert found(other, "a") is None
    assert found(other, "b") == ("w", "host")


def test_a_restart_is_warm_and_serves_nothing_that_was_purged(tmp_path: Path) -> None:
    one = stack(tmp_path / "f", size="64MB")
    for number in range(10_000):
        stored(one, f"k{number}", number, f"t{number % 3}")
    run_blocking(one.leave(ended=True))
    del one
    other = stack(tmp_path / "f", size="64MB")  # while it was down
    assert run_blocking(other.invalidate((Invalidation("tag", "t0"),))).final
    run_blocking(other.leave(ended=True))
    again = stack(tmp_path / "f", size="64MB")
    answers = [found(again, f"k{number}") for number in range(10_000)]
    assert answers[::3] == [None] * 3334
    # But for the few that shared a full bucket of the index.
    told = [dict(layer.stats()) for layer in again.layers]
    assert sum(answer is None for answer in answers) <= 3334 + 100, told
    assert all(answer in (None, (number, "host")) for number, answer in enumerate(answers))


def test_a_new_process_after_10_000_purges_uses_what_was_not_purged(tmp_path: Path) -> None:
    one = stack(tmp_path / "f")
    for number in range(500):
        stored(one, f"k{number}", number, f"t{number}")
    for number in range(10_000):
        tag = f"t{number}" if not number % 200 else f"another:{number}:of some length"
        run_blocking(one.invalidate((Invalidation("tag", tag),)))
    late = stack(tmp_path / "f")
    used = [number for number in range(500) if found(late, f"k{number}") is not None]
    assert set(used).isdisjoint(range(0, 10_000, 200))
    assert len(used) >= 0.9 * (500 - 3)


def test_an_entry_that_was_purged_while_it_was_fetched_is_no_hit_anywhere(tmp_path: Path) -> None:
    one, other = stack(tmp_path / "f"), stack(tmp_path / "f")
    assert run_blocking(one.catch_up())
    began = entry(one, "v", "t")
    run_blocking(other.invalidate((Invalidation("tag", "t"),)))
    run_blocking(one.store("a", began))
    assert found(one, "a") is None
    assert found(other, "a") is None


def test_the_folder_is_deleted(tmp_path: Path) -> None:
    one, other = stack(tmp_path / "f"), stack(tmp_path / "f")
    stored(one, "a")
    assert found(other, "a") == ("v", "host")
    shutil.rmtree(tmp_path / "f")
    assert run_blocking(one.invalidate((Invalidation("tag", "t"),))).final
    assert found(one, "a") is None
    assert found(other, "a") is None
    stored(one, "a", "again")
    assert found(other, "a") == ("again", "host")


def test_a_lease_is_for_one_process(tmp_path: Path) -> None:
    one, other = stack(tmp_path / "f"), stack(tmp_path / "f")
    assert run_blocking(one.catch_up())
    assert run_blocking(other.catch_up())
    assert one.leases is not None
    assert other.leases is not None
    lease = run_blocking(one.leases.acquire("k", wait=0.0))
    assert isinstance(lease, HostLease)
    assert run_blocking(other.leases.acquire("k", wait=0.0)) is Waited.TIMEOUT
    run_blocking(lease.release())
    assert isinstance(run_blocking(other.leases.acquire("k", wait=0.0)), HostLease)


def test_the_object_cache(tmp_path: Path) -> None:
    calls = []

    async def work() -> None:
        one, other = (
            CacheStack([MemoryLayer("8MB"), HostLayer(tmp_path / "f", name="disk")])
            for _ in range(2)
        )

        async def load() -> str:
            calls.append(1)
            await asyncio.sleep(0.01)
            return "v"

        got = await asyncio.gather(*(each.get("k", load, ttl=60) for each in (one, other) * 10))
        assert got == ["v"] * 20
        await one.delete("k")
        assert await other.get("k", load, ttl=60) == "v"
        await one.aclose()
        await other.aclose()

    asyncio.run(work())
    assert len(calls) == 2


def test_the_largest_entry(tmp_path: Path) -> None:
    one = stack(tmp_path / "f", large="512MB")
    layer = one.layers[1]
    assert isinstance(layer, HostLayer)
    assert run_blocking(one.catch_up())
    largest = layer.largest
    assert largest <= 16 * 1024 * 1024
    assert layer.takes("k", largest)
    assert not layer.takes("k", largest + 1)
    layer.set("k", entry(one, b"x" * largest))
    assert layer.get("k") is not None
    layer.set("k", entry(one, b"x" * (largest + 2000)))
    assert layer.get("k") is None


def test_a_secret_is_needed_to_read(tmp_path: Path) -> None:
    one, other = stack(tmp_path / "f", secret="s" * 16), stack(tmp_path / "f")
    stored(one, "a")
    assert found(other, "a") is None
    assert found(one, "a") == ("v", "memory")


# -- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"path": "relative"},
        {"path": 5},
        {"path": "/tmp/x", "namespace": "y"},
        {"size": "many"},
        {"large": -1},
        {"durable": 1},
        {"namespace": "a/b"},
        {"namespace": ".."},
        {"name": ""},
        {"ttl": -1},
        {"ttl": True},
        {"secret": "short"},
    ],
)
def test_options_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        HostLayer(**options)


def test_nothing_is_opened_at_construction(tmp_path: Path) -> None:
    layer = HostLayer(tmp_path / "f")
    HttpCache(runtime=ThreadRuntime(), shared=layer)
    assert not (tmp_path / "f").exists()
    assert isinstance(layer, SharedLayer)
    with pytest.raises(ConfigError, match="another"):
        layer.join(Joining(Invalidations(), ThreadRuntime(), Counters(), ()))


def test_a_layer_without_a_stack(tmp_path: Path) -> None:
    with pytest.raises(LayerUnavailable):
        HostLayer(tmp_path).get("a")


@pytest.mark.parametrize(
    ("url", "ends"),
    [
        ("host:{}/f", "/f"),
        ("HOST:{}/f", "/f"),
        ("host://{}/f", "/f"),
        ("host:shop", "/layergate/shop"),
    ],
)
def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, ends: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = url.format(tmp_path)
    layer = layer_of(url, timeout=0.2, connect_timeout=1.0)
    assert isinstance(layer, HostLayer)
    assert layer.path == Path(f"{tmp_path}{ends}")
    assert shown_url(url) == url
    HttpCache(shared=url)


@pytest.mark.parametrize("url", ["host:", "host://other/f", "host:a b", "host:../f"])
def test_urls_that_name_no_folder(url: str) -> None:
    with pytest.raises(ConfigError):
        HttpCache(shared=url)


def test_each_project_has_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = []
    for project in ("a/shop", "b/shop", "a/shop"):
        (tmp_path / project).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / project)
        paths.append(from_url("host").path)
    assert paths[0] == paths[2] != paths[1]
    assert all(path.name.startswith("shop-") for path in paths)
    assert from_url("host", namespace="mine").path == tmp_path / "cache/layergate/mine"


def test_without_a_place_each_process_caches_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(folder, "places", lambda: [tmp_path / "missing" / "and" / "deep"])
    with pytest.raises(LayerMissing, match="host:/path"):
        from_url("host")
    cache = HttpCache(shared="host", runtime=ThreadRuntime())
    assert [layer.name for layer in cache.stack.layers] == ["memory"]
    assert "missing does not exist" in caplog.text
    assert run_blocking(cache.purge(everything=True)).scope == "process"
    with pytest.raises(ConfigError):
        HttpCache(shared=f"host:/proc/{os.getpid()}/f")
