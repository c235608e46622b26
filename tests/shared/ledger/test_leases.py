"""Leases on cells: what the suite for lease stores does not ask, and histories that nobody has thought of."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any
from unittest import mock

import pytest

from layergate.errors import LayerError, LayerRefused, WireError
from layergate.shared.journal import Held, Observed, Release, Taken
from layergate.shared.ledger import CellsLeaseStore, FencingCellsLeaseStore, leasing, rules
from layergate.shared.ledger.leasing import SHELVES, Lease, Shelf, State, digest, shelf_of
from tests.shared.ledger.simulation import (
    KINDS,
    Call,
    Lost,
    Runtime,
    Task,
    Violation,
    World,
    ask,
)

TERM = 1.0
CERTAIN = 0.8  # of a term (`layergate.shared.leases`)


class Holder:
    """An instance that takes leases, renews them, and gives them back, as `SharedLeases` does."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        chance = world.chance
        self.runtime = Runtime(world, chance.uniform(0.985, 1.015), chance.uniform(0, 1000))
        self.store = CellsLeaseStore(
            KINDS[True, False](),
            ask,
            self.runtime,  # type: ignore[arg-type]
            prefix="n",
        )
        self.tasks: list[Task] = []
        self.stopped = False
        self.held: dict[str, tuple[bytes, float]] = {}  # token, and until when it is sure

    def __repr__(self) -> str:
        return self.name

    def holds(self, lease: str) -> bool:
        _, until = self.held.get(lease, (b"", 0.0))
        return self.runtime.monotonic() < until

    async def acquire(self, lease: str) -> Taken | Held | None:
        if lease in self.held:
            return None
        token, sent = b"\xff" + self.world.random_bytes(8), self.runtime.monotonic()
        try:
            answer = await self.store.acquire(lease, token, TERM, b"")
        except Exception:
            await self.store.release([Release(lease, token, False, False)], TERM)
            raise
        if isinstance(answer, Taken):
            self.held[lease] = token, sent + TERM * CERTAIN
        return answer

    async def renew(self) -> None:
        sent, leases = self.runtime.monotonic(), [(one, self.held[one][0]) for one in self.held]
        answers = await self.store.renew(leases, TERM)
        for (lease, token), answer in zip(leases, answers, strict=True):
            if lease not in self.held or self.held[lease][0] != token:
                continue
            if answer is True:
                self.held[lease] = token, max(self.held[lease][1], sent + TERM * CERTAIN)
            elif answer is False:
                del self.held[lease]

    async def release(self, lease: str) -> None:
        if lease in self.held:
            token, _ = self.held.pop(lease)
            await self.store.release([Release(lease, token, True, False)], TERM)


class LeaseWorld(World):
    """``leases``: on few shelves, so that they are in each other's way."""

    leases = ("a", "b", "c")

    def __init__(self, seed: int) -> None:
        super().__init__(seed, epochs=False, instance=Holder)  # type: ignore[arg-type]
        self.events = {
            "go_on": 50,
            "flow": 60,
            "pass": 15,
            "acquire": 20,
            "renew": 20,
            "release": 8,
            "resume": 6,
        }
        chance = random.Random(f"faults {seed}")
        faults = ("pass_long", "ghost", "lose", "stop", "kill")
        self.faults = {fault for fault in faults if chance.random() < 0.5}
        self.granted = 0

    def check(self) -> None:
        for lease in self.leases:
            sure = [one for one in self.instances if not one.stopped and one.holds(lease)]  # type: ignore[attr-defined]
            if len(sure) > 1:
                raise Violation(f"{sure} hold {lease}")

    def _begin(self, work: str, *args: Any) -> None:
        instance = self._one()
        if instance is not None and len(instance.tasks) < 4:
            self.start(instance, getattr(instance, work)(*args), work)

    def _acquire(self) -> None:
        self._begin("acquire", self.chance.choice(self.leases))

    def _renew(self) -> None:
        self._begin("renew")

    def _release(self) -> None:
        self._begin("release", self.chance.choice(self.leases))


def explore(seeds: range) -> None:
    for seed in seeds:
        world = LeaseWorld(seed)
        for _ in range(3):
            world.new()
        try:
            world.random_history(300)
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}\n" + "\n".join(world.told)) from None


@pytest.fixture(autouse=True)
def _few_shelves(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "few_shelves" in request.keywords or "block" in getattr(request, "fixturenames", ()):
        monkeypatch.setattr(leasing, "SHELVES", 2)


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=() if block < 1 else pytest.mark.soak) for block in range(40)],
)
def test_no_two_are_sure_of_one_lease(block: int) -> None:
    explore(range(block * 100, (block + 1) * 100))


def test_the_search_finds_a_lease_that_is_taken_over_too_soon() -> None:
    with (
        mock.patch.object(rules, "stood_still", lambda since, term: since > term * 0.5),
        pytest.raises(Violation),
    ):
        explore(range(100))


# -- one by one ----------------------------------------------------------------------------------------


