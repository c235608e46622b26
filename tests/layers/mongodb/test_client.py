"""How a layer on a MongoDB uses pymongo's clients."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from layergate import CacheStack, ConfigError
from layergate.layers.mongodb import MongoLayer
from tests.support.mongo_servers import Mongo


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    with Mongo(tmp_path_factory.mktemp("mongo")) as running:
        yield running


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_loop_that_was_closed_over_a_client_leaves_no_task_that_complains(
    server: Mongo, caplog: pytest.LogCaptureFixture
) -> None:
    async def fetch() -> bytes:
        return b"value"

    stack = CacheStack([MongoLayer(server.url(), namespace="left", timeout=5.0)])
    with caplog.at_level(logging.ERROR, "asyncio"):
        for _ in range(2):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(stack.get("key", fetch, ttl=60)) == b"value"
            loop.close()  # nothing is closed in order

        async def last() -> None:
            assert await stack.get("key", fetch, ttl=60) == b"value"
            await stack.aclose()

        asyncio.run(last())
        gc.collect()
    ours = [one for one in caplog.records if "pymongo" in one.getMessage()]
    assert not ours, ours


def test_nothing_starts_before_the_first_call(server: Mongo) -> None:
    before = threading.active_count()
    layer = MongoLayer(server.url())
    CacheStack([layer])
    assert threading.active_count() == before
    assert server.url() not in repr(threading.enumerate())


def test_without_pymongo_it_says_what_to_install() -> None:
    code = textwrap.dedent("""
        import sys
        sys.modules["pymongo"] = None
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "pymongo" else found(name, *more)
        from layergate import ConfigError
        from layergate.layers.schemes import layer_of
        try:
            layer_of("mongodb://host/shop")
        except ConfigError as error:
            print(error)
    """)
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'layergate[mongodb]'" in told


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ann:s3cr3t@h:port/x",
        "mongodb://",
        "mongodb://ann:s3cr3t@h/?w=-5",
        "mongodb://ann:s3 cr3t:x@h",
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="url must be one that MongoDB reads") as refused:
        MongoLayer(url)
    assert "cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefix": "a b"}, "prefix must be"),
        ({"prefix": ""}, "prefix must be"),
        ({"prefix": 3}, "prefix"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MongoLayer("mongodb://h", **options)
