"""Ports for servers that tests start."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import socket

__all__ = ["HOST", "free_port", "stop_listening"]

HOST = "127.0.0.1"
# Below the range from which outgoing connections take theirs.
_LOWEST, _HIGHEST = 20_000, 32_000
_SHARES = 8


def _share() -> list[int]:
    """The ports of this process: each worker of pytest-xdist has some of its own. Their order is
    another one in each run; what Hypothesis seeds has no say in it."""
    number = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", "gw0"))
    assert number is not None
    ports = range(_LOWEST + int(number[1]) % _SHARES, _HIGHEST, _SHARES)
    return random.SystemRandom().sample(ports, len(ports))


_ports = itertools.cycle(_share())


def free_port() -> int:
    """A port that nobody listens on. No other call gives it, in any worker of this run, before all
    others were given; and no outgoing connection takes it: so a server that starts later, or is
    down for a while, finds its own still free."""
    for port in itertools.islice(_ports, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise AssertionError("no free port")


async def stop_listening(server: asyncio.Server) -> None:
    """Close ``server``, whose connections stay.

    asyncio makes the transport of a connection a moment after it has accepted it, and leaves the
    socket open if the server was closed in between. So nothing is accepted in that moment.
    """
    loop = server.get_loop()
    for sock in server.sockets:
        loop.remove_reader(sock.fileno())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    server.close()
