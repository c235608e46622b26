"""Several instances in one test: worlds that share an origin and a Redis, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

from layergate.layers.redis import RedisLayer
from tests.support.asgi import Call, Origin, World
from tests.support.clocks import LoopClock

__all__ = ["Fleet"]


class Fleet:
    """``fleet[0]``, ``fleet[1]``, …: instances; ``fleet.origin``: the app they are in front of.

    ``layer``: options of each instance's `RedisLayer`. The others are LayerGate's. Use it as an
    async context manager: it starts with every instance in the fleet, and leaves nothing open.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        namespace: str,
        *,
        count: int = 2,
        layer: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        urls = [url] * count if isinstance(url, str) else list(url)
        settings: dict[str, Any] = {
            "namespace": namespace,
            "timeout": 2.0,
            "max_disconnected": 1.0,
            **(layer or {}),
        }
        self.origin = Origin()
        self.clock = LoopClock()
        self.worlds = [
            World(
                clock=self.clock.twin(),
                origin=self.origin,
                shared=RedisLayer(each, **settings),
                layer_timeout=3.0,
                **options,
            )
            for each in urls
        ]

    async def __aenter__(self) -> Self:
        # The first instance founds the log; the others join it.
        for world in self.worlds:
            assert await world.cache.stack.catch_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        for world in self.worlds:
            await world.cache.aclose()

    def __getitem__(self, index: int) -> World:
        return self.worlds[index]

    def __len__(self) -> int:
        return len(self.worlds)

    async def everywhere(self, path: str = "/", **request: Any) -> list[Call]:
        """The same request to every instance, one after the other."""
        return [await world.get(path, **request) for world in self.worlds]

    async def burst(self, path: str = "/", *, each: int = 1, **request: Any) -> list[Call]:
        """The same request to every instance, ``each`` times, all at once."""
        calls = [world.get(path, **request) for world in self.worlds for _ in range(each)]
        return await asyncio.gather(*calls)

    async def idle(self) -> None:
        """Wait until what is stored in the background is stored."""
        for world in self.worlds:
            await world.idle()
