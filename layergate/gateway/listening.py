"""The sockets that the gateway listens on.

Where the system balances connections over several sockets of one port (SO_REUSEPORT on Linux), every
worker has sockets of its own. Elsewhere, and for Unix sockets, the workers share one. The supervisor keeps
all sockets open, so that connections in the queue of a worker that died are taken by its replacement.

TCP sockets are only bound here. The workers call `listen`, so that clients don't wait for a gateway that
is not ready. Unix sockets listen at once, which tells another gateway that they are in use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from layergate.gateway.addresses import Address

__all__ = ["BACKLOG", "CannotListen", "Listeners"]

BACKLOG: Final = 2048
_BALANCES: Final = sys.platform == "linux"
# Errors on a host without addresses of that kind (IPv6 in a container).
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class CannotListen(OSError):
    """An address cannot be listened on. The message names it and the reason."""


class Listeners:
    """The bound sockets of all workers, which are numbered from 0.

    Raises CannotListen.
    """

    def __init__(self, addresses: Sequence[Address], workers: int) -> None:
        self._own: list[list[socket.socket]] = [[] for _ in range(workers)]
        self._addresses: list[tuple[int, Any]] = []  # of a worker's own, as the system knows them
        self._shared: list[socket.socket] = []
        self._paths: list[tuple[Path, int]] = []
        self._apart = _BALANCES and workers > 1
        try:
            for address in addresses:
                if address.path is not None:
                    self._bind_unix(Path(address.path), address)
                else:
                    self._bind_tcp(address)
        except BaseException:
            self.close()
            raise

    def of(self, worker: int) -> list[socket.socket]:
        """The sockets of one worker."""
        return [*self._own[worker], *self._shared]

    @property
    def names(self) -> list[str]:
        """The addresses, with the ports that the system has chosen."""
        names = []
        for sock in self.of(0):
            name = sock.getsockname()
            if sock.family is socket.AF_UNIX:
                names.append(f"unix:{name}")
            else:
                names.append(str(Address(name[0], name[1])))
        return names

    def release(self, worker: int) -> None:
        """Close the sockets that only this worker has. It will be away for a while, and the system then
        gives its connections to the others."""
        for sock in self._own[worker]:
            sock.close()

    def renew(self, worker: int) -> None:
        """Bind the released sockets again. Raises CannotListen."""
        for number, sock in enumerate(self._own[worker]):
            if sock.fileno() >= 0:
                continue
            family, name = self._addresses[number]
            try:
                self._own[worker][number] = _bound(family, name, apart=True)
            except OSError as error:
                raise _cannot(Address(name[0], name[1]), error) from error

    def close(self) -> None:
        """Close all sockets. The workers have their own copies."""
        for socks in (*self._own, self._shared):
            for sock in socks:
                sock.close()
        for path, inode in self._paths:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:  # else another gateway has replaced it
                    path.unlink()
        self._paths.clear()

    def _bind_tcp(self, address: Address) -> None:
        try:
            found = socket.getaddrinfo(
                address.host or None,
                address.port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )
        except OSError as error:
            raise _cannot(address, error) from error
        failed: OSError | None = None
        bound = 0
        port = address.port
        for family, name in dict.fromkeys((one[0], one[4]) for one in found):
            try:
                # The port that the system has chosen for the first address is used for all.
                port = self._bind_each(family, (name[0], port, *name[2:]))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise _cannot(address, error) from error
                failed = error
            else:
                bound += 1
        if failed is not None and not bound:
            raise _cannot(address, failed) from failed

    def _bind_each(self, family: int, name: Any) -> int:
        """One socket for each worker, or one for all. The port."""
        if not self._apart:
            sock = _bound(family, name, apart=False)
            self._shared.append(sock)
            return int(sock.getsockname()[1])
        # A socket that shares its port would silently share it with another gateway, too.
        first = _bound(family, name, apart=False)
        name = first.getsockname()
        first.close()
        for own in self._own:
            own.append(_bound(family, name, apart=True))
        self._addresses.append((family, name))
        return int(name[1])

    def _bind_unix(self, path: Path, address: Address) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                sock.bind(str(path))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _left_behind(path):
                    raise
                path.unlink()
                sock.bind(str(path))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise _cannot(address, error) from error
        self._shared.append(sock)
        self._paths.append((path, path.stat().st_ino))


def _bound(family: int, name: Any, *, apart: bool) -> socket.socket:
    """A TCP socket. ``apart``: True if other sockets may be bound to the same port."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if apart:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # IPv4 gets its own socket.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _left_behind(path: Path) -> bool:
    """True for the file of a socket on which no process listens any more."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def _cannot(address: Address, error: OSError) -> CannotListen:
    why = error.strerror or str(error)
    return CannotListen(error.errno, f"cannot listen on {address}: {why}")
