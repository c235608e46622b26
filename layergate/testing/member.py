"""A member of a log in a process of its own: ``python -m layergate.testing.member FACTORY ARGUMENTS``.

`JournalConformance` starts it to kill it. FACTORY is ``module:function``, ARGUMENTS is a JSON list;
the function is called with the arguments and gives a `Journal`. The member follows the log, and prints
a JSON line once it has taken in an answer: the position that it has applied, when that was, and until
when it is trusted (or null), on the machine's monotonic clock. It acknowledges with the next call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib import import_module

from layergate.shared.journal import INCARNATION_SIZE, Founding, Journal, Place
from layergate.shared.ports import answered

__all__ = ["follow"]


async def follow(journal: Journal) -> None:
    """Sync at every heartbeat, and at once after something new, until the process ends."""
    name = os.urandom(8).hex().encode()
    log, position, tip = None, 0, b""
    while True:
        founding = Founding(os.urandom(INCARNATION_SIZE), b"", b"")
        sent = time.monotonic()
        reply = await answered(journal.sync(Place(log, position, tip, name, True, founding)))
        if reply.log != log:
            log, position, tip = reply.log, 0, b""
        for record in reply.records:
            position, tip = record.position, record.tip
        until = sent + reply.trusted_for if reply.trusted_for else None
        line = {"position": position, "at": time.monotonic(), "until": until}
        print(json.dumps(line), flush=True)  # noqa: T201 - it is what the suite reads
        if not reply.records:
            await asyncio.sleep(journal.terms.heartbeat)


def main() -> None:
    factory, arguments = sys.argv[1:]
    module, _, function = factory.partition(":")

    async def run() -> None:
        await follow(getattr(import_module(module), function)(*json.loads(arguments)))

    asyncio.run(run())


if __name__ == "__main__":
    main()
