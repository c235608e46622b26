"""What is true in a history of purges on one host, in a file that every process of the history maps.

The apps read from it which version of a page is the newest; readers, below which version no answer may
be; and readers count in it what they saw. To read or write a number costs no system call, so a reader
knows the bound as of the moment at which it asks.

The newest versions and the bounds have one writer, the process that runs the history. Each reader has
numbers of its own.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

__all__ = ["COUNTS", "HOST_NAME", "KEYS", "Truth", "content", "path_of", "tag_of"]

KEYS: Final = 64
HOST_NAME: Final = "shop.test"
COUNTS: Final = ("reads", "hits", "collapsed", "errors", "lost", "violations")
"""What a reader counts: answers; of these, hits and those that waited for another's fetch; answers other
than 200; reads that ended without an answer, for the server was killed; answers that were too old."""

_READERS: Final = 16
_ENDED, _NEWEST, _BOUNDS, _COUNTS = 0, 8, 8 + KEYS, 8 + 2 * KEYS
_SIZE: Final = (_COUNTS + _READERS * len(COUNTS)) * 8
_PADDING: Final = b"." * 1200


def path_of(key: int) -> str:
    return f"/item/{key}"


def tag_of(key: int) -> str:
    return f"item-{key}"


def content(key: int, version: int) -> bytes:
    """The body of a page."""
    return b"%d %d %b" % (key, version, _PADDING)


class Truth:
    """The numbers in the file at ``path``. ``create``: make the file, with zeros."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        with path.open("w+b" if create else "r+b") as file:
            if create:
                file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._numbers = memoryview(self._map).cast("Q")
        self.newest = self._numbers[_NEWEST : _NEWEST + KEYS]
        """By key: the version that an app answers with whose call begins now."""
        self.bounds = self._numbers[_BOUNDS : _BOUNDS + KEYS]
        """By key: the lowest version that a read may see which begins now."""

    @property
    def ended(self) -> bool:
        return bool(self._numbers[_ENDED])

    def end(self) -> None:
        """Tell the readers to end."""
        self._numbers[_ENDED] = 1

    def counts(self, reader: int) -> memoryview:
        """The numbers of one reader, in the order of `COUNTS`."""
        assert reader < _READERS
        start = _COUNTS + reader * len(COUNTS)
        return self._numbers[start : start + len(COUNTS)]

    def total(self) -> dict[str, int]:
        """What all readers have counted."""
        each = [self.counts(reader) for reader in range(_READERS)]
        return {name: sum(one[at] for one in each) for at, name in enumerate(COUNTS)}
