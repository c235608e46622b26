"""The ledger's journal, beyond what the suite for journals asks: its terms, its operations, its faults."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from layergate.core.events import Counters
from layergate.errors import LayerError, LayerRefused
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime, run_blocking
from layergate.shared.guard import Guard
from layergate.shared.journal import Addition, Appended, Founding, Grew, Journal, Place, Reply
from layergate.shared.ledger import CellsJournal
from layergate.shared.ledger.head import Head, Mode, joined, suspected
from layergate.shared.ports import Cell, Tag
from layergate.testing.memory_cells import CellServer, MemoryCells, WaitableMemoryCells
from tests.shared.ledger.simulation import ask

PREFIX = "ns:log"
HEAD = f"{PREFIX}:head"


class Counted(MemoryCells):
    """Counts what is asked, and fails if it is told to."""

    def __init__(self, server: CellServer) -> None:
        super().__init__(server)
        self.asked: Counter[str] = Counter()
        self.fails: dict[str, Exception] = {}

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        if what in self.fails:
            raise self.fails[what]

    def load(self, name: str) -> Cell | None:
        self._ask("load")
        return super().load(name)

    def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:
        self._ask("swap")
        return super().swap(name, tag, data)

    def put(self, name: str, data: bytes) -> None:
        self._ask("put")
        super().put(name, data)

    def took(self) -> dict[str, int]:
        """What was asked since this was last called."""
        asked, self.asked = dict(self.asked), Counter()
        return asked


class PlainCounted(Counted):
    cheap_puts = False


class One:
    """An instance."""

    def __init__(
        self,
        server: CellServer,
        *,
        cells: type[Counted] = Counted,
        term: float | None = 1.0,
        member: bool = True,
        runtime: Any = None,
        **options: Any,
    ) -> None:
        self.cells = cells(server)
        self.runtime = runtime or LoopRuntime()
        self.journal = CellsJournal(
            self.cells, ask, self.runtime, prefix=PREFIX, term=term, **options
        )
        self.name = os.urandom(8).hex().encode()
        self.member = member
        self.log: bytes | None = None
        self.position, self.tip = 0, b""
        self.data: list[bytes] = []

    def place(self) -> Place:
        founding = Founding(os.urandom(16), b"", b"")
        return Place(self.log, self.position, self.tip, self.name, self.member, founding)

    def take(self, reply: Reply) -> Reply:
        if reply.log != self.log:
            self.log, self.position, self.tip, self.data = reply.log, 0, b"", []
        for record in reply.records:
            if record.position > self.position:
                assert record.before == self.position
                self.position, self.tip = record.position, record.tip
                self.data.append(record.data)
        return reply

    async def sync(self) -> Reply:
        return self.take(await self.journal.sync(self.place()))

    async def append(self, *data: bytes) -> Appended:
        additions = [Addition(os.urandom(8), b"", one) for one in data]
        reply = self.take(await self.journal.append(self.place(), additions))
        assert reply.appended
        return Appended(reply.log, reply.appended, reply.tip, self.runtime.monotonic())

    async def status(self, record: Appended) -> Any:
        return await self.journal.status(self.place(), record)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def head(server: CellServer) -> Head:
    return Head.decode(server.cells[HEAD].data)


# -- what it costs -------------------------------------------------------------------------------------


def test_what_is_asked_of_the_store() -> None:
    async def scenario() -> None:
        server = CellServer()
        one, other = One(server), One(server)
        await one.sync()
        assert one.cells.took() == {"load": 3, "swap": 2}, "founded, joined, and looked again"
        await other.sync()
        assert other.cells.took() == {"load": 2, "swap": 1}
        await one.sync()
        assert one.cells.took() == {"put": 1, "load": 1}, "acknowledged"
        for _ in range(3):
            await one.sync()
        assert one.cells.took() == {"load": 3}, "nothing is new, so nothing is written"
        record = await one.append(b"purge")
        assert one.cells.took() == {"load": 1, "swap": 1}
        await one.status(record)
        assert one.cells.took() == {"put": 1, "load": 2}, (
            "the other's acknowledgement, and the head"
        )
        await other.sync()
        await other.sync()
        assert other.cells.took() == {"put": 2, "load": 2}
        await one.status(record)
        assert one.cells.took() == {"load": 2}
        await one.status(record)
        assert one.cells.took() == {"load": 1}, "what is known is not asked again"

    run(scenario())


def test_what_is_asked_where_writes_are_expensive() -> None:
    async def scenario() -> None:
        server = CellServer()
        one, other = One(server, cells=PlainCounted), One(server, cells=PlainCounted)
        await one.sync()
        assert one.cells.took() == {"load": 2, "swap": 1}
        reply = await other.sync()
        assert other.cells.took() == {"load": 1}
        assert (reply.member, reply.trusted_for) == (False, 1.0)
        record = await one.append(b"purge")
        await other.sync()
        status = await one.status(record)
        assert (status.final, status.instances, status.applied) == (False, 1, 1)
        assert 0.8 < status.pause <= 1.05
        assert other.cells.took() == {"load": 1}
        assert head(server).members == ()

    run(scenario())


def test_purges_at_once_travel_together() -> None:
    class Slow(Counted):
        async def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:  # type: ignore[override]
            await asyncio.sleep(0.002)
            return super().swap(name, tag, data)

    async def scenario() -> None:
        server = CellServer()
        ones = [One(server, cells=Slow) for _ in range(3)]
        for one in ones:
            await one.sync()
            one.cells.took()
        data = [b"%d" % number for number in range(90)]
        await asyncio.gather(*(ones[n % 3].append(one) for n, one in enumerate(data)))
        for one in ones:
            await one.sync()
            assert sorted(one.data) == sorted(data)
            assert one.cells.took()["swap"] < 25
        assert len({tuple(one.data) for one in ones}) == 1

    run(scenario())


def test_threads_append_at_once() -> None:
    server = CellServer()
    one = One(server, runtime=ThreadRuntime())
    run_blocking(one.sync())

    def purge(start: int) -> None:
        for number in range(start, start + 25):
            additions = [Addition(os.urandom(8), b"", b"%d" % number)]
            reply = run_blocking(one.journal.append(one.place(), additions))
            assert reply.appended

    threads = [threading.Thread(target=purge, args=(start,)) for start in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run_blocking(one.sync())
    assert sorted(one.data, key=int) == [b"%d" % number for number in range(200)]


# -- T and mode ----------------------------------------------------------------------------------------


def test_the_terms_are_those_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        server = CellServer()
        one = One(server, term=4.0)
        assert one.journal.terms == (4.0, 1.0, 5.2)
        await one.sync()
        other = One(server, term=0.4)
        assert other.journal.terms.trust == 0.4
        for _ in range(3):
            assert (await other.sync()).trusted_for == 4.0
        assert other.journal.terms == one.journal.terms == (4.0, 1.0, 5.2)

    run(scenario())
    assert (
        caplog.text.count("the shared log was founded with max_disconnected=4 (members), and") == 1
    )


def test_the_mode_is_that_of_the_log() -> None:
    async def scenario() -> None:
        server = CellServer()
        one, other = One(server, cells=PlainCounted), One(server)
        await one.sync()
        assert not (await other.sync()).member
        assert head(server).mode is Mode.PLAIN

    run(scenario())


def test_another_t_is_another_incarnation_that_waits_for_the_longer_one() -> None:
    async def scenario() -> None:
        server = CellServer()
        one, other = One(server, term=4.0), One(server, term=0.4)
        await one.sync()
        await other.sync()
        refused = other.place()._replace(founding=Founding(b"n" * 16, b"", other.log or b""))
        other.take(await other.journal.sync(refused))
        assert other.log == b"n" * 16
        assert (head(server).term, head(server).settle) == (0.4, 4.0)
        assert other.journal.terms[:2] == (0.4, 0.1)
        assert other.journal.terms.finality == pytest.approx(4.3)
        # One more, before that one is settled: it still waits for the first.
        third = One(server, term=0.2)
        await third.sync()
        refused = third.place()._replace(founding=Founding(b"m" * 16, b"", b"n" * 16))
        await third.journal.sync(refused)
        assert (head(server).term, head(server).settle) == (0.2, 4.0)

    run(scenario())


def test_a_t_that_nobody_can_wait_for_is_bounded() -> None:
    async def scenario() -> None:
        for term, used in ((1e9, 3600.0), (0.0001, 0.05)):
            server = CellServer()
            one = One(server, term=term)
            assert (await one.sync()).trusted_for == used

    run(scenario())


def test_trust_for_ever() -> None:
    async def scenario() -> None:
        server = CellServer()
        one = One(server, term=None)
        assert (await one.sync()).trusted_for == float("inf")
        assert one.journal.terms.trust == float("inf")
        assert one.journal.terms.heartbeat == 7.5
        assert one.journal.terms.finality < 60

    run(scenario())


# -- members -------------------------------------------------------------------------------------------


def test_a_name_that_cannot_be_a_members() -> None:
    async def scenario() -> None:
        server = CellServer()
        one = One(server)
        for name in (b"", b"x" * 100):
            one.name = name
            reply = await one.sync()
            assert not reply.member
            assert not reply.trusted_for
        assert head(server).members == ()

    run(scenario())


def test_a_list_that_fills_the_cell_is_full(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        server = CellServer(largest=2048)
        first = One(server)
        await first.sync()
        for _ in range(100):
            await One(server).sync()
        assert len(server.cells[HEAD].data) <= 2048
        late = One(server)
        reply = await late.sync()
        assert not reply.member
        assert not reply.trusted_for
        assert (await first.sync()).member

    run(scenario())
    assert "takes no more" in caplog.text


def test_leaving() -> None:
    async def scenario() -> None:
        server = CellServer()
        one, other = One(server), One(server)
        for each in (one, other):
            await each.sync()
        await one.journal.leave(one.place())
        assert [member.name for member in head(server).members] == [other.name]
        await one.journal.leave(one.place())
        server.lose()
        await other.journal.leave(other.place())
        assert not server.cells

    run(scenario())


def test_a_member_that_was_marked_acknowledges_once_more() -> None:
    """What it had told was lost, so a purge has waited for it in vain."""

    async def scenario() -> None:
        server = CellServer()
        one = One(server, term=0.05)
        await one.sync()
        await one.append(b"purge")
        await one.sync()
        told = [name for name in server.cells if name.startswith(f"{PREFIX}:m")]
        server.lose(*told)
        await one.sync()
        assert not server.cells.keys() & set(told), "nothing is new"
        marked = suspected(head(server), {one.name}, lambda: b"a mark..")
        server.set(HEAD, marked.encode())
        await one.sync()
        await one.sync()
        assert server.cells.keys() & set(told)

    run(scenario())


class Clock(LoopRuntime):
    """Its clock is moved by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time


