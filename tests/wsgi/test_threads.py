"""The guarantees, among threads."""

from __future__ import annotations

import random
import threading
import time

import pytest

from layergate import OriginAborted
from layergate.wsgi import LayerGate
from tests.support.waiting import wait_until
from tests.support.wsgi import Gate, ask, in_threads, start

FRESH = [("Content-Type", "text/plain"), ("Cache-Control", "max-age=60")]


class Origin:
    """Counts its calls; ``body`` makes the iterable."""

    def __init__(self, headers=FRESH, body=lambda: [b"one"], status="200 OK") -> None:
        self.headers = headers
        self.body = body
        self.status = status
        self.calls = 0
        self.closed = 0
        self.threads: list[int] = []
        self.environs: list[dict] = []
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        with self.lock:
            self.calls += 1
            self.threads.append(threading.get_ident())
            self.environs.append(environ)
        start_response(self.status, list(self.headers))
        return Closing(self, self.body())


class Closing:
    def __init__(self, origin, body) -> None:
        self.origin = origin
        self.iterator = iter(body)

    def __iter__(self):
        return self.iterator

    def close(self) -> None:
        with self.origin.lock:
            self.origin.closed += 1


def waiters(app) -> int:
    return app.cache.stats()["waiters"]


def clean(app) -> None:
    """Nothing is left behind."""
    stats = app.cache.stats()
    assert stats["flights"] == stats["waiters"] == stats["inflight_bytes"] == 0, stats
    assert stats["refreshing"] == 0


def test_g2_32_threads_with_1000_requests_each_cost_one_call() -> None:
    barrier = threading.Barrier(32)

    def body():
        time.sleep(0.01)
        yield b"one"

    origin = Origin(body=body)
    app = LayerGate(origin)

    def client() -> int:
        barrier.wait(10)
        return sum(ask(app).body == b"one" for _ in range(1000))

    assert in_threads(32, client) == [1000] * 32
    assert origin.calls == origin.closed == 1
    clean(app)


def test_g2_cold_keys_in_bursts_cost_one_call_each() -> None:
    """Many short fetches: each is a chance for a request to come between store and flight."""
    origin = Origin()
    app = LayerGate(origin)
    barrier = threading.Barrier(8)

    def client() -> None:
        for number in range(150):
            barrier.wait(20)
            assert ask(app, f"/{number}").body == b"one"

    assert in_threads(8, client) == [None] * 8
    assert origin.calls == 150
    clean(app)


def test_g4_what_is_not_shareable_runs_concurrently() -> None:
    together = threading.Barrier(8)

    def body():
        yield b"mine"

    origin = Origin([("Cache-Control", "no-store")], body)
    app = LayerGate(origin)
    ask(app)  # from here on there is a marker

    def app_of_eight(environ, start_response):
        together.wait(10)  # only reached by all if nobody waits for anybody
        return origin(environ, start_response)

    app.app = app_of_eight
    answers = in_threads(8, lambda: ask(app).body)
    assert answers == [b"mine"] * 8
    clean(app)


