"""The monotonic clock of both runtimes."""

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


# On Linux, CLOCK_MONOTONIC stands still while the machine is suspended. A message from before the
# suspension would look recent afterwards. CLOCK_BOOTTIME goes on, as the monotonic clocks of other systems
# do.
monotonic = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if _boottime() else time.monotonic
)