def test_purges_that_wait_for_less_than_the_trust_period_get_over_a_dead_member() -> None:
    """Each gives up before the record itself is waited out, so none would ever find out."""

    async def scenario() -> None:
        server, clock = CellServer(), Clock()
        one, dead = (One(server, term=4.0, runtime=clock) for _ in range(2))
        await one.sync()
        await dead.sync()
        clock.time += 10.0
        await one.sync()  # settled
        finals = []
        for _ in range(4):
            record = await one.append(b"purge")
            for _ in range(10):
                await one.sync()
                status = await one.status(record)
                if status.final:
                    break
                clock.time += 0.4
            finals.append(status.final)
        assert finals == [False, True, True, True]
        assert [member.name for member in head(server).members] == [one.name]

    run(scenario())


def test_a_member_that_is_only_slow_takes_its_mark_away() -> None:
    async def scenario() -> None:
        server, clock = CellServer(), Clock()
        one, slow = (One(server, term=4.0, runtime=clock) for _ in range(2))
        await one.sync()
        await slow.sync()
        clock.time += 10.0
        await one.sync()
        await slow.sync()
        record = await one.append(b"purge")
        for _ in range(7):
            assert not (await one.status(record)).final
            clock.time += 0.4
        assert head(server).member(slow.name).mark  # type: ignore[union-attr]
        await slow.sync()
        reply = await slow.sync()  # acknowledges
        assert reply.trusted_for
        assert not head(server).member(slow.name).mark  # type: ignore[union-attr]
        assert (await one.status(record)).final

    run(scenario())


