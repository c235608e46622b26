"""Bodies of responses under WSGI: what the app gives, and what the server gets.

    app ──▶ Source ──▶ `fetch.Fetch` ──▶ Copied, Whole ──▶ server
    the fetch of another request ──▶ Along ──▶ server

`fetch` and the middleware make these; nothing here decides what becomes of a response.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, Self

from layergate.http.engine.stream import Reader
from layergate.runtime.blocking import run_blocking
from layergate.wsgi.heads import Body

__all__ = ["Afterwards", "Along", "Copied", "File", "Source", "Whole"]

_LOOK_UP: Final = 5.0  # seconds between two checks of a reader that waits


class File:
    """A file that the app hands to the server (PEP 3333, "Optional Platform-Specific File
    Handling"). It goes to the server's own wrapper unless its bytes are to be stored."""

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        while data := self.file.read(self.block_size):
            yield data


class Source:
    """What the app has returned, taken part by part. Empty parts are left out.

    ``listed``: a list, which holds all of the body. ``slowest``: the longest that the app took for a
    part, seconds.
    """

    __slots__ = ("_closed", "_iterator", "_next", "iterable", "listed", "slowest")

    def __init__(self, iterable: Body) -> None:
        self.iterable = iterable
        self.listed = type(iterable) in (list, tuple)
        self.slowest = 0.0
        self._iterator: Iterator[bytes] | None = None
        self._next: bytes | None = None
        self._closed = False

    def take(self) -> bytes | None:
        """The next part; None at the end."""
        chunk, self._next = self._next, None
        if chunk is not None:
            return chunk
        if self._iterator is None:
            self._iterator = iter(self.iterable)
        began = time.monotonic()
        for chunk in self._iterator:
            if chunk:
                break
        else:
            chunk = None
        self.slowest = max(self.slowest, time.monotonic() - began)
        return chunk

    def at_end(self) -> bool:
        """True if there is no other part. Waits for the app."""
        self._next = self.take()
        return self._next is None

    def whole(self, first: bytes) -> bytes | None:
        """All of the body, if it is at hand; else None. ``first``: the first part; b"" if there is
        none."""
        if not first:
            return first
        if not self.listed:
            return None
        parts = list(self.iterable)
        return b"".join(parts) if all(isinstance(part, bytes) for part in parts) else None

    def close(self) -> None:
        """Call the ``close`` of the app's iterable, once."""
        if self._closed:
            return
        self._closed = True
        close = getattr(self.iterable, "close", None)
        if close is not None:
            close()


class Pulled(Protocol):
    """What a response is pulled from: a `Fetch`."""

    def pull(self) -> bytes | None:
        """The next part for the server; None at the end."""
        ...

    def close(self) -> None:
        """The server is done with the response."""
        ...


class Copied:
    """A response on its way from the app to its server."""

    __slots__ = ("_fetch",)

    def __init__(self, fetch: Pulled) -> None:
        self._fetch = fetch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        chunk = self._fetch.pull()
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._fetch.close()


class Whole(list[bytes]):
    """A complete response. It is a list, since a server announces the length of one that has one
    part."""

    __slots__ = ("_fetch",)

    def __init__(self, chunks: Iterable[bytes], fetch: Pulled) -> None:
        super().__init__(chunks)
        self._fetch = fetch

    def close(self) -> None:
        self._fetch.close()


class Along:
    """A follower's response: what the fetch of another request brings, as it comes.

    Raises OriginAborted when that breaks off.
    """

    __slots__ = ("_reader",)

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        reader = self._reader
        while True:
            data = reader.take()
            if data:
                return data
            if reader.at_end:
                raise StopIteration
            run_blocking(reader.more(_LOOK_UP))

    def close(self) -> None:
        self._reader.__exit__()


class Afterwards(list[bytes]):
    """A response, and ``work`` that its thread does once it has been sent."""

    __slots__ = ("_work",)

    def __init__(self, body: Body, work: Callable[[], None]) -> None:
        super().__init__(body)
        self._work: Callable[[], None] | None = work

    def close(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work()
