"""The rules of `layergate.testing.memory_members`, one by one: each has a history that needs it.

`JournalConformance` runs them among processes; these are the orders that it finds too rarely.
"""

from __future__ import annotations

import pytest

from layergate.testing.memory_members import Members, Settled
from tests.support.clocks import Clock

TERM = 2.0


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def members(clock: Clock) -> Members[int]:
    """Three members that are trusted."""
    members = Members[int](clock, term=TERM)
    for member in (1, 2, 3):
        members.join(member)
        assert members.grant(member) == clock.time + TERM
    return members


def test_an_acknowledgement_counts_for_no_later_purge(members: Members[int]) -> None:
    first, second = members.append(1, 10), members.append(1, 11)
    assert first < second
    members.applied(2, first)
    members.applied(3, first)
    assert members.settled() == [Settled(1, 10, 3, 3, 1)]
    assert members.settled() == []
    members.applied(2, second)
    members.applied(3, second)
    assert members.settled() == [Settled(1, 11, 3, 3, 2)]


def test_an_acknowledgement_counts_for_every_earlier_purge(members: Members[int]) -> None:
    members.append(1, 10)
    second = members.append(2, 20)
    members.applied(3, second)
    assert members.settled() == []
    members.applied(2, second)  # its own purge does not wait for it
    assert members.settled() == [Settled(1, 10, 3, 3, 1)]
    members.applied(1, second)
    assert members.settled() == [Settled(2, 20, 3, 3, 2)]


def test_an_acknowledgement_of_something_older_counts_for_nothing(members: Members[int]) -> None:
    position = members.append(1, 10)
    members.applied(2, position - 1)
    members.applied(3, position - 1)
    assert members.settled() == []


def test_a_grant_after_the_purge_makes_it_wait_no_longer(
    members: Members[int], clock: Clock
) -> None:
    """A worker that is trusted anew has read the purge before the grant."""
    members.append(1, 10)
    clock.time += TERM / 2
    members.grant(2)
    members.grant(3)
    assert members.settled() == []
    assert members.due() == 100.0 + TERM
    clock.time = 100.0 + TERM
    assert members.settled() == [Settled(1, 10, 1, 1, 1)]
    assert members.due() is None
