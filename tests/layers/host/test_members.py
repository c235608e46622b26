"""Who uses a host's folder (`layergate.layers.host.members`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from layergate.layers.host.locks import FlockLocks, OfdLocks
from layergate.layers.host.members import Members


@pytest.fixture(params=[OfdLocks, FlockLocks], ids=lambda kind: kind.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Members]:
    return lambda: Members(tmp_path, request.param)


def test_the_lowest_free_number(make: Callable[[], Members]) -> None:
    one, two, three = make(), make(), make()
    assert [one.join(), two.join(), three.join()] == [0, 1, 2]
    assert one.join() == 0
    two.leave()
    assert one.others() == [2]
    assert make().join() == 1


def test_an_observer_is_not_counted(make: Callable[[], Members]) -> None:
    observer, member = make(), make()
    assert observer.count() == 0
    member.join()
    assert observer.count() == 1
    assert member.count() == 1
    member.leave()
    assert observer.count() == 0


def test_a_process_that_ended_is_no_member(make: Callable[[], Members]) -> None:
    observer = make()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        member = make()
        member.join()
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    while not observer.count():
        pass
    os.close(write)
    os.waitpid(child, 0)
    assert observer.count() == 0
