"""Is a history of operations on one cell linearizable? For `layergate.testing.cells`.

    history = [*contend(cells, "name", seconds=1.0), ...]
    check(history)

`contend` is one client: it loads the cell and swaps it, again and again, and notes when each operation
began and ended, by a clock that all clients of the machine share. Each swap writes a value of its own,
with the value that it replaces; so a history says itself in which order the swaps were carried out,
and `check` compares that with the times. It can also run in a process of its own, which prints its
history: ``python -m layergate.testing.histories FACTORY ARGUMENTS NAME SECONDS``, as for
`layergate.testing.member`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

from layergate.shared.ports import Cells, answered

__all__ = ["Operation", "check", "contend"]

NOTHING: Final = ""
"""The value of a cell that is not there."""


class Operation(NamedTuple):
    """One operation, from its call to its return.

    ``began``, ``ended``  on the machine's monotonic clock.
    ``seen``              a load: the value that it found. A swap: the value that it replaced.
    ``wrote``             a swap that succeeded: the new value. None for a load.
    """

    began: float
    ended: float
    seen: str
    wrote: str | None


async def contend(cells: Cells, name: str, *, seconds: float, most: int = 400) -> list[Operation]:
    """Load and swap the cell for so long, or so many times."""
    history: list[Operation] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(history) < most:
        began = time.monotonic()
        loaded = await answered(cells.load(name))
        ended = time.monotonic()
        tag, seen = None, NOTHING
        if loaded is not None:
            data, tag = loaded
            seen = bytes(data).decode()
        history.append(Operation(began, ended, seen, None))
        wrote = os.urandom(8).hex()
        began = time.monotonic()
        done = await answered(cells.swap(name, tag, wrote.encode()))
        ended = time.monotonic()
        if done is not None:
            history.append(Operation(began, ended, seen, wrote))
        await asyncio.sleep(0)
    return history


def check(history: Sequence[Operation]) -> list[str]:
    """The values of the cell, in their order.

    Raises AssertionError, and says which operations contradict each other, if the history could not be
    that of one cell on which all operations were carried out one after the other.
    """
    swaps: dict[str, Operation] = {}
    for one in history:
        if one.wrote is not None:
            assert one.seen not in swaps, (
                f"an update was lost: two swaps have replaced {one.seen!r}: {swaps[one.seen]}, {one}"
            )
            swaps[one.seen] = one
    values = [NOTHING]
    while values[-1] in swaps:
        wrote = swaps[values[-1]].wrote
        assert wrote is not None
        values.append(wrote)
    assert len(values) == len(swaps) + 1, "a swap has replaced a value that was never there"
    loads: dict[str, list[Operation]] = {value: [] for value in values}
    for one in history:
        if one.wrote is None:
            assert one.seen in loads, f"a value that nobody wrote: {one}"
            loads[one.seen].append(one)
    # Each swap is carried out as early as it can be: after its call, after the one before it, and after
    # the calls of all loads that have found the value that it replaces.
    at = float("-inf")
    for value in values[:-1]:
        swap = swaps[value]
        assert swap.wrote is not None
        for one in (*loads[value], swap):
            at = max(at, one.began)
        for one in (swap, *loads[swap.wrote]):
            assert at <= one.ended, (
                f"{swap} was carried out at {at} at the earliest, and {one} had ended before that"
            )
    return values


def main() -> None:
    factory, arguments, name, seconds = sys.argv[1:]
    module, _, function = factory.partition(":")

    async def run() -> list[Operation]:
        cells = getattr(import_module(module), function)(*json.loads(arguments))
        print("ready", flush=True)  # noqa: T201 - it is what the suite reads
        await asyncio.to_thread(sys.stdin.readline)
        return await contend(cells, name, seconds=float(seconds))

    for one in asyncio.run(run()):
        print(json.dumps(one), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
