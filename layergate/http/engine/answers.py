"""How a request is decided on, and what the engine answers: one of four values, for the driver to act
on."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

from layergate.http.engine.exchange import Exchange
from layergate.http.message.fields import Lines
from layergate.http.message.stored import Served
from layergate.http.rfc9111.storing import Bypass

__all__ = [
    "GATEWAY_TIMEOUT",
    "IGNORES_STORED",
    "MAY_WAIT",
    "Answer",
    "Attempt",
    "Follow",
    "Forward",
    "Landed",
    "Lead",
    "Serve",
]


class Attempt(enum.Enum):
    """How a request is decided on. Most are decided on once, as COLLAPSED."""

    COLLAPSED = enum.auto()
    """It may wait for the fetch of another request."""
    UNCOLLAPSED = enum.auto()
    """It waits for no other request: the response that it waited for is not for it."""
    TIMED_OUT = enum.auto()
    """It waits for no other request: it has waited as long as ``collapse_timeout`` allows."""
    UNCONDITIONAL = enum.auto()
    """It is fetched without validators: the origin has something else than what is stored."""
    UNCONDITIONAL_UNCOLLAPSED = enum.auto()
    """It is fetched without validators, and waits for no other request."""

    @property
    def uncollapsed(self) -> Attempt:
        """The same, but waiting for no other request."""
        return _UNCOLLAPSED.get(self, self)


_UNCOLLAPSED: Final = {
    Attempt.COLLAPSED: Attempt.UNCOLLAPSED,
    Attempt.UNCONDITIONAL: Attempt.UNCONDITIONAL_UNCOLLAPSED,
}
IGNORES_STORED: Final = frozenset({Attempt.UNCONDITIONAL, Attempt.UNCONDITIONAL_UNCOLLAPSED})
"""The attempts that look at nothing stored."""
MAY_WAIT: Final = frozenset({Attempt.COLLAPSED, Attempt.UNCONDITIONAL})
"""The attempts that may wait for the fetch of another request."""


class Serve(NamedTuple):
    """Answer with ``response``; run ``refresh`` in the background if there is one."""

    response: Served
    refresh: Exchange | None = None


class Lead(NamedTuple):
    """Fetch, and feed the exchange with what comes."""

    exchange: Exchange


class Follow(NamedTuple):
    """Wait for an exchange that another request leads."""

    exchange: Exchange


class Forward(NamedTuple):
    """Forward untouched. ``lines``: what to add to the response's head."""

    reason: Bypass
    lines: Lines


Answer: TypeAlias = Serve | Lead | Follow | Forward


class Landed(NamedTuple):
    """Look again: the fetch that this request was about to repeat has just been stored."""


# "respond with either a stored response ... or a 504" (5.2.1.7); no Cache-Status, since "an
# intermediary SHOULD NOT append" one "to responses that it generates locally" (RFC 9211 2).
GATEWAY_TIMEOUT: Final = Serve(Served(504, [(b"content-length", b"0")], b""))
