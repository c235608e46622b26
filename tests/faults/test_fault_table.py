"""G5, as a table: what clients notice of a Redis in trouble. ``-s`` prints it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.redis_servers import Valkey, until_answered
from tests.support.system_suites import Bench, Ending, FaultTable, OneFetch
from tests.support.systems import ValkeySystem


async def loading(bench: Bench) -> Ending:
    valkey = bench.server.valkey
    valkey.cli("EVAL", "for i = 1, 5000 do redis.call('SET', 'filler:' .. i, 'x') end", 0)
    slowly = {"key-load-delay": 5000, "loading-process-events-interval-bytes": 1024}
    await asyncio.to_thread(valkey.restart, empty=False, config=slowly, ready=False)
    valkey.config["key-load-delay"] = 0
    return lambda: valkey.cli("CONFIG", "SET", "key-load-delay", "0")


async def read_only_after_failover(bench: Bench) -> Ending:
    host, old, new = "127.0.0.1", bench.server.valkey, bench.server.spare
    new.cli("REPLICAOF", host, old.port)
    await asyncio.to_thread(
        until_answered,
        lambda: new.info("replication")["master_link_status"] == "up",
        "the new master",
    )
    new.cli("REPLICAOF", "NO", "ONE")
    old.cli("REPLICAOF", host, new.port)
    return lambda: old.cli("REPLICAOF", "NO", "ONE")


class TwoValkeys(ValkeySystem):
    """And one that can take over."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.spare = Valkey(folder, config={"repl-diskless-sync-delay": 0})

    def close(self) -> None:
        self.spare.close()
        super().close()


class TestRedis(FaultTable):
    faults = (*FaultTable.faults, loading, read_only_after_failover)

    @classmethod
    def make_server(cls, folder: Path) -> TwoValkeys:
        return TwoValkeys(folder)


class TestOneFetch(OneFetch):
    @classmethod
    def make_server(cls, folder: Path) -> ValkeySystem:
        return ValkeySystem(folder)
