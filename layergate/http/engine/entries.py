"""One entry by its key, from the layers. Every verb of the engine reads the store through here."""

from __future__ import annotations

from collections.abc import Callable

from layergate.core.entry import Entry
from layergate.core.stack import Found
from layergate.http.engine.engine import Engine
from layergate.http.message.stored import PartialResponse, StoredResponse

__all__ = ["entry_under", "find", "is_complete", "is_later"]


async def find(
    engine: Engine,
    key: bytes,
    enough: Callable[[Entry], bool] | None = None,
    *,
    quiet: bool = False,
    below: bool = False,
) -> Found | None:
    """The entry under ``key`` and the name of its layer. Arguments as for `Stack.lookup`.

    Where the top layer is all there is, a peek into it takes the place of a lookup, which costs more.
    """
    stack = engine.stack
    if stack.peek_is_enough and stack.trusted and not quiet:
        entry = stack.peek(key)
        if entry is None or entry.expires <= engine.runtime.now():
            return None
        return Found(entry, engine.top)
    return await stack.lookup(key, enough=enough, quiet=quiet, below=below)


async def entry_under(
    engine: Engine, key: bytes, *, quiet: bool = False, below: bool = False
) -> Entry | None:
    """As `find`, without the name of the layer."""
    found = await find(engine, key, quiet=quiet, below=below)
    return None if found is None else found.entry


def is_complete(entry: Entry) -> bool:
    """False for parts of a response."""
    return not isinstance(entry.value, PartialResponse)


def is_later(entry: Entry, other: Entry) -> bool:
    """True if ``entry`` is from a later fetch than ``other``, or from after a purge that ``other`` did
    not see."""
    if entry.stamp != other.stamp:
        return entry.stamp > other.stamp
    value = entry.value
    return isinstance(value, StoredResponse) and value.request_time > other.value.request_time
