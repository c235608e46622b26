"""The ports that the author of a shared system writes: `Blobs` for entries, `Cells` for coordination.

*Blobs* hold the entries. Nothing is asked of their consistency: every entry carries the position of
the log at which it was stamped, so a stale, lost or resurrected blob is recognized and costs a miss.

*Cells* are small values that are only changed by compare-and-set. On them alone stand the log of
purges and the leases (`layergate.shared.ledger`). A system that can do better implements the ports of
`layergate.shared.journal` directly, as Redis does with its scripts.

Every method may answer at once or return an awaitable; the caller awaits what is awaitable. Under
asyncio, return the awaitable of an asynchronous client. Under threads (WSGI), block and answer. So a
client library with mirrored interfaces needs one class: call, and return what the call returns.

Errors: raise `LayerRefused` if the system answered and said no (no permission, value too large, out
of space). Any other exception counts as a fault of the system: it costs a miss and moves the breaker
(`layergate.shared.guard`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from inspect import isawaitable
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from layergate.core.layer import MaybeAwaitable

__all__ = [
    "MORE",
    "Blobs",
    "Cell",
    "Cells",
    "ConditionalBlobs",
    "EpochCells",
    "EpochLoadingCells",
    "Limits",
    "RemovableCells",
    "Tag",
    "WaitableCells",
    "answered",
]

T = TypeVar("T")


async def answered(answer: MaybeAwaitable[T]) -> T:
    """What a method of a port answers, awaited if it is awaitable."""
    return await answer if isawaitable(answer) else answer


class Limits(NamedTuple):
    """What a system can hold.

    ``largest``         bytes of the largest value; None: no limit that matters.
    ``longest_name``    characters of the longest name; None: no limit that matters.
    ``least_lifetime``  seconds: the shortest lifetime that the system can be asked for. A blob with
                        less left is kept this long, and ignored once it has expired.
    """

    largest: int | None = None
    longest_name: int | None = None
    least_lifetime: float = 0.0


MORE: Final = object()
"""What `Blobs.clear` returns if there may be more to remove."""


@runtime_checkable
class Blobs(Protocol):
    """Named bytes with a lifetime.

    Names are ASCII: letters, digits and any of ``-_.:/{}``. They begin with the namespace and have
    the same length within one namespace, at most 128 characters.
    """

    @property
    def limits(self) -> Limits: ...

    def get_many(self, names: Sequence[str]) -> MaybeAwaitable[Sequence[bytes | None]]:
        """The values under these names, in their order; None where there is no value. The list is
        not empty and holds no name twice."""
        ...

    def set(self, name: str, data: bytes, seconds: float) -> MaybeAwaitable[object]:
        """Keep ``data`` for about ``seconds`` (> 0), replacing any other value. The system may drop
        it earlier."""
        ...

    def delete(self, name: str) -> MaybeAwaitable[bool]:
        """Remove the value. True if there was one; a system that cannot tell answers True."""
        ...

    def clear(self) -> MaybeAwaitable[object]:
        """Remove every value of this namespace. A value that is set meanwhile may stay.

        It may also remove a part of them and return `MORE`. Then it is called again, with a time budget
        of its own."""
        ...


Tag: TypeAlias = Hashable
"""Identifies one version of one cell. Only equality means anything."""


class Cell(NamedTuple):
    data: bytes
    tag: Tag


@runtime_checkable
class Cells(Protocol):
    """Named bytes that are changed by compare-and-set. Linearizable: as if all operations of all
    clients were done one after the other, each between its call and its return.

    So every `load` must be a strong read: of the primary, with the option that the system calls
    consistent. A cached response is an error.

    A tag never repeats for a name: neither after the cell was removed and made again, nor after the
    server was restarted. A system whose tags repeat must add something of its own to the data (a
    random nonce) and compare that.

    Names are as for `Blobs`, of any length up to 128 characters.

    An optional attribute, ``cheap_puts``: False where each write costs money or takes long. Then
    instances do not acknowledge purges, and a purge takes the whole trust period to be final.
    """

    @property
    def limits(self) -> Limits: ...

    def load(self, name: str) -> MaybeAwaitable[Cell | tuple[bytes, Tag] | None]:
        """The cell's data and tag; None if there is no such cell."""
        ...

    def swap(self, name: str, tag: Tag | None, data: bytes) -> MaybeAwaitable[Tag | None]:
        """Replace the data if the cell's tag is still ``tag``; with None, create the cell if there is
        none. Returns the new tag, or None if nothing was changed.

        After an exception nobody knows whether it was done.
        """
        ...

    def put(self, name: str, data: bytes) -> MaybeAwaitable[object]:
        """Set the data whatever is there. The cell's tag changes."""
        ...


# -- what a system may offer beside ------------------------------------------------------------------
# Each is a protocol of its own: a class that has the method (or attribute) offers it.


@runtime_checkable
class WaitableCells(Cells, Protocol):
    """Cells that tell of changes: a notification, a change stream, a socket."""

    def wait(self, name: str, tag: Tag | None, seconds: float) -> MaybeAwaitable[bool]:
        """Return True once the cell's tag is another than ``tag`` (None: once there is such a cell),
        False after ``seconds`` without a change. May return True too early. A lost connection
        raises."""
        ...


@runtime_checkable
class EpochCells(Cells, Protocol):
    """Cells of a system where a failover may lose the last writes."""

    def epoch(self) -> MaybeAwaitable[bytes]:
        """Identifies the history of the primary that answers: changes whenever acknowledged writes
        may have been lost (PostgreSQL: system identifier and timeline; Redis: run_id)."""
        ...


@runtime_checkable
class EpochLoadingCells(EpochCells, Protocol):
    """Cells that can be loaded together with the epoch, in one call."""

    def load_at_epoch(self, name: str) -> MaybeAwaitable[tuple[Cell | None, bytes]]:
        """What `load` and then `epoch` would answer, of the same server. The cell must not have been read
        later than the epoch, unless the server cannot have been replaced in between."""
        ...


@runtime_checkable
class RemovableCells(Cells, Protocol):
    """Cells that can be removed, so that those of members that are gone do not pile up."""

    def remove(self, name: str) -> MaybeAwaitable[object]:
        """Remove the cell; its name may be used again."""
        ...


@runtime_checkable
class ConditionalBlobs(Protocol):
    """Cells and blobs of one system that can be written in one transaction."""

    def set_if(
        self, cell: str, tag: Tag, name: str, data: bytes, seconds: float
    ) -> MaybeAwaitable[bool]:
        """Set the blob ``name`` as `Blobs.set` does if the tag of ``cell`` is still ``tag``. True if
        it was set."""
        ...
