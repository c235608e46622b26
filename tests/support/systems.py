"""What a test asks of a shared system's server, whichever system it is.

`SystemServer` is a real server on a loopback port, with what befalls servers. The suites in
`tests/support/system_suites.py` drive any of them.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from tests.support.redis_servers import Valkey

__all__ = ["SystemServer", "ValkeySystem"]


class SystemServer(ABC):
    """A server, running. Ends with its ``with`` block, and when the tests are killed."""

    system: ClassVar[str]
    layer_options: ClassVar[dict[str, Any]] = {}
    """Options of the layer for all of these tests."""
    port: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def url(self, port: int | None = None) -> str:
        """For ``shared=``. ``port``: of a proxy before the server; None: the server's own."""

    # What befalls it. All of these return when it is done.

    @abstractmethod
    def stall(self) -> None:
        """SIGSTOP, to all of its processes."""

    @abstractmethod
    def resume(self) -> None: ...

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL."""

    @abstractmethod
    def start(self) -> None:
        """Start it again, on the same port and with what is on its disk. It answers when this returns."""

    @abstractmethod
    def empty(self) -> None:
        """Take away all that LayerGate has there. The server goes on, or begins anew."""

    def save(self) -> object:
        """All that LayerGate has there, for `restore`. None: that is impossible, as in a system that loses
        nothing at a failover."""
        return None

    def restore(self, saved: Any) -> None:
        """Put the server back to what `save` has seen, as a failover that loses the end does."""
        raise NotImplementedError

    @abstractmethod
    def garble(self) -> int:
        """Put random bytes in the place of all values that LayerGate has there. Returns how many."""

    def throttle(self) -> bool:
        """Make it refuse what costs something (no room, too many connections), until `relent`. False:
        that is impossible."""
        return False

    def relent(self) -> None:
        """Undo `throttle`."""
        raise NotImplementedError


class ValkeySystem(SystemServer):
    """A Valkey."""

    system = "Redis"

    def __init__(self, folder: Any) -> None:
        self.valkey = Valkey(folder, config={"repl-diskless-sync-delay": 0})
        self.port = self.valkey.port

    def close(self) -> None:
        self.valkey.close()

    def url(self, port: int | None = None) -> str:
        return f"redis://127.0.0.1:{port or self.port}/0"

    def stall(self) -> None:
        self.valkey.stall()

    def resume(self) -> None:
        self.valkey.resume()

    def kill(self) -> None:
        self.valkey.kill()

    def start(self) -> None:
        self.valkey.start()

    def empty(self) -> None:
        self.valkey.cli("FLUSHALL")

    def save(self) -> object:
        return {key: self.valkey.cli("DUMP", key) for key in self.valkey.cli("KEYS", "*")}

    def restore(self, saved: Any) -> None:
        self.valkey.kill()
        with contextlib.suppress(FileNotFoundError):
            (self.valkey.folder / "dump.rdb").unlink()
        self.valkey.start()
        for key, dump in saved.items():
            if dump is not None:
                self.valkey.cli("RESTORE", key, 0, dump, "REPLACE")

    def garble(self) -> int:
        keys = self.valkey.cli("KEYS", "*")
        for number, key in enumerate(keys):
            self.valkey.cli("SET", key, b"\x00\xff garbage %d" % number)
        return len(keys)

    def throttle(self) -> bool:
        self.valkey.cli("CONFIG", "SET", "maxmemory", "1")
        return True

    def relent(self) -> None:
        self.valkey.cli("CONFIG", "SET", "maxmemory", "0")
