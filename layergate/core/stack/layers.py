"""The layers that a stack is made of: what is checked of them, and how they are asked.

`base` calls it when a stack is made, and for each answer of a layer.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from layergate.core.entry import Entry
from layergate.core.layer import Key, Layer, MaybeAwaitable
from layergate.core.ports import Runtime
from layergate.core.shared import SharedLayer
from layergate.errors import ConfigError

__all__ = ["Asking", "checked_layers", "claim", "inspected", "shared_among"]

T = TypeVar("T")

_owners: Final[weakref.WeakKeyDictionary[Layer, weakref.ref[Any]]] = weakref.WeakKeyDictionary()


def checked_layers(layers: Any) -> tuple[Any, ...]:
    """The layers, top first. Raises ConfigError for what is no list of layers with distinct names."""
    if not isinstance(layers, (list, tuple)) or not layers:
        raise ConfigError(
            f"layers must be a list with at least one layer, e.g. [MemoryLayer('64MB')],"
            f" got {layers!r}"
        )
    for layer in layers:
        if not isinstance(layer, Layer):
            raise ConfigError(
                f"layers must be Layer objects (get, get_many, set, delete, clear, stats),"
                f" got {layer!r}"
            )
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        raise ConfigError(f"layers must have different names, got {names}; pass name=...")
    return tuple(layers)


def shared_among(layers: Sequence[Layer]) -> SharedLayer | None:
    """The layer that other instances use too, if there is one. Raises ConfigError for two of them."""
    shared = [layer for layer in layers if isinstance(layer, SharedLayer)]
    if len(shared) > 1:
        raise ConfigError(
            f"layers must have at most one shared layer, for it keeps the log of purges, got"
            f" {[layer.name for layer in shared]}; drop one"
        )
    return shared[0] if shared else None


def claim(layer: Layer, stack: object) -> None:
    """Make ``layer`` a part of ``stack``. Raises ConfigError if it is a part of another one.

    The entries of a layer are stamped with positions of its stack's log. They mean nothing in the log of
    another stack, and a purge of one stack would not reach the other.
    """
    try:
        owner = _owners.get(layer)
    except TypeError:  # no weak reference to this layer is possible, so its author looks after this
        return
    other = None if owner is None else owner()
    if other is not None and other is not stack:
        raise ConfigError(
            f"layers must belong to one stack, but layer {layer.name!r} is already in another;"
            " make a layer for each, or share the stack or HttpCache"
        )
    _owners[layer] = weakref.ref(stack)


def inspected(layer: Layer, key: Key) -> MaybeAwaitable[Entry | None]:
    """A layer's entry, without counting as a read where the layer offers that."""
    look: Callable[[Key], MaybeAwaitable[Entry | None]] = getattr(layer, "inspect", layer.get)
    return look(key)


class Asking:
    """Awaits what layers answer, within their time budgets.

    ``timeout``: seconds that an operation of a layer may take. A layer with a ``timeout`` of its own ends
    its operations itself.
    """

    __slots__ = ("_keep_time", "_runtime", "timeout")

    def __init__(self, layers: Sequence[Layer], runtime: Runtime, timeout: Any) -> None:
        if type(timeout) not in (int, float) or not timeout > 0:
            raise ConfigError(f"layer_timeout must be > 0 seconds, got {timeout!r}")
        self._runtime = runtime
        self.timeout = float(timeout)
        self._keep_time = tuple(layer for layer in layers if getattr(layer, "timeout", None))

    async def answer(self, layer: Layer, result: MaybeAwaitable[T]) -> T:
        """The answer of ``layer``, awaited if it is awaitable. Raises what the layer raises, and
        TimeoutError when the time is over."""
        if not inspect.isawaitable(result):
            return result
        if layer in self._keep_time:
            return await result
        return await self._runtime.within(self.timeout, result)
