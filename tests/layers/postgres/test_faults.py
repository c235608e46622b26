"""A PostgreSQL in trouble: what clients notice, what is final, and what is fetched once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.postgres_servers import Postgres
from tests.support.system_suites import FaultTable, OneFetch, PurgeHistory, garbage, killed, stalls


class TestFaults(FaultTable):
    in_short = (stalls, killed, garbage)

    @classmethod
    def make_server(cls, folder: Path) -> Postgres:
        return Postgres(folder)


@pytest.mark.systems
class TestHistory(PurgeHistory):
    @classmethod
    def make_server(cls, folder: Path) -> Postgres:
        return Postgres(folder)


class Patient(Postgres):
    """On a machine that has much else to do, a call takes longer than the default permits."""

    layer_options: ClassVar[dict[str, Any]] = {"timeout": 5.0}


class TestOneFetch(OneFetch):
    @classmethod
    def make_server(cls, folder: Path) -> Postgres:
        return Patient(folder)
