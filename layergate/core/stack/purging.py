"""Purges: one append to the log, and a bounded scan that tells the receipt what they met."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation, PurgeReceipt
from layergate.core.layer import Key
from layergate.core.matching import PART, Matched, Matching
from layergate.core.stack.writing import Writing
from layergate.errors import PartialWriteError

__all__ = ["Purging"]


class Purging(Writing):
    """A stack that can be purged."""

    async def purge(
        self,
        named: Sequence[Sequence[Invalidation]],
        *,
        counts: Callable[[Entry], bool] | None = None,
    ) -> PurgeReceipt:
        """As `invalidate`, with the invalidations of each thing that is named. The receipt also tells
        what they met in this process's memory.

        ``counts``: which entries are counted; None: all.
        """
        matching = Matching(named)
        matched = await self._count(matching, counts)
        invalidations = tuple(
            dict.fromkeys(invalidation for invalidations in named for invalidation in invalidations)
        )
        return await self.invalidate(invalidations, matched=matched)

    async def invalidate(
        self,
        invalidations: tuple[Invalidation, ...],
        *,
        wait: float | None = None,
        matched: Matched | None = None,
    ) -> PurgeReceipt:
        """Append to the log. When this returns, the purge is final (G3) if the receipt says so. It is not
        while the shared system is away, nor if every live instance took longer than ``wait`` seconds to
        apply it.

        ``wait``: None: as long as it takes, which the log bounds. ``matched``: for the receipt; see
        `purge`.

        Raises KeyRefused, with nothing purged, for a pattern that `glob` refuses.
        """
        with self.counters.span("purge", invalidations=invalidations) as span:
            receipt = await self._log.append(invalidations, self.runtime.now(), wait=wait)
            if matched is not None:
                receipt = receipt._replace(**matched._asdict())
            if wait != 0.0:  # else the caller didn't ask how far it got
                span.note(receipt=receipt)
        self.counters.on("purge", invalidations=invalidations)
        return receipt

    async def delete(self, key: Key) -> bool:
        """Remove one key from every layer. A fill of it that is under way dies on arrival.

        True if a layer held it. Raises PartialWriteError under the strict policy when a layer fails.
        """
        await self.invalidate((Invalidation("key", self._label(key)),))
        held, failed = await self.discard(key)
        if failed and self.write_policy == "strict":
            raise PartialWriteError(failed, ())
        return held

    async def clear(self) -> None:
        """Drop everything from every layer, fills under way included.

        Raises PartialWriteError under the strict policy when a layer fails.
        """
        await self.invalidate((Invalidation("all"),))
        failed: dict[str, BaseException] = {}
        for layer in self.layers:
            try:
                await self._ask.answer(layer, layer.clear())
            except Exception as error:
                failed[layer.name] = error
                self.counters.on("layer_error", layer=layer.name, operation="clear", error=error)
        if failed and self.write_policy == "strict":
            raise PartialWriteError(failed, ())

    async def _count(self, matching: Matching, counts: Callable[[Entry], bool] | None) -> Matched:
        layer = next((one for one in self.layers if hasattr(one, "scan")), None)
        unknown = tuple(one.name for one in self.layers if one is not layer)
        if layer is None:
            return Matched(unknown=unknown)
        scan: Callable[[int], tuple[list[tuple[Key, Entry]], bool]] = layer.scan
        number = 0
        try:
            entries, whole = scan(matching.most)
            now = self.runtime.now()
            for at, (key, entry) in enumerate(entries, 1):
                if (
                    entry.expires > now
                    and (counts is None or counts(entry))
                    and matching.meets(entry, key, self._label)
                    and not self.purged_since(entry.checked, entry.tags, key)
                ):
                    number += 1
                if not at % PART:  # other requests may go on meanwhile
                    await self.runtime.event().wait(0.0)
        except Exception as error:
            self.counters.on("layer_error", layer=layer.name, operation="scan", error=error)
            return Matched(unknown=(layer.name, *unknown))
        seen = True if matching.all_seen else False if whole else None
        return Matched(number, not whole, seen, unknown)
