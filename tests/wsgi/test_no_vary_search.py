"""Requests that No-Vary-Search makes equivalent, in several threads: who shares, and who must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from layergate import HttpCache, MemoryLayer
from layergate.wsgi import LayerGate
from tests.support.clocks import ThreadClock
from tests.support.waiting import wait_until
from tests.support.wsgi import Answer, Gate, ask

SAID = [("Cache-Control", "max-age=10"), ("No-Vary-Search", 'params=("utm")')]


class Site:
    """Answers with the query, and the lines ``says``; ``waits``: called with the number of the request."""

    def __init__(self) -> None:
        self.says: list[tuple[str, str]] = SAID
        self.waits: Callable[[int], object] = lambda _: None
        self.calls = 0
        self._lock = threading.Lock()
        self.clock = ThreadClock()
        layer = MemoryLayer("1MB", clock=self.clock.now)
        self.cache = HttpCache(runtime=self.clock, layers=[layer], no_vary_search=True)
        self.app = LayerGate(self, cache=self.cache)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        with self._lock:
            self.calls += 1
            number = self.calls
        says = self.says
        self.waits(number)
        start_response("200 OK", says)
        return [environ["QUERY_STRING"].encode() or b"%d" % number]

    def known(self) -> None:
        """Have the path say what it depends on; then what is stored is stale."""
        ask(self.app, "/p?utm=0")
        self.clock.time += 20

    def begin(self, query: str) -> Asking:
        return Asking(self.app, f"/p?{query}")

    def waiting(self, count: int) -> None:
        wait_until(lambda: self.cache.stats()["waiters"] == count)

    def nothing_left(self) -> None:
        stats = self.cache.stats()
        assert (stats["flights"], stats["waiters"], stats["inflight_bytes"]) == (0, 0, 0)


class Asking:
    """A request in a thread of its own."""

    def __init__(self, app: Any, path: str) -> None:
        self._answer: Answer | None = None
        self._thread = threading.Thread(target=self._run, args=(app, path))
        self._thread.start()

    def _run(self, app: Any, path: str) -> None:
        self._answer = ask(app, path)

    def body(self) -> bytes:
        self._thread.join(10)
        assert self._answer is not None, "a request hangs, or has failed"
        return self._answer.body


def test_g2_equivalent_requests_share_one_fetch() -> None:
    site, gate = Site(), Gate()
    site.known()
    site.waits = lambda _: gate.wait()
    calls = [site.begin(f"utm={number}&a=1") for number in range(8)]
    gate.reached()
    site.waiting(7)
    gate.open()
    assert len({call.body() for call in calls}) == 1
    assert site.calls == 2
    site.nothing_left()


@pytest.mark.parametrize(
    "says",
    [[("Cache-Control", "max-age=10")], [*SAID[:1], ("No-Vary-Search", "key-order")]],
    ids=["says-nothing", "says-something-else"],
)
def test_g9_g4_what_turns_out_not_to_be_for_all_is_fetched_by_each_at_once(says: Any) -> None:
    site, first = Site(), Gate()
    everyone = threading.Barrier(5)
    site.known()
    site.says = says
    # (all of the others at once, or the barrier breaks)
    site.waits = lambda number: first.wait() if number == 2 else everyone.wait(10)
    calls = {"utm=1": site.begin("utm=1")}
    first.reached()
    calls |= {f"utm={number}": site.begin(f"utm={number}") for number in range(2, 7)}
    site.waiting(5)
    first.open()
    for query, call in calls.items():
        assert call.body() == query.encode()
    site.nothing_left()


def test_g3_a_request_after_a_purge_of_an_equivalent_url_does_not_join_what_began_before() -> None:
    site, gate = Site(), Gate()
    site.known()
    site.waits = lambda _: gate.wait()
    before = site.begin("utm=1")
    gate.reached()
    site.app.purge(urls=["http://example.org/p?utm=2"])
    after = site.begin("utm=3")
    gate.reached()
    gate.open()
    assert (before.body(), after.body()) == (b"utm=1", b"utm=3")
    assert ask(site.app, "/p?utm=4").body == b"utm=3"
    site.nothing_left()


@pytest.mark.parametrize("soft", [False, True])
def test_g3_a_purge_of_an_equivalent_url_meets_what_is_being_fetched_for_the_first_time(
    soft: bool,
) -> None:
    site, gate = Site(), Gate()
    site.waits = lambda number: gate.wait() if number == 1 else None
    before = site.begin("utm=1")
    gate.reached()
    site.app.purge(urls=["http://example.org/p?utm=2"], soft=soft)
    gate.open()
    assert before.body() == b"utm=1"
    assert ask(site.app, "/p?utm=3").body == b"utm=3"
    site.nothing_left()