# -- faults --------------------------------------------------------------------------------------------


def test_a_store_that_takes_no_acknowledgements_can_still_be_read() -> None:
    async def scenario() -> None:
        server = CellServer()
        one = One(server)
        await one.sync()
        one.cells.fails["put"] = LayerRefused("shared", "read only")
        assert (await one.sync()).trusted_for
        one.cells.fails["put"] = ConnectionError("gone")
        with pytest.raises(ConnectionError):
            await one.sync()

    run(scenario())


def test_a_store_that_takes_nothing_can_still_be_read_by_a_member() -> None:
    async def scenario() -> None:
        server = CellServer()
        one, late = One(server), One(server)
        await one.sync()
        record = await one.append(b"purge")
        for each in (one, late):
            each.cells.fails = dict.fromkeys(("put", "swap"), LayerRefused("shared", "read only"))
        assert (await one.sync()).trusted_for
        assert (await one.status(record)).found
        with pytest.raises(LayerRefused):
            await late.sync()
        end = await late.journal.end()
        assert end is not None
        assert (end.log, end.position) == (one.log, 1)

    run(scenario())


def test_the_end_of_no_log() -> None:
    async def scenario() -> None:
        assert await One(CellServer()).journal.end() is None

    run(scenario())


def test_a_head_that_always_changes_is_given_up() -> None:
    class Busy(Counted):
        def swap(self, name: str, tag: Tag | None, data: bytes) -> Tag | None:
            loaded = super().load(name)
            if loaded is not None:
                super().put(name, loaded.data)
            return super().swap(name, tag, data)

    async def scenario() -> None:
        server = CellServer()
        one = One(server)
        await one.sync()
        busy = One(server, cells=Busy)
        with pytest.raises(LayerError, match="again and again"):
            await busy.sync()

    run(scenario())