def test_g4_a_slow_first_chunk_of_something_private_holds_up_nobody() -> None:
    gate = Gate()

    def body():
        gate.wait()
        yield b"mine"

    origin = Origin([("Cache-Control", "private")], body)
    app = LayerGate(origin)
    threads = [threading.Thread(target=ask, args=(app,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        gate.reached()  # all four are in the app, though none has a body yet
    gate.open()
    for thread in threads:
        thread.join(10)
    assert origin.calls == 4


def test_the_app_runs_on_the_thread_of_its_request() -> None:
    origin = Origin()
    ask(LayerGate(origin))
    assert origin.threads == [threading.get_ident()]


def test_a_leader_that_fails_is_replaced() -> None:
    gate = Gate()
    failed: list[int] = []

    def app(environ, start_response):
        if not failed:
            failed.append(1)
            gate.wait()
            raise ValueError("first")
        return origin(environ, start_response)

    origin = Origin()
    cached = LayerGate(app)
    raised: list = []
    leader = threading.Thread(target=lambda: raised.extend(in_threads(1, lambda: ask(cached))))
    leader.start()
    gate.reached()
    results: list = []
    followers = threading.Thread(
        target=lambda: results.extend(in_threads(5, lambda: ask(cached).body))
    )
    followers.start()
    wait_until(lambda: waiters(cached) == 5)
    gate.open()
    followers.join(20)
    leader.join(20)
    assert [str(error) for error in raised] == ["first"]
    assert results == [b"one"] * 5
    assert origin.calls == 1
    clean(cached)


def test_g8_a_follower_streams_along() -> None:
    second = Gate()

    def body():
        yield b"a"
        second.wait()
        yield b"b"

    origin = Origin(body=body)
    app = LayerGate(origin)
    leading, _ = start(app)
    assert next(leading) == b"a"
    following, server = start(app)
    assert next(following) == b"a"  # with the rest of it not there yet
    assert "collapsed" in server.head[1]["cache-status"]
    rest: list[bytes] = []
    thread = threading.Thread(target=lambda: rest.extend(following))
    thread.start()
    second.open()
    assert list(leading) == [b"b"]
    thread.join(10)
    following.close()
    leading.close()
    assert rest == [b"b"]
    assert origin.calls == origin.closed == 1
    assert "hit" in ask(app).told
    clean(app)


def test_a_list_is_shared_before_the_leaders_client_takes_any_of_it() -> None:
    """All of the body is there: those who wait need not wait for a client that reads slowly."""

    def app(environ, start_response):
        if not gate_opened:
            gate_opened.append(1)
            gate.wait()
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"a", b"b", b"c"]

    gate = Gate()
    gate_opened: list[int] = []
    cached = LayerGate(app)
    leading: list = []
    leader = threading.Thread(target=lambda: leading.append(start(cached)))
    leader.start()
    gate.reached()
    results: list = []
    followers = threading.Thread(target=lambda: results.extend(in_threads(3, lambda: ask(cached))))
    followers.start()
    wait_until(lambda: waiters(cached) == 3)
    gate.open()
    leader.join(10)
    followers.join(10)
    assert [answer.body for answer in results] == [b"abc"] * 3
    assert ask(cached).told.startswith("LayerGate; hit")  # stored, too
    body, server = leading[0]
    assert b"".join(body) == b"abc"
    if hasattr(body, "close"):
        body.close()
    assert server.head[0] == "200 OK"
    clean(cached)


def test_a_leader_whose_server_closes_early_finishes_for_the_others() -> None:
    origin = Origin(body=lambda: iter([b"a", b"b", b"c"]))
    app = LayerGate(origin)
    leading, _ = start(app)
    assert next(leading) == b"a"
    following, _ = start(app)
    leading.close()  # the client of the leader is gone
    assert b"".join(following) == b"abc"
    following.close()
    assert "hit" in ask(app).told
    assert origin.calls == origin.closed == 1
    clean(app)


def test_a_leader_closed_early_goes_on_for_the_store_but_not_for_ever() -> None:
    produced = []

    def body():
        while True:
            produced.append(1)
            time.sleep(0.001)
            yield b"x"

    origin = Origin(body=body)
    app = LayerGate(origin, abandoned_timeout=0.05)
    leading, _ = start(app)
    next(leading)
    began = time.monotonic()
    leading.close()
    assert time.monotonic() - began < 5
    assert origin.closed == 1
    clean(app)
    count = len(produced)
    leading.close()  # once more does nothing
    assert len(produced) == count


def test_a_leader_closed_early_does_not_read_on_over_the_cap() -> None:
    def body():
        while True:
            yield b"x" * 1000

    origin = Origin(body=body)
    app = LayerGate(origin, max_body=5000)
    leading, _ = start(app)
    next(leading)
    leading.close()
    assert origin.closed == 1
    clean(app)


def test_g6_a_leader_that_breaks_off_breaks_its_followers_off() -> None:
    second = Gate()

    def body():
        yield b"a"
        second.wait()
        raise ValueError("in the middle")

    origin = Origin(body=body)
    app = LayerGate(origin)
    leading, _ = start(app)
    next(leading)
    following, _ = start(app)
    assert next(following) == b"a"
    second.open()
    with pytest.raises(ValueError, match="in the middle"):
        next(leading)
    with pytest.raises(OriginAborted):
        next(following)
    leading.close()
    following.close()
    assert origin.closed == 1
    clean(app)


def test_a_follower_that_leaves_changes_nothing() -> None:
    origin = Origin(body=lambda: iter([b"a", b"b"]))
    app = LayerGate(origin)
    leading, _ = start(app)
    next(leading)
    following, _ = start(app)
    next(following)
    following.close()
    assert list(leading) == [b"b"]
    leading.close()
    assert "hit" in ask(app).told
    clean(app)


def test_over_the_cap_a_slow_follower_holds_up_the_leader_only_so_long() -> None:
    def body():
        for _ in range(8):
            yield b"x" * 100_000

    origin = Origin(body=body)
    app = LayerGate(origin, max_body=250_000, slow_reader_timeout=0.05)
    leading, _ = start(app)
    got = len(next(leading))
    following, _ = start(app)
    next(following)  # and never again
    got += sum(len(chunk) for chunk in leading)
    leading.close()
    assert got == 800_000
    with pytest.raises(OriginAborted):
        list(following)
    following.close()
    clean(app)


def test_g3_a_purge_during_a_flight_is_final() -> None:
    gate = Gate()
    values = iter([b"old", b"new"])

    def body():
        value = next(values)
        if value == b"old":
            gate.wait()
        yield value

    origin = Origin([*FRESH, ("Cache-Tag", "product")], body)
    app = LayerGate(origin)
    answers: list = []
    leader = threading.Thread(target=lambda: answers.append(ask(app).body))
    leader.start()
    gate.reached()
    app.purge(urls=["http://example.org/"])
    assert ask(app).body == b"new"  # does not wait for what began before the purge
    gate.open()
    leader.join(10)
    assert answers == [b"old"]
    assert ask(app).body == b"new"
    clean(app)


def test_a_refresh_runs_in_the_background_with_an_environ_of_its_own() -> None:
    gate = Gate()
    origin = Origin([("Cache-Control", "max-age=0, stale-while-revalidate=60"), ("ETag", '"1"')])
    app = LayerGate(origin)
    ask(app, wsgi_file_wrapper=list, HTTP_COOKIE="")
    origin.body = lambda: (gate.wait(), [b"two"])[1]  # type: ignore[func-returns-value]
    began = time.monotonic()
    stale = ask(app, wsgi_file_wrapper=list, CONTENT_LENGTH="0", HTTP_CACHE_CONTROL="max-stale")
    assert (stale.body, time.monotonic() - began < 5) == (b"one", True)
    gate.reached()
    assert ask(app).body == b"one"  # one refresh is enough
    gate.open()
    app.close()
    assert origin.calls == origin.closed == 2
    refresh = origin.environs[1]
    assert origin.threads[1] != threading.get_ident()
    assert refresh["wsgi.input"].read() == b""
    assert refresh["HTTP_IF_NONE_MATCH"] == '"1"'
    for name in ("wsgi.file_wrapper", "CONTENT_LENGTH", "HTTP_CACHE_CONTROL"):
        assert name not in refresh
    assert ask(app).body == b"two"
    app.close()
    clean(app)


def test_a_refresh_that_fails_leaves_the_stale_response() -> None:
    origin = Origin([("Cache-Control", "max-age=0, stale-while-revalidate=60, stale-if-error=60")])
    app = LayerGate(origin)
    ask(app)

    def body():
        raise ValueError("down")
        yield b""

    origin.body = body
    for _ in range(3):
        assert ask(app).body == b"one"
        app.close()
    assert origin.calls == origin.closed == 4
    clean(app)


def test_stale_if_error_when_the_app_fails_before_its_first_byte() -> None:
    origin = Origin([("Cache-Control", "max-age=0, stale-if-error=60")])
    app = LayerGate(origin)
    ask(app)

    def body():
        raise ValueError("down")
        yield b""

    origin.body = body  # the head is 200 by then, but no server has sent it yet
    answer = ask(app)
    assert (answer.body, "stale-if-error" in answer.told) == (b"one", True)
    assert origin.closed == 2
    origin.status, origin.body = "503 Down", lambda: [b"sorry"]
    assert ask(app).body == b"one"
    assert origin.closed == 3
    clean(app)


def test_an_error_page_after_which_the_app_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The stored response is returned, so the error cannot be raised as well: it is logged."""
    app = LayerGate(Origin([("Cache-Control", "max-age=0, stale-if-error=60")]))
    ask(app)

    def failing(environ, start_response):
        start_response("500 Internal Server Error", [])(b"sorry")
        raise ValueError("boom")

    app.app = failing
    with caplog.at_level("WARNING", "layergate"):
        answer = ask(app)
    assert (answer.body, "stale-if-error" in answer.told) == (b"one", True)
    assert [record.exc_info is not None for record in caplog.records] == [True]
    clean(app)


def test_a_follower_with_something_stale_does_not_wait_for_ever() -> None:
    gate = Gate()
    origin = Origin([("Cache-Control", "max-age=1, stale-if-error=60")])
    app = LayerGate(origin, origin_timeout=0.05)
    ask(app)
    app.purge(everything=True, soft=True)
    origin.body = lambda: (gate.wait(), [b"late"])[1]  # type: ignore[func-returns-value]
    leader = threading.Thread(target=ask, args=(app,))
    leader.start()
    gate.reached()
    answer = ask(app)
    assert (answer.body, "stale-if-error" in answer.told) == (b"one", True)
    gate.open()
    leader.join(10)
    assert ask(app).body == b"late"
    clean(app)


def test_at_random_nothing_hangs_or_is_left_behind() -> None:
    """Clients that read, leave early and purge; an app that streams, fails and breaks off."""
    opened = []

    class Body:
        def __init__(self, chunks) -> None:
            self.chunks = iter(chunks)
            self.closed = 0
            opened.append(self)

        def __iter__(self):
            return self.chunks

        def close(self) -> None:
            self.closed += 1

    def chunks(pick, name):
        for _ in range(pick.randrange(4)):
            yield name * pick.randrange(1, 400)
        if pick.random() < 0.1:
            raise ValueError("in the middle")

    def origin(environ, start_response):
        pick = random.Random()
        name = environ["PATH_INFO"].encode()
        if pick.random() < 0.1:
            raise ValueError("at once")
        control = pick.choice([
            "max-age=60", "max-age=60", "no-store", "private", "no-cache",
            "max-age=0, stale-while-revalidate=60", "max-age=0, stale-if-error=60",
        ])  # fmt: skip
        status = pick.choice(["200 OK", "200 OK", "503 Down", "404 Not Found"])
        headers = [("Cache-Control", control), ("ETag", '"x"')]
        if environ.get("HTTP_IF_NONE_MATCH") and pick.random() < 0.5:
            status = "304 Not Modified"
        if pick.random() < 0.3:
            headers.append(("Vary", "Accept"))
        write = start_response(status, headers)
        if status[:3] == "304":
            return Body([])
        if pick.random() < 0.1:
            write(name)
        return Body(chunks(pick, name))

    app = LayerGate(origin, max_body=1000, slow_reader_timeout=0.05, collapse_timeout=5)

    def client() -> int:
        pick = random.Random()
        got = 0
        for _ in range(300):
            path = f"/{pick.randrange(4)}"
            extra = {}
            if pick.random() < 0.2:
                extra["HTTP_COOKIE"] = "a=b"
            if pick.random() < 0.2:
                extra["HTTP_IF_NONE_MATCH"] = '"x"'
            if pick.random() < 0.5:
                extra["HTTP_ACCEPT"] = pick.choice(["a", "b"])
            if pick.random() < 0.1:
                app.purge(urls=[f"http://example.org{path}"], soft=pick.random() < 0.5)
            try:
                body, server = start(app, path, **extra)
                try:
                    for chunk in body:
                        # Nothing of another target, whatever happens.
                        assert not chunk.replace(path.encode(), b""), chunk
                        got += 1
                        if pick.random() < 0.2:
                            break
                finally:
                    if hasattr(body, "close"):
                        body.close()
                assert server.head is not None
            except (ValueError, OriginAborted):
                got += 1
        return got

    results = in_threads(8, client)
    assert all(isinstance(result, int) for result in results), results
    app.close()
    clean(app)
    assert {body.closed for body in opened} == {1}
