"""Test clients of WSGI frameworks with a real Valkey: what a request has stored, the next one finds;
an application for each test leaves no member of the fleet that purges would wait for."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, Response

from layergate import Admin, HttpCache, MemoryLayer
from layergate.layers.redis import RedisLayer
from layergate.wsgi import LayerGate, ThreadRuntime
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until
from tests.support.wsgi import ask

pytest_plugins = ("tests.support.redis_servers",)

TOKEN = {"authorization": "Bearer token-of-the-tests"}


class Site:
    def __init__(self, url: str, namespace: str, **options: Any) -> None:
        layer = RedisLayer(
            url, namespace=namespace, timeout=2.0, max_disconnected=1.0, connect_timeout=5.0
        )
        self.cache = HttpCache(
            runtime=ThreadRuntime(),
            layers=[MemoryLayer("4MB"), layer],
            admin=Admin(token="token-of-the-tests"),
            **options,
        )
        self.calls = 0
        self.flask = Flask("site")
        self.flask.wsgi_app = LayerGate(  # type: ignore[method-assign]
            self.flask.wsgi_app, cache=self.cache
        )

        @self.flask.get("/<path:path>")
        def page(path: str) -> Response:
            self.calls += 1
            headers = {"cache-control": "max-age=60"}
            if path.startswith("vary"):
                headers["vary"] = "accept-language"
            return Response(f"{path} {self.calls}", headers=headers)


@pytest.mark.parametrize("kind", ["page", "vary"])
def test_a_second_request_is_a_hit(shared_valkey: Any, kind: str) -> None:
    site = Site(shared_valkey.url, shared_valkey.namespace)
    client = site.flask.test_client()
    for number in range(40):
        assert "hit" not in client.get(f"/{kind}/{number}").headers["cache-status"]
        assert "; hit" in client.get(f"/{kind}/{number}").headers["cache-status"]
    assert site.calls == 40
    purged = client.post("/_layergate/purge", json={"purge_everything": True}, headers=TOKEN)
    assert purged.status_code == 200 and purged.json is not None
    assert purged.json["result"]["instances"] == 1
    for number in range(40):
        client.get(f"/{kind}/{number}")
        assert "; hit" in client.get(f"/{kind}/{number}").headers["cache-status"]
    assert site.calls == 80
    site.flask.wsgi_app.close()  # type: ignore[attr-defined]


def test_an_app_for_each_test_is_not_waited_for(shared_valkey: Any) -> None:
    bodies = set()
    for _ in range(4):
        site = Site(shared_valkey.url, shared_valkey.namespace)
        bodies.add(site.flask.test_client().get("/page").text)
        site.flask.wsgi_app.close()  # type: ignore[attr-defined]
    assert bodies == {"page 1"}
    last = Site(shared_valkey.url, shared_valkey.namespace)
    client = last.flask.test_client()
    client.get("/page")
    purged = client.post("/_layergate/purge", json={"tags": ["x"]}, headers=TOKEN)
    assert purged.json is not None and purged.json["result"]["instances"] == 1
    log: Any = last.cache.stack.shared_log
    assert shared_valkey.cli("ZCARD", log._journal.keys[2].decode()) == 1
    last.flask.wsgi_app.close()  # type: ignore[attr-defined]


def test_memory_has_it_when_the_response_ends(shared_valkey: Any) -> None:
    """Whatever the layer below takes."""
    with Proxy(shared_valkey.port) as line:
        site = Site(f"redis://127.0.0.1:{line.port}/0", shared_valkey.namespace)

        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Cache-Control", "max-age=60")])
            line.blackhole()
            return [b"one"]

        gate = LayerGate(app, cache=site.cache)
        assert ask(gate, "/page").body == b"one"
        assert len(site.cache.stack.layers[0]) == 1
        line.resume()
        wait_until(lambda: site.cache.runtime.pending() == 0)
        gate.close()
