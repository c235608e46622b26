"""What the engine answers an attempt at a request with: one of four values, for the driver to act on."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from layergate.http.engine.exchange import Exchange
from layergate.http.message.fields import Lines
from layergate.http.message.stored import Served
from layergate.http.rfc9111.storing import Refused

__all__ = ["GATEWAY_TIMEOUT", "Answer", "Follow", "Landed", "Lead", "Pass", "Serve"]


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


class Pass(NamedTuple):
    """Forward untouched. ``lines``: what to add to the response's head."""

    reason: Refused
    lines: Lines


Answer: TypeAlias = Serve | Lead | Follow | Pass


class Landed(NamedTuple):
    """Look again: the fetch that this request was about to repeat has just been stored."""


# "respond with either a stored response ... or a 504" (5.2.1.7); no Cache-Status, since "an
# intermediary SHOULD NOT append" one "to responses that it generates locally" (RFC 9211 2).
GATEWAY_TIMEOUT: Final = Serve(Served(504, [(b"content-length", b"0")], b""))
