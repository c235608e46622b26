"""The journal and the leases in Redis, by the conformance suites. (The layer: `test_layer`.)"""

from __future__ import annotations

from typing import Any

import pytest

from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.journal import RedisJournal
from layergate.layers.redis.leases import RedisLeaseStore
from layergate.shared.journal import Journal, LeaseStore, Subscription
from layergate.testing.journals import JournalConformance
from layergate.testing.leases import LeaseConformance
from tests.support.nodes import part_of
from tests.support.redis_journal import client_of, journal_of
from tests.support.redis_servers import SharedValkey, Valkey

pytest_plugins = ("tests.support.redis_servers",)

PARTS = ("log", "meta", "members", "acks", "again")


class TestJournal(JournalConformance):
    @pytest.fixture(autouse=True)
    def _server(self, shared_valkey: SharedValkey) -> None:
        self.valkey = shared_valkey

    def setup_method(self) -> None:
        self.keys: list[str] = []
        super().setup_method()

    def make_journal(self) -> Journal:
        self.keys = [part_of(self.valkey, part) for part in PARTS]
        return journal_of(self.valkey.url, self.valkey.namespace)

    async def close_journal(self, journal: Journal) -> None:
        assert isinstance(journal, RedisJournal)
        await journal._client.close()

    def factory(self) -> tuple[str, list[Any]]:
        return "tests.support.redis_journal:journal_of", [self.valkey.url, self.valkey.namespace]

    def lose(self) -> bool:
        self.valkey.cli("DEL", *self.keys)
        return True

    def save(self) -> Any:
        return [self.valkey.cli("DUMP", key) for key in self.keys]

    def restore(self, saved: Any) -> None:
        self.lose()
        for key, dump in zip(self.keys, saved, strict=True):
            if dump is not None:
                self.valkey.cli("RESTORE", key, 0, dump)
        self.valkey.cli("HSET", self.keys[1], "run", "another")


class TestLeases(LeaseConformance):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, session_valkey: Valkey) -> None:
        cls.valkey = session_valkey

    valkey: Valkey

    def setup_method(self) -> None:
        self.clients: list[RedisClient] = []
        super().setup_method()

    def teardown_method(self) -> None:
        try:
            for client in self.clients:
                self._run(client.close())
        finally:
            super().teardown_method()

    def client(self) -> RedisClient:
        client = client_of(self.valkey.url, self.namespace)
        self.clients.append(client)
        return client

    def make_store(self) -> LeaseStore:
        return RedisLeaseStore(self.client(), self.namespace)

    async def subscribe(self, instance: bytes) -> Subscription:
        journal = RedisJournal(
            self.client(), namespace=self.namespace, max_disconnected=5.0, log_length=1000
        )
        return await journal.subscribe(instance)

    def read_blob(self, name: str) -> Any:
        return self.valkey.cli("GET", name)
