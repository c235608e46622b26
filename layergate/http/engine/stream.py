"""The body of one response, as it comes, for the store and for all requests that read along.

    add ──▶ chunks ──join──▶ one body ──▶ the store
              │                 │
              └─ Reader.take ◀──┘ ──▶ a client each

A `Stream` *keeps* every chunk while the body may be stored. Once it does not (`drop`), it holds only
what its slowest reader has not taken: the fetch waits in `room`, and a reader that holds up the others
for too long is cut off. It is *shared* while requests other than its own may read along.

    OPEN ──end──▶ ended        all of the body has come
         ──break_off─▶ broken  the origin stopped in the middle (G6)

An `exchange.Exchange` has one; the `feed` adds to it, and the adapters read from it. A stream knows no
store, no HTTP and no event loop: its clock, lock and pulse are given to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Self

from layergate.core.flight import Pulse
from layergate.errors import OriginAborted
from layergate.http.message.ranges import PIECE

__all__ = ["WINDOW", "Reader", "Stream", "StreamOver"]

WINDOW: Final = 256 * 1024
"""How many bytes a reader may lag behind in a stream that is not kept."""


class StreamOver(RuntimeError):
    """The stream has ended or broken off already."""


class Stream:
    """``length``: how much has come, bytes. ``body``: all of it, once `join` has made it one; else
    None. ``error``: why it broke off, as long as there are readers.

    ``monotonic``: the clock, seconds. ``lock``: of the chunks and readers, which threads share.
    ``patience``: for how long a reader may hold up the others, seconds. ``cut``: called with the
    request of a reader that is cut off.
    """

    __slots__ = (
        "_chunks",
        "_cut_off",
        "_idle",
        "_idle_since",
        "_lock",
        "_monotonic",
        "_patience",
        "_readers",
        "_trimmed",
        "body",
        "broken",
        "ended",
        "error",
        "keeps",
        "length",
        "pulse",
        "shared",
    )

    def __init__(
        self,
        pulse: Pulse,
        lock: AbstractContextManager[Any],
        monotonic: Callable[[], float],
        *,
        patience: float,
        cut: Callable[[Any], object],
    ) -> None:
        self.pulse = pulse
        self._lock = lock
        self._monotonic = monotonic
        self._patience = patience
        self._cut_off = cut
        self._chunks: list[bytes] = []
        self._trimmed = 0  # chunks dropped from the front
        self._readers: set[Reader] = set()
        self._idle = 0.0
        self._idle_since: float | None = None
        self.body: bytes | None = None
        self.length = 0
        self.keeps = False
        self.shared = False
        self.ended = False
        self.broken = False
        self.error: BaseException | None = None

    # -- what the origin sends -----------------------------------------------------------------

    def add(self, chunk: bytes) -> None:
        """The next part of the body. Raises StreamOver after its end."""
        if self.ended or self.broken:
            raise StreamOver("a part of the body came after its end")
        self.length += len(chunk)
        with self._lock:
            if self.keeps or self.shared:
                self._chunks.append(chunk)
        if self.shared:
            if not self.keeps:
                self._trim()
            self.pulse.beat()

    def insert(self, piece: bytes) -> None:
        """Octets that are stored already, before or after those that come."""
        if piece:
            with self._lock:
                self._chunks.append(piece)

    def drop(self) -> bool:
        """Keep the body no longer. Those who read along still get all of it. From any thread. False,
        with nothing changed, if it was not kept or is `join`-ed already."""
        with self._lock:
            if not self.keeps or self.body is not None:
                return False
            self.keeps = False
            if not self.shared:
                self._chunks = []
        return True

    def unshare(self) -> None:
        """The response is for one client, and is not stored: what has come is of no use."""
        with self._lock:
            self.keeps = self.shared = False
            self._chunks = []

    def join(self) -> bytes | None:
        """Make one of the parts of a body that is kept, for the store and for all who have not read to
        its end yet. None if it is not kept."""
        with self._lock:
            if self.keeps and self.body is None:
                self.body, self._chunks = b"".join(self._chunks), []
            return self.body

    def end(self) -> None:
        """All of the body has come. Raises StreamOver if it is over already."""
        if self.ended or self.broken:
            raise StreamOver("a body ended twice")
        self.ended = True
        self.pulse.beat()

    def break_off(self, error: BaseException | None = None) -> None:
        """Nothing more comes; readers in the middle see it break off too. Raises StreamOver if the
        stream is over already.

        ``error`` is kept for the readers, as long as there are any: its traceback refers to the frames
        that refer to this stream, and a circle waits for the garbage collector, with all of the body.
        """
        if self.ended or self.broken:
            raise StreamOver("a body broke off after its end")
        self.keeps = False
        self.error = error if self._readers else None
        if not self.shared:
            self._chunks = []
        self.broken = True
        self.pulse.beat()

    # -- its own client ------------------------------------------------------------------------

    @contextmanager
    def at_client(self) -> Iterator[None]:
        """Around what is sent, inside of the fetch, to the client whose request was forwarded: while
        that takes nothing, the fetch stands still."""
        self.rests()
        try:
            yield
        finally:
            self.goes_on()

    def rests(self) -> None:
        """The fetch waits for its own client from now on."""
        self._idle_since = self._monotonic()

    def goes_on(self) -> None:
        """It does not any more. Does nothing if it did not."""
        since, self._idle_since = self._idle_since, None
        if since is not None:
            self._idle += self._monotonic() - since

    @property
    def idle(self) -> float:
        """For how long the fetch has waited for its own client, in all, seconds."""
        since = self._idle_since
        return self._idle + (0.0 if since is None else self._monotonic() - since)

    @property
    def held_up(self) -> bool:
        """True if its own client has held up the fetch for longer than anybody else should wait."""
        return (self._idle > 0 or self._idle_since is not None) and self.idle > self._patience

    # -- those who read along ------------------------------------------------------------------

    def reader(self, request: object) -> Reader:
        """A place among the readers. It may be ``late`` already: the beginning is gone."""
        reader = Reader(self, request)
        with self._lock:
            reader.late = self._trimmed > 0
            self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Take a reader off the stream."""
        with self._lock:
            self._readers.discard(reader)
        if not self._readers:
            self.error = None
        if self.oversized:
            self.pulse.beat()  # the producer may be waiting for it

    @property
    def readers(self) -> int:
        """How many requests wait or read along, the one that leads included."""
        return len(self._readers)

    @property
    def oversized(self) -> bool:
        """True if the stream is shared without being kept: `room` is awaited after each chunk."""
        return self.shared and not self.keeps and not self.ended

    async def room(self) -> None:
        """Backpressure of a stream that is not kept: wait until its slowest reader is close.

        A reader is cut off that has held up others for ``patience`` in all, whatever it takes
        meanwhile: that is the time in which it was too far behind for more to come, and another one
        had taken all there is. Alone it may take the time it wants, like any client without a cache.
        """
        while True:
            seen = self.pulse.version
            with self._lock:
                behind = [one for one in self._readers if self._backlog(one) > WINDOW]
                end = self._trimmed + len(self._chunks)
                starved = any(one.index >= end for one in self._readers)
            if not behind:
                return
            if not starved:
                await self.pulse.wait(seen)
            else:
                began = self._monotonic()
                left = self._patience - max(one.held for one in behind)
                await self.pulse.wait(seen, max(0.0, left))
                held = self._monotonic() - began
                for one in behind:
                    one.held += held
                    if one.held >= self._patience:
                        self._cut(one)
            self._trim()

    def _cut(self, reader: Reader) -> None:
        """Go on without this reader."""
        with self._lock:
            if reader not in self._readers:
                return
            reader.cut = True
            self._readers.discard(reader)
        self._cut_off(reader.request)
        self.pulse.beat()

    def _backlog(self, reader: Reader) -> int:
        """Bytes that this reader has not taken yet."""
        chunks = self._chunks[reader.index - self._trimmed :]
        return sum(map(len, chunks)) - reader.within

    def _trim(self) -> None:
        """Drop the chunks that every reader has had, if the body is not kept."""
        if self.keeps or self.ended:
            return
        with self._lock:
            end = self._trimmed + len(self._chunks)
            first = min((reader.index for reader in self._readers), default=end)
            del self._chunks[: first - self._trimmed]
            self._trimmed = first


