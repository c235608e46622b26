"""`HttpCache.reload` under WSGI: from any thread, while others are served."""

from __future__ import annotations

import threading

from layergate import Admin, HttpCache, Rule
from layergate.wsgi import LayerGate, ThreadRuntime
from tests.support.waiting import wait_until
from tests.support.wsgi import Answer, Gate, ask


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Cache-Tag", "t")])
    return [environ["PATH_INFO"].encode()]


def test_rules_the_endpoint_and_what_is_said_change():
    cache = HttpCache(runtime=ThreadRuntime())
    gate = LayerGate(app, cache=cache)
    assert "no-freshness" in ask(gate, "/a").told
    cache.reload(rules=[Rule("/a", ttl=60), Rule("/b", bypass=True)], admin=Admin(token="t"))
    ask(gate, "/a")
    assert "; hit" in ask(gate, "/a").told
    assert ask(gate, "/b").told == "LayerGate; fwd=bypass; detail=rule"
    assert ask(gate, "/_layergate/stats", HTTP_AUTHORIZATION="Bearer t").status == "200 OK"
    assert "cache-tag" not in ask(gate, "/a", "POST").headers
    cache.reload(strip_tags=False, admin=None, cache_status=False)
    assert ask(gate, "/a", "POST").headers["cache-tag"] == "t"
    assert ask(gate, "/_layergate/stats", HTTP_AUTHORIZATION="Bearer t").body[:1] == b"/"
    assert ask(gate, "/b").told == ""


def test_a_fetch_under_way_ends_by_the_rules_it_began_with():
    held = Gate()

    def slow(environ, start_response):
        held.wait()
        return app(environ, start_response)

    cache = HttpCache(runtime=ThreadRuntime(), rules=[Rule("/a", ttl=60)])
    gate = LayerGate(slow, cache=cache)
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(ask(gate, "/a")))
    thread.start()
    held.reached()
    cache.reload(rules=[])
    held.open()
    thread.join(10)
    assert "; stored" in answers[0].told
    assert "; hit" in ask(gate, "/a").told


def test_threads_that_ask_meanwhile_see_the_old_or_the_new_and_never_fail():
    cache = HttpCache(runtime=ThreadRuntime(), rules=[Rule("/a", ttl=60)])
    gate = LayerGate(app, cache=cache)
    ask(gate, "/a")
    over = threading.Event()
    seen: list[set[str]] = [set() for _ in range(4)]
    failures: list[BaseException] = []

    def client(told: set[str]) -> None:
        try:
            while not over.is_set():
                told.add(ask(gate, "/a").told.partition("; ttl")[0])
                told.add(ask(gate, "/_layergate/stats").status)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(told,)) for told in seen]
    for thread in threads:
        thread.start()
    wanted = {"LayerGate; hit", "LayerGate; fwd=bypass; detail=rule", "200 OK", "401 Unauthorized"}
    bypassed = False

    def turned() -> bool:
        nonlocal bypassed
        bypassed = not bypassed
        cache.reload(
            rules=[Rule("/a", bypass=True) if bypassed else Rule("/a", ttl=60)],
            admin=Admin(token="t") if bypassed else None,
        )
        return bool(failures) or all(told >= wanted for told in seen)

    try:
        wait_until(turned)
    finally:
        over.set()
        for thread in threads:
            thread.join(10)
    assert not failures
    assert set().union(*seen) == wanted
