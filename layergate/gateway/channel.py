"""The channel between a worker of the gateway and the process that runs it.

A worker is one process that serves connections. A *supervisor* runs it, or, if it is the only worker, it
runs in the process that was started. Either way it is a function ::

    def main(options: GatewayOptions, sockets: Sequence[socket.socket], channel: Channel) -> None

which runs until it has nothing more to do. ``sockets`` are bound. The worker calls ``listen`` on them (as
``asyncio.create_server(sock=...)`` does) when it can answer; until then connections are refused instead
of kept waiting. The worker closes them. In the loop of ``main``, in this order::

    cache = HttpCache(**options.cache_arguments(channel.folder))
    await channel.open(reload=reload, stats=cache.stats)
    cache.reporter = channel.report                 # GET {admin}/stats is about all workers
    ...                                             # listen
    channel.ready()
    await channel.stopping.wait()
    ...                                             # close the sockets; finish what is under way
    ...                                             # until it is done, or ``channel.cut`` is set
    await cache.aclose(0.0 if channel.cut.is_set() else None)
    await channel.close()

``open``      attaches to the running loop.
``reload``    is called with new, valid options, in the loop. It puts them into effect as a whole
              (`HttpCache.reload` with `reloading.live`), and returns the names of options that only a
              restart changes, beside those that `reloading.waiting` knows. If it raises, the error is
              logged, and the worker continues with the old options.
``ready``     says that connections are accepted.
``stopping``  is set when the worker must end: it accepts nothing more, answers what it has begun, closes
              idle connections, and returns from ``main``, within `GatewayOptions.drain_timeout`. It is
              also set when the supervisor is gone, because then no worker is replaced any more.
``cut``       is set when the worker must give up what is still under way. (The supervisor kills a worker
              that does not end soon after.)
``state``     decides ``readyz``: 200 for READY, else 503.

SIGTERM, SIGINT and SIGHUP belong to the channel; a worker handles no signals. If ``main`` raises, the
worker has failed: a `ConfigError` or `OSError` is reported by its message, others with a traceback.
`timeouts` has the limits for a worker that is not ready, or gives no sign of life.

On the wire: frames of four bytes of length, one of kind (``J``: JSON; ``O``: options, pickled, and only
ever from the supervisor to a worker it has started), then the content.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import json
import logging
import os
import pickle
import secrets
import signal
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from layergate.core.totals import total
from layergate.gateway import timeouts

__all__ = [
    "MAX_FRAME",
    "Channel",
    "ChannelBroken",
    "ChannelClosed",
    "Link",
    "Reload",
    "State",
    "Stats",
    "new_instance",
    "pack",
    "pack_options",
    "receive",
    "receive_blocking",
]

_logger = logging.getLogger("layergate.gateway")

Message: TypeAlias = dict[str, Any]
Reload: TypeAlias = Callable[[Any], Iterable[str]]
Stats: TypeAlias = Callable[[], Mapping[str, Any]]

MAX_FRAME: Final = 32 * 1024 * 1024  # bytes
_HEAD: Final = struct.Struct("!IB")
_JSON, _OPTIONS = ord("J"), ord("O")
_MAX_QUEUE: Final = 64 * 1024 * 1024  # bytes that the supervisor has not read


class State(enum.Enum):
    """The stages of a worker, as it sees itself."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class ChannelBroken(Exception):
    """The other side is gone, or sends something invalid."""


