"""Closing a transport of asyncio whose event loop was closed over it.

Neither asyncio nor a client library can do that: what they would do next, they would do on that loop. A
test client that runs each request on a loop of its own leaves such transports behind.
"""

from __future__ import annotations

import contextlib
from typing import Any

__all__ = ["abandon"]


def abandon(transport: Any) -> None:
    """Close its socket, and nothing else. ``transport``: of asyncio, of its TLS, or of uvloop; None for
    none. Never raises."""
    transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.close()
        transport._sock, transport._closing = None, True
