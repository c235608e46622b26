"""Calls of the user's function: plain or async, for one key or for many."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from layergate.core.fetching.flights import LoadRuntime
from layergate.core.layer import Key
from layergate.core.policy import Policy
from layergate.errors import ConfigError

__all__ = ["Load", "load_many", "load_one"]

Load: TypeAlias = Callable[[list[Key]], Awaitable[Mapping[Key, Any]]]
"""Fetches values. A key that is not in the mapping was left out."""


async def _call(runtime: LoadRuntime, fetch: Callable[..., Any], *args: Any) -> Any:
    """What ``fetch`` returns. A plain function runs where it may block."""
    if inspect.iscoroutinefunction(fetch) or inspect.iscoroutinefunction(
        getattr(fetch, "__call__", None)  # noqa: B004 - an object whose __call__ is async
    ):
        return await fetch(*args)
    got = await runtime.call(lambda: fetch(*args))
    return await got if inspect.isawaitable(got) else got


def load_one(runtime: LoadRuntime, fetch: Callable[[], Any]) -> Load:
    """``fetch``, which takes no arguments, for the one key that is asked for."""

    async def load(keys: list[Key]) -> Mapping[Key, Any]:
        return {keys[0]: await _call(runtime, fetch)}

    return load


def load_many(runtime: LoadRuntime, fetch_many: Callable[[list[Key]], Any], policy: Policy) -> Load:
    """``fetch_many``, which takes a list of keys. With a ``negative_ttl`` a key that it leaves out
    counts as None.

    Raises ConfigError if ``fetch_many`` is not callable.
    """
    if not callable(fetch_many):
        raise ConfigError(f"fetch_many must be a callable of a list of keys, got {fetch_many!r}")

    async def load(keys: list[Key]) -> Mapping[Key, Any]:
        found = await _call(runtime, fetch_many, list(keys))
        if not isinstance(found, Mapping):
            raise TypeError(
                f"fetch_many must return a mapping of key to value, got {type(found).__name__}"
            )
        if policy.negative_ttl is not None:
            return {key: found.get(key) for key in keys}
        return {key: found[key] for key in keys if key in found}

    return load
