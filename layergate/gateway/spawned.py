"""The process of a worker: ``python -m layergate.gateway.spawned FD``, as a supervisor starts it.

``FD`` is the worker's end of the channel. The first message says which worker this is; its options follow.
"""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from layergate.errors import ConfigError
from layergate.gateway import logs
from layergate.gateway.channel import ChannelBroken, Link, pack, receive_blocking

__all__ = ["entry", "main"]

_logger = logging.getLogger("layergate.gateway")


def entry(name: str) -> Callable[..., None]:
    """The function ``module:function``. Raises whatever the import of its module raises."""
    module, _, function = name.partition(":")
    found: Callable[..., None] = getattr(importlib.import_module(module), function)
    return found


def main(fd: int) -> int:
    """Run a worker. Returns the exit status: 0, or 1 if it failed."""
    # These signals are for the supervisor. SIGTERM ends this worker alone (see `Link.open`).
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    try:
        start = receive_blocking(sock)
        sys.path[:] = start["path"]
        options = receive_blocking(sock)
    except (ChannelBroken, OSError):
        return 1  # the supervisor has ended meanwhile
    logs.set_up()
    # A failure is reported after the loop, and the channel with it, has ended.
    last_words = sock.dup()
    link = Link(
        sock,
        start["number"],
        start["workers"],
        folder=start["folder"],
        instance=start["instance"],
    )
    sockets = [socket.socket(fileno=own) for own in start["sockets"]]
    for one in sockets:
        one.set_inheritable(False)
    try:
        entry(start["entry"])(options, sockets, link)
    except (ConfigError, OSError) as error:
        _tell(last_words, str(error))
        return 1
    except BaseException as error:
        _logger.exception("worker %d failed", link.number)
        _tell(last_words, f"{type(error).__name__}: {error}")
        return 1
    return 0


def _tell(sock: socket.socket, why: str) -> None:
    message: dict[str, Any] = {"op": "failed", "why": why}
    try:
        sock.setblocking(True)
        sock.sendall(pack(message))
    except OSError:
        _logger.error("%s", why)  # noqa: TRY400 - the supervisor is gone


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
