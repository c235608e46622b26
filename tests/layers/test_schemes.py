"""Which layer a URL names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layergate import HttpCache
from layergate.errors import ConfigError
from layergate.layers import schemes
from layergate.layers.redis import RedisLayer
from layergate.layers.schemes import add_scheme, layer_of, shown_url


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    added = dict(schemes._added)
    schemes._declared.cache_clear()
    yield
    schemes._added.clear()
    schemes._added.update(added)
    schemes._declared.cache_clear()


@pytest.mark.parametrize(
    "url", ["redis://a", "REDISS://a", "valkey+cluster://a,b", "redis+sentinel://a/m", "unix:///a"]
)
def test_redis_has_its_schemes(url: str):
    layer = layer_of(url, timeout=0.1, connect_timeout=0.5)
    assert isinstance(layer, RedisLayer)
    assert (layer.timeout, layer.connect_timeout) == (0.1, 0.5)


def test_what_is_shown_of_a_url_is_no_secret():
    assert shown_url("redis://user:secret@a/1") == "redis://a:6379"


def test_a_scheme_that_is_not_known_is_refused_and_not_shown():
    for url in ("unknown://a", ":secret@host"):
        with pytest.raises(ConfigError, match=r"known are .*redis://, .*unix://") as caught:
            layer_of(url)
        assert "secret" not in str(caught.value)


def test_an_object_that_no_layer_knows_is_refused():
    with pytest.raises(ConfigError, match=r"a client of redis, got builtins\.object; give its URL"):
        layer_of(object())


def test_an_application_adds_a_scheme():
    made: list[tuple[str, dict[str, Any]]] = []

    def factory(url: str, **options: Any) -> RedisLayer:
        made.append((url, options))
        return RedisLayer("redis://elsewhere")

    add_scheme("mine", factory)
    add_scheme("MINE", factory)  # again
    cache = HttpCache(shared="mine://there", layer_timeout=0.1)
    assert isinstance(cache.stack.layers[1], RedisLayer)
    assert made == [("mine://there", {"timeout": 0.1, "connect_timeout": 0.1})]
    assert shown_url("mine://user:secret@there") == "mine://..."
    assert "mine" in schemes.schemes()


@pytest.mark.parametrize("scheme", ["redis", "Unix", "mine"])
def test_a_scheme_has_one_layer(scheme: str):
    add_scheme("mine", RedisLayer)
    with pytest.raises(ConfigError, match="must not have a layer already"):
        add_scheme(scheme, lambda url, **options: RedisLayer(url, **options))


def test_an_installed_package_declares_a_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distribution as an installer leaves it: a module, and metadata with an entry point."""
    (tmp_path / "their_layer.py").write_text(
        "from layergate.layers.redis import RedisLayer\n"
        "class TheirLayer(RedisLayer):\n"
        "    def __init__(self, url, **options):\n"
        "        super().__init__('redis://theirs', name='theirs', **options)\n"
        "    @staticmethod\n"
        "    def shown_url(url):\n"
        "        return 'theirs, hidden'\n"
    )
    metadata = tmp_path / "their_layer-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-layer\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[layergate.layers]\ntheirs = their_layer:TheirLayer\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        cache = HttpCache(shared="theirs://somewhere")
        assert cache.stack.layers[1].name == "theirs"
        assert shown_url("theirs://user:secret@somewhere") == "theirs, hidden"
        assert "theirs" in schemes.schemes()
    finally:
        sys.modules.pop("their_layer", None)
