"""What waits inside one instance, without any shared system: purges to append (the outbox), records
to repeat, releases to send, and calls that want one result.

The tests of the log and of the leases drive these through a real system; here are their bounds, and
the orders of events that a real system shows too rarely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layergate.core.invalidation import Invalidation
from layergate.errors import LayerRefused
from layergate.shared.journal import Release
from layergate.shared.outbox import EVERYTHING, Outbox, Waiting
from layergate.shared.positions import Positions
from layergate.shared.releases import Releases
from layergate.shared.replay import Applied, Replay, repetition
from layergate.shared.trust import NEVER, Patience, Trust
from layergate.shared.turns import Turns
from layergate.shared.waiters import Waiters
from tests.support.clocks import MonotonicStillRuntime as Runtime
from tests.support.waiting import turns as settle

LOG, OTHER = b"L" * 16, b"O" * 16
RECORDS, INVALIDATIONS = 1024, 20_000
NOW = 5_000.0
FAR_BACK = -1e9


def purge(number: int = 1, name: str = "t") -> tuple[Invalidation, ...]:
    return (Invalidation("tag", name),) * number


def waiting(name: str = "t", number: int = 1, below: int | None = None) -> Waiting:
    return Waiting(purge(number, name), 1.0, b"", below)


@pytest.fixture
def positions() -> Positions:
    positions = Positions()
    positions.begin(LOG, 0, 0)
    return positions


@pytest.fixture
def outbox(positions: Positions) -> Outbox:
    return Outbox(positions, lambda: NOW)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


# -- the outbox: bounded, in order, and what is stamped meanwhile ---------------------------------------


def test_purges_wait_in_the_order_in_which_they_were_made(outbox: Outbox) -> None:
    records = [waiting(str(number)) for number in range(5)]
    for one in records:
        outbox.add(one)
    assert outbox.first(2) == records[:2]
    assert outbox.first(9) == records
    outbox.appended(records[:2])
    assert outbox.first(9) == records[2:]
    assert len(outbox) == 3


@pytest.mark.parametrize(("records", "of"), [(RECORDS, 1), (INVALIDATIONS // 100, 100)])
def test_an_outbox_that_overflows_purges_everything(outbox: Outbox, records: int, of: int) -> None:
    """G7: 1,024 records and 20,000 invalidations. G3: what no longer fits is purged nevertheless."""
    for _ in range(records):
        outbox.add(waiting(number=of))
    assert len(outbox) == records
    outbox.add(waiting())
    assert outbox.first(9) == [Waiting(EVERYTHING, NOW, b"", None)]
    # From then on it has room again, for all but one.
    for _ in range(records - 1 if of == 1 else (INVALIDATIONS - 1) // of):
        outbox.add(waiting(number=of))
    assert outbox.first(1)[0].invalidations == EVERYTHING
    assert len(outbox) > 1


def test_a_purge_of_everything_counts_as_one_invalidation(outbox: Outbox) -> None:
    outbox.add(waiting(number=INVALIDATIONS + 1))
    outbox.add(waiting(number=INVALIDATIONS - 1))
    assert len(outbox) == 2
    outbox.add(waiting())
    assert [one.invalidations for one in outbox.first(9)] == [EVERYTHING]


def test_what_is_appended_twice_is_taken_out_once(outbox: Outbox) -> None:
    one = waiting()
    outbox.add(one)
    outbox.appended([one, one])
    assert len(outbox) == 0


def test_what_was_appended_makes_room(outbox: Outbox) -> None:
    """However many purges pass through it: only what waits counts."""
    for _ in range(3):
        batch = [waiting(number=1000) for _ in range(INVALIDATIONS // 1000)]
        for one in batch:
            outbox.add(one)
        assert outbox.first(99) == batch
        outbox.appended(batch)
        assert len(outbox) == 0


def test_an_append_that_an_overflow_overtook_takes_nothing_out(outbox: Outbox) -> None:
    sent = waiting(number=INVALIDATIONS)
    outbox.add(sent)
    outbox.add(waiting())
    outbox.appended([sent])
    assert [one.invalidations for one in outbox.first(9)] == [EVERYTHING]


def test_entries_count_as_fetched_before_the_purges_that_wait(
    outbox: Outbox, positions: Positions
) -> None:
    """Another instance may have stamped an entry without knowing them (G3)."""
    stamp = positions.local(7)
    repeated, first, second = waiting(), waiting(below=100), waiting(below=200)
    for one in (repeated, first, second):
        outbox.add(one)
        assert positions.stamp(LOG, 7) == (stamp if one is repeated else 100)
    outbox.appended([repeated, first])
    assert positions.stamp(LOG, 7) == 200
    outbox.appended([second])
    assert positions.stamp(LOG, 7) == stamp


def test_an_overflow_keeps_what_the_oldest_purge_said_of_entries(
    outbox: Outbox, positions: Positions
) -> None:
    outbox.add(waiting(below=100))
    outbox.add(waiting(number=INVALIDATIONS, below=200))
    assert positions.stamp(LOG, 7) == 100


# -- records to repeat: every one that was lost, or everything ----------------------------------------


def applied(position: int, number: int = 1, *, log: bytes = LOG, at: float = 0.0) -> Applied:
    tip = b"%d" % position
    return Applied(
        log, position, position - 1, tip, purge(number, str(position)), float(position), at
    )


def repeats(outbox: Outbox) -> list[bytes]:
    return [one.again for one in outbox.first(RECORDS)]


def names(*positions: int) -> list[bytes]:
    return [repetition(LOG, position, b"%d" % position) for position in positions]


places = st.tuples(st.sampled_from([LOG, OTHER]), st.integers(0, 2**63), st.binary(max_size=40))


@given(one=places, other=places)
def test_two_records_are_never_repeated_under_one_name(
    one: tuple[bytes, int, bytes], other: tuple[bytes, int, bytes]
) -> None:
    """Two instances that repeat the same record call it the same, and nothing else (G3)."""
    assert isinstance(repetition(*one), bytes)
    assert (repetition(*one) == repetition(*other)) == (one == other)


def test_what_was_rolled_back_is_repeated_in_order_and_once(outbox: Outbox) -> None:
    replay = Replay(outbox)
    for position in range(1, 6):
        replay.remember(applied(position))
    replay.remember(applied(6, log=OTHER))
    replay.rolled_back(LOG, 3)
    assert repeats(outbox) == names(4, 5)
    assert [one.time for one in outbox.first(9)] == [4.0, 5.0]
    replay.rolled_back(LOG, 3)  # it is found again before these were appended
    assert repeats(outbox) == names(4, 5)


def test_a_leap_is_not_repeated(outbox: Outbox) -> None:
    replay = Replay(outbox)
    replay.remember(applied(1))
    replay.remember(applied(2, 0))
    replay.rolled_back(LOG, 0)
    assert repeats(outbox) == names(1)


@pytest.mark.parametrize(
    ("known", "after"),
    [([], 2), ([1, 2], 2), ([4, 5], 2), ([3, 5], 2)],
    ids=["nothing", "only-older", "not-the-first", "not-the-middle"],
)
def test_if_one_that_was_rolled_back_is_not_remembered_everything_is_purged(
    outbox: Outbox, known: list[int], after: int
) -> None:
    replay = Replay(outbox)
    for position in known:
        replay.remember(applied(position))
    replay.rolled_back(LOG, after)
    assert [one.invalidations for one in outbox.first(9)] == [EVERYTHING]


@pytest.mark.parametrize("of", [1, 100])
def test_as_many_are_remembered_as_the_outbox_holds(outbox: Outbox, of: int) -> None:
    """G7: 1,024 records and 20,000 invalidations; one more, and the oldest is forgotten."""
    number = RECORDS if of == 1 else INVALIDATIONS // of
    replay = Replay(outbox)
    for position in range(1, number + 1):
        replay.remember(applied(position, of))
    replay.rolled_back(LOG, 0)
    assert repeats(outbox) == names(*range(1, number + 1))
    outbox.appended(outbox.first(number))
    replay.remember(applied(number + 1, of))
    replay.rolled_back(LOG, 1)
    assert repeats(outbox) == names(*range(2, number + 2))
    outbox.appended(outbox.first(number))
    replay.rolled_back(LOG, 0)
    assert [one.invalidations for one in outbox.first(9)] == [EVERYTHING]


@pytest.mark.parametrize("trust_ends", [True, False])
def test_of_an_emptied_log_is_repeated_what_nobody_else_may_have_read(
    outbox: Outbox, trust_ends: bool
) -> None:
    """All of it, if instances are trusted forever."""
    replay = Replay(outbox)
    for position in (1, 2, 3):
        replay.remember(applied(position, at=float(position)))
    replay.remember(applied(4, log=OTHER, at=4.0))
    replay.emptied(LOG, 1.0, trust_ends=trust_ends)
    assert repeats(outbox) == (names(2, 3) if trust_ends else names(1, 2, 3))


@pytest.mark.parametrize("since", [0.0, 1.0, 2.0])
def test_if_one_that_counts_was_forgotten_an_emptied_log_purges_everything(
    outbox: Outbox, since: float
) -> None:
    replay = Replay(outbox)
    replay.remember(applied(1, at=1.0))
    replay.remember(applied(2, INVALIDATIONS, at=3.0))  # and the first is forgotten
    replay.emptied(LOG, since, trust_ends=True)
    (one,) = outbox.first(9)
    assert (one.invalidations == EVERYTHING) == (since < 1.0)


@pytest.mark.parametrize(
    ("others", "known"),
    [
        ([INVALIDATIONS - 2], True),
        ([INVALIDATIONS - 1], False),
        ([INVALIDATIONS], False),
        ([1] * (RECORDS - 2), True),
        ([1] * (RECORDS - 1), False),
    ],
    ids=range(5),
)
@pytest.mark.parametrize("emptied", [True, False])
def test_records_of_other_incarnations_take_room_too(
    outbox: Outbox, others: list[int], known: bool, emptied: bool
) -> None:
    """One record or one invalidation too many, and the oldest is forgotten. Then everything is purged,
    and nothing else."""
    replay = Replay(outbox)
    replay.remember(applied(1, at=1.0))
    replay.remember(applied(2, at=2.0))
    for position, number in enumerate(others, 3):
        replay.remember(applied(position, number, log=OTHER, at=3.0))
    if emptied:
        replay.emptied(LOG, 0.0, trust_ends=True)
    else:
        replay.rolled_back(LOG, 0)
    if known:
        assert repeats(outbox) == names(1, 2)
    else:
        assert [one.invalidations for one in outbox.first(9)] == [EVERYTHING]


def test_as_many_are_forgotten_as_make_room_for_the_latest(outbox: Outbox) -> None:
    replay = Replay(outbox)
    replay.remember(applied(1))
    replay.remember(applied(2))
    replay.remember(applied(3, INVALIDATIONS, log=OTHER))
    replay.rolled_back(LOG, 1)
    assert [one.invalidations for one in outbox.first(9)] == [EVERYTHING]


def test_what_was_trimmed_is_repeated_if_somebody_may_not_have_read_it(outbox: Outbox) -> None:
    replay = Replay(outbox)
    for position in (1, 2, 3):
        replay.remember(applied(position, at=float(position)))
    replay.remember(applied(4, log=OTHER, at=4.0))
    replay.trimmed(LOG, 1.0)
    assert repeats(outbox) == names(2, 3)


# -- positions: an entry is never newer for a reader than for its writer ---------------------------------

logs = st.sampled_from([LOG, OTHER])
numbers = st.integers(0, 1000)


@settings(max_examples=150)
@given(log=logs, base=numbers, least=numbers, position=numbers, below=st.none() | numbers)
def test_a_position_goes_out_as_it_came_in(
    log: bytes, base: int, least: int, position: int, below: int | None
) -> None:
    positions = Positions()
    assert positions.local(position) == positions.start(position)  # as in an incarnation of base 0
    assert positions.place(positions.local(position)) is None  # no contact yet
    assert positions.stamp(log, position) is None
    positions.begin(log, base, least)
    assert positions.log == log
    local = positions.local(position)
    assert positions.place(local) == (log, position)
    assert positions.place(positions.start(base) - 1) is None  # of an earlier incarnation
    assert positions.stamp(OTHER if log == LOG else LOG, position) is None
    assert positions.stamp(log, position) == (local if position >= least else None)
    limit = None if below is None else positions.local(below)
    positions.hold_below(limit)
    if position >= least:
        assert positions.stamp(log, position) == (local if limit is None else min(local, limit))
    positions.begin(OTHER, positions.base_above(local), 0)  # the limit outlives the incarnation
    assert positions.local(0) > local
    begin = positions.local(0)
    assert positions.stamp(OTHER, 0) == (begin if limit is None else min(begin, limit))


# -- trust and patience ---------------------------------------------------------------------------------


def test_trust_that_was_asked_for_before_leaving_is_none() -> None:
    trust = Trust()
    assert trust.trust(10.0, 0)
    assert trust.trust(5.0, 0)  # an answer that was overtaken
    assert trust.trusted_until == 10.0
    trust.depart()
    assert trust.trusted_until == NEVER
    assert not trust.trust(20.0, 0)
    assert trust.trusted_until == NEVER
    assert trust.trust(20.0, 1)


def test_the_first_requests_share_one_wait() -> None:
    patience = Patience(2.0)
    assert patience.left(100.0) == 0.0  # nobody has asked
    patience.request(100.0)
    patience.request(101.0)
    assert patience.left(101.5) == 0.5
    assert patience.left(103.0) == -1.0
    patience.left_the_fleet()  # which it never joined
    assert patience.left(101.5) == 0.5
    patience.joined()
    assert patience.left(101.5) == 0.0
    patience.left_the_fleet()
    patience.request(200.0)
    assert patience.left(200.0) == 2.0


def test_after_a_failure_nobody_asks_for_a_moment() -> None:
    """G5: a quarter of a second, or less if the caller says so."""
    patience = Patience()
    assert not patience.hopeless(0.0)
    for pause, until in ((10.0, 100.25), (0.125, 100.125)):
        patience.failed(100.0, pause)
        assert patience.hopeless(until - 0.01)
        assert not patience.hopeless(until)
    patience.failed(100.0)
    assert patience.hopeless(100.2) and not patience.hopeless(100.25)
    patience.failed(100.0)
    patience.succeeded()
    assert not patience.hopeless(100.0)


# -- releases ------------------------------------------------------------------------------------------------

TERM = 10.0


class Store:
    """Answers releases as it is told. ``found``: of tokens; anything else is found."""

    def __init__(self) -> None:
        self.batches: list[list[Release]] = []
        self.found: dict[bytes, bool | Exception] = {}
        self.error: BaseException | None = None

    async def release(self, releases: Sequence[Release], term: float) -> list[bool | Exception]:
        assert term == TERM
        self.batches.append([*releases])
        if self.error is not None:
            raise self.error
        return [self.found.get(one.token, True) for one in releases]


def release(number: int, *, granted: bool = True) -> Release:
    return Release(f"lease{number}", b"token%d" % number, granted, False)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def releases(store: Store, runtime: Runtime) -> Releases:
    made: Any = store
    return Releases(made, runtime, TERM)


async def test_all_that_is_queued_is_sent_in_batches(releases: Releases, store: Store) -> None:
    wanted = [release(number) for number in range(600)]
    for one in wanted:
        releases.queue(one)
    assert releases.waiting == wanted
    await releases.send()
    assert [len(batch) for batch in store.batches] == [256, 256, 88]
    assert [one for batch in store.batches for one in batch] == wanted
    assert len(releases) == 0


async def test_a_store_that_fails_is_asked_once_and_all_stay_queued(
    releases: Releases, store: Store
) -> None:
    for number in range(600):
        releases.queue(release(number))
    store.error = OSError("away")
    await releases.send()
    assert len(store.batches) == 1
    assert len(releases) == len(releases.waiting) == 600


async def test_the_queue_forgets_the_oldest(releases: Releases) -> None:
    """G7: 4,096 of them. What is forgotten runs out by itself after one term."""
    for number in range(4097):
        releases.queue(release(number))
    assert len(releases) == 4096
    assert releases.waiting[0] == release(1)


async def test_only_those_that_failed_are_sent_again(releases: Releases, store: Store) -> None:
    for number in range(3):
        releases.queue(release(number))
    store.found[b"token1"] = OSError("away")
    await releases.send()
    assert releases.waiting == [release(1)]


@pytest.mark.parametrize(
    ("error", "kept"), [(LayerRefused("shared", "read only"), False), (OSError("away"), True)]
)
async def test_what_is_refused_is_tried_for_two_terms(
    releases: Releases, store: Store, runtime: Runtime, error: Exception, kept: bool
) -> None:
    releases.queue(release(1))
    store.found[b"token1"] = error
    await runtime.advance(2 * TERM)
    await releases.send()
    assert len(releases) == 1
    await runtime.advance(0.1)
    await releases.send()
    assert len(releases) == kept


@pytest.mark.parametrize(
    ("granted", "found", "late", "now", "again"),
    [
        (False, False, False, False, True),
        (True, False, False, False, False),
        (False, True, False, False, False),
        (False, False, True, False, False),
        (False, False, False, True, True),
        (True, False, False, True, False),
        (False, True, False, True, False),
    ],
)
async def test_what_may_be_granted_after_its_release_is_released_once_more(
    releases: Releases,
    store: Store,
    runtime: Runtime,
    granted: bool,
    found: bool,
    late: bool,
    now: bool,
    again: bool,
) -> None:
    """The request for the lease may be overtaken, for two seconds (G2)."""
    one = release(1, granted=granted)
    store.found[one.token] = found
    if now:
        await releases.send_now(one)
    else:
        releases.queue(one)
        await runtime.advance(2.1 if late else 2.0)
        await releases.send()
    assert not releases.waiting
    assert len(releases) == again
    await releases.send()
    assert len(store.batches) == 1
    await runtime.advance(0.2)  # by now the request has arrived, or never will
    await releases.send(once_more=True)
    assert len(store.batches) == 1 + again
    if not now:
        assert len(releases) == 0


@pytest.mark.parametrize("error", [OSError("away"), asyncio.CancelledError()])
async def test_what_could_not_be_sent_now_is_queued(
    releases: Releases, store: Store, error: BaseException
) -> None:
    store.error = error
    with pytest.raises(type(error)):
        await releases.send_now(release(1))
    assert releases.waiting == [release(1)]
    store.error, store.found[b"token1"] = None, OSError("still")
    with pytest.raises(OSError, match="still"):
        await releases.send_now(release(1))
    assert len(releases) == 1


# -- calls that wait for a lease ----------------------------------------------------------------------------


async def test_calls_that_wait_for_one_lease_are_woken_together(runtime: Runtime) -> None:
    waiters = Waiters(runtime)
    one, other = waiters.enter("a"), waiters.enter("a")
    assert one is other
    assert waiters.enter("b") is not one
    assert len(waiters) == 2
    assert not one.free
    seen = one.pulse.version
    waiters.wake("nobody waits for this", free=True)
    assert one.pulse.version == seen
    waiters.wake("a", free=True)
    assert one.free and one.pulse.version == seen + 1
    waiters.wake("a", free=False)
    assert not one.free
    waiters.exit("a", one)
    assert len(waiters) == 2
    waiters.exit("a", other)
    assert len(waiters) == 1
    assert waiters.enter("a") is not one


# -- one piece of work for many calls -------------------------------------------------------------------------


class Work:
    def __init__(self) -> None:
        self.calls = 0
        self.gates: list[asyncio.Future[bool]] = []

    async def __call__(self) -> bool:
        self.calls += 1
        gate: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        return await gate


def begin(
    turns: Turns, work: Work, *, fresh: bool = False, patience: float | None = None
) -> asyncio.Task[bool]:
    return asyncio.ensure_future(turns.take(work, fresh=fresh, patience=patience))


@pytest.mark.parametrize("good", [True, False])
async def test_calls_share_the_result_of_the_turn_under_way(runtime: Runtime, good: bool) -> None:
    turns, work = Turns(runtime), Work()
    calls = [begin(turns, work) for _ in range(5)]
    await settle()
    assert (work.calls, turns.begun, turns.waiting) == (1, 1, 4)
    work.gates[0].set_result(good)
    assert await asyncio.gather(*calls) == [good] * 5
    late = begin(turns, work)  # the turn is over: another one
    await settle()
    work.gates[1].set_result(not good)
    assert await late is not good


async def test_who_wants_it_fresh_waits_for_the_next_turn(runtime: Runtime) -> None:
    turns, work = Turns(runtime), Work()
    first = begin(turns, work)
    await settle()
    fresh = [begin(turns, work, fresh=True) for _ in range(3)]
    joined = begin(turns, work)
    await settle()
    work.gates[0].set_result(False)
    await settle()
    assert first.result() is joined.result() is False
    assert work.calls == 2
    work.gates[1].set_result(True)
    assert await asyncio.gather(*fresh) == [True] * 3


async def test_a_turn_that_fails_raises_for_its_caller_alone(runtime: Runtime) -> None:
    turns, work = Turns(runtime), Work()
    calls = [begin(turns, work) for _ in range(3)]
    await settle()
    work.gates[0].set_exception(OSError("away"))
    with pytest.raises(OSError, match="away"):
        await calls[0]
    assert await asyncio.gather(*calls[1:]) == [False, False]
    assert work.calls == 1


async def test_after_a_cancelled_turn_a_waiting_call_takes_the_next(runtime: Runtime) -> None:
    turns, work = Turns(runtime), Work()
    calls = [begin(turns, work) for _ in range(3)]
    await settle()
    calls[0].cancel()
    await settle()
    assert calls[0].cancelled()
    assert work.calls == 2
    work.gates[1].set_result(True)
    assert await asyncio.gather(*calls[1:]) == [True, True]


@pytest.mark.parametrize("patience", [0.5, 3.0])
async def test_a_wait_for_others_is_bounded(runtime: Runtime, patience: float) -> None:
    turns, work = Turns(runtime), Work()
    first = begin(turns, work)
    await settle()
    call = begin(turns, work, patience=patience)
    await settle()
    await runtime.advance(patience - 0.1)
    assert not call.done()
    await runtime.advance(0.2)
    assert call.result() is False
    assert await turns.take(work, fresh=True, patience=0.0) is False
    assert work.calls == 1
    work.gates[0].set_result(True)
    assert await first is True


async def test_a_turn_whose_loop_was_closed_is_waited_for_ten_seconds(
    runtime: Runtime,
) -> None:
    turns, work = Turns(runtime), Work()
    stuck = begin(turns, work)
    await settle()
    call = begin(turns, work)
    await settle()
    await runtime.advance(9.9)
    assert work.calls == 1
    await runtime.advance(0.2)
    assert work.calls == 2
    work.gates[1].set_result(True)
    assert await call is True
    work.gates[0].set_result(False)  # it was only slow: nothing of the later turn is undone
    assert await stuck is False
    third = begin(turns, work)
    await settle()
    work.gates[2].set_result(True)
    assert await third is True


async def test_idle_waits_for_the_turn_under_way_and_no_longer(runtime: Runtime) -> None:
    turns, work = Turns(runtime), Work()
    await turns.idle(5.0)
    first = begin(turns, work)
    await settle()
    one, other = (asyncio.ensure_future(turns.idle(seconds)) for seconds in (1.0, 9.0))
    await settle()
    await runtime.advance(1.0)
    assert (one.done(), other.done()) == (True, False)
    work.gates[0].set_result(True)
    await first
    await settle()
    assert other.done()
    assert turns.waiting == 0
