"""G3 over real failovers that lose the end: no read after a final purge sees what it purged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.postgres_servers import Postgres
from tests.support.system_suites import OneSystem, PurgeHistory
from tests.support.waiting import wait_until

pytestmark = pytest.mark.systems


class FailsOver(Postgres):
    """Killed, its standby takes its place, on its port. Shortly before, the standby was cut off: so what was
    acknowledged meanwhile is lost."""

    system = "PostgreSQL with a standby"
    failovers = 0
    lost = 0

    def __init__(self, folder: Path) -> None:
        self._logs = folder
        self._spare: Postgres | None = None
        super().__init__(folder)
        self._spare = Postgres(folder, copies=self)

    def kill(self) -> None:
        spare = self._spare
        if spare is not None and self.alive:
            spare.sql("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
            replicas = "SELECT count(*) FROM pg_stat_replication"
            wait_until(lambda: self.sql(replicas) == [(0,)], "the standby to be cut off")
            ((before,),) = self.sql("SELECT pg_current_wal_lsn()")
            time.sleep(0.3)  # the history goes on
            ((after,),) = self.sql(f"SELECT pg_current_wal_lsn() > '{before}'")
            self.lost += after
        super().kill()

    def start(self, *, ready: bool = True) -> None:
        spare, self._spare = self._spare, None
        if spare is None:
            super().start(ready=ready)
            return
        spare.sql("SELECT pg_promote(true, 20)")
        spare.stop()
        shutil.rmtree(self.data)
        spare.data.rename(self.data)
        spare.close()
        super().start(ready=ready)
        self.failovers += 1
        self._spare = Postgres(self._logs, copies=self)

    def close(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()
        super().close()


class Failovers(OneSystem):
    """Half of what happens is a failover."""

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        others = super().faults
        return [*others, *[self.kills_the_server] * len(others)]


@pytest.mark.systems
class TestFailovers(PurgeHistory):
    seconds = 20.0
    story = Failovers
    servers: list[FailsOver]

    @classmethod
    def make_server(cls, folder: Path) -> FailsOver:
        made = FailsOver(folder)
        cls.servers = [made]
        return made

    async def test_no_read_after_a_final_purge_sees_what_it_purged(self, tmp_path: Path) -> None:
        await super().test_no_read_after_a_final_purge_sees_what_it_purged(tmp_path)
        (server,) = self.servers
        print(f"\n{server.failovers} failovers, {server.lost} of them lost something")  # noqa: T201
        assert server.failovers > 0
        assert server.lost > 0
