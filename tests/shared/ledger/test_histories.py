"""The histories that broke a sketch of the ledger, each told step by step, and the rule that answers it.

Each history is run twice: with the rule, and no purge is final while an instance that trusts itself
serves what was purged; and with that one rule taken out, and one does. So no history here is empty,
and no rule is there for nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import pytest

from layergate.shared.ledger import rules
from layergate.shared.ledger.head import Head
from layergate.shared.ledger.journal import CellsJournal
from layergate.shared.ledger.observer import Observer
from tests.shared.ledger.simulation import Call, Instance, Task, Violation, World

HEAD = "n:head"


# -- rules taken out -----------------------------------------------------------------------------------


class LeavesFirst(Instance):
    """It is taken off the list before it ceases to trust what it holds."""

    async def leave(self) -> None:
        place = self.place()
        self.serial += 1
        await self.journal.leave(place)
        self.drop_trust()


class KeepsEverything(Instance):
    """It joins with what it holds."""

    def keeps(self, trusted: bool) -> bool:
        return True


class TrustsFromTheAnswer(Instance):
    """It counts the seconds of its trust from the answer on, not from the question."""

    def take(self, reply: Any, era: int, leaves: int, sent: float) -> bool:
        return super().take(reply, era, leaves, self.runtime.monotonic())


class ChildTrusts(Instance):
    """The child of a fork goes on as its parent."""

    def in_child(self, child: Instance) -> None:
        child.journal.forked()


async def epoch_first(self: Observer, probe: bool) -> tuple[Any, bytes]:
    cells: Any = self._cells
    epoch = await self._ask(cells.epoch, probe=probe)
    return await self._ask(self._cells.load, self.name, probe=probe), epoch


_is_member = CellsJournal._is_member


async def swaps_and_trusts(self: CellsJournal, *args: Any) -> bool:
    await _is_member(self, *args)
    return True


# -- telling -------------------------------------------------------------------------------------------


def trusting(world: World, **options: Any) -> Instance:
    """A new instance that has joined, and has acknowledged what it found."""
    instance = world.new(**options)
    sync(world, instance)
    sync(world, instance)
    assert instance.trusted
    return instance


def sync(world: World, instance: Instance) -> None:
    world.run(instance, instance.sync())


def is_final(world: World) -> bool:
    return bool(world.finals)


def purge(world: World, by: Instance, *, within: float = 100.0) -> Task:
    """Purge, and wait until that is final, or for so many seconds."""
    ends = world.time + within
    return world.run(by, by.purge(), lambda task: world.time >= ends)


def before(what: str, name: str = HEAD) -> Callable[[Task], bool]:
    """The task is about to ask the store for this."""

    def holds(task: Task) -> bool:
        call = task.waits
        return (
            isinstance(call, Call) and not call.done and (call.what, *call.args[:1]) == (what, name)
        )

    return holds


def keep_trusting(world: World, *instances: Instance) -> None:
    """Time passes, a T or more, in which these go on syncing and others do not."""
    for _ in range(9):
        for instance in instances:
            sync(world, instance)
        world.wait(0.15)


# -- histories -----------------------------------------------------------------------------------------


def another_t(world: World) -> None:
    """A member that trusts for 5 s, beside a purger that is configured with 0.2 s."""
    member = trusting(world, term=5.0)
    purger = trusting(world, term=0.2)
    keep_trusting(world, purger)
    sync(world, member)
    purge(world, purger)


def plain_beside_members(world: World) -> None:
    """An instance that writes no acknowledgements, beside a purger that waits for members."""
    purger = trusting(world)
    keep_trusting(world, purger)
    trusting(world, members=False)
    purge(world, purger)


def t_is_changed(world: World) -> None:
    """T is changed from 5 s to 0.2 s: a new incarnation, in which a purge waits for those who have not
    seen it yet."""
    trusting(world, term=5.0)
    purger = trusting(world, term=0.2)
    purger.refused = purger.log or b""
    sync(world, purger)
    assert world.instances[0].log != purger.log
    purge(world, purger)


def leaving(world: World) -> None:
    """An instance is off the list, and the answer that says so is on its way, when a purge is made."""
    purger = trusting(world)
    keep_trusting(world, purger)
    leaver = trusting(world)
    task = world.run(leaver, leaver.leave(), before("swap"))
    world.carry_out(task)
    purge(world, purger)


def joining(world: World) -> None:
    """An instance held something before it joined. The purge of that was final without it, and is in an
    incarnation that is gone."""
    purger = trusting(world)
    keep_trusting(world, purger)
    joiner = world.new()
    purge(world, purger)
    assert is_final(world)
    world.store.empty()
    sync(world, purger)
    sync(world, joiner)
    assert joiner.trusted


def ahead_of_a_failover(world: World) -> None:
    """A store without epochs goes back, and a member had acknowledged positions beyond that. A purger
    that had not read so far appends a record there."""
    purger, other = trusting(world), trusting(world)
    keep_trusting(world, purger, other)
    old = Head.decode(world.store.cells[HEAD][0])
    member = trusting(world)
    for _ in range(3):
        purge(world, other, within=0.05)
    sync(world, member)
    sync(world, member)
    world.kill(other)
    # The records are lost, and the list of members is not: that is the worst.
    head = Head.decode(world.store.cells[HEAD][0])
    world.store.do("put", HEAD, replace(head, chain=old.chain).encode())
    world.finals.clear()
    purge(world, purger, within=0.5)


def ahead_in_another_log(world: World) -> None:
    """A member comes over from another incarnation, where it had acknowledged a higher position, in the
    same slot."""
    purger, member = trusting(world), trusting(world)
    for _ in range(4):
        purge(world, purger, within=0.05)
    sync(world, member)
    sync(world, member)
    world.store.lose(HEAD)
    keep_trusting(world, purger)
    sync(world, member)
    assert member.trusted and member.log == purger.log
    purge(world, purger)


def tags_repeat(world: World) -> None:
    """The server is emptied and counts its tags anew. A process that stood still before a swap puts the
    old log back; and a member that has noticed nothing goes on with it."""
    unaware, slow = trusting(world), trusting(world)
    for _ in range(4):
        purge(world, slow)
        sync(world, unaware)
        sync(world, unaware)
    unaware.stopped = slow.stopped = True
    task = world.run(slow, slow.purge(), before("swap"))
    assert isinstance(task.waits, Call)
    world.store.empty()
    other = trusting(world)
    purge(world, other)
    while world.store.cells[HEAD][1] != task.waits.args[1]:
        world.store._put(HEAD, world.store.cells[HEAD][0])
        if not world.store.tags_repeat:
            break
    world.carry_out(task)
    unaware.stopped = False
    sync(world, unaware)
    sync(world, unaware)


def went_back(world: World) -> None:
    """A store without epochs goes back behind a purge, which a member that is alive has seen. Once it has
    looked, nobody may go on with that log."""
    member = trusting(world)
    keep_trusting(world, member)
    past = dict(world.store.cells)
    purge(world, member)
    assert is_final(world)
    world.store.fail_over(past)
    sync(world, member)
    trusting(world)


def failed_over(world: World) -> None:
    """A store with epochs goes back behind a purge, and an instance starts before anybody has looked."""
    member = trusting(world)
    keep_trusting(world, member)
    past = dict(world.store.cells)
    purge(world, member)
    assert is_final(world)
    world.store.fail_over(past)
    trusting(world)


def failed_over_during_a_look(world: World) -> None:
    """A member stood still, and a purge was final without it. While it looks, the store goes back behind
    both."""
    purger, member = trusting(world), trusting(world)
    past = dict(world.store.cells)
    purge(world, purger)
    assert is_final(world)
    task = world.start(member, member.sync())
    world.step(member, task)  # the first of two questions
    world.store.fail_over(past)
    world.run(member, task)


def failed_over_before_a_swap(world: World) -> None:
    """A marked member takes its mark away, and the store goes back, in between, to where it had looked."""
    purger, member = trusting(world), trusting(world)
    purge(world, purger)  # in vain waited for, and so marked
    keep_trusting(world, purger)
    world.finals.clear()
    past = dict(world.store.cells)
    task = world.run(member, member.sync(), before("swap"))
    purge(world, purger)
    world.store.fail_over(past)
    world.run(member, task)


def a_mark_is_left(world: World) -> None:
    """A member stood still for long, was marked, and goes on."""
    purger, member = trusting(world), trusting(world)
    purge(world, purger)
    world.wait(1.1)
    sync(world, member)
    sync(world, member)
    assert member.trusted
    purge(world, purger)


def a_mark_is_new(world: World) -> None:
    """The acknowledgement of a member was lost, so it is marked; and it is trusted."""
    purger, member = trusting(world), trusting(world)
    keep_trusting(world, purger, member)
    task = world.run(purger, purger.purge(), before("load", "n:m001"))
    sync(world, member)
    sync(world, member)
    while not is_final(world):
        world.store.lose("n:m001")
        if world.time > member.runtime.world.time + 5:
            break
        world.step(purger, task)
        if not member.trusted or member.trusted_until - member.runtime.monotonic() < 0.4:
            sync(world, member)
    purge(world, purger)


def nobody_is_asked(world: World) -> None:
    """Mode plain: an instance has read the log, and then a purge is made."""
    purger = trusting(world, members=False)
    keep_trusting(world, purger)
    trusting(world, members=False)
    purge(world, purger)


def a_member_is_silent(world: World) -> None:
    """A member stands still, and a purge waits for it as long as it may trust itself."""
    purger = trusting(world)
    keep_trusting(world, purger)
    trusting(world)
    purge(world, purger)


def the_head_is_lost(world: World) -> None:
    """The store is emptied. An instance that has not noticed that is unknown to the new log."""
    trusting(world)
    world.store.empty()
    purger = trusting(world)
    purge(world, purger)


def a_slow_answer(world: World) -> None:
    """The answer to a sync takes almost T."""
    purger = trusting(world)
    keep_trusting(world, purger)
    member = trusting(world)
    task = world.run(member, member.sync(), before("load"))
    world.carry_out(task)
    waits = world.start(purger, purger.purge())
    world.run(purger, waits)
    world.run(member, task)


def a_fork(world: World) -> None:
    """A process forks, and goes on. Nobody knows the child."""
    purger, parent = trusting(world), trusting(world)
    keep_trusting(world, purger, parent)
    child = parent.forked("child")
    world.instances.append(child)
    task = world.run(purger, purger.purge(), before("load", "n:m001"))
    sync(world, parent)
    sync(world, parent)
    world.run(purger, task)


class History(NamedTuple):
    tell: Callable[[World], None]
    broken: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    instance: type[Instance] = Instance
    epochs: bool = True
    tags_repeat: bool = False


def without(what: str, instead: Any, where: Any = rules) -> Any:
    return lambda: mock.patch.object(where, what, instead)


@contextlib.contextmanager
def swap_is_enough() -> Iterator[None]:
    with (
        mock.patch.object(CellsJournal, "_is_member", swaps_and_trusts),
        mock.patch.object(CellsJournal, "_trusts", return_value=True),
    ):
        yield


HISTORIES = {
    "T is in the head": History(another_t, without("term_of", lambda _, own: own)),
    "mode is in the head": History(plain_beside_members, without("mode_of", lambda _, own: own)),
    "another T is another incarnation": History(
        t_is_changed, without("settle_after", lambda term, _: term)
    ),
    "leaving drops trust first": History(leaving, instance=LeavesFirst),
    "joining drops what is held": History(joining, instance=KeepsEverything),
    "an acknowledgement is of a history": History(
        ahead_of_a_failover,
        without("counts", lambda one, trail, position: one.position >= position),
        epochs=False,
    ),
    "an acknowledgement is of an incarnation": History(
        ahead_in_another_log,
        without("counts", lambda one, trail, position: one.position >= position),
    ),
    "a tag never repeats": History(tags_repeat, tags_repeat=True),
    "a position that goes back": History(
        went_back, without("continues", lambda *_: True), epochs=False
    ),
    "an epoch that has changed": History(failed_over, without("same_epoch", lambda *_: True)),
    "the epoch is read after the head": History(
        failed_over_during_a_look, without("_load", epoch_first, Observer)
    ),
    "a swap founds no trust": History(failed_over_before_a_swap, swap_is_enough),
    "a mark must be taken away": History(a_mark_is_left, without("must_clear", lambda _: False)),
    "a mark counts after T": History(
        a_mark_is_new, without("is_out", lambda member, *_: bool(member.mark))
    ),
    "plain waits for T": History(nobody_is_asked, without("waited_out", lambda *_: True)),
    "the silent are waited for": History(
        a_member_is_silent, without("waited_out", lambda *_: True)
    ),
    "a lost head waits for T": History(the_head_is_lost, without("is_settled", lambda *_: True)),
    "trust counts from the question": History(a_slow_answer, instance=TrustsFromTheAnswer),
    "a child is another instance": History(a_fork, instance=ChildTrusts),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_breaks_nothing(name: str) -> None:
    history = HISTORIES[name]
    history.tell(World(epochs=history.epochs))


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_breaks_a_ledger_without_the_rule(name: str) -> None:
    history = HISTORIES[name]
    world = World(epochs=history.epochs, tags_repeat=history.tags_repeat, instance=history.instance)
    with history.broken(), pytest.raises(Violation):
        history.tell(world)
