"""What the core needs from a system that several instances share: a log, leases, a layer with both.

An *instance* is one process that uses the shared layer. Each tails the log, and is *trusted* until
a moment on its own monotonic clock: until then no purge can have become final without it, because
the shared system would have waited for its word. Past that moment it treats what it holds as stale,
until it has caught up with the log. No clocks of two machines are ever compared (G3).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from layergate.core.codec import ValueType
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations, PurgeReceipt
from layergate.core.layer import Key, Layer
from layergate.core.ports import Runtime

__all__ = [
    "Joining",
    "Lease",
    "Leases",
    "Log",
    "MappedLog",
    "ReportingLayer",
    "SharedLayer",
    "Waited",
]


class Log(Protocol):
    """The invalidation log as one instance sees it. It applies records to the stack's
    `Invalidations`."""

    @property
    def trusted_until(self) -> float:
        """`Runtime.monotonic` seconds up to which the marks are known to be complete enough for
        every purge that has returned. ``inf`` in a single process, ``-inf`` before the first
        contact. For the hit path: it takes no lock unless there is something new, and never raises."""
        ...

    def look(self) -> bool:
        """Called when trust has lapsed: extends it if a few microseconds on this thread are enough for
        that. True if the marks can be trusted now. Never raises."""
        ...

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        """Append one record made at ``time`` (seconds since the epoch), apply it here, and wait
        until every live instance has applied it, at most ``wait`` seconds (None: as long as it may
        take to be final, which is bounded).

        Never raises for a fault of the shared system: then the marks are applied here at once,
        are appended as soon as it is back, and the receipt is not ``final``.
        Raises KeyRefused, with nothing appended, for a pattern that `glob` refuses.
        """
        ...

    async def catch_up(self) -> bool:
        """Called when trust has lapsed (or was never there): starts what has to run in the
        background, and tries once, within the layer's time budget, to be up to date. Never raises.

        True if the marks can be trusted now.
        """
        ...

    async def leave(self) -> None:
        """This instance goes: purges need not wait for it any more. A later `catch_up` joins
        anew."""
        ...

    def forked(self) -> None:
        """This is the child of a fork: a new instance, with nothing running and nothing trusted."""
        ...

    def stats(self) -> Mapping[str, int | float]: ...


@runtime_checkable
class MappedLog(Log, Protocol):
    """A log whose end lies in memory that processes share. The hit path then need not call anything: what
    is held can be relied on until ``until`` while ``end[0]`` equals ``applied``. If it does not, or the time
    has passed, `look` decides."""

    @property
    def end(self) -> Sequence[int]: ...

    @property
    def applied(self) -> int: ...

    @property
    def until(self) -> float: ...


class Waited(enum.Enum):
    """How a wait for somebody else's lease ended."""

    LANDED = enum.auto()  # it was released, or ran out: look into the layers, then try again
    FREE = (
        enum.auto()
    )  # it was released as free: what is fetched is not shared, so nobody need wait
    TIMEOUT = enum.auto()


class Lease(Protocol):
    """The fleet-wide right to fetch one key. Renewed in the background while it is held and alive;
    one that is garbage is not renewed but given back."""

    @property
    def recent(self) -> bool:
        """Somebody else released this key's lease within the last term: what they fetched may have
        come after the holder's look into the layers, so look again before fetching."""
        ...

    @property
    def sure(self) -> bool:
        """Is it certainly still ours, by what is known here? If not, `confirm` asks."""
        ...

    async def confirm(self) -> bool:
        """Is it still ours? False when it ran out (the process stood still) and somebody else took
        it: then what was fetched under it must not be stored. True when nobody can tell. Never
        raises."""
        ...

    async def release(self, *, free: bool = False) -> None:
        """Give it back and wake those who wait; if the shared system is away, as soon as it is
        back. ``free``: what was fetched is not to be shared, so they may all fetch at once.
        Idempotent, never raises."""
        ...


class Leases(Protocol):
    """Where leases come from."""

    async def acquire(
        self,
        key: Key,
        *,
        wait: float,
        note: str = "",
        held: Callable[[str], object] | None = None,
    ) -> Lease | Waited:
        """Take the lease of ``key``; if somebody else holds it, wait for at most ``wait`` seconds.

        ``note``: a few ASCII characters that the lease carries, for those who wait for it.
        ``held``: called when the wait begins, with the note of who has it ("" if there is none).

        With ``wait`` 0 one try is made: a Lease or TIMEOUT. Raises whatever the shared system
        raises when it is away: the caller then fetches without a lease.
        """
        ...

    async def leave(self) -> None:
        """This instance goes, and fetches nothing any more: give back what it still holds. One try;
        never raises."""
        ...


class Joining(NamedTuple):
    """What a stack gives to its shared layer, once, when it is made. Nothing may start then."""

    invalidations: Invalidations
    runtime: Runtime
    counters: Counters
    values: Sequence[ValueType]  # how the stack's values go over the wire, beside plain data


@runtime_checkable
class SharedLayer(Layer, Protocol):
    """A layer that brings the log and the leases of those who share it."""

    def join(self, joining: Joining) -> tuple[Log, Leases]:
        """Become part of a stack."""
        ...


@runtime_checkable
class ReportingLayer(SharedLayer, Protocol):
    """A shared layer whose processes can ask each other for their statistics."""

    def report_with(self, report: Callable[[], Mapping[str, Any]]) -> None:
        """``report``: the statistics of this process."""
        ...

    async def reports(self) -> tuple[list[dict[str, Any]], int]:
        """The statistics of this process and of those that answer in time, each with a number as
        ``worker`` and its ``pid``; and how many processes there are. Never raises."""
        ...
