"""How the whole suite runs at once (`make test`): see the hooks of pytest-xdist below.

A file is run by one worker from its first test to its last (``--dist loadfile``), so that what its
tests share is started once. A port is never two workers' (`tests/support/ports.py`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "win32":
    import fcntl

HERE = Path(__file__).parent

# The targets that run what `make test` leaves out, by marker (pyproject.toml describes the markers).
# A test with several of these markers belongs to the first.
TARGETS = {
    "soak": "make soak",
    "systems": "make test-systems",
    "frameworks": "make test-frameworks",
}

# The files that take longest, the longest first. One that began last would end on its own, with
# nothing left for the other workers. What is missing here only costs time.
LONGEST = (
    "gateway/test_supervisor.py",
    "gateway/test_workers_share.py",
    "scenarios/test_wsgi.py",
    "shared/test_log.py",
    "layers/redis/test_client.py",
    "layers/mongodb/test_conformance.py",
    "systems/test_robustness.py",
    "layers/postgres/test_conformance.py",
    "scenarios/test_fleet.py",
    "layers/postgres/test_client.py",
    "scenarios/test_asgi.py",
    "layers/postgres/test_faults.py",
    "layers/mongodb/test_faults.py",
    "layers/postgres/test_ports.py",
    "layers/host/test_ring.py",
    "gateway/test_slow_large_bodies.py",
    "layers/memory/test_memory.py",
    "layers/redis/test_layer.py",
    "guarantees/test_g3_origin_faults.py",
    "layers/postgres/test_layer.py",
    "processes/test_fleet.py",
    "shared/test_combined.py",
    "fleet/test_http.py",
    "faults/test_fault_table.py",
    "core/codec/test_codec.py",
    "gateway/test_server.py",
    "layers/redis/test_conformance.py",
    "shared/ledger/test_on_redis.py",
    "http/rfc9111/test_decision.py",
    "layers/postgres/test_setup.py",
    "guarantees/test_g3_stand_in.py",
    "shared/test_example.py",
    "shared/test_leases.py",
    "guarantees/test_g3_fleet_history.py",
    "guarantees/test_g5_never_worse.py",
    "layers/postgres/test_failover.py",
    "guarantees/test_g7_bounded.py",
    "gateway/upstreams/test_upstream.py",
    "processes/test_uvicorn.py",
    "gateway/test_poisoned_store.py",
    "shared/test_heartbeat.py",
    "asgi/test_loops.py",
    "processes/test_host_history.py",
    "http/explain/test_explain.py",
    "guarantees/test_g9_injective_keys.py",
    "cli/test_command.py",
    "http/test_wire.py",
    "cli/test_purge_host.py",
    "processes/test_slow_clients.py",
    "shared/ledger/test_conformance.py",
    "gateway/test_exhaustion.py",
    "shared/test_conformance.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: two workers more than there are processors.

    Many tests wait, for a process or for time that passes, and leave a processor to others. Each
    worker costs seconds, in which it imports and collects all tests.
    """
    available = getattr(os, "sched_getaffinity", None)
    processors = (os.cpu_count() or 1) if available is None else len(available(0))
    return min(processors + 2, 8)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A worker's files in the order in which they are given out (``--no-loadscope-reorder``)."""
    if not hasattr(config, "workerinput"):
        return
    rank = {HERE / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """Hide the collected tests from the garbage collector.

    They are several million objects that live until the end. Each collection would visit all of them,
    and many tests call `gc.collect`.
    """
    gc.collect()
    gc.freeze()


class _FirstCompiles:
    """Lets the first worker collect before the others if no test has been compiled yet.

    To rewrite the assertions of all files takes longer than to collect, and each worker would do it. The
    controller holds a lock until the first has collected; the others wait for it.
    """

    def __init__(self) -> None:
        self._lock = tempfile.NamedTemporaryFile(prefix="layergate-tests-")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    @classmethod
    def is_needed(cls) -> bool:
        compiled = (HERE / "scenarios" / "__pycache__").glob("*-pytest-*.pyc")
        return sys.platform != "win32" and not sys.dont_write_bytecode and not any(compiled)

    @staticmethod
    def wait(lock: str) -> None:
        with contextlib.suppress(FileNotFoundError), Path(lock).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        if node.gateway.id != "gw0" and not self._lock.closed:
            node.workerinput["lock"] = self._lock.name

    def _release(self) -> None:
        self._lock.close()  # which also removes it

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        self._release()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self) -> None:
        self._release()


class _Watchdog:
    """Prints the stack of every thread if a test hangs, as pytest's ``faulthandler_timeout`` does.

    pytest starts and joins a thread for each test, which on a busy machine takes longer than most of
    the tests here. This timer is restarted at most every ten seconds.
    """

    TIMEOUT = 180.0  # seconds

    def __init__(self) -> None:
        self._stderr = os.dup(2)  # before pytest captures it
        self._renew = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        now = time.monotonic()
        if now >= self._renew:
            self._renew = now + 10.0
            faulthandler.dump_traceback_later(self.TIMEOUT + 10.0, file=self._stderr)

    def pytest_unconfigure(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        os.close(self._stderr)


class _LeftOut:
    """Counts the tests that the marker expression leaves to another target, and names them at the end.

    With xdist, every worker collects all tests and reports the same counts, so one report is enough.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._counts: Counter[str] = Counter()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in TARGETS:
                if item.get_closest_marker(marker) is not None:
                    self._counts[marker] += 1
                    break

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["left_out"] = dict(self._counts)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._counts |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._counts:
            left = [
                f"{self._counts[marker]} to `{target}`"
                for marker, target in TARGETS.items()
                if self._counts[marker]
            ]
            terminalreporter.write_line(f"tests left to other targets: {', '.join(left)}")


class _Unfinished:
    """A run whose workers crash too often ends with tests that nobody has run. So it leaves no
    failures either that could be run again on their own, and pass for all (`.ci/run`)."""

    def __init__(self) -> None:
        self._tests: set[str] = set()
        self._finished: set[str] = set()

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._tests.update(ids)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._finished.add(nodeid)

    @pytest.hookimpl(trylast=True)  # once the failures are written down
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        cache = getattr(session.config, "cache", None)  # there is none with -p no:cacheprovider
        if cache is not None and (not self._tests or self._tests - self._finished):
            cache.set("cache/lastfailed", {})


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_LeftOut(config))
    config.pluginmanager.register(_Watchdog())
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None and "lock" in workerinput:
        _FirstCompiles.wait(workerinput["lock"])
    gives_out = config.getoption("dist", "no") != "no" and workerinput is None
    if gives_out and _FirstCompiles.is_needed():
        config.pluginmanager.register(_FirstCompiles())
    if gives_out and not config.getoption("maxfail"):  # -x is somebody who looks at it
        config.pluginmanager.register(_Unfinished())
