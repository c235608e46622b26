"""The runtime of threads."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from layergate import CacheStack, ConfigError, MemoryLayer
from layergate.runtime import pool, uwsgi
from layergate.runtime.threads import ThreadRuntime, run_blocking
from tests.support.waiting import wait_until
from tests.support.wsgi import Gate


async def value(what):
    return what


def test_run_blocking_returns_the_result() -> None:
    assert run_blocking(value(7)) == 7


def test_run_blocking_raises_what_is_raised() -> None:
    async def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_blocking(fails())


def test_a_suspension_is_a_bug_and_closed() -> None:
    closed = []

    async def suspends():
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(1)

    with pytest.raises(RuntimeError, match="suspended"):
        run_blocking(suspends())
    assert closed == [1]


def test_an_event_blocks() -> None:
    event = ThreadRuntime().event()
    assert run_blocking(event.wait(0.01)) is False
    threading.Timer(0.01, event.set).start()
    assert run_blocking(event.wait(10)) is True
    assert event.is_set()


def test_nothing_starts_before_there_is_work() -> None:
    before = threading.active_count()
    runtime = ThreadRuntime()
    assert threading.active_count() == before
    assert runtime.pending() == 0
    runtime.close(1)


def test_the_pool_is_bounded_and_its_threads_are_daemons() -> None:
    runtime = ThreadRuntime(threads=2)
    gate = Gate()
    seen: set[threading.Thread] = set()

    async def work():
        seen.add(threading.current_thread())
        gate.wait()

    jobs = [runtime.spawn(work(), name="x") for _ in range(6)]
    gate.reached()
    gate.reached()
    assert runtime.pending() == 6
    assert not any(job.done() for job in jobs)
    gate.open()
    runtime.close(10)
    assert all(job.done() for job in jobs)
    assert len(seen) == 2
    assert all(thread.daemon for thread in seen)


def test_idle_threads_end(monkeypatch) -> None:
    monkeypatch.setattr(pool, "_IDLE", 0.01)
    runtime = ThreadRuntime()
    ran = []

    async def work():
        ran.append(threading.current_thread())

    for _ in range(2):
        runtime.spawn(work(), name="x")
        runtime.close(5)
        wait_until(lambda: not ran[-1].is_alive())
    assert len(ran) == 2


def test_what_background_work_spawns_does_not_wait_for_a_thread() -> None:
    runtime = ThreadRuntime(threads=1)
    order = []

    async def inner():
        order.append("inner")

    async def outer():
        assert runtime.spawn(inner(), name="inner").done()
        order.append("outer")

    runtime.spawn(outer(), name="outer")
    runtime.close(5)
    assert order == ["inner", "outer"]


def test_failures_are_logged_and_the_thread_goes_on(caplog) -> None:
    runtime = ThreadRuntime(threads=1)

    async def fails():
        raise ValueError("boom")

    failed = runtime.spawn(fails(), name="the one")
    fine = runtime.spawn(value(1), name="x")
    runtime.close(5)
    assert failed.done()
    assert fine.done()
    assert "the one" in caplog.text


def test_close_drops_what_has_not_begun() -> None:
    runtime = ThreadRuntime(threads=1)
    gate = Gate()
    told: list = []

    async def work():
        gate.wait()

    runtime.spawn(work(), name="x")
    gate.reached()
    waiting = runtime.spawn(value(1), name="y")
    waiting.add_done_callback(told.append)
    runtime.close(0.01)
    assert waiting.done()
    assert told == [waiting]
    gate.open()
    runtime.close(5)
    again = runtime.spawn(value(1), name="z")
    runtime.close(5)
    again.add_done_callback(told.append)  # at once
    assert told == [waiting, again]


def test_no_thread_to_be_had(monkeypatch) -> None:
    def refuse(self):
        raise RuntimeError("can't start new thread")

    runtime = ThreadRuntime()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        runtime.spawn(value(1), name="x")
    assert runtime.pending() == 0


def test_options_are_checked() -> None:
    for wrong in (0, True, "8"):
        with pytest.raises(ConfigError, match="threads"):
            ThreadRuntime(threads=wrong)  # type: ignore[arg-type]


def test_the_stack_runs_on_it() -> None:
    runtime = ThreadRuntime()
    stack = CacheStack([MemoryLayer("1MB")], runtime=runtime)
    calls = []

    def fetch():
        calls.append(1)
        return "value"

    for _ in range(2):
        assert run_blocking(stack.get("key", fetch, ttl=60)) == "value"
    assert calls == [1]
    runtime.close(5)


def test_a_uwsgi_worker_without_threads_runs_work_at_once(monkeypatch, caplog) -> None:
    class Uwsgi:
        opt: dict = {}  # noqa: RUF012

        @staticmethod
        def worker_id():
            return 1

    monkeypatch.setattr(uwsgi, "_server", Uwsgi)
    monkeypatch.setattr(uwsgi, "_told", set())
    runtime = ThreadRuntime()
    ran = []

    async def work():
        ran.append(threading.current_thread())

    for _ in range(2):
        assert runtime.spawn(work(), name="x").done()
    assert ran == [threading.current_thread()] * 2
    assert caplog.text.count("enable-threads") == 2  # one record, which names it twice
    Uwsgi.opt = {"enable-threads": True}
    assert runtime.background()


def run(code: str, *, timeout: float = 20) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_the_end_of_the_interpreter_waits_for_nobody() -> None:
    began = time.monotonic()
    out = run("""
        import time
        from layergate.runtime.threads import ThreadRuntime
        runtime = ThreadRuntime(threads=2)
        async def work():
            print("at work", flush=True)
            time.sleep(600)
        for _ in range(5):
            runtime.spawn(work(), name="x")
        time.sleep(0.3)
    """)
    assert out.count("at work") == 2
    assert time.monotonic() - began < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_starts_anew() -> None:
    """With a thread of the parent in the app, and another one holding every lock there is."""
    out = run("""
        import os, threading, time, warnings
        warnings.simplefilter("ignore")  # (3.12: fork in a process with threads)
        from layergate.wsgi import LayerGate
        from tests.support.wsgi import Gate, ask
        gate = Gate()
        parent = os.getpid()
        def origin(environ, start_response):
            if environ["PATH_INFO"] == "/slow" and os.getpid() == parent:
                gate.wait()
            start_response("200 OK", [("Cache-Control", "max-age=60")])
            return [b"x"]
        app = LayerGate(origin)
        ask(app, "/before")
        async def work():
            pass
        app.cache.runtime.spawn(work(), name="x")
        app.close()
        thread = threading.Thread(target=ask, args=(app, "/slow"))
        thread.start()
        gate.reached()
        engine = app.cache.engine
        locks = [engine.budget.lock, *(part._lock for part in (
            engine.flights, engine.admission, engine.learned, engine.stack._log
        ))]
        for lock in locks:
            lock.acquire()
        pid = os.fork()
        if not pid:
            assert "hit" in ask(app, "/before").told  # what was stored is there
            assert "stored" in ask(app, "/slow").told  # and nobody waits for the parent's fetch
            app.purge(everything=True)
            app.cache.runtime.spawn(work(), name="x")
            app.close()
            assert app.cache.stats()["flights"] == 0
            print("child is fine", flush=True)
            os._exit(0)
        for lock in locks:
            lock.release()
        _, status = os.waitpid(pid, 0)
        gate.open()
        thread.join()
        assert status == 0, status
        assert app.cache.stats()["flights"] == 0
        print("parent is fine")
    """)
    assert out.split("\n")[:2] == ["child is fine", "parent is fine"]
