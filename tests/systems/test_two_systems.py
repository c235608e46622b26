"""`Shared`: bodies in two memcached servers, coordination in a PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.memcached_servers import Memcached
from tests.support.ports import HOST
from tests.support.postgres_servers import Postgres
from tests.support.system_suites import FaultTable, OneFetch, PurgeHistory
from tests.support.systems import SystemServer

pytestmark = pytest.mark.systems


class TwoSystems(SystemServer):
    """What befalls it befalls the coordination, and garbage both. What becomes of a server with bodies alone is in
    `tests/layers/memcached/test_servers.py`: until its breaker has closed again, nothing is stored there."""

    system = "memcached + PostgreSQL"

    def __init__(self, folder: Path) -> None:
        self.bodies = [Memcached(folder), Memcached(folder)]
        self.coordination = Postgres(folder)
        self.port = self.coordination.port

    def url(self, port: int | None = None) -> str:
        hosts = ",".join(f"{HOST}:{one.port}" for one in self.bodies)
        return f"memcached://{hosts} {self.coordination.url(port)}"

    def stall(self) -> None:
        self.coordination.stall()

    def resume(self) -> None:
        self.coordination.resume()

    def kill(self) -> None:
        self.coordination.kill()

    def start(self) -> None:
        self.coordination.start()

    def empty(self) -> None:
        """The log alone: what the bodies hold is of a log that is gone."""
        self.coordination.empty()

    def save(self) -> Any:
        return self.coordination.save()

    def restore(self, saved: Any) -> None:
        """The log alone goes back."""
        self.coordination.restore(saved)

    def garble(self) -> int:
        return self.coordination.garble() + sum(one.garble() for one in self.bodies)

    def close(self) -> None:
        self.coordination.close()
        for one in self.bodies:
            one.close()


class TestFaults(FaultTable):
    @classmethod
    def make_server(cls, folder: Path) -> TwoSystems:
        return TwoSystems(folder)


class TestHistory(PurgeHistory):
    @classmethod
    def make_server(cls, folder: Path) -> TwoSystems:
        return TwoSystems(folder)


class TestOneFetch(OneFetch):
    @classmethod
    def make_server(cls, folder: Path) -> TwoSystems:
        return TwoSystems(folder)
