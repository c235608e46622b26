"""One server for all tests of a file that leave it as they found it, and the two worlds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.mongo_parts import World
from tests.support.mongo_servers import Mongo
from tests.support.proxy import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    with Mongo(tmp_path_factory.mktemp("mongo"), options=["--enable-test-commands"]) as running:
        yield running


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    options = ["--enable-test-commands"]
    with Mongo(tmp_path_factory.mktemp("single"), standalone=True, options=options) as running:
        yield running


@pytest.fixture(params=["loop", "threads"])
def world(request: Any) -> Iterator[World]:
    with World(request.param) as made:
        yield made


@pytest.fixture
def proxy(server: Mongo) -> Iterator[Proxy]:
    with Proxy(server.port) as between:
        yield between