class Reader:
    """One request that waits for a response and then reads along.

    Use it as a context manager: leaving takes it off the stream, whatever happened.

    ``late``: it came when the beginning was gone. ``cut``: it was too slow, and gets no more.
    ``gone``: its client has left.
    """

    __slots__ = (
        "_stream",
        "_taken",
        "cut",
        "gone",
        "held",
        "index",
        "late",
        "request",
        "starved",
        "within",
    )

    def __init__(self, stream: Stream, request: object) -> None:
        self._stream = stream
        self.request = request
        self.index = 0  # of the chunk to take next, and
        self.within = 0  # what has been taken of that, bytes
        self._taken = 0  # what has been taken in all, bytes
        self.held = 0.0  # how long it has held up others, seconds
        self.starved = 0.0  # how long the client that leads has held up this one, seconds
        self.cut = False
        self.late = False
        self.gone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.leave(self)

    def leave(self) -> None:
        """The client of this reader is gone."""
        self.gone = True
        self._stream.pulse.beat()

    def take(self) -> bytes:
        """A piece of what has come, at most `PIECE` bytes; b"" if nothing has."""
        stream = self._stream
        with stream._lock:
            if self.cut:
                return b""
            body = stream.body
            if body is not None:
                piece = body[self._taken : self._taken + PIECE]  # (of all, that is itself)
                self._taken += len(piece)
                return piece
            chunks, at = stream._chunks, self.index - stream._trimmed
            if at >= len(chunks):
                return b""
            first = chunks[at]
            piece = first[self.within : self.within + PIECE]
            if self.within + len(piece) < len(first):
                self.within += len(piece)
            else:
                size, stop = len(piece), at + 1
                while stop < len(chunks) and size + len(chunks[stop]) <= PIECE:
                    size += len(chunks[stop])
                    stop += 1
                if stop > at + 1:
                    piece = b"".join([piece, *chunks[at + 1 : stop]])
                self.index, self.within = stream._trimmed + stop, 0
            self._taken += len(piece)
        return piece

    def rest(self) -> bytes | None:
        """All that has not been taken of a body that is whole, which is taken now; None if it is not
        whole, or is to be taken piece by piece."""
        body = self._stream.body
        if body is None:
            return None
        start, self._taken = self._taken, len(body)
        return body[start:]

    def skip(self) -> None:
        """Take all that has come, without looking at it."""
        stream = self._stream
        with stream._lock:
            self.index, self.within = stream._trimmed + len(stream._chunks), 0
            self._taken = stream.length

    def _waiting(self) -> bool:
        """True if there is something to take."""
        stream = self._stream
        with stream._lock:
            if stream.body is not None:
                return self._taken < len(stream.body)
            return self.index < stream._trimmed + len(stream._chunks)

    @property
    def at_end(self) -> bool:
        """True if everything has been taken, and nothing more will come."""
        return self._stream.ended and not self.cut and not self._waiting()

    async def more(self, timeout: float) -> bool:
        """Wait until there is something to take, or the end, or the client has left.

        False if nothing happened for ``timeout`` seconds. Raises OriginAborted when the origin
        broke off, or this reader was cut off.
        """
        stream = self._stream
        if stream.oversized:
            stream.pulse.beat()  # what we took makes room
        while True:
            seen = stream.pulse.version
            if self.cut:
                raise OriginAborted("a client was too slow for a response that others wait for")
            if self._waiting() or stream.ended or self.gone:
                return True
            if stream.broken:
                raise OriginAborted("the origin ended its response before its end") from (
                    stream.error
                )
            limit = stream._patience
            before = stream.idle
            wait = timeout
            if stream._idle_since is not None:
                wait = min(timeout, max(0.0, limit - self.starved))
            moved = await stream.pulse.wait(seen, wait)
            held = stream.idle - before
            self.starved += held
            if held and self.starved >= limit:
                stream._cut(self)
            elif not moved and wait < timeout:
                continue
            elif not moved:
                return False
