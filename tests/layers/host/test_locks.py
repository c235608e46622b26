"""Locks that end with their holder (`layergate.layers.host.locks`), with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from layergate.layers.host.locks import ByteLocks, FlockLocks, OfdLocks

KINDS = [OfdLocks, FlockLocks]

HOLDER = """
import sys, time
from layergate.layers.host.locks import FlockLocks, OfdLocks
locks = globals()[sys.argv[1]](sys.argv[2])
assert locks.take(int(sys.argv[3]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ByteLocks]:
    return lambda: request.param(tmp_path / "locks")


def holder(kind: type, path: Path, number: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind.__name__, str(path), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_holder_for_each_number(make: Callable[[], ByteLocks]) -> None:
    one, other = make(), make()
    assert one.take(7)
    assert not other.take(7)
    assert other.taken(7)
    assert other.take(8)
    assert not one.taken(7)  # by somebody else
    one.give(7)
    assert other.take(7)


def test_what_is_not_held_can_be_given_back(make: Callable[[], ByteLocks]) -> None:
    one, other = make(), make()
    assert other.take(1)
    one.give(1)
    assert one.taken(1)


def test_closing_gives_everything_back(make: Callable[[], ByteLocks]) -> None:
    one, other = make(), make()
    assert one.take(1)
    assert one.take(2)
    one.close()
    one.close()
    assert other.take(1)
    assert other.take(2)


def test_the_greatest_number(make: Callable[[], ByteLocks]) -> None:
    one, other = make(), make()
    assert one.take(2**62 - 1)
    assert other.taken(2**62 - 1)


def test_who_else_holds_something(make: Callable[[], ByteLocks]) -> None:
    own, others = make(), [make() for _ in range(5)]
    assert own.others(100) == []
    assert own.take(3)
    for number, other in zip((9, 0, 4, 50, 2), others, strict=True):
        assert other.take(number)
    assert own.others(100) == [0, 2, 4, 9, 50]
    assert own.others(50) == [0, 2, 4, 9]
    assert others[1].others(5) == [2, 3, 4]
    others[0].close()
    assert own.others(100) == [0, 2, 4, 50]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_holds_nothing(kind: type, tmp_path: Path) -> None:
    with holder(kind, tmp_path / "locks", 5) as process:
        locks = kind(tmp_path / "locks")
        assert locks.taken(5)
        assert not locks.take(5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not locks.taken(5)
        assert locks.take(5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_process_still_holds(kind: type, tmp_path: Path) -> None:
    with holder(kind, tmp_path / "locks", 5) as process:
        process.send_signal(signal.SIGSTOP)
        assert kind(tmp_path / "locks").taken(5)
        process.send_signal(signal.SIGKILL)


def test_a_child_that_closes_its_copies_leaves_the_parents_locks(
    make: Callable[[], ByteLocks],
) -> None:
    locks = make()
    assert locks.take(3)
    child = os.fork()
    if not child:
        locks.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert make().taken(3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_is_not_followed(kind: type, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    if kind is OfdLocks:
        (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            kind(tmp_path / "locks")
    else:
        locks = kind(tmp_path / "locks")
        (tmp_path / "locks" / "5").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            locks.take(5)
