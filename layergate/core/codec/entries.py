"""What the parts of an entry must look like, when it is written and when it is read."""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from layergate.errors import WireError

__all__ = ["FAR", "HEAD", "LOG_ID", "MAX_TAGS", "check_log", "check_tags", "check_times"]

FAR: Final = 2.0**40
"""Seconds. No time is further than this from 1970, some 35,000 years."""
LOG_ID: Final = 16
"""Bytes in the id of a log's incarnation."""
MAX_TAGS: Final = 4096
"""Tags of one entry. The option ``max_tags`` is 128 by default."""

HEAD: Final = Struct("<16sQQ5d")
"""log, position, size, created, fresh_until, stale_while_revalidate, stale_if_error, expires"""

_MAX_TAG_TEXT: Final = 1024 * 1024  # characters, all tags of an entry together


def check_times(
    created: float,
    fresh_until: float,
    stale_while_revalidate: float,
    stale_if_error: float,
    expires: float,
) -> None:
    """Raises WireError unless the times are finite and the windows are not negative."""
    # Written so that NaN fails too.
    if not (
        -FAR <= created <= FAR
        and -FAR <= fresh_until <= FAR
        and 0.0 <= stale_while_revalidate <= FAR
        and 0.0 <= stale_if_error <= FAR
        and -FAR <= expires <= FAR
    ):
        raise WireError("a time is not finite, or a window is negative")


def check_tags(tags: Any) -> None:
    """Raises WireError (or TypeError) unless ``tags`` is a list or tuple of str within the caps."""
    # join is the fastest way to see that all items are str, and how long they are together.
    if (
        type(tags) not in (list, tuple)
        or len(tags) > MAX_TAGS
        or len("".join(tags)) > _MAX_TAG_TEXT
    ):
        raise WireError("the tags are malformed, too many or too long")


def check_log(log: bytes) -> None:
    """Raises WireError unless ``log`` can be the id of a log's incarnation."""
    if len(log) != LOG_ID:
        raise WireError(f"the id of a log must be {LOG_ID} bytes, got {len(log)}")
