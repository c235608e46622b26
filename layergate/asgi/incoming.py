"""What comes from the client of one request: the server's ``receive``, and what LayerGate needs of it.

`Incoming` is used for requests that the engine answers, `replay` where a message has been read before
its turn, `content` for requests to the admin endpoint.
"""

from __future__ import annotations

import asyncio
import logging

from layergate.asgi.messages import Message, Receive
from layergate.http.admin import MAX_BODY

__all__ = ["Incoming", "content", "replay"]

_logger = logging.getLogger("layergate")


class Incoming:
    """The server's ``receive``, which several tasks may use here.

    Servers may rely on a single task that waits on their own ``receive``. So one task does, and a
    disconnect that it has seen is remembered for everyone that asks.
    """

    __slots__ = ("_next", "_over", "_pump", "_receive", "_seen")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen: list[Message] = []
        self._next = 0
        self._pump: asyncio.Task[None] | None = None
        self._over: asyncio.Event | None = None

    async def __call__(self) -> Message:
        """As the server's. After `rewind` it gives the (empty) content of the request again."""
        if self._next < len(self._seen):
            self._next += 1
            return self._seen[self._next - 1]
        if self._pump is not None:
            await self.disconnected()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request" and not self._seen and not message.get("body"):
            self._seen.append(message)
            self._next = 1
        return message

    def rewind(self) -> None:
        """The app is called again, and reads the content again."""
        self._next = 0

    async def disconnected(self) -> None:
        """Return when the client has disconnected, or its request is over."""
        if self._over is None:
            self._over = asyncio.Event()
            self._pump = asyncio.create_task(self._until_gone(self._over))
        await self._over.wait()

    async def _until_gone(self, over: asyncio.Event) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception as error:
            # This says nothing about the client, so the client counts as connected.
            _logger.debug("receive() failed while a response was sent", exc_info=error)
            return
        over.set()

    def close(self) -> None:
        """The request is over."""
        if self._over is not None:
            self._over.set()
        if self._pump is not None:
            self._pump.cancel()


def replay(first: Message, receive: Receive) -> Receive:
    """A ``receive`` that gives ``first`` again."""
    waiting = [first]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def content(receive: Receive) -> bytes | None:
    """The content of a request; None if it is too large or the client left."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
