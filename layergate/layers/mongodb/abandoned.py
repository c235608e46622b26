"""Dropping an AsyncMongoClient whose event loop was closed over it.

pymongo can close nothing there: its `close` is a coroutine of that loop. What it leaves are sockets, and tasks that
wait for a loop that does not run any more. Its structure is private, so everything here may find nothing: then
Python warns of an unclosed resource when it collects the client, and that is all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

from layergate.remote.transports import abandon

__all__ = ["drop"]


def drop(client: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close the sockets of the client, and end its tasks without a word. Never raises."""
    client._closed = True  # so it does not warn that it was never closed
    for task in asyncio.all_tasks(loop):
        work: Any = task.get_coro()
        code = getattr(work, "cr_code", None)
        if code is not None and f"{os.sep}pymongo{os.sep}" in code.co_filename:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with contextlib.suppress(Exception):
                work.close()
    for transport in list(_transports(client)):
        abandon(transport)


def _transports(client: Any) -> Iterator[Any]:
    servers = getattr(getattr(client, "_topology", None), "_servers", {})
    for server in servers.values():
        monitor = getattr(server, "_monitor", None)
        beside = getattr(monitor, "_rtt_monitor", None)
        for pool in (
            getattr(server, "pool", None),
            *(getattr(one, "_pool", None) for one in (monitor, beside)),
        ):
            for connection in getattr(pool, "conns", ()):
                pair = getattr(getattr(connection, "conn", None), "conn", ())
                yield from pair[:1]
