"""The clock that nobody sets."""

from __future__ import annotations

import functools
import time

__all__ = ["monotonic"]


def _boottime() -> bool:
    try:
        time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return False
    return True


# Linux's monotonic clock stands still while the machine is suspended; what was heard before that
# would look recent afterwards. Elsewhere the monotonic clock goes on.
monotonic = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if _boottime() else time.monotonic
)
