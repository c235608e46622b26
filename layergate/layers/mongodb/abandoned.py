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
    for transport in [*_used(loop), *_idle(client)]:
        abandon(transport)
    for task in asyncio.all_tasks(loop):
        work: Any = task.get_coro()
        code = getattr(work, "cr_code", None)
        if code is not None and f"{os.sep}pymongo{os.sep}" in code.co_filename:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            # What runs periodically cancels its task when it is collected, for which it is too late.
            owner: Any = getattr(work.cr_frame, "f_locals", {}).get("self")
            if getattr(owner, "_task", None) is task:
                owner._task = None
            with contextlib.suppress(Exception):
                work.close()


def _used(loop: Any) -> Iterator[Any]:
    """Transports that belong to pymongo, of a loop of asyncio."""
    for transport in list(getattr(loop, "_transports", {}).values()):
        protocol = transport.get_protocol()
        protocol = getattr(protocol, "_app_protocol", protocol)  # that of TLS has it
        if type(protocol).__module__.startswith("pymongo."):
            yield transport


def _idle(client: Any) -> Iterator[Any]:
    """Transports in the pools of the client, of any loop."""
    servers = getattr(getattr(client, "_topology", None), "_servers", {})
    for server in servers.values():
        monitor = getattr(server, "_monitor", None)
        beside = getattr(monitor, "_rtt_monitor", None)
        pools = [getattr(one, "_pool", None) for one in (server, monitor, beside)]
        for pool in pools:
            for connection in list(getattr(pool, "conns", ())):
                yield from getattr(getattr(connection, "conn", None), "conn", ())[:1]