def test_a_name_of_an_incarnation_is_used_once() -> None:
    """The swap that founds the log may have succeeded although nobody knows that."""

    async def scenario() -> None:
        server = CellServer()
        one = One(server)
        place = one.place()
        one.cells.fails["swap"] = ConnectionError("no answer")
        with pytest.raises(ConnectionError):
            await one.journal.sync(place)
        one.cells.fails.clear()
        with pytest.raises(LayerError, match="again and again"):
            await one.journal.sync(place)
        assert (await one.sync()).log != place.founding.log

    run(scenario())


def test_a_reply_that_was_overtaken_is_no_rollback() -> None:
    """A load was sent before a purge, and answered after it."""

    class Late(Counted):
        gate: asyncio.Event | None = None

        async def load(self, name: str) -> Cell | None:  # type: ignore[override]
            loaded = super().load(name)
            if name == HEAD and self.gate is not None:
                gate, self.gate = self.gate, None
                await gate.wait()
            return loaded

    async def scenario() -> None:
        server = CellServer()
        one = One(server, cells=Late)
        await one.sync()
        log = one.log
        gate = asyncio.Event()
        one.cells.gate = gate  # type: ignore[attr-defined]
        late = asyncio.create_task(one.journal.sync(one.place()))
        await asyncio.sleep(0)
        await one.append(b"purge")
        gate.set()
        assert (await late).last == 0
        assert (await one.sync()).log == log
        assert head(server).log == log

    run(scenario())


