"""Whether a stored response may stand in for an origin that fails, or that takes too long.

The windows are those of RFC 5861 section 4 and of the option ``stale_if_unreachable``; see `decision`.
In addition, the entry must not have been purged since it was selected, and this instance must hear
purges (`Stack.vouches`): a purge means that the response is not wanted, error or no error (G3).
"""

from __future__ import annotations

from layergate.core.entry import Entry
from layergate.http.engine.engine import Engine
from layergate.http.message.request import Request
from layergate.http.rfc9111 import decision

__all__ = ["excuse", "may_stand_in", "may_stand_in_for_error"]


def may_stand_in_for_error(engine: Engine, request: Request, entry: Entry) -> bool:
    """True if ``entry``, selected for ``request``, may stand in for any error of the origin."""
    return decision.stale_if_error(request, entry, engine.runtime.now()) and _vouches(
        engine, request, entry
    )


def may_stand_in(engine: Engine, request: Request, entry: Entry, *, unreachable: bool) -> bool:
    """True if ``entry`` may stand in for the origin's failure. ``unreachable``: the failure looks like
    an origin that gave no answer."""
    if may_stand_in_for_error(engine, request, entry):
        return True
    window = engine.settings.stale_if_unreachable if unreachable else None
    now = engine.runtime.now()
    return decision.stale_if_unreachable(request, entry, now, window) and _vouches(
        engine, request, entry
    )


def excuse(engine: Engine, request: Request, entry: Entry, *, unreachable: bool) -> str:
    """By which of the two windows ``entry`` stands in, for Cache-Status and the counters."""
    if unreachable and not may_stand_in_for_error(engine, request, entry):
        return "stale-if-unreachable"
    return "stale-if-error"


def _vouches(engine: Engine, request: Request, entry: Entry) -> bool:
    return engine.stack.vouches(request.key, entry, engine.settings.stale_if_untrusted)
