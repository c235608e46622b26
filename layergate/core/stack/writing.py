"""Writing to the layers: all of them, the top one at once, or taking an entry back.

Best-effort writes never raise; under the strict policy a failed layer raises PartialWriteError.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from layergate.core.entry import Entry
from layergate.core.layer import Key, Layer
from layergate.core.stack.base import StackBase
from layergate.errors import LayerUnavailable, PartialWriteError

__all__ = ["Writing"]


class Writing(StackBase):
    """A stack that can be written to."""

    async def store(
        self, key: Key, entry: Entry, *, ttl: Mapping[str, float] | None = None
    ) -> bool:
        """Write to every layer. False, with nothing written, if the entry was purged while it was
        fetched.

        ``ttl`` caps the freshness for each layer: layer name -> seconds from now. A layer that it doesn't
        name is capped by its own ``ttl`` attribute, if it has one.

        Raises PartialWriteError under the strict policy when a layer fails.
        """
        if self._arrives_purged(key, entry):
            return False
        failed: dict[str, BaseException] = {}
        written: list[str] = []
        # Bottom up: when a layer above answers, the layers below hold the same entry already.
        for layer in reversed(self.layers):
            error = await self._write(layer, key, entry, ttl)
            if error is None:
                written.append(layer.name)
            else:
                failed[layer.name] = error
        if written:
            self.counters.on("store", layers=tuple(written))
        if failed and self.write_policy == "strict":
            raise PartialWriteError(failed, tuple(written))
        return True

    def takes(self, key: Key, size: int, tags: tuple[str, ...] = ()) -> bool:
        """True if a layer could take an entry of ``size`` bytes now. A layer that doesn't say could."""
        for layer in self.layers:
            takes: Callable[[Key, int, tuple[str, ...]], bool] | None
            takes = getattr(layer, "takes", None)
            try:
                if takes is None or takes(key, size, tags):
                    return True
            except Exception as error:
                self.counters.on("layer_error", layer=layer.name, operation="takes", error=error)
        return False

    def keep(self, key: Key, entry: Entry) -> bool:
        """Write to the top layer alone, at once, so that the next request finds the entry while `store`
        takes its time with the layers below. False if that is not possible."""
        if not self._keeps or not self.trusted or self._arrives_purged(key, entry):
            return False
        top = self.layers[0]
        try:
            if self._takes_time(top.set(key, self._capped(top, entry, None))):
                self.unkeep(key)
                return False
        except Exception as error:
            self.counters.on("write_error", layer=top.name, error=error)
            self.unkeep(key)
            return False
        return True

    def unkeep(self, key: Key) -> None:
        """Take back what `keep` has written, since the layers below may not have it."""
        top = self.layers[0]
        try:
            self._takes_time(top.delete(key))
        except Exception as error:
            self.counters.on("layer_error", layer=top.name, operation="delete", error=error)

    async def discard(self, key: Key) -> tuple[bool, dict[str, BaseException]]:
        """Remove one key from every layer, and nothing else. Other keys with its label and fills under
        way are left alone.

        Returns whether a layer held it, and what the failed layers raised, by name.
        """
        held = False
        failed: dict[str, BaseException] = {}
        for layer in self.layers:
            try:
                held |= bool(await self._ask.answer(layer, layer.delete(key)))
            except Exception as error:
                failed[layer.name] = error
                self.counters.on("layer_error", layer=layer.name, operation="delete", error=error)
        return held, failed

    def _takes_time(self, result: object) -> bool:
        """True if this is an answer to wait for. Then `keep` no longer writes to the top layer."""
        if not inspect.isawaitable(result):
            return False
        self._keeps = False
        if inspect.iscoroutine(result):
            result.close()
        return True

    def _capped(self, layer: Layer, entry: Entry, ttl: Mapping[str, float] | None) -> Entry:
        """The entry with the freshness and the stale windows that this layer allows."""
        cap: float | None = None if ttl is None else ttl.get(layer.name)
        if cap is None:
            cap = getattr(layer, "ttl", None)
        if cap is not None:
            entry = entry.clipped(self.runtime.now() + cap)
        revalidate: float | None = getattr(layer, "stale_while_revalidate", None)
        on_error: float | None = getattr(layer, "stale_if_error", None)
        if revalidate is not None or on_error is not None:
            entry = entry.windowed(revalidate, on_error)
        return entry

    async def _write(
        self, layer: Layer, key: Key, entry: Entry, ttl: Mapping[str, float] | None
    ) -> BaseException | None:
        entry = self._capped(layer, entry, ttl)
        try:
            await self._ask.answer(layer, layer.set(key, entry))
        except Exception as error:
            self.counters.on("write_error", layer=layer.name, error=error)
            if isinstance(error, LayerUnavailable):
                return error  # it is not asked for anything now
            # What it still holds under this key is older than what the other layers hold now.
            try:
                await self._ask.answer(layer, layer.delete(key))
            except Exception as second:
                self.counters.on("layer_error", layer=layer.name, operation="delete", error=second)
            return error
        return None
