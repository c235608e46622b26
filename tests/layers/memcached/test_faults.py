"""A memcached in trouble: what clients notice, what is final, and what is fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.memcached_servers import Memcached
from tests.support.system_suites import FaultTable, OneFetch, PurgeHistory

pytestmark = pytest.mark.systems


class TestFaults(FaultTable):
    @classmethod
    def make_server(cls, folder: Path) -> Memcached:
        return Memcached(folder)


class TestHistory(PurgeHistory):
    @classmethod
    def make_server(cls, folder: Path) -> Memcached:
        return Memcached(folder)


class TestOneFetch(OneFetch):
    @classmethod
    def make_server(cls, folder: Path) -> Memcached:
        return Memcached(folder)
