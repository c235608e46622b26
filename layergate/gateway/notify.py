"""Notifications for systemd (sd_notify(3)), if it wants any."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Final

__all__ = ["notify"]

_logger = logging.getLogger("layergate.gateway")
VARIABLE: Final = "NOTIFY_SOCKET"


def notify(state: str) -> None:
    """Send ``READY=1``, ``RELOADING=1`` or ``STOPPING=1`` to the service manager. Does nothing without
    one. Never raises."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    if state == "RELOADING=1":  # Type=notify-reload tells reloads apart by their start
        state = f"{state}\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            # "@" begins the name of an abstract socket.
            sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            sock.sendall(state.encode())
    except OSError as error:
        _logger.warning("cannot tell the service manager %r: %s", state, error)
