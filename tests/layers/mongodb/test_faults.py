"""A MongoDB in trouble: what clients notice, what is final, and what is fetched once."""

from __future__ import annotations

from pathlib import Path

from tests.support.mongo_servers import Mongo
from tests.support.system_suites import FaultTable, OneFetch, PurgeHistory, garbage, killed, stalls


class TestFaults(FaultTable):
    in_short = (stalls, killed, garbage)

    @classmethod
    def make_server(cls, folder: Path) -> Mongo:
        return Mongo(folder)


class TestHistory(PurgeHistory):
    @classmethod
    def make_server(cls, folder: Path) -> Mongo:
        return Mongo(folder)


class TestOneFetch(OneFetch):
    @classmethod
    def make_server(cls, folder: Path) -> Mongo:
        return Mongo(folder)
