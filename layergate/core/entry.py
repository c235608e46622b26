"""What a layer stores: a value with its tags, its times and its stamp."""

from __future__ import annotations

from typing import Any

__all__ = ["Entry"]


class Entry:
    """One stored value.

    All times are seconds since the Unix epoch, all windows are seconds.

    ``value``        anything; ``None`` is a value too (a negative result), a miss is "no Entry".
    ``tags``         surrogate keys that a purge may name.
    ``stamp``        the position of the invalidation log when the fetch of this value *began*.
    ``checked``      the log position up to which this very object is known not to be purged
                     (in-process only, never on the wire; always >= ``stamp``).
    ``created``      when the value was fetched or last validated.
    ``fresh_until``  end of the freshness lifetime. Where something else than time has ended it (see
                     `outdate`) it is 0, so that no clock that is set back makes the value fresh
                     again.
    ``outdated``     when that was; None if nothing has.
    ``stale_while_revalidate``, ``stale_if_error``
                     how long after ``stale_from`` the value may still be used (RFC 5861).
    ``expires``      when a layer may reclaim it; never before the end of both windows.
    ``doubtful``     it may have been purged unheard: to be used only once validated (in-process
                     only).
    ``size``         payload in bytes as the producer knows it, or 0 for "let the layer estimate".

    Treat it as immutable, but for ``checked`` and for `outdate` (single stores of a number in an
    order that is safe without a lock).
    """

    __slots__ = (
        "checked",
        "created",
        "doubtful",
        "expires",
        "fresh_until",
        "outdated",
        "size",
        "stale_if_error",
        "stale_while_revalidate",
        "stamp",
        "tags",
        "value",
    )

    def __init__(
        self,
        value: Any,
        *,
        created: float,
        fresh_until: float,
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        expires: float | None = None,
        tags: tuple[str, ...] = (),
        stamp: int = 0,
        size: int = 0,
    ) -> None:
        self.value = value
        self.created = created
        self.fresh_until = fresh_until
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        if expires is None:
            expires = fresh_until + max(stale_while_revalidate, stale_if_error)
        self.expires = expires
        self.tags = tags
        self.stamp = stamp
        self.checked = stamp
        self.doubtful = False
        self.outdated: float | None = None
        self.size = size

    @property
    def stale_from(self) -> float:
        """The moment the stale windows run from: the end of the freshness lifetime, by time or by
        `outdate`."""
        return self.fresh_until if self.outdated is None else self.outdated

    def staleness(self, now: float) -> float:
        """For how many seconds it has been stale at ``now``; negative while it is fresh."""
        if self.outdated is None:
            return now - self.fresh_until
        return max(0.0, now - self.outdated)

    def outdate(self, time: float) -> None:
        """Make it stale, as of ``time`` (seconds since the epoch) or as of the end of its lifetime,
        whichever comes first. Whatever the wall clock says from now on, it is not fresh again."""
        # The time first: whoever reads the 0 finds it.
        self.outdated = min(time, self.stale_from)
        self.fresh_until = 0.0

    def clipped(self, fresh_until: float) -> Entry:
        """A copy that is fresh no longer than ``fresh_until`` (a layer's own, shorter TTL)."""
        ends = self.stale_from
        cut = min(ends, fresh_until)
        copy = Entry(
            self.value,
            created=self.created,
            fresh_until=cut,
            stale_while_revalidate=self.stale_while_revalidate,
            stale_if_error=self.stale_if_error,
            expires=max(cut, self.expires - (ends - cut)),
            tags=self.tags,
            stamp=self.stamp,
            size=self.size,
        )
        copy.checked = self.checked
        if self.outdated is not None:
            copy.outdate(cut)
        return copy

    def windowed(self, stale_while_revalidate: float | None, stale_if_error: float | None) -> Entry:
        """A copy whose stale windows are no longer than these (a layer's own), seconds; None: as
        they are."""
        copy = self.clipped(self.stale_from)
        if stale_while_revalidate is not None:
            copy.stale_while_revalidate = min(self.stale_while_revalidate, stale_while_revalidate)
        if stale_if_error is not None:
            copy.stale_if_error = min(self.stale_if_error, stale_if_error)
        # Where nothing but its windows kept it; otherwise it is kept for validation.
        if self.expires <= self.stale_from + max(self.stale_while_revalidate, self.stale_if_error):
            windows = max(copy.stale_while_revalidate, copy.stale_if_error)
            copy.expires = self.stale_from + windows
        return copy

    def distrusted(self, now: float) -> Entry:
        """A copy that is stale, and may be used only if validated."""
        copy = self.clipped(now)
        copy.outdate(now)
        copy.expires = self.expires
        copy.stale_while_revalidate = 0.0
        copy.doubtful = True
        return copy

    def __repr__(self) -> str:
        return (
            f"Entry({type(self.value).__name__}, fresh_until={self.fresh_until:.3f},"
            f" tags={self.tags!r}, stamp={self.stamp})"
        )
