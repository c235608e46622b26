"""What befalls one Redis in a history (`tests.support.story`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.support.redis_servers import Valkey
from tests.support.story import MAX_DISCONNECTED
from tests.support.system_suites import OneSystem
from tests.support.systems import ValkeySystem

__all__ = ["LAYER", "OneRedis"]

LAYER = {"max_disconnected": MAX_DISCONNECTED, "lease_term": 2.0, "timeout": 0.2}


class OneRedis(OneSystem):
    """One server, and a line to it for each instance."""

    server: ValkeySystem

    @property
    def valkey(self) -> Valkey:
        return self.server.valkey

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *super().faults,
            self.restarts_redis_empty,
            self.restarts_redis,
            self.sets_redis_back,
            self.evicts,
            self.forgets_scripts,
            self.hangs_up_on_those_who_listen,
        ]

    async def restarts_redis_empty(self) -> None:
        await asyncio.to_thread(self.valkey.restart, empty=True)

    async def restarts_redis(self) -> None:
        await asyncio.to_thread(self.valkey.restart, empty=False)

    async def sets_redis_back(self) -> None:
        """To a snapshot: what it said since is lost, and it does not know."""
        await asyncio.to_thread(self.valkey.cli, "SAVE")
        await asyncio.sleep(0.5)
        await asyncio.to_thread(self.valkey.kill)
        await asyncio.to_thread(self.valkey.start)

    async def evicts(self) -> None:
        """Anything, the log's own keys included."""
        self.valkey.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        for _ in range(20):
            size = self.valkey.cli("DBSIZE")
            used = int(self.valkey.info("memory")["used_memory"])
            self.valkey.cli("CONFIG", "SET", "maxmemory", used - 20_000)
            self.note(f"... {size - self.valkey.cli('DBSIZE')} of {size} keys")
            self.valkey.cli("CONFIG", "SET", "maxmemory", 0)
            await asyncio.sleep(0.05)
        self.valkey.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")

    async def forgets_scripts(self) -> None:
        self.valkey.cli("SCRIPT", "FLUSH")

    async def hangs_up_on_those_who_listen(self) -> None:
        self.valkey.cli("CLIENT", "KILL", "TYPE", "pubsub")
