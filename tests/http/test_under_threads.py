"""What threads may do to the engine at moments when a loop could not."""

from __future__ import annotations

import io
import threading
import time

from layergate.http.engine.budget import Budget
from layergate.http.engine.claims import Claims
from layergate.wsgi import LayerGate


def get(app, path: str = "/") -> tuple[str, str, bytes]:
    """Status, Cache-Status and body."""
    heads = []
    body = app(
        {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "HTTP_HOST": "example.org",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
        },
        lambda status, headers, *_: heads.append((status, dict(headers))),
    )
    data = b"".join(body)
    if hasattr(body, "close"):
        body.close()
    return heads[0][0], heads[0][1].get("cache-status", ""), data


class Origin:
    def __init__(self, control: str) -> None:
        self.control = control
        self.calls = 0

    def __call__(self, environ, start_response):
        self.calls += 1
        start_response("200 OK", [("Cache-Control", self.control)])
        return [b"%d" % self.calls]


def test_a_fetch_that_lands_between_the_store_and_the_flights_is_not_repeated() -> None:
    """Seen as a second call of the app for one cold key, once in some thousand bursts."""
    origin = Origin("max-age=60")
    nested: list[str] = []

    def hook(event, facts) -> None:
        # This request has looked at the store and not yet at the flights. Another one comes, and
        # is done, as another thread may at this very moment.
        if event == "miss" and not nested:
            nested.append("")
            nested[0] = get(app)[1]

    app = LayerGate(origin, hooks=[hook])
    status, told, body = get(app)
    assert (status, body, origin.calls) == ("200 OK", b"1", 1)
    assert "stored" in nested[0]
    assert "hit" in told


def test_a_refresh_that_lands_meanwhile_is_not_repeated() -> None:
    origin = Origin("max-age=0, stale-while-revalidate=60")
    nested: list[str] = []

    def hook(event, facts) -> None:
        if event == "stale" and not nested:
            nested.append("")
            origin.control = "max-age=60"
            nested[0] = get(app)[1]
            app.close()

    app = LayerGate(origin, hooks=[hook])
    get(app)
    time.sleep(0.01)  # (its age is more than 0)
    assert "stale-while-revalidate" in get(app)[1]
    app.close()
    assert "stale-while-revalidate" in nested[0]
    assert origin.calls == 2


class SlowInt(int):
    """An addition in which other threads get their turn."""

    def __radd__(self, other):
        time.sleep(0.002)
        return int.__add__(self, other)


def test_no_count_is_lost() -> None:
    cache = LayerGate(Origin("no-store")).cache
    budget = cache.engine.budget

    def work() -> None:
        for _ in range(5):
            assert budget.take(SlowInt(3), cap=1000)
            budget.count_waiter(SlowInt(1))
            budget.count_refresh(SlowInt(1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    stats = cache.stats()
    assert (stats["inflight_bytes"], stats["waiters"], stats["refreshing"]) == (60, 20, 20)


def test_what_a_body_reserved_is_given_back_once(monkeypatch) -> None:
    given: list[int] = []

    def give(_: Budget, size: int, holder: Claims) -> None:
        given.append(size)
        if len(given) < 10:
            holder.return_bytes()  # the last two readers leave at the same moment

    monkeypatch.setattr(Budget, "give", give)
    get(LayerGate(Origin("max-age=60")))
    assert given == [1]
