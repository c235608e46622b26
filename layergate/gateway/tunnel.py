"""A tunnel: two connections that pass on what they receive, once an upstream has switched protocols.

`Cycle` starts it. The connections at its ends feed it and keep its time limits. Nothing that passes is
looked at.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["End", "Tunnel", "UpstreamEnd"]


class End(Protocol):
    """One of the two connections.

    ``blocked``: a future while it takes less than was written to it, done once it takes more; else None.
    """

    @property
    def blocked(self) -> asyncio.Future[None] | None: ...

    def enter(self, tunnel: Tunnel) -> bytes:
        """Pass on to this tunnel what comes from now on. What has come already, to be passed on first."""

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def leave(self) -> None:
        """The other end is gone: close, once all that was written is taken."""


class UpstreamEnd(End, Protocol):
    """The end that keeps the limit for a tunnel in which nothing passes."""

    def passed(self) -> None:
        """Something has passed, in either direction."""


class Tunnel:
    """Lasts until either end closes."""

    def __init__(self, client: End, upstream: UpstreamEnd) -> None:
        self._client = client
        self._upstream = upstream
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, early: bytes) -> None:
        """Pass on until the upstream is gone. ``early``: what the client has sent already."""
        waiting = self._upstream.enter(self)
        if waiting:
            self.from_upstream(waiting)
        early += self._client.enter(self)
        if early:
            self.from_client(early)
        self._client.resume_reading()
        self._upstream.resume_reading()
        await self._over

    def from_client(self, data: bytes) -> None:
        self._pass(data, self._client, self._upstream)

    def from_upstream(self, data: bytes) -> None:
        self._pass(data, self._upstream, self._client)

    def client_gone(self) -> None:
        self._upstream.leave()

    def upstream_gone(self) -> None:
        self._client.leave()
        if not self._over.done():
            self._over.set_result(None)

    def _pass(self, data: bytes, source: End, target: End) -> None:
        target.write(data)
        blocked = target.blocked
        if blocked is not None:
            # Until the target takes more, the source isn't read, nor is it noticed that it has left.
            source.pause_reading()
            blocked.add_done_callback(lambda _: source.resume_reading())
        self._upstream.passed()
