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
    ``fresh_until``  end of the freshness lifetime. A soft purge lowers it.
    ``stale_while_revalidate``, ``stale_if_error``
                     how long after ``fresh_until`` the value may still be used (RFC 5861).
    ``expires``      when a layer may reclaim it; never before the end of both windows.
    ``doubtful``     it may have been purged unheard: to be used only once validated, or when the
                     origin fails (in-process only).
    ``size``         payload in bytes as the producer knows it, or 0 for "let the layer estimate".

    Treat it as immutable, but for ``checked`` and for the one-way lowering of ``fresh_until``
    (both are single stores of a number, safe without a lock).
    """

    __slots__ = (
        "checked",
        "created",
        "doubtful",
        "expires",
        "fresh_until",
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
        self.size = size

    def clipped(self, fresh_until: float) -> Entry:
        """A copy that is fresh no longer than ``fresh_until`` (a layer's own, shorter TTL)."""
        cut = min(self.fresh_until, fresh_until)
        copy = Entry(
            self.value,
            created=self.created,
            fresh_until=cut,
            stale_while_revalidate=self.stale_while_revalidate,
            stale_if_error=self.stale_if_error,
            expires=max(cut, self.expires - (self.fresh_until - cut)),
            tags=self.tags,
            stamp=self.stamp,
            size=self.size,
        )
        copy.checked = self.checked
        return copy

    def windowed(self, stale_while_revalidate: float | None, stale_if_error: float | None) -> Entry:
        """A copy whose stale windows are no longer than these (a layer's own), seconds; None: as
        they are."""
        copy = self.clipped(self.fresh_until)
        if stale_while_revalidate is not None:
            copy.stale_while_revalidate = min(self.stale_while_revalidate, stale_while_revalidate)
        if stale_if_error is not None:
            copy.stale_if_error = min(self.stale_if_error, stale_if_error)
        # Where nothing but its windows kept it; otherwise it is kept for validation.
        if self.expires <= self.fresh_until + max(self.stale_while_revalidate, self.stale_if_error):
            windows = max(copy.stale_while_revalidate, copy.stale_if_error)
            copy.expires = self.fresh_until + windows
        return copy

    def distrusted(self, now: float) -> Entry:
        """A copy that is stale, and may be used only if validated or if the origin fails."""
        copy = self.clipped(now)
        copy.expires = self.expires
        copy.stale_while_revalidate = 0.0
        copy.doubtful = True
        return copy

    def __repr__(self) -> str:
        return (
            f"Entry({type(self.value).__name__}, fresh_until={self.fresh_until:.3f},"
            f" tags={self.tags!r}, stamp={self.stamp})"
        )
