"""A TCP proxy that records what clients send: for tests of what is asked on the wire."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from tests.support.ports import HOST

__all__ = ["Recorder"]


class Recorder:
    """Before the server at the port ``target``. ``sent``: for each connection, in the order in which they were
    made, what the client has sent so far."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self.sent: list[bytearray] = []
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        with self._lock:
            self._closed = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def forget(self) -> None:
        """What was sent until now is of no interest."""
        with self._lock:
            for one in self.sent:
                one.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection((HOST, self._target))
                except OSError:
                    client.close()
                    continue
                record = bytearray()
                with self._lock:
                    if self._closed:
                        client.close()
                        server.close()
                        return
                    self.sent.append(record)
                    self._open += (client, server)
                for source, sink, kept in ((client, server, record), (server, client, None)):
                    threading.Thread(
                        target=self._copy, args=(source, sink, kept), daemon=True
                    ).start()

    def _copy(self, source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if kept is not None:
                    with self._lock:
                        kept += data
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
