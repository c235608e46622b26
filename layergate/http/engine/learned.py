"""What one process remembers of responses that it has seen, beside what it stores.

Everything here is a hint, bounded in number, kept by the hash of a key, and safe to lose: without it
the cache asks the origin once more. The verbs of the engine read and write it.
"""

from __future__ import annotations

from layergate.core.ports import Runtime
from layergate.http.engine.added_lines import MEMO
from layergate.http.message.fields import Line, Lines
from layergate.http.rfc9111.variants import Codings

__all__ = ["Learned"]

_LONGEST_LINE = 192  # bytes of a header line that is worth sharing
_STRENGTHENED = 1  # times a weak tag may be confirmed by a strong one before it is sent no more


class Learned:
    """``codings``: the values of Accept-Encoding that variants are stored for."""

    __slots__ = ("_lines", "_lock", "_reloads", "_runtime", "_strengthened", "_unnamed", "codings")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.codings = Codings()
        self._lines: dict[Line, Line] = {}
        self._unnamed: set[int] = set()
        self._strengthened: dict[int, int] = {}
        self._reloads: dict[int, float] = {}  # oldest first
        self._lock = runtime.lock()  # of ``_reloads``

    def forked(self) -> None:
        """In the child of a fork: a thread of the parent may hold the lock."""
        self._lock = self._runtime.lock()

    # -- reloads -------------------------------------------------------------------------------

    def note_reload(self, storage_key: bytes) -> None:
        """A reload of what is stored under this key goes to the origin now."""
        place = hash(storage_key)
        with self._lock:
            self._reloads.pop(place, None)
            if len(self._reloads) >= MEMO:
                del self._reloads[next(iter(self._reloads))]
            self._reloads[place] = self._runtime.now()

    def last_reload(self, storage_key: bytes) -> float:
        """When the last one went there, seconds since the epoch; 0 if none is known."""
        return self._reloads.get(hash(storage_key), 0.0)

    # -- validators ----------------------------------------------------------------------------

    def note_unnamed(self, primary: bytes) -> None:
        """The origin of this target answers several entity tags with a 304 that names none."""
        if len(self._unnamed) >= MEMO:
            self._unnamed.clear()
        self._unnamed.add(hash(primary))

    def names_in_304(self, primary: bytes) -> bool:
        """False if `note_unnamed` was told of this target."""
        return hash(primary) not in self._unnamed

    def note_strengthened(self, storage_key: bytes) -> None:
        """A 304 confirmed the weak entity tag stored under this key by a strong one, so that nothing
        could be updated. See `validation`."""
        if len(self._strengthened) >= MEMO:
            self._strengthened.clear()
        place = hash(storage_key)
        self._strengthened[place] = self._strengthened.get(place, 0) + 1

    def weak_tag_is_useless(self, storage_key: bytes) -> bool:
        """True if that happened again and again: then a validation costs more than a fetch."""
        return self._strengthened.get(hash(storage_key), 0) > _STRENGTHENED

    # -- lines ---------------------------------------------------------------------------------

    def shared_lines(self, lines: Lines) -> Lines:
        """The same lines, with equal ones shared between responses. Most header lines of most
        responses are the same, and a tuple of two byte strings costs more than it holds."""
        pool = self._lines
        if len(pool) >= MEMO:
            pool.clear()
        return [
            pool.setdefault(line, line) if len(line[0]) + len(line[1]) <= _LONGEST_LINE else line
            for line in lines
        ]
