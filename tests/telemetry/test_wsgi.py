"""The same spans and metrics under WSGI, where requests are threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from layergate.wsgi import LayerGate
from tests.support.waiting import wait_until
from tests.support.wsgi import Gate, Server, ask, environ_of, start
from tests.telemetry.support import Sdk, attributes, child_of, links_to, traceparent_of

FRESH = [("Cache-Control", "max-age=60")]


class App:
    """``answer``: status, headers, body. Makes a span of its own; may be held at ``gate``."""

    def __init__(self, sdk: Sdk) -> None:
        self.sdk = sdk
        self.gate: Gate | None = None
        self.headers = FRESH
        self.status = "200 OK"
        self.body: Any = [b"body"]

    def __call__(self, environ: Any, start_response: Any) -> Any:
        with self.sdk.app.start_as_current_span("query"):
            if self.gate is not None:
                self.gate.wait()
            start_response(self.status, list(self.headers))
            return self.body


@pytest.fixture
def app(sdk: Sdk) -> App:
    return App(sdk)


def served(gate: Any, sdk: Sdk, path: str = "/a", **extra: Any) -> Any:
    with sdk.app.start_as_current_span(f"GET {path}"):
        return ask(gate, path, **extra)


def test_a_miss(app: App, sdk: Sdk) -> None:
    gate = LayerGate(app, telemetry=sdk.telemetry)  # (counted as long as it lives)
    served(gate, sdk)
    request, fetch = sdk.one("GET /a"), sdk.one("layergate.fetch")
    assert child_of(sdk.one("layergate.lookup"), request)
    assert child_of(fetch, request)
    assert child_of(sdk.one("query"), fetch)
    assert child_of(sdk.one("layergate.store"), fetch)
    assert attributes(fetch)["http.response.status_code"] == 200
    assert sdk.values("layergate.requests")["outcome=miss"] == 1
    assert sdk.values("layergate.fetch.duration") == {
        "http.response.status_code=200 operation=fetch": 1
    }


def test_hits(app: App, sdk: Sdk) -> None:
    gate = LayerGate(app, telemetry=sdk.telemetry, trace_hits=True)
    for _ in range(3):
        served(gate, sdk)
    fetch = sdk.one("layergate.fetch")
    hits = [span for span in sdk.all("layergate.lookup") if links_to(span, fetch)]
    assert len(hits) == 2
    assert sdk.values("layergate.requests")["layer=memory outcome=hit"] == 2


def test_a_body_that_streams_ends_its_fetch_at_its_end(app: App, sdk: Sdk) -> None:
    app.body = iter([b"a", b"b"])
    gate = LayerGate(app, telemetry=sdk.telemetry)
    body, server = start(gate, "/a")
    assert next(iter(body)) == b"a"
    assert not sdk.all("layergate.fetch")
    for chunk in body:
        server.write(chunk)
    body.close()
    assert "error.type" not in attributes(sdk.one("layergate.fetch"))
    assert child_of(sdk.one("layergate.store"), sdk.one("layergate.fetch"))


def test_a_body_that_is_passed_on_untouched(app: App, sdk: Sdk) -> None:
    app.headers = [("Cache-Control", "private")]
    ask(LayerGate(app, telemetry=sdk.telemetry), "/a")
    assert attributes(sdk.one("layergate.fetch"))["layergate.refused"] == "private"


def test_an_app_that_fails(app: App, sdk: Sdk) -> None:
    def broken(environ: Any, start_response: Any) -> Any:
        raise LookupError("secret")

    gate = LayerGate(broken, telemetry=sdk.telemetry)
    with pytest.raises(LookupError):
        served(gate, sdk)
    assert attributes(sdk.one("layergate.fetch"))["error.type"] == "LookupError"
    assert sdk.values("layergate.requests")["outcome=miss"] == 1


def test_a_refresh_on_a_background_thread(app: App, sdk: Sdk) -> None:
    app.headers = [("Cache-Control", "max-age=0, stale-while-revalidate=60")]
    gate = LayerGate(app, telemetry=sdk.telemetry)
    served(gate, sdk)
    fetch = sdk.one("layergate.fetch")
    sdk.forget()
    served(gate, sdk)
    gate.close()
    request, refresh = sdk.one("GET /a"), sdk.one("layergate.refresh")
    assert refresh.parent is None
    assert links_to(refresh, request, fetch)
    assert child_of(sdk.one("query"), refresh)


def test_the_app_is_called_as_part_of_the_fetch(app: App, sdk: Sdk) -> None:
    seen = []

    def noting(environ: Any, start_response: Any) -> Any:
        seen.append(tuple(environ.get(name) for name in traced))
        environ["noted"] = True
        return app(environ, start_response)

    gate = LayerGate(noting, telemetry=sdk.telemetry)
    app.headers = [("Cache-Control", "max-age=0, stale-while-revalidate=60")]
    traced = {
        "HTTP_TRACEPARENT": "00-11111111111111111111111111111111-2222222222222222-01",
        "HTTP_TRACESTATE": "a=b",
        "HTTP_BAGGAGE": "user=42",
    }
    outer = environ_of("/a", **traced)
    server = Server()
    with sdk.app.start_as_current_span("GET /a"):
        assert b"".join(gate(outer, server.start_response)) == b"body"
    assert outer["noted"]
    assert {name: outer[name] for name in traced} == traced  # whatever the app was told
    served(gate, sdk, **traced)
    gate.close()
    first = traceparent_of(sdk.one("layergate.fetch"))
    second = traceparent_of(sdk.one("layergate.refresh"))
    assert seen == [(first, None, "user=42"), (second, None, None)]


def test_a_follower_in_another_thread(app: App, sdk: Sdk) -> None:
    app.gate = Gate()
    gate = LayerGate(app, telemetry=sdk.telemetry)
    threads = [
        threading.Thread(target=served, args=(gate, sdk), kwargs={"HTTP_X_N": str(number)})
        for number in range(2)
    ]
    threads[0].start()
    app.gate.reached()
    threads[1].start()
    wait_until(lambda: gate.cache.stats()["waiters"] == 1)
    app.gate.open()
    for thread in threads:
        thread.join(10)
    wait, fetch = sdk.one("layergate.wait"), sdk.one("layergate.fetch")
    assert links_to(wait, fetch)
    assert wait.parent is not None
    assert fetch.parent is not None
    assert wait.parent.span_id != fetch.parent.span_id
    counted = sdk.values("layergate.requests")
    assert (counted["outcome=miss"], counted["outcome=collapsed"]) == (1, 1)
