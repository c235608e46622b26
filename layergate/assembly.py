"""Where the parts are put together: the public constructors. Nothing here starts anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from layergate.core.events import Hook
from layergate.core.layer import Layer
from layergate.core.loader import Loader, LoadRuntime
from layergate.core.stack import WritePolicy
from layergate.runtime.loop import LoopRuntime

__all__ = ["CacheStack"]


class CacheStack(Loader):
    """Cached values in layers, top first::

        stack = CacheStack([MemoryLayer("64MB")])
        user = await stack.get("user:1", fetch, ttl=60, tags=["user"])

    ``runtime``: None for asyncio. The other options are those of `Loader`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        write_policy: WritePolicy = "best-effort",
        runtime: LoadRuntime | None = None,
        hooks: Iterable[Hook] = (),
        ttl: float | None = None,
        max_waiters: int = 65_536,
        max_refreshes: int = 256,
        fetch_term: float = 60.0,
        max_marks: int = 100_000,
        max_patterns: int = 512,
    ) -> None:
        super().__init__(
            layers,
            runtime=LoopRuntime() if runtime is None else runtime,
            write_policy=write_policy,
            hooks=hooks,
            ttl=ttl,
            max_waiters=max_waiters,
            max_refreshes=max_refreshes,
            fetch_term=fetch_term,
            max_marks=max_marks,
            max_patterns=max_patterns,
        )
