"""How the whole suite runs at once (`make test`): see the hooks of pytest-xdist below.

A file is run by one worker from its first test to its last (``--dist loadfile``), so that what its
tests share is started once. A port is never two workers' (`tests/support/ports.py`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# The files that take longest, the longest first. One that began last would end on its own, with
# nothing left for the other workers. What is missing here only costs time.
LONGEST = (
    "processes/test_fleet.py",
    "shared/test_log.py",
    "layers/redis/test_client.py",
    "gateway/test_supervisor.py",
    "processes/test_wsgi_servers.py",
    "gateway/test_siblings.py",
    "guarantees/test_g3_origin_faults.py",
    "guarantees/test_g3_origin_faults.py",
    "asgi/test_loops.py",
    "guarantees/test_g3_stand_in.py",
    "gateway/test_slow_large_bodies.py",
    "guarantees/test_g7_memos.py",
    "gateway/test_siblings_model.py",
    "guarantees/test_g3_fleet_history.py",
    "faults/test_fault_table.py",
    "telemetry/test_fleet.py",
    "shared/test_heartbeat.py",
    "fleet/test_http.py",
    "gateway/test_server.py",
    "cli/test_command.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: one worker more than there are processors.

    Many tests wait, for a process or for time that passes, and leave a processor to others. More
    workers would make it wait for them instead.
    """
    available = getattr(os, "sched_getaffinity", None)
    processors = (os.cpu_count() or 1) if available is None else len(available(0))
    return min(processors + 1, 8)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A worker's files in the order in which they are given out (``--no-loadscope-reorder``)."""
    if not hasattr(config, "workerinput"):
        return
    rank = {HERE / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


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
    gives_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if gives_out and not config.getoption("maxfail"):  # -x is somebody who looks at it
        config.pluginmanager.register(_Unfinished())
