"""`Stack`: reading, writing, and purging together; its life in a process; and what it tells of itself."""

from __future__ import annotations

from typing import Any, NamedTuple

from layergate.core.entry import Entry
from layergate.core.invalidation import Caught, LocalLog
from layergate.core.layer import Key
from layergate.core.stack.layers import inspected
from layergate.core.stack.purging import Purging
from layergate.core.stack.reading import Reading

__all__ = ["Held", "Stack"]


class Held(NamedTuple):
    """What one layer has under a key.

    ``entry``   a copy; None if there is none, or if it has expired.
    ``caught``  the purges that reach it: hard ones, after which it is gone, or the soft ones that made it
                stale.
    ``error``   what the layer raised instead of an answer, or None.
    """

    layer: str
    entry: Entry | None = None
    caught: tuple[Caught, ...] = ()
    error: BaseException | None = None

    @property
    def purged(self) -> bool:
        return any(not invalidation.soft for invalidation in self.caught)


class Stack(Reading, Purging):
    """Layers, top first.

    ``label``         turns a key into the text that key, prefix, and pattern purges are matched against;
                      the default is the key itself.
    ``write_policy``  best-effort writes never raise; strict ones raise PartialWriteError.
    ``layer_timeout`` seconds after which an operation of a layer has failed.
    ``values``        how values that are not plain data go over the wire to a shared layer.
    ``log``           makes a log of purges that is shared with other instances, where no layer is.

    One of the layers may be shared with other instances (`SharedLayer`). Its log is then the stack's log,
    and its leases make a fetch the fleet's only one. While the log cannot be reached for too long (see
    `trusted`), what the layers hold counts as stale, without a stale-while-revalidate window, because a
    purge may have passed unnoticed.

    Raises ConfigError for an option that cannot work.
    """

    def forked(self) -> None:
        """In the child of a fork: the log gets a new lock, because a lock that another thread of the
        parent held is never released here. The invalidations are whole, because their position is
        written last."""
        if self.shared_log is None:
            self._log = LocalLog(self.invalidations, self.runtime.lock())
        else:
            self.shared_log.forked()

    async def join(self) -> None:
        """Become an instance of the fleet before the first request, if the fleet can be reached. Purges
        through this instance are then as quick as they get."""
        await self.catch_up()

    async def leave(self, *, ended: bool = False) -> None:
        """This process stops using the stack, so the fleet need not wait for it. It may come back.

        ``ended``: nothing is fetched any more, so the leases are given back too.
        """
        if self.shared_log is not None:
            await self.shared_log.leave()
        if ended and self.leases is not None:
            await self.leases.leave()

    async def disconnect(self) -> None:
        """Have the layers close what they hold open. They open it again when they are used."""
        for layer in self.layers:
            close = getattr(layer, "aclose", None)
            if close is not None:
                try:
                    await self._ask.answer(layer, close())
                except Exception as error:
                    name = layer.name
                    self.counters.on("layer_error", layer=name, operation="close", error=error)

    async def inspect(self, key: Key) -> list[Held]:
        """What each layer has under a key, top first, and which purges reach it. Nothing is changed,
        copied, or counted. Never raises."""
        held: list[Held] = []
        for layer in self.layers:
            try:
                entry: Entry | None = await self._ask.answer(layer, inspected(layer, key))
                if entry is None or entry.expires <= self.runtime.now():
                    held.append(Held(layer.name))
                    continue
                entry = entry.clipped(entry.stale_from)
                caught = self.invalidations.catching(entry, self._label(key))
                self.invalidations.admit(entry, self._label(key))
                held.append(Held(layer.name, entry, caught))
            except Exception as error:
                held.append(Held(layer.name, error=error))
        return held

    def metrics(self) -> dict[str, Any]:
        """Counters since this stack was made, and for each layer its own ``stats``.

        A layer whose ``stats`` fail shows as empty, with a ``layer_error`` event.
        """
        layers: dict[str, dict[str, int | float]] = {}
        for layer in self.layers:
            try:
                layers[layer.name] = dict(layer.stats())
            except Exception as error:
                layers[layer.name] = {}
                self.counters.on("layer_error", layer=layer.name, operation="stats", error=error)
        return {
            "events": self.counters.snapshot(),
            "layers": layers,
            "invalidation": {
                "position": self.invalidations.position,
                **self.invalidations.counts(),
                **({} if self.shared_log is None else self.shared_log.stats()),
            },
        }
