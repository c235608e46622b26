"""Why an upstream gave no response. The cache may serve something stale instead; `proxy.say_failure`
answers if it does not."""

from __future__ import annotations

from layergate.errors import OriginUnreachable

__all__ = [
    "TooManyTunnels",
    "UpstreamBusy",
    "UpstreamClosed",
    "UpstreamError",
    "UpstreamMalformed",
    "UpstreamTimeout",
    "UpstreamUnreachable",
]


class UpstreamError(OriginUnreachable):
    """The upstream gave no response.

    ``status``: of the response that the client gets if no stored one may be used. ``detail``: the
    parameter of that name in Cache-Status.
    """

    status = 502
    detail = "upstream-failed"


class UpstreamUnreachable(UpstreamError):
    """No connection could be made."""

    detail = "upstream-unreachable"


class UpstreamClosed(UpstreamError):
    """The connection ended before the response did."""

    detail = "upstream-closed"


class UpstreamMalformed(UpstreamError):
    """What came is not an HTTP response that the gateway is sure to understand."""

    detail = "upstream-malformed"


class UpstreamTimeout(UpstreamError):
    """A time limit of the upstream has passed."""

    status = 504
    detail = "upstream-timeout"


class UpstreamBusy(UpstreamError):
    """All connections to the upstream are in use, and none was free in time."""

    status = 503
    detail = "upstream-busy"


class TooManyTunnels(UpstreamBusy):
    """There are ``max_tunnels`` tunnels to the upstream."""

    detail = "too-many-tunnels"
