"""G3 on one host: a history of reads and purges over servers that share a folder, with everything going wrong.

`tests/support/host_history.py` says what happens and what holds. `make soak-host` runs it for minutes, with
more servers. ``-s`` prints what happened.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.host_history import FEW, History, ServerKind, rows
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="looks into /proc for the workers of a server"
)


async def reads(history: History, more: int) -> None:
    """Until readers have got so many more answers."""
    wanted = history.truth.total()["reads"] + more
    await until(lambda: history.truth.total()["reads"] >= wanted, f"{more} reads", bound=60)


async def checked(
    folder: Path, kinds: Sequence[ServerKind], seconds: float, pause: float, **options: Any
) -> History:
    history = History(folder, kinds, pause=0.05, **options)
    async with history.running():
        await reads(history, 1000)
        await history.faults(seconds, pause)
        await history.purge_all()
        await reads(history, 1000)
        history.check_readers()
    total = history.truth.total()
    print(total, *rows(history.counts), sep="\n")  # noqa: T201 - with -s
    assert total["violations"] == total["errors"] == 0, history.told()
    assert total["hits"] > total["reads"] // 2
    assert history.counts["purges that were final"] > history.counts["purges"] // 2
    return history


async def test_a_short_history(tmp_path: Path) -> None:
    history = await checked(tmp_path, FEW, seconds=3.0, pause=0.2, readers=1, rest=0.003)
    assert sum(count for name, count in history.counts.items() if name.startswith("stopped"))


@pytest.mark.systems
async def test_a_history(tmp_path: Path) -> None:
    kinds = (*FEW, ServerKind("gunicorn-sync", 1, 1), ServerKind("gateway", 2, 2, 8))
    history = await checked(tmp_path, kinds, seconds=20.0, pause=0.6)
    for kind in ("killed workers", "stopped", "deleted", "renamed", "restarts", "killed commands"):
        assert any(name.startswith(kind) for name in history.counts), (kind, history.counts)


@pytest.mark.systems
async def test_a_process_that_does_not_look_at_the_log_is_found(tmp_path: Path) -> None:
    history = History(tmp_path, FEW, pause=0.05, planted="compares_nothing")
    async with history.running():
        began = time.monotonic()
        await until(lambda: history.truth.total()["violations"] >= 1000, "violations", bound=60)
        print(f"1000 violations after {time.monotonic() - began:.1f} s")  # noqa: T201 - with -s
