"""What a layer stores: a value with its tags, its times and its stamp."""

from __future__ import annotations

from typing import Any

__all__ = ["Entry"]


class Entry:
    """One stored value.

    All times are seconds since the Unix epoch, all windows are seconds.

    ``value``        any object. None is a value too (a negative result); a miss is the absence of
                     an `Entry`.
    ``tags``         the surrogate keys that a purge may name.
    ``stamp``        the position of the invalidation log when the fetch of this value *began*.
    ``checked``      the log position up to which this very object is known not to be purged. Only
                     in this process, never on the wire; always >= ``stamp``.
    ``created``      when the value was fetched or last validated.
    ``fresh_until``  when the freshness lifetime ends. It is 0 if something other than time has
                     ended the lifetime (see `outdate`), so that no clock that is set back makes the
                     value fresh again.
    ``outdated``     when `outdate` ended the lifetime; None if it did not.
    ``stale_while_revalidate``, ``stale_if_error``
                     how long after ``stale_from`` the value may still be used (RFC 5861).
    ``expires``      when a layer may reclaim the entry. Never before the end of both windows.
    ``doubtful``     True: the entry may have been purged without this instance knowing, so it must
                     be validated before it is used. Only in this process.
    ``size``         bytes of the payload, as its producer knows it. 0: the layer estimates it.

    Treat an entry as immutable, except for ``checked`` and `outdate`: these store single numbers,
    in an order that is safe without a lock.
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
        """When the stale windows begin: at the end of the freshness lifetime, whether time or
        `outdate` ended it."""
        return self.fresh_until if self.outdated is None else self.outdated

    def staleness(self, now: float) -> float:
        """How many seconds the entry has been stale at ``now``; negative while it is fresh."""
        if self.outdated is None:
            return now - self.fresh_until
        return max(0.0, now - self.outdated)

    def outdate(self, time: float) -> None:
        """Make the entry stale as of ``time`` (seconds since the epoch), or as of the end of its
        lifetime if that is earlier. It stays stale, whatever the wall clock says later."""
        # The time first, so that a reader that sees the 0 finds it.
        self.outdated = min(time, self.stale_from)
        self.fresh_until = 0.0

    def clipped(self, fresh_until: float) -> Entry:
        """A copy that is fresh no longer than ``fresh_until``, for a layer with a shorter TTL of
        its own."""
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
        """A copy whose stale windows are at most these many seconds, for a layer with caps of
        its own. None: the window stays as it is."""
        copy = self.clipped(self.stale_from)
        if stale_while_revalidate is not None:
            copy.stale_while_revalidate = min(self.stale_while_revalidate, stale_while_revalidate)
        if stale_if_error is not None:
            copy.stale_if_error = min(self.stale_if_error, stale_if_error)
        # Only if the windows were what kept the entry. Otherwise it is kept for validation.
        if self.expires <= self.stale_from + max(self.stale_while_revalidate, self.stale_if_error):
            windows = max(copy.stale_while_revalidate, copy.stale_if_error)
            copy.expires = self.stale_from + windows
        return copy

    def distrusted(self, now: float) -> Entry:
        """A copy that is stale, and must be validated before it is used."""
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
