"""The ledger under real processes: reads and purges, while processes are killed and the store is emptied.

Each process is an application with a memory of its own, above a layer whose log and leases are cells in
a Valkey. See `tests.support.ledger_worker` for what is checked. With a rule taken out, the same history
must show reads that a final purge should have prevented.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger_worker import BROKEN, make
from tests.support.redis_servers import SharedValkey

pytest_plugins = ("tests.support.redis_servers",)

PROCESSES = 3
TERM = 1.0


class Fleet:
    def __init__(self, server: SharedValkey, folder: Path, *, broken: str = "") -> None:
        self.server = server
        self.folder = folder
        self.broken = broken
        self.processes: list[subprocess.Popen[str]] = []
        self.killed = self.emptied = 0
        make(folder)

    def start(self, number: int, seconds: float) -> subprocess.Popen[str]:
        options = {
            "url": self.server.url,
            "namespace": self.server.namespace,
            "folder": str(self.folder),
            "number": number,
            "of": PROCESSES + 1,
            "seconds": seconds,
            "term": TERM,
            "broken": self.broken,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ledger_worker", json.dumps(options)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def kill_one(self) -> None:
        """One more process lives for a while."""
        process = self.start(PROCESSES, 60.0)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5 + random.random())
        process.kill()
        process.communicate()
        self.processes.remove(process)
        self.killed += 1

    def empty(self) -> None:
        for key in self.server.cli("KEYS", f"{self.server.namespace}*"):
            self.server.cli("DEL", key)
        self.emptied += 1

    def run(self, seconds: float, *, kill: bool = False, empty: bool = False) -> dict[str, Any]:
        workers = [self.start(number, seconds) for number in range(PROCESSES)]
        for process in workers:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        ends = time.monotonic() + seconds - 3
        while time.monotonic() < ends and (kill or empty):
            if kill:
                self.kill_one()
            if empty:
                self.empty()
                time.sleep(0.7 + random.random())
        answers = []
        for process in workers:
            said, _ = process.communicate(timeout=seconds + 60)
            assert process.returncode == 0
            answers.append(json.loads(said))
        total = {
            name: sum(one[name] for one in answers)
            for name in ("reads", "fetches", "purges", "finals", "violated")
        }
        total["violations"] = [text for one in answers for text in one["violations"]]
        total["median"] = max(one["median"] for one in answers)
        total["longest"] = max(one["longest"] for one in answers)
        print(f"\n{total}, killed {self.killed}, emptied {self.emptied}")  # noqa: T201 - with -s
        return total

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def fleet(server: SharedValkey, folder: Path, broken: str = "") -> Iterator[Fleet]:
    one = Fleet(server, folder, broken=broken)
    try:
        yield one
    finally:
        one.end()


def test_purges_are_final_while_processes_are_killed_and_the_store_is_emptied(
    shared_valkey: SharedValkey, tmp_path: Path
) -> None:
    with fleet(shared_valkey, tmp_path) as one:
        total = one.run(6.0, kill=True, empty=True)
    assert not total["violated"], total["violations"]
    assert one.killed
    assert one.emptied
    assert total["finals"] > 10
    assert total["reads"] > 5 * total["fetches"]


@pytest.mark.soak
@pytest.mark.parametrize(("kill", "empty"), [(False, False), (True, False), (True, True)])
def test_purges_are_final_for_minutes(
    shared_valkey: SharedValkey, tmp_path: Path, kill: bool, empty: bool
) -> None:
    with fleet(shared_valkey, tmp_path) as one:
        total = one.run(60.0, kill=kill, empty=empty)
    assert not total["violated"], total["violations"]
    assert total["finals"] > 200
    if not kill:
        assert total["median"] < TERM / 4, "a purge waits for acknowledgements, not for T"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("broken", "kill", "empty"),
    [
        ("nothing is waited for", False, False),
        ("a lost head is as any other", False, True),
        ("the silent are out at once", True, False),
    ],
)
def test_a_history_without_a_rule_shows_it(
    shared_valkey: SharedValkey, tmp_path: Path, broken: str, kill: bool, empty: bool
) -> None:
    assert broken in BROKEN
    for _ in range(4):
        with fleet(shared_valkey, tmp_path, broken) as one:
            if one.run(4.0 if not (kill or empty) else 20.0, kill=kill, empty=empty)["violated"]:
                return
    raise AssertionError("nothing was violated: this history shows nothing")