def run(world: World, holder: Holder, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of work that nothing disturbs."""
    results = []

    async def kept() -> None:
        results.append(await work)

    world.run(holder, kept())  # type: ignore[arg-type]
    return results[0] if results else None


@pytest.fixture
def world() -> LeaseWorld:
    return LeaseWorld(0)


def holders(world: World, number: int) -> list[Holder]:
    return [world.new() for _ in range(number)]  # type: ignore[misc]


def shelf(world: World, name: str) -> Shelf:
    return Shelf.decode(world.store.cells[f"n:l{shelf_of(digest(name)):03d}"][0])


def on_the_shelf_of(name: str) -> str:
    """Another name whose lease lies there."""
    shelf = shelf_of(digest(name))
    return next(one for n in range(9999) if shelf_of(digest(one := f"{name}{n}")) == shelf)


def fence(world: World, name: str) -> int:
    lease = shelf(world, name).find(digest(name))
    assert lease is not None
    return lease.fence


def test_a_dead_leader_is_replaced_after_a_term_of_the_waiters_clock(world: LeaseWorld) -> None:
    leader, waiter, late = holders(world, 3)
    run(world, leader, leader.acquire("a"))
    before = fence(world, "a")
    world.kill(leader)  # type: ignore[arg-type]
    world.wait(0.5)
    assert isinstance(run(world, waiter, waiter.acquire("a")), Held)
    world.wait(0.9)
    # Another has not seen it stand still; that is its own clock, and says nothing to anybody else's.
    assert isinstance(run(world, late, late.acquire("a")), Held)
    world.wait(0.2)
    assert run(world, waiter, waiter.acquire("a")) == Taken(recent=False)
    assert fence(world, "a") > before
    assert isinstance(run(world, late, late.acquire("a")), Held)


def test_a_leader_that_renews_is_not_replaced(world: LeaseWorld) -> None:
    leader, waiter = holders(world, 2)
    run(world, leader, leader.acquire("a"))
    for _ in range(30):
        assert isinstance(run(world, waiter, waiter.acquire("a")), Held)
        run(world, leader, leader.renew())
        world.wait(0.3)
    assert leader.holds("a")


def test_a_holder_that_stood_still_and_was_replaced_learns_that(world: LeaseWorld) -> None:
    leader, waiter = holders(world, 2)
    run(world, leader, leader.acquire("a"))
    leader.stopped = True
    run(world, waiter, waiter.acquire("a"))
    world.wait(1.1)
    assert isinstance(run(world, waiter, waiter.acquire("a")), Taken)
    leader.stopped = False
    run(world, leader, leader.renew())
    assert not leader.held


def test_a_lease_that_was_dropped_and_renewed_does_not_look_as_before(world: LeaseWorld) -> None:
    leader, waiter, other = holders(world, 3)
    run(world, leader, leader.acquire("a"))
    for one in (waiter, other):
        run(world, one, one.acquire("a"))
    world.wait(1.1)
    # It ran out, and is dropped by a process that takes another lease from the same shelf.
    run(world, other, other.acquire(on_the_shelf_of("a")))
    assert shelf(world, "a").find(digest("a")) is None
    run(world, leader, leader.renew())
    assert leader.holds("a")
    assert isinstance(run(world, waiter, waiter.acquire("a")), Held)


def test_what_a_waiter_is_told(world: LeaseWorld) -> None:
    leader, waiter = holders(world, 2)
    run(world, leader, leader.acquire("a"))
    held = run(world, waiter, waiter.acquire("a"))
    token = leader.held["a"][0]
    assert (held.token, held.left) == (token, TERM)
    world.wait(0.5)
    looked = run(world, waiter, waiter.store.look("a", token, TERM, b""))
    assert 0.4 < looked.left < 0.7
    world.wait(0.6)
    assert run(world, waiter, waiter.store.look("a", token, TERM, b"")) == Observed(None)


def test_a_request_that_comes_after_its_release_gets_nothing(world: LeaseWorld) -> None:
    """The request for a lease was lost on the way, so it was released; and then it arrives."""
    asker, other = holders(world, 2)
    task = world.start(asker, asker.acquire("a"))  # type: ignore[arg-type]
    world.step(asker, task)  # type: ignore[arg-type]
    call = task.waits
    assert isinstance(call, Call) and call.what == "swap"
    task.advance(error=Lost())
    world.run(asker, task)  # type: ignore[arg-type]
    assert world.store.do(call.what, *call.args) is None
    assert isinstance(run(world, other, other.acquire("a")), Taken)


def test_the_number_of_cells_and_of_leases_is_bounded(world: LeaseWorld) -> None:
    (holder,) = holders(world, 1)
    for number in range(3000):
        name = f"name {number}"
        run(world, holder, holder.acquire(name))
        if number % 3:
            run(world, holder, holder.release(name))
        holder.held.clear()
        world.wait(0.01)
    assert len(world.store.cells) <= SHELVES
    assert max(len(data) for data, _ in world.store.cells.values()) < 2000


def test_a_shelf_that_is_full_of_traces_takes_one_more() -> None:
    shelf = Shelf()
    for number in range(300):
        name = digest(f"{number}")
        shelf = shelf.granted(name, b"token", 1.0).traced(name, b"token", 1.0, free=False)
        shelf = shelf.tidied(lambda _: False, {name})
        assert shelf.find(name) is not None
    assert len(shelf.leases) == leasing._ROOM
    assert shelf.find(digest("299")) is not None


def test_a_shelf_that_is_full_of_leases_refuses() -> None:
    shelf = Shelf()
    for number in range(leasing._ROOM):
        shelf = shelf.granted(digest(f"{number}"), b"token", 1.0)
    with pytest.raises(LayerRefused, match="128 leases are held"):
        shelf.granted(digest("one more"), b"token", 1.0).tidied(lambda _: False, ())
    shelf = shelf.granted(digest("one more"), b"token", 1.0).tidied(lambda one: one.fence == 1, ())
    assert len(shelf.leases) == leasing._ROOM


def test_a_fence_is_higher_than_all_before_it() -> None:
    shelf = Shelf().granted(digest("a"), b"1", 1.0).granted(digest("b"), b"2", 1.0)
    again = shelf.tidied(lambda _: True, ()).granted(digest("a"), b"3", 1.0)
    lease = again.find(digest("a"))
    assert lease is not None and lease.fence == 3


def test_a_shelf_travels() -> None:
    shelf = Shelf(7, (Lease(digest("a"), b"t" * 80, State.FREE, 3, 5, 10.0),))
    assert Shelf.decode(shelf.encode()) == shelf
    assert Shelf.decode(Shelf().encode()) == Shelf()


def test_damaged_leases_are_void(world: LeaseWorld, caplog: pytest.LogCaptureFixture) -> None:
    leader, other = holders(world, 2)
    run(world, leader, leader.acquire("a"))
    (name,) = world.store.cells
    for junk in (b"", b"lgl", b"\xff" * 100, shelf(world, "a").encode()[:-3]):
        world.store.do("put", name, junk)
        with pytest.raises(WireError):
            Shelf.decode(junk)
        leader.held.clear()
        assert isinstance(run(world, other, other.acquire("a")), Taken)
        run(world, other, other.release("a"))
    assert "damaged" in caplog.text


def test_leases_of_a_later_version_are_left_alone(world: LeaseWorld) -> None:
    (holder,) = holders(world, 1)
    run(world, holder, holder.acquire("a"))
    (name,) = world.store.cells
    later = b"lgl\x02\x04of a later version"
    world.store.do("put", name, later)
    assert (
        run(world, holder, holder.store.renew([("a", b"token")], TERM))[0]
        .args[0]
        .startswith("a later")
    )
    assert world.store.cells[name][0] == later


def test_an_endless_race_ends(world: LeaseWorld) -> None:
    (holder,) = holders(world, 1)
    errors = []

    async def work() -> None:
        try:
            await holder.store.acquire("a", b"token", TERM, b"")
        except LayerError as error:
            errors.append(error)

    task = world.start(holder, work())  # type: ignore[arg-type]
    while not task.over:
        if isinstance(task.waits, Call) and task.waits.what == "swap":
            world.store.do("put", task.waits.args[0], Shelf().encode())
        world.step(holder, task)  # type: ignore[arg-type]
    assert "again and again" in str(errors[0])


def test_a_fence_where_nothing_tells_any_more() -> None:
    """The lease ran out, another one had it, and its trace is gone too."""
    world = LeaseWorld(0)
    slow, quick = holders(world, 2)
    written = []

    class Blobs:
        def set_if(self, cell: str, tag: Any, name: str, data: bytes, seconds: float) -> bool:
            if (there := world.store.cells.get(cell)) is None or there[1] != tag:
                return False
            written.append(data)
            return True

    store = FencingCellsLeaseStore(
        KINDS[True, False](),
        Blobs(),
        ask,
        slow.runtime,  # type: ignore[arg-type]
        prefix="n",
    )

    def write(token: bytes, data: bytes) -> bool:
        return bool(run(world, slow, store.fenced_set("a", token, "blob", data, 60.0)))

    run(world, slow, store.acquire("a", b"slow", TERM, b""))
    assert write(b"slow", b"one")
    run(world, quick, quick.acquire(on_the_shelf_of("a")))
    assert write(b"slow", b"two"), "that lease has nothing to do with this one"
    run(world, quick, quick.acquire("a"))
    world.wait(1.1)
    run(world, quick, quick.acquire("a"))
    assert not write(b"slow", b"late")
    run(world, quick, quick.release("a"))
    assert not write(b"slow", b"later")
    world.store.do("put", f"n:l{shelf_of(digest('a')):03d}", Shelf(9).encode())
    assert not write(b"slow", b"much later"), "somebody may have had it since"
    world.store.empty()
    assert write(b"slow", b"three"), "nothing is known of anybody else"
    assert written == [b"one", b"two", b"three"]
