"""One PostgreSQL for all tests of a file that leave it as they found it, and the two worlds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.postgres_parts import World
from tests.support.postgres_servers import Postgres
from tests.support.proxy import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(params=["loop", "threads"])
def world(request: Any) -> Iterator[World]:
    with World(request.param) as made:
        yield made


@pytest.fixture
def proxy(server: Postgres) -> Iterator[Proxy]:
    with Proxy(server.port) as between:
        yield between
