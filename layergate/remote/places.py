"""One client for each place: for each event loop of a process, or one for all of its threads.

A connection belongs to the process that made it, because the child of a fork shares the socket with its
parent. Under asyncio it also belongs to its event loop. The layers ask `PerPlace.here` for the client
of the place in which they are called, and get a new one where there is none yet.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from layergate.core.layer import MaybeAwaitable
from layergate.core.ports import Runtime
from layergate.errors import LayerUnavailable
from layergate.shared.ports import answered

__all__ = ["PerPlace"]

C = TypeVar("C")

_BACKGROUND: Final = "layergate"  # what the names of `ThreadRuntime`'s threads begin with


class PerPlace(Generic[C]):
    """The clients of one layer.

    ``name``     of the layer, for errors.
    ``make``     makes a client. It must not connect, and must not start anything.
    ``close``    closes a client, in the place to which it belongs.
    ``abandon``  drops a client whose event loop was closed over it, without awaiting anything.

    Nothing is made before `here` is called. A fork's child makes clients of its own. It neither uses nor
    closes those of its parent.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], C],
        *,
        close: Callable[[C], MaybeAwaitable[object]],
        abandon: Callable[[C], object],
    ) -> None:
        self._name = name
        self._make = make
        self._close = close
        self._abandon = abandon
        self._runtime: Runtime | None = None
        self._inherited: list[object] = []
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        # By the identity of the loop, with the loop itself: an identity may be used again.
        self._clients: dict[int, tuple[asyncio.AbstractEventLoop | None, C]] = {}

    def bind(self, runtime: Runtime) -> None:
        """Take on the runtime of the stack. Nothing starts."""
        self._runtime = runtime

    @property
    def runtime(self) -> Runtime:
        """Raises LayerUnavailable before `bind`."""
        if self._runtime is None:
            raise LayerUnavailable(self._name, "this layer is not part of a stack yet")
        return self._runtime

    def here(self) -> C:
        """The client of this process and of the running loop; under threads, of this process.

        Raises LayerUnavailable before `bind`, and in a background thread after `close`.
        """
        if self.runtime.blocking:
            found = self._clients.get(0)
            if found is not None:
                return found[1]
            self._check_reopening()
            return self._new(None)
        loop = asyncio.get_running_loop()
        found = self._clients.get(id(loop))
        if len(self._clients) > 1:
            self._drop_stranded()
        return self._new(loop) if found is None or found[0] is not loop else found[1]

    def _check_reopening(self) -> None:
        """A heartbeat that was under way when the layer was closed must not open it again: its thread cannot be
        cancelled. A request may, and whatever runs in the background for it from then on."""
        if threading.current_thread().name.startswith(_BACKGROUND):
            if self._closed:
                raise LayerUnavailable(self._name, "this layer was closed")
        else:
            self._closed = False

    def _new(self, loop: asyncio.AbstractEventLoop | None) -> C:
        key = 0 if loop is None else id(loop)
        self._drop_stranded()
        with self._lock:
            found = self._clients.get(key)
            if found is not None and found[0] is loop:  # another thread was quicker
                return found[1]
            client = self._make()
            self._clients[key] = loop, client
        if loop is not None:
            self.runtime.at_end(self.close, last=True)
        return client

    def _drop_stranded(self) -> None:
        """Abandon the clients of event loops that were closed over them. (So no live loop finds a client under
        the identity of a dead one.)"""
        stranded = []
        with self._lock:
            for key, (loop, client) in list(self._clients.items()):
                if loop is not None and loop.is_closed():
                    del self._clients[key]
                    stranded.append(client)
        for client in stranded:
            self._abandon(client)

    def all(self) -> list[C]:
        """The clients of this process, for statistics."""
        return [client for _, client in list(self._clients.values())]

    async def close(self) -> None:
        """Close the client of this place. A later call of `here` makes a new one."""
        self._drop_stranded()
        loop = None if self.runtime.blocking else asyncio.get_running_loop()
        with self._lock:
            self._closed = loop is None
            found = self._clients.pop(0 if loop is None else id(loop), None)
        if found is not None:
            await answered(self._close(found[1]))

    def forked(self) -> None:
        """This is the child of a fork. Happens by itself where there is ``os.fork``."""
        if self._pid == os.getpid():
            return
        # They stay referenced and open: closing them, or having them collected, could say goodbye to
        # the server on the parent's connections.
        self._inherited.append(self._clients)
        self._begin()


_all: Final[weakref.WeakSet[PerPlace[Any]]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for clients in list(_all):
        clients.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