def test_a_process_that_knows_another_history_founds_a_new_log() -> None:
    """It remembers where it stood, and nothing of what came before, as after a fork."""

    async def scenario() -> None:
        server = CellServer()
        one = One(server)
        await one.sync()
        await one.append(b"purge")
        other = One(server)
        other.log, other.position, other.tip = one.log, 1, one.tip
        assert (await other.sync()).log == one.log
        stranger = One(server)
        stranger.log, stranger.position, stranger.tip = one.log, 1, b"x" * 40
        assert (await stranger.sync()).log != one.log

    run(scenario())


def test_a_record_is_asked_for_before_anything_was_read() -> None:
    async def scenario() -> None:
        server = CellServer()
        one, other = One(server), One(server)
        await one.sync()
        record = await one.append(b"purge")
        status = await other.status(record)
        assert (status.found, status.final) == (True, False)

    run(scenario())


def test_many_large_records_at_once_take_many_swaps() -> None:
    async def scenario() -> None:
        server = CellServer(largest=16_384)
        one, other = One(server), One(server)
        await one.sync()
        data = [bytes([number]) * one.journal.largest_record for number in range(64)]
        await one.append(*data)
        await other.sync()
        assert other.data == one.data == data

    run(scenario())


def test_a_guard_is_asked_for_every_operation() -> None:
    class Gone(Counted):
        def load(self, name: str) -> Cell | None:
            raise ConnectionError("away")

    async def scenario() -> None:
        runtime = LoopRuntime()
        guard = Guard(runtime, Counters(), name="cells", timeout=0.1, connect_timeout=0.1)
        journal = CellsJournal(Gone(CellServer()), guard.call, runtime, prefix=PREFIX, term=1.0)
        assert isinstance(journal, Journal)
        place = One(CellServer()).place()
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await journal.sync(place)
        with pytest.raises(LayerError, match="does not answer"):
            await journal.sync(place)
        with pytest.raises(ConnectionError):
            await journal.sync(place, probe=True)

    run(scenario())


# -- news ----------------------------------------------------------------------------------------------


def test_news() -> None:
    async def scenario() -> None:
        server = CellServer()
        one = One(server)
        await one.sync()
        assert one.journal.subscribe(b"me") is None
        looking = One(server, look_every=0.005)
        await looking.sync()
        await one.sync()
        waiting = CellsJournal(
            WaitableMemoryCells(server, one.runtime), ask, one.runtime, prefix=PREFIX, term=1.0
        )
        for journal in (looking.journal, waiting):
            await journal.sync(looking.place())
            watch = journal.subscribe(b"me")
            assert watch is not None
            assert await watch.next(0.02) is None
            task = asyncio.create_task(watch.next(20.0))
            await asyncio.sleep(0.01)
            await one.append(b"purge")
            assert await task == Grew(None, 0)
            assert await watch.next(20.0) == Grew(None, 0), "it was not read yet"
            await journal.sync(looking.place())
            assert await watch.next(0.01) is None
            await watch.close()
            watch.abandon()

    run(scenario())


def test_a_subscription_to_a_store_that_is_gone_ends() -> None:
    async def scenario() -> None:
        server = CellServer()
        one = One(server, look_every=0.005)
        await one.sync()
        watch = one.journal.subscribe(b"me")
        assert watch is not None
        one.cells.fails["load"] = ConnectionError("gone")
        with pytest.raises(ConnectionError):
            await watch.next(20.0)

    run(scenario())


def test_members_that_prove_that_they_live() -> None:
    """In a crowd each that joins has two others do that; it costs these one swap."""

    async def scenario() -> None:
        server = CellServer()
        crowd = [One(server) for _ in range(16)]
        for one in crowd:
            await one.sync()
        assert not any(member.mark for member in head(server).members)
        await One(server).sync()
        marked = [member.name for member in head(server).members if member.mark]
        assert marked == [crowd[0].name, crowd[1].name]
        for one in crowd:
            assert (await one.sync()).trusted_for
        assert not any(member.mark for member in head(server).members)
        assert joined(head(server), b"x") is not None
        assert head(server).members[-1].name == crowd[1].name

    run(scenario())