class ChannelClosed(ChannelBroken):
    """The other side is gone."""


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as a frame. Lone surrogates are kept. Raises TypeError for values that JSON lacks."""
    content = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(len(content), _JSON) + content


def pack_options(options: object) -> bytes:
    """New options as a frame."""
    content = pickle.dumps(options)
    return _HEAD.pack(len(content), _OPTIONS) + content


async def receive(reader: asyncio.StreamReader, *, options: bool = False) -> Any:
    """The next message: a dict, or, with ``options``, possibly an object that `pack_options` packed.

    Raises ChannelBroken.
    """
    try:
        length, kind = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if length > MAX_FRAME:
            raise ChannelBroken(f"a frame of {length} bytes")
        content = await reader.readexactly(length)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise ChannelClosed("the other side is gone") from error
    return _read(kind, content, options=options)


def receive_blocking(sock: socket.socket) -> Any:
    """As `receive`, with options, before there is a loop."""
    length, kind = _HEAD.unpack(_exactly(sock, _HEAD.size))
    return _read(kind, _exactly(sock, length), options=True)


def _exactly(sock: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = sock.recv(size - len(content))
        if not part:
            raise ChannelClosed("the other side is gone")
        content += part
    return bytes(content)


def _read(kind: int, content: bytes, *, options: bool) -> Any:
    if kind == _OPTIONS and options:
        return pickle.loads(content)  # noqa: S301 - from the process that started this one
    try:
        message = json.loads(content) if kind == _JSON else None
    except ValueError as error:
        raise ChannelBroken("a frame is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise ChannelBroken("a frame is not a message")
    return message


def new_instance() -> str:
    """A name that no other gateway has. Upstreams see it, so it reveals nothing."""
    return secrets.token_hex(8)


class Channel:
    """A worker's end of the channel. This class is the common part, with nothing at the other end.

    ``number``    of this worker, from 0; ``workers``: how many there are.
    ``folder``    the folder that all workers share; None if they share something else, or there is one.
    ``instance``  the token in CDN-Loop (RFC 8586) that all workers of this gateway share, and no other
                  gateway has.
    """

    def __init__(self, number: int = 0, workers: int = 1, *, instance: str | None = None) -> None:
        self.number = number
        self.instance = new_instance() if instance is None else instance
        self.workers = workers
        self.folder: str | None = None
        self.state = State.STARTING
        self.stopping = asyncio.Event()
        self.cut = asyncio.Event()
        self._reload: Reload | None = None
        self._stats: Stats | None = None

    async def open(self, *, reload: Reload, stats: Stats) -> None:
        """Begin to read from the other side. See the top of this module."""
        self._reload, self._stats = reload, stats

    def ready(self) -> None:
        """Connections are accepted."""
        if self.state is State.STARTING:
            self.state = State.READY

    async def report(self) -> dict[str, Any]:
        """The statistics of all workers, added up, with those of each (see `total`). Workers that do not
        answer in time are missing. Never raises."""
        return total([self._own()])

    async def close(self) -> None:
        """The worker has ended: it serves nothing any more."""
        self.stop()

    def stop(self, *, now: bool = False) -> None:
        """End the worker, gracefully or at once."""
        self.state = State.DRAINING
        self.stopping.set()
        if now:
            self.cut.set()

    def _own(self) -> dict[str, Any]:
        assert self._stats is not None
        own = {"worker": self.number, "pid": os.getpid(), "tasks": len(asyncio.all_tasks())}
        return {**own, **self._stats()}

    def _reloaded(self, options: object) -> tuple[list[str], str | None]:
        """Give the worker new options. The names of those that wait for a restart, and the error, if
        any."""
        assert self._reload is not None
        try:
            return sorted(self._reload(options)), None
        except Exception as error:
            _logger.exception("worker %d could not take the new options", self.number)
            return [], f"{type(error).__name__}: {error}"


class Link(Channel):
    """The channel of a worker that a supervisor has started.

    ``sock``: a connected AF_UNIX socket, the supervisor at its other end.
    ``folder``: see `Channel`.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: int,
        workers: int,
        *,
        folder: str | None = None,
        instance: str | None = None,
    ) -> None:
        super().__init__(number, workers, instance=instance)
        self._sock = sock
        self.folder = folder
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._reports: dict[int, asyncio.Future[list[dict[str, Any]]]] = {}
        self._numbers = itertools.count()

    async def open(self, *, reload: Reload, stats: Stats) -> None:
        """See `Channel.open`."""
        await super().open(reload=reload, stats=stats)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        # Ends this worker gracefully, however often it comes. The supervisor then starts another.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop)
        self._listening = asyncio.create_task(self._listen(reader), name="layergate channel")
        self._tick()

    def ready(self) -> None:
        """See `Channel.ready`."""
        if self.state is State.STARTING:
            super().ready()
            self.send({"op": "ready"})

    def stop(self, *, now: bool = False) -> None:
        """See `Channel.stop`."""
        if not self.stopping.is_set():
            self.send({"op": "draining"})
        super().stop(now=now)

    async def report(self) -> dict[str, Any]:
        """See `Channel.report`."""
        number = next(self._numbers)
        future: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._reports[number] = future
        try:
            self.send({"op": "report", "id": number})
            async with asyncio.timeout(timeouts.REPORT_OF_ALL):
                reports = await future
            return total(reports, workers=self.workers)
        except (TimeoutError, ChannelBroken):
            return total([self._own()], workers=self.workers)
        finally:
            del self._reports[number]

    async def close(self) -> None:
        """See `Channel.close`."""
        await super().close()
        if self._beat is not None:
            self._beat.cancel()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. Never raises: if the supervisor is gone, or has not read for too long, `stopping`
        is set."""
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        writer.write(pack(message))
        if writer.transport.get_write_buffer_size() > _MAX_QUEUE:
            writer.transport.abort()

    def _tick(self) -> None:
        """Give a sign of life."""
        self.send({"op": "alive"})
        self._beat = asyncio.get_running_loop().call_later(BEAT, self._tick)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(await receive(reader, options=True))
        except ChannelBroken as error:
            _logger.warning("worker %d ends: its supervisor is gone (%s)", self.number, error)
        except Exception:
            _logger.exception("worker %d ends: its channel failed", self.number)
        for future in self._reports.values():
            if not future.done():
                future.set_exception(ChannelBroken("the supervisor is gone"))
        self.stop()

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict):
            ignored, error = self._reloaded(message)
            self.send({"op": "reloaded", "ignored": ignored, "error": error})
            return
        op = message["op"]
        if op == "stop":
            self.stop(now=bool(message.get("now")))
        elif op == "stats":
            self.send({"op": "stats", "id": message["id"], "stats": self._own()})
        elif op == "report":
            future = self._reports.get(message["id"])
            if future is not None and not future.done():
                future.set_result(message["stats"])


BEAT: Final = 0.5  # seconds between two signs of life
