"""What goes to a client: stored responses, shared bodies, and heads that need a change.

The middleware and the fetches call these functions with the server's own ``send``. Nothing here decides
anything about a response.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Final

from layergate.asgi.incoming import Incoming
from layergate.asgi.messages import BODY, START, Message, Send
from layergate.http.engine.stream import Reader
from layergate.http.message.fields import Lines
from layergate.http.message.ranges import PIECE, Slices
from layergate.http.message.stored import Served

__all__ = ["adding", "read_along", "send_large", "send_response"]

_WATCH_AFTER: Final = 5.0  # seconds after which a reader checks whether its client is still there


async def send_response(send: Send, served: Served) -> None:
    """Send a response that is at hand."""
    await send({"type": START, "status": served.status, "headers": served.lines})
    if len(served.body) > PIECE:
        await send_large(send, served.body)
    else:
        await send({"type": BODY, "body": served.body})


async def send_large(send: Send, body: bytes | Slices) -> None:
    """Send a large body in pieces: a server copies what its client does not take at once."""
    for start in range(0, len(body), PIECE):
        piece = body[start : start + PIECE]
        await send({"type": BODY, "body": piece, "more_body": start + PIECE < len(body)})


async def read_along(reader: Reader, incoming: Incoming, send: Send) -> None:
    """Pass a shared body on as it comes, to its end or until the client has left.

    Raises OriginAborted when the origin breaks off.
    """
    # A server may silently drop what is sent to a client that has left; only ``receive`` tells.
    # Short responses need not ask.
    watch: asyncio.Task[None] | None = None
    begun = time.monotonic()
    try:
        while True:
            data = reader.take()
            if reader.at_end:
                await send({"type": BODY, "body": data})
                return
            if data:
                await send({"type": BODY, "body": data, "more_body": True})
            await reader.more(_WATCH_AFTER)
            if reader.gone:
                return
            if watch is None and time.monotonic() - begun > _WATCH_AFTER:
                watch = asyncio.create_task(incoming.disconnected())
                watch.add_done_callback(lambda task: task.cancelled() or _leave(reader))
    finally:
        if watch is not None:
            watch.cancel()


def _leave(reader: Reader) -> bool:
    reader.leave()
    return True


def adding(send: Send, lines: Lines, hidden: frozenset[bytes]) -> Send:
    """A ``send`` that adds ``lines`` to the head and drops the fields named in ``hidden``.

    It is no coroutine function, but returns the awaitable of ``send`` itself. That saves a frame for
    each message of each request in which the cache has no part.
    """

    def added(message: Message) -> Awaitable[None]:
        if message["type"] == START:
            headers = list(message.get("headers", ()))
            for line in headers:
                if line[0] in hidden:
                    headers = [line for line in headers if line[0] not in hidden]
                    break
            headers += lines
            message = {**message, "headers": headers}
        return send(message)

    return added
