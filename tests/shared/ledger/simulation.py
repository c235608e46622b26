"""Several instances, a store, and a scheduler that decides what happens next.

The instances run the real `CellsJournal`. Each operation on a cell suspends twice, before the store
carries it out and before its answer is there, so between any two of them anything else may happen: an
instance is killed, stopped, or forked; the store is emptied or goes back; a request is lost, or carried
out long after whoever sent it has given up. There is no real time. Each instance has a clock of its own
that runs a little faster or slower than the others'.

`Instance` does what the machinery above a journal does, and no more: it applies records to what it
holds, and trusts it for as long as a reply allows. `World.check` is the promise (G3): once a purge was
reported final, an instance that trusts itself serves nothing that was fetched before the purge was
called. It is taken to hold an entry of every moment, and to find one of every instance below.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager, nullcontext
from inspect import isawaitable
from typing import Any

from layergate.errors import LayerError, LayerRefused
from layergate.shared.journal import Addition, Appended, Founding, Place, Reply, chained
from layergate.shared.ledger.journal import CellsJournal
from layergate.shared.ledger.pages import Sizes
from layergate.shared.ports import Limits

NEVER = float("-inf")
SMALL = Sizes(cell=4096, keep=2, head=4, page=5, pages=4)


class Lost(ConnectionError):
    """A request or its answer was lost on the way."""


# -- the store -----------------------------------------------------------------------------------------


class Store:
    """The cells. ``epochs``: the system tells when it may have lost something."""

    def __init__(self, *, epochs: bool, tags_repeat: bool = False) -> None:
        self.cells: dict[str, tuple[bytes, Any]] = {}
        self.epochs = epochs
        self.tags_repeat = tags_repeat
        self.epoch = b"epoch 1"
        self.tags = 0
        self.past: list[dict[str, tuple[bytes, Any]]] = []
        # Reads may be answered by a replica that is behind: what a store of cells must not do.
        self.stale: random.Random | None = None

    def do(self, what: str, *args: Any) -> Any:
        result = getattr(self, f"_{what}")(*args)
        if what not in {"load", "epoch"}:
            self.past = [*self.past[-40:], dict(self.cells)]
        return result

    def _load(self, name: str) -> Any:
        if self.stale is not None and self.past and self.stale.random() < 0.3:
            return self.past[-self.stale.randint(1, min(6, len(self.past)))].get(name)
        return self.cells.get(name)

    def _swap(self, name: str, tag: Any, data: bytes) -> Any:
        there = self.cells.get(name)
        if (None if there is None else there[1]) != tag:
            return None
        return self._put(name, data)

    def _put(self, name: str, data: bytes) -> Any:
        self.tags += 1
        tag = self.tags
        if self.tags_repeat:  # a counter of each cell, which begins anew with it
            tag = self.cells[name][1] + 1 if name in self.cells else 1
        self.cells[name] = data, tag
        return tag

    def _epoch(self) -> bytes:
        return self.epoch

    # what goes wrong

    def empty(self) -> None:
        self.cells = {}

    def lose(self, name: str) -> None:
        self.cells.pop(name, None)

    def fail_over(self, to: dict[str, tuple[bytes, Any]] | None = None) -> None:
        """To a server that has what was there earlier."""
        if to is not None:
            self.cells = dict(to)
        if self.epochs:
            self.epoch = b"epoch %d" % (int(self.epoch[6:]) + 1)


# -- the scheduler's view of a coroutine -----------------------------------------------------------


class Call:
    """One operation under way: ``sent``, then ``done`` (carried out), then its answer is there."""

    def __init__(self, what: str, args: tuple[Any, ...]) -> None:
        self.what = what
        self.args = args
        self.done = False
        self.result: Any = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)

    def __repr__(self) -> str:
        return f"{self.what} {self.args[0] if self.args else ''}"


class Sleep:
    def __init__(self, until: float) -> None:
        self.until = until  # on the clock of its process

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Task:
    def __init__(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        self.work = work
        self.name = name
        self.waits: Call | Sleep | None = None
        self.over = False

    def advance(self, value: Any = None, error: BaseException | None = None) -> None:
        try:
            self.waits = self.work.send(value) if error is None else self.work.throw(error)
        except StopIteration:
            self.over = True
        except (Lost, LayerError):
            self.over = True


class Cells:
    """The store as one process reaches it."""

    limits = Limits(largest=4096)

    def load(self, name: str) -> Call:
        return Call("load", (name,))

    def swap(self, name: str, tag: Any, data: bytes) -> Call:
        return Call("swap", (name, tag, data))

    def put(self, name: str, data: bytes) -> Call:
        return Call("put", (name, data))


class CellsWithEpochs(Cells):
    def epoch(self) -> Call:
        return Call("epoch", ())


class PlainCells(Cells):
    cheap_puts = False


class PlainCellsWithEpochs(CellsWithEpochs):
    cheap_puts = False


KINDS = {
    (True, False): Cells,
    (True, True): CellsWithEpochs,
    (False, False): PlainCells,
    (False, True): PlainCellsWithEpochs,
}


class Event:
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.happened = False
        self.sleep: Sleep | None = None

    def set(self) -> None:
        self.happened = True
        if self.sleep is not None:
            self.sleep.until = NEVER

    async def wait(self, timeout: float | None = None) -> bool:
        if not self.happened:
            self.sleep = Sleep(self.runtime.monotonic() + (timeout or 0.0))
            await self.sleep
        return self.happened


class Runtime:
    """What the journal needs of a `layergate.core.ports.Runtime`."""

    def __init__(self, world: World, rate: float, offset: float) -> None:
        self.world = world
        self.rate = rate
        self.offset = offset

    def monotonic(self) -> float:
        return self.world.time * self.rate + self.offset

    def random(self) -> float:
        return self.world.chance.random()

    def lock(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def event(self) -> Event:
        return Event(self)


async def ask(operation: Callable[..., Any], *args: Any, probe: bool = False) -> Any:
    answer = operation(*args)
    return await answer if isawaitable(answer) else answer


# -- instances -----------------------------------------------------------------------------------------


class Purge:
    """``stamps``, ``places``: what an entry would be stamped with that was fetched just before it was
    called, in the memory of each instance (by its name), and in the layer below."""

    def __init__(self, key: str, instances: Sequence[Instance]) -> None:
        self.key = key
        self.stamps = {one.name: one.stamp for one in instances}
        self.places = {(one.log, one.position) for one in instances if one.log is not None}


class Instance:
    """A process. ``term``, ``members``: what it is configured with."""

    def __init__(self, world: World, name: str, *, term: float = 1.0, members: bool = True) -> None:
        self.world = world
        self.name = name
        chance = world.chance
        self.runtime = Runtime(world, chance.uniform(0.985, 1.015), chance.uniform(0, 1000))
        self.journal = CellsJournal(
            KINDS[members, world.store.epochs](),
            ask,
            self.runtime,  # type: ignore[arg-type]
            prefix="n",
            term=term,
            sizes=world.sizes,
        )
        self.tasks: list[Task] = []
        self.stopped = False
        self.serial = 0
        # The log as it was applied.
        self.log: bytes | None = None
        self.position = 0
        self.tip = b""
        self.generation = 0
        self.refused = b""
        self.era = 0
        self.leaves = 0
        self.out = False  # left, and not joined again yet
        self.trusted_until = NEVER
        # What of it is void that was stamped earlier; and of what comes from below.
        self.stamp = 0
        self.purged: dict[str, int] = {}
        self.dropped = 0
        self.records: dict[str, int] = {}
        self.least = 0

    def __repr__(self) -> str:
        return self.name

    # -- what it may serve ---------------------------------------------------------------------

    @property
    def trusted(self) -> bool:
        return self.runtime.monotonic() < self.trusted_until

    def serves(self, purge: Purge) -> bool:
        """It serves what a purge was to do away with."""
        stamp = purge.stamps.get(self.name)
        if stamp is not None and stamp >= max(self.purged.get(purge.key, 0), self.dropped):
            return True
        least = max(self.least, self.records.get(purge.key, 0))
        return any(log == self.log and position >= least for log, position in purge.places)

    # -- following the log ---------------------------------------------------------------------

    @property
    def instance(self) -> bytes:
        return f"{self.name}x{self.serial}".encode().replace(b" ", b"")

    def place(self) -> Place:
        fresh = (self.generation + 1).to_bytes(6) + self.world.random_bytes(10)
        return Place(
            self.log,
            self.position,
            self.tip,
            self.instance,
            not self.out,
            Founding(fresh, b"", self.refused),
        )

    async def sync(self) -> None:
        self.out = False
        place, era, leaves, sent = self.place(), self.era, self.leaves, self.runtime.monotonic()
        self.take(await self.journal.sync(place), era, leaves, sent)

    def take(self, reply: Reply, era: int, leaves: int, sent: float) -> bool:
        trusted = self.trusted
        if reply.log != self.log:
            if era != self.era:
                return False
            generation = int.from_bytes(reply.log[:6])
            if generation <= self.generation:
                self.refused = reply.log
                return False
            self.begin(reply, trusted)
        for record in reply.records:
            if record.position <= self.position:
                continue
            if record.before > self.position:
                self.miss(record.before)
            elif record.tip != chained(self.tip, record.nonce or b"", record.data):
                self.miss(record.position)
                self.refused = reply.log
                return False
            self.stamp += 1
            for key in record.data.decode().split():
                self.purged[key] = self.stamp
                self.records[key] = record.position
            self.position, self.tip = record.position, record.tip
        assert reply.complete
        if reply.last > self.position:
            self.miss(reply.last)
            self.position, self.tip = reply.last, b""
        if leaves == self.leaves and reply.trusted_for:
            self.trusted_until = max(self.trusted_until, sent + reply.trusted_for)
        return True

    def begin(self, reply: Reply, trusted: bool) -> None:
        if not self.keeps(trusted):
            self.drop()
        self.least = 0 if self.log is None else reply.last
        self.log, self.position, self.tip = reply.log, 0, b""
        self.generation = int.from_bytes(reply.log[:6])
        self.refused = b""
        self.records = {}
        self.era += 1

    def keeps(self, trusted: bool) -> bool:
        """What it holds, when it joins or moves to another incarnation."""
        return trusted

    def miss(self, position: int) -> None:
        self.drop()
        self.least = max(self.least, position)

    def drop(self) -> None:
        self.stamp += 1
        self.dropped = self.stamp

    # -- what it does --------------------------------------------------------------------------

    async def purge(self) -> None:
        world = self.world
        purge = world.purge()
        for _ in range(6):
            if self.log is None:
                await self.sync()
                continue
            place, era, leaves, sent = self.place(), self.era, self.leaves, self.runtime.monotonic()
            addition = Addition(world.random_bytes(8), b"", purge.key.encode())
            reply = await self.journal.append(place, [addition])
            at = self.runtime.monotonic()
            self.take(reply, era, leaves, sent)
            if not reply.appended or reply.log != self.log:
                continue
            while self.log == reply.log and self.position < reply.appended:
                await self.sync()
            record = Appended(reply.log, reply.appended, reply.tip, at)
            if await self.wait(record):
                world.final(self, purge)
                return

    async def wait(self, record: Appended) -> bool:
        """Until it is final. False if it was lost."""
        while True:
            status = await self.journal.status(self.place(), record)
            if not status.found:
                if status.log != self.log:
                    await self.sync()
                return False
            if status.final:
                return True
            await Sleep(self.runtime.monotonic() + max(0.03, status.pause))

    async def leave(self) -> None:
        self.drop_trust()
        place = self.place()
        self.serial += 1
        await self.journal.leave(place)

    def drop_trust(self) -> None:
        self.out = True
        self.leaves += 1
        self.trusted_until = NEVER

    def forked(self, name: str) -> Instance:
        """A child of this process, as it comes out of the fork."""
        child = copy.copy(self)
        child.name, child.tasks, child.serial = name, [], 0
        child.purged, child.records = dict(self.purged), dict(self.records)
        for purge in self.world.purges:
            if self.name in purge.stamps:
                purge.stamps[name] = purge.stamps[self.name]
        child.runtime = Runtime(self.world, self.runtime.rate, self.runtime.offset)
        # The same object in another process: a copy of it, with what it knows.
        memory = {
            id(self.world): self.world,
            id(self.runtime): child.runtime,
            id(ask): ask,
        }
        child.journal = copy.deepcopy(self.journal, memory)
        self.in_child(child)
        return child

    def in_child(self, child: Instance) -> None:
        child.trusted_until = NEVER
        child.journal.forked()


# -- the world -----------------------------------------------------------------------------------------


class Violation(AssertionError):
    pass


class World:
    """Everything there is. ``seed`` decides what happens."""

    def __init__(
        self,
        seed: int = 0,
        *,
        epochs: bool = True,
        tags_repeat: bool = False,
        sizes: Sizes = SMALL,
        instance: type[Instance] = Instance,
    ) -> None:
        self.chance = random.Random(seed)
        self.time = 100.0
        self.sizes = sizes
        self.store = Store(epochs=epochs, tags_repeat=tags_repeat)
        self.instance = instance
        self.instances: list[Instance] = []
        self.ghosts: list[Call] = []  # requests of nobody
        self.purges: list[Purge] = []
        self.finals: list[Purge] = []
        self.names = 0
        self.told: list[str] = []
        self.events = EVENTS
        self.faults: Collection[str] = FAULTS
        self.options: Callable[[], dict[str, Any]] = dict  # of the next instance

    @classmethod
    def of(
        cls, seed: int, *, throttles: bool = False, stale: bool = False, **options: Any
    ) -> World:
        """A world with three instances. What kind of store, how they are configured, and which faults
        there are depends on the seed. ``throttles``: the store also refuses calls. ``stale``: its reads
        may be behind."""
        chance = random.Random(f"world {seed}")
        world = cls(seed, epochs=chance.random() < 0.7, **options)
        world.faults = {name for name in FAULTS if chance.random() < 0.35}
        if throttles:
            world.events = {**EVENTS, "throttle": 8}
        if stale:
            world.store.stale = random.Random(f"stale {seed}")
        terms, modes = [1.0], [chance.random() < 0.8]
        if chance.random() < 0.3:
            # Nobody can know the T of a head that is gone, if nobody who is alive has seen it.
            world.faults -= {"empty", "lose_cell", "fail_over"}
            terms, modes = [0.3, 1.0, 3.0], [True, True, False]
        world.options = lambda: {"term": chance.choice(terms), "members": chance.choice(modes)}
        for _ in range(3):
            world.new()
        return world

    def _wake(self, instance: Instance, task: Task) -> None:
        if isinstance(task.waits, Sleep) and task.waits.until <= instance.runtime.monotonic():
            self.answer(instance, task)

    def random_bytes(self, count: int) -> bytes:
        return self.chance.randbytes(count)

    def new(self, **options: Any) -> Instance:
        self.names += 1
        instance = self.instance(self, f"i{self.names}", **(options or self.options()))
        self.instances.append(instance)
        return instance

    def tell(self, text: str) -> None:
        self.told.append(f"{self.time:9.3f} {text}")

    def purge(self) -> Purge:
        purge = Purge(f"p{len(self.purges)}", self.instances)
        self.purges.append(purge)
        return purge

    def final(self, by: Instance, purge: Purge) -> None:
        self.finals.append(purge)
        self.tell(f"{by}: purge {purge.key} is final")

    def check(self) -> None:
        """G3."""
        for instance in self.instances:
            if instance.stopped or not instance.trusted:
                continue
            for purge in self.finals:
                if instance.serves(purge):
                    raise Violation(f"{instance} serves what {purge.key} has purged")

    # -- steps, for histories that are told one by one -----------------------------------------

    def start(self, instance: Instance, work: Coroutine[Any, Any, Any], name: str = "") -> Task:
        task = Task(work, name)
        instance.tasks.append(task)
        task.advance()
        self._settle(instance, task)
        return task

    def _settle(self, instance: Instance, task: Task) -> None:
        if task.over:
            with contextlib.suppress(ValueError):
                instance.tasks.remove(task)

    def carry_out(self, task: Task) -> None:
        """The store carries out what the task waits for."""
        call = task.waits
        assert isinstance(call, Call) and not call.done, call
        call.result = self.store.do(call.what, *call.args)
        call.done = True

    def answer(self, instance: Instance, task: Task) -> None:
        """The task goes on."""
        call = task.waits
        task.advance(call.result if isinstance(call, Call) else None)
        self._settle(instance, task)

    def step(self, instance: Instance, task: Task) -> None:
        """One operation, from here to there and back."""
        if isinstance(task.waits, Call) and not task.waits.done:
            self.carry_out(task)
        elif isinstance(task.waits, Sleep):
            self.wait(task.waits.until - instance.runtime.monotonic(), instance)
        self.answer(instance, task)
        self.check()

    def wait(self, seconds: float, instance: Instance | None = None) -> None:
        rate = 1.0 if instance is None else instance.runtime.rate
        self.time += max(0.0, seconds) / rate
        self.check()

    def run(
        self,
        instance: Instance,
        work: Coroutine[Any, Any, Any] | Task,
        until: Callable[[Task], bool] | None = None,
    ) -> Task:
        """Work that nothing disturbs, to its end; or until ``until`` says so of what it waits for."""
        task = work if isinstance(work, Task) else self.start(instance, work)
        for _ in range(3000):
            if task.over or (until is not None and until(task)):
                return task
            self.step(instance, task)
        raise AssertionError(f"{task.name} does not end")

    def kill(self, instance: Instance) -> None:
        self.instances.remove(instance)
        for task in instance.tasks:
            if isinstance(task.waits, Call) and not task.waits.done:
                self.ghosts.append(task.waits)
            task.work.close()
        instance.tasks = []

    # -- steps that nobody decides -------------------------------------------------------------

    def random_history(self, steps: int) -> None:
        weights = {**self.events, **{name: FAULTS[name] for name in FAULTS if name in self.faults}}
        names, numbers = list(weights), list(weights.values())
        for _ in range(steps):
            (name,) = self.chance.choices(names, numbers)
            getattr(self, f"_{name}")()
            self.check()

    def settle_down(self) -> None:
        """Nothing goes wrong any more, and all that is under way comes to its end."""
        for instance in self.instances:
            instance.stopped = False
        for _ in range(60):
            for instance in list(self.instances):
                for task in list(instance.tasks):
                    if not isinstance(task.waits, Sleep):
                        self.run(instance, task, lambda task: isinstance(task.waits, Sleep))
                self.run(instance, instance.sync())
            self.wait(0.2)
            for instance in self.instances:
                for task in list(instance.tasks):
                    self._wake(instance, task)

    def _running(self) -> Iterator[Instance]:
        return (one for one in self.instances if not one.stopped)

    def _one(self) -> Instance | None:
        running = list(self._running())
        return self.chance.choice(running) if running else None

    def _go_on(self) -> None:
        """Some calls are carried out, some answers come."""
        for _ in range(self.chance.choice([1, 2, 4, 8])):
            moves = [
                (instance, task)
                for instance in self.instances
                for task in instance.tasks
                if self._can_move(instance, task)
            ]
            if not moves:
                self._pass()
                return
            instance, task = self.chance.choice(moves)
            if isinstance(task.waits, Call) and not task.waits.done:
                self.carry_out(task)
            else:
                self.answer(instance, task)
            self.check()

    def _can_move(self, instance: Instance, task: Task) -> bool:
        if isinstance(task.waits, Call):
            return not (task.waits.done and instance.stopped)
        assert task.waits is not None
        return not instance.stopped and task.waits.until <= instance.runtime.monotonic()

    def _flow(self) -> None:
        """One task goes on for a while without a pause."""
        instance = self._one()
        if instance is None or not instance.tasks:
            return
        task = self.chance.choice(instance.tasks)
        for _ in range(self.chance.choice([2, 5, 20])):
            if task.over or isinstance(task.waits, Sleep):
                return
            if isinstance(task.waits, Call) and not task.waits.done:
                self.carry_out(task)
            self.answer(instance, task)
            self.check()

    def _pass(self) -> None:
        self.time += self.chance.choice([0.005, 0.03, 0.1, 0.3, 0.6])

    def _pass_long(self) -> None:
        self.time += self.chance.choice([0.9, 1.03, 1.1, 2.5])
        self.tell("time passes")

    def _ghost(self) -> None:
        if self.ghosts:
            call = self.ghosts.pop(self.chance.randrange(len(self.ghosts)))
            self.tell(f"late: {call}")
            self.store.do(call.what, *call.args)

    def _lose(self) -> None:
        """A request or an answer is lost; the request may still be carried out later."""
        instance = self._one()
        calls = (
            [task for task in instance.tasks if isinstance(task.waits, Call)] if instance else []
        )
        if instance is None or not calls:
            return
        task = self.chance.choice(calls)
        assert isinstance(task.waits, Call)
        if not task.waits.done:
            self.ghosts.append(task.waits)
        self.tell(f"{instance}: lost {task.waits}")
        task.advance(error=Lost())
        self._settle(instance, task)

    def _throttle(self) -> None:
        """The store says that there are too many requests. It may have carried this one out, all the same."""
        instance = self._one()
        calls = (
            [task for task in instance.tasks if isinstance(task.waits, Call)] if instance else []
        )
        if instance is not None and calls:
            task = self.chance.choice(calls)
            self.tell(f"{instance}: refused {task.waits}")
            task.advance(error=LayerRefused("shared", "429 too many requests"))
            self._settle(instance, task)

    def _sync(self) -> None:
        instance = self._one()
        if instance is not None and len(instance.tasks) < 4:
            self.start(instance, instance.sync(), "sync")

    def _purge(self) -> None:
        instance = self._one()
        if instance is not None and len(instance.tasks) < 4:
            self.tell(f"{instance}: purges p{len(self.purges)}")
            self.start(instance, instance.purge(), "purge")

    def _leave(self) -> None:
        instance = self._one()
        if instance is not None and not instance.out:
            self.tell(f"{instance}: leaves")
            self.start(instance, instance.leave(), "leave")

    def _stop(self) -> None:
        instance = self._one()
        if instance is not None:
            self.tell(f"{instance}: stopped")
            instance.stopped = True

    def _resume(self) -> None:
        for instance in self.instances:
            if instance.stopped and self.chance.random() < 0.5:
                self.tell(f"{instance}: goes on")
                instance.stopped = False

    def _kill(self) -> None:
        instance = self.chance.choice(self.instances)
        self.tell(f"{instance}: killed")
        self.kill(instance)
        self.new()

    def _fork(self) -> None:
        instance = self._one()
        if instance is None or len(self.instances) > 4:
            return
        self.names += 1
        child = instance.forked(f"i{self.names}")
        self.tell(f"{instance}: forks {child}")
        self.instances.append(child)
        if self.chance.random() < 0.7:
            self.kill(instance)

    def _empty(self) -> None:
        self.tell("the store is emptied")
        self.store.empty()

    def _lose_cell(self) -> None:
        if self.store.cells:
            name = self.chance.choice(list(self.store.cells))
            self.tell(f"{name} is lost")
            self.store.lose(name)

    def _fail_over(self) -> None:
        if self.store.epochs and self.store.past:
            back = self.chance.choice([1, 1, 2, 3, 5, 10, 30])
            past = self.store.past[-min(back, len(self.store.past))]
            self.tell(f"the store goes back by {back} writes")
            self.store.fail_over(past)

    def _restart(self) -> None:
        self.tell("the store is restarted")
        self.store.fail_over()


EVENTS: dict[str, float] = {
    "go_on": 50,
    "flow": 60,
    "pass": 20,
    "sync": 25,
    "purge": 7,
    "resume": 6,
}
FAULTS: dict[str, float] = {
    "pass_long": 3,
    "ghost": 3,
    "lose": 3,
    "leave": 2,
    "stop": 4,
    "kill": 2,
    "fork": 2,
    "empty": 1,
    "lose_cell": 1,
    "fail_over": 1.5,
    "restart": 0.5,
}


def wait_for(awaitable: Awaitable[Any]) -> Any:
    """The answer of something that never really waits."""
    try:
        next(awaitable.__await__())
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")
