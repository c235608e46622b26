"""Records that the head has no room for any more: who was away for long still reads them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from layergate.core.codec import Codec
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations
from layergate.core.shared import Joining
from layergate.errors import WireError
from layergate.runtime.loop import LoopRuntime
from layergate.shared.journal import Addition, Founding, Place, Record, Reply
from layergate.shared.ledger import CellsJournal
from layergate.shared.ledger.head import Chain, Head, Page
from layergate.shared.ledger.pages import Sizes
from layergate.shared.log import SharedLog
from layergate.shared.outbox import Waiting
from layergate.testing.memory_cells import CellServer, MemoryCells
from tests.shared.ledger.simulation import SMALL, Call, World, ask

PREFIX = "test:log"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


class Reader:
    """An instance that keeps what it reads."""

    def __init__(self, server: CellServer, sizes: Sizes | None = None) -> None:
        self.cells = MemoryCells(server)
        self.journal = CellsJournal(
            self.cells, ask, LoopRuntime(), prefix=PREFIX, term=1.0, sizes=sizes
        )
        self.log: bytes | None = None
        self.records: list[Record] = []
        self.holes = 0
        self.calls = 0

    @property
    def position(self) -> int:
        return self.records[-1].position if self.records else 0

    def place(self) -> Place:
        tip = self.records[-1].tip if self.records else b""
        return Place(
            self.log,
            self.position,
            tip,
            b"me",
            False,
            Founding(b"\0" * 5 + b"\1" + b"f" * 10, b"", b""),
        )

    def take(self, reply: Reply) -> Reply:
        self.log = reply.log
        for record in reply.records:
            self.holes += record.before > self.position
            assert record.before >= self.position
            self.records.append(record)
        assert self.position == reply.last
        return reply

    async def read(self) -> list[Record]:
        """The records that are new."""
        known = len(self.records)
        self.take(await self.journal.sync(self.place()))
        return self.records[known:]

    async def write(self, *data: bytes) -> Reply:
        chance = random.Random(self.position)
        additions = [Addition(chance.randbytes(8), b"", one) for one in data]
        return self.take(await self.journal.append(self.place(), additions))


def numbered(start: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, end)]


def test_a_late_joiner_reads_ten_thousand_records_and_more() -> None:
    async def scenario() -> None:
        server = CellServer()
        writer, away = Reader(server), Reader(server)
        await writer.read()
        for start in range(0, 18_000, 60):
            await writer.write(*[b"%d".rjust(40) % n for n in range(start, start + 60)])
            if start == 9_000:
                await away.read()
        late = Reader(server)
        found = await late.read()
        assert late.holes == 1  # what is older is gone, and the chain shows that
        assert found[0].before > 0
        assert len(found) > 10_000 + 64
        assert found == writer.records[-len(found) :]
        assert len(await away.read()) == 18_000 - 9_060
        assert away.holes == 0
        assert away.records == writer.records
        assert len([name for name in server.cells if ":p" in name]) <= Sizes().pages
        assert max(len(cell.data) for cell in server.cells.values()) < 64 * 1024

    run(scenario())


def test_a_process_that_was_away_reads_only_what_it_missed() -> None:
    class Counted(MemoryCells):
        loads = 0

        def load(self, name: str) -> Any:
            Counted.loads += 1
            return super().load(name)

    async def scenario() -> None:
        server = CellServer()
        writer, away = Reader(server), Reader(server)
        away.journal._pages._cells = away.journal._observer._cells = Counted(server)
        await writer.read()
        for start in range(0, 6_000, 60):
            if start == 5_400:
                await away.read()
            await writer.write(*numbered(start, start + 60))
        Counted.loads = 0
        assert len(await away.read()) == 600
        assert Counted.loads <= 5
        Counted.loads = 0
        assert await away.read() == []
        assert Counted.loads == 1

    run(scenario())


@pytest.mark.parametrize("seed", range(4))
def test_records_of_any_size(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        server = CellServer(largest=16_384)
        writer, reader = Reader(server), Reader(server)
        await writer.read()
        largest = writer.journal.largest_record
        for _ in range(60):
            count = chance.choice([1, 1, 3, 20, 64])
            sizes = [chance.choice([1, 30, 300, largest]) for _ in range(count)]
            if count == 64:
                sizes = [chance.choice([30, 200])] * 64
            await writer.write(*[chance.randbytes(size) for size in sizes])
            if chance.random() < 0.3:
                await reader.read()
                if not reader.holes:
                    assert reader.records == writer.records
                assert reader.records[-1] == writer.records[-1]
        assert max(len(cell.data) for cell in server.cells.values()) <= 16_384

    run(scenario())


def test_a_record_that_is_too_large_is_refused_before_anything_is_written() -> None:
    async def scenario() -> None:
        server = CellServer(largest=16_384)
        writer = Reader(server)
        await writer.read()
        before = dict(server.cells)
        with pytest.raises(
            WireError, match=r"a record of 2049 bytes .* take records of 2048 bytes"
        ):
            await writer.write(b"fits", b"x" * 2049)
        assert server.cells == before
        assert (await writer.write(b"x" * 2048)).appended

    run(scenario())


@pytest.mark.parametrize("lost", ["all", "newest", "oldest", "one", "damaged", "of another log"])
def test_a_page_that_is_lost_is_a_hole(lost: str) -> None:
    async def scenario() -> None:
        server = CellServer()
        writer = Reader(server, SMALL)
        await writer.read()
        for start in range(0, 16, 2):
            await writer.write(*numbered(start, start + 2))
        pages = sorted(name for name in server.cells if ":p" in name)
        head = Head.decode(server.cells[f"{PREFIX}:head"].data)
        assert len(pages) > 2
        newest = f"{PREFIX}:p{head.page % SMALL.pages:03d}"
        oldest = next(
            name for name in pages if Page.decode(server.cells[name].data).chain.base == 0
        )
        gone = {
            "all": pages,
            "newest": [newest],
            "oldest": [oldest],
            "one": [next(name for name in pages if name not in (newest, oldest))],
            "damaged": [newest],
            "of another log": [newest],
        }[lost]
        for name in gone:
            page = Page.decode(server.cells[name].data)
            server.lose(name)
            if lost == "damaged":
                server.set(name, b"damaged")
            elif lost == "of another log":
                server.set(name, page._replace(log=b"x" * 16).encode())
        reader = Reader(server, SMALL)
        found = await reader.read()
        assert reader.holes == 1
        assert found == writer.records[-len(found) :]
        assert len(found) >= len(head.chain.records)
        # And it goes on.
        for start in range(16, 40, 2):
            await writer.write(*numbered(start, start + 2))
            await reader.read()
        assert reader.holes == 1
        assert reader.records == writer.records[-len(reader.records) :]
        assert writer.holes == 0

    run(scenario())


def test_a_page_with_other_records_is_a_hole() -> None:
    async def scenario() -> None:
        server = CellServer()
        writer = Reader(server, SMALL)
        await writer.read()
        for start in range(0, 16, 2):
            await writer.write(*numbered(start, start + 2))
        for name in [name for name in server.cells if ":p" in name]:
            page = Page.decode(server.cells[name].data)
            forged = Chain(page.chain.base, page.chain.tip).extended(
                (one.nonce or b"", b"forged") for one in page.chain.records
            )
            server.set(name, page._replace(chain=forged).encode())
        reader = Reader(server, SMALL)
        assert b"forged" not in [one.data for one in await reader.read()]
        assert reader.holes == 1

    run(scenario())


def test_a_writer_that_dies_between_two_steps_leaves_nothing_behind() -> None:
    """Stopped before each operation of an append that has to make room, and then before none."""
    for steps in range(30):
        world = World(3)
        writer, other = world.new(), world.new()
        for instance in (writer, other):
            world.run(instance, instance.sync())
        for _ in range(3):
            world.run(other, other.purge())
            world.run(writer, writer.sync())
        world.run(other, other.purge())
        task = world.start(writer, writer.purge())
        for _ in range(steps):
            if not task.over and isinstance(task.waits, Call):
                world.carry_out(task)
                world.answer(writer, task)
        world.kill(writer)
        for _ in range(12):
            world.run(other, other.purge())
        late = world.new()
        world.run(late, late.sync())
        assert (late.position, late.tip) == (other.position, other.tip)
        # What it has appended before it died counts, once.
        pages = [Page.decode(d) for name, (d, _) in world.store.cells.items() if name[2] == "p"]
        assert all(len(page.chain.records) <= SMALL.page for page in pages)


# -- with the machinery above --------------------------------------------------------------------------


class Fleet:
    """Instances with the real `SharedLog`."""

    def __init__(self, server: CellServer) -> None:
        self.server = server

    def join(self) -> tuple[SharedLog, Invalidations]:
        runtime, invalidations = LoopRuntime(), Invalidations()
        journal = CellsJournal(MemoryCells(self.server), ask, runtime, prefix=PREFIX, term=5.0)
        joining = Joining(invalidations, runtime, Counters(), ())
        return SharedLog(journal, Codec(), joining, timeout=5.0, connect_timeout=1.0), invalidations


def tags(*names: str) -> tuple[Invalidation, ...]:
    return tuple(Invalidation("tag", name) for name in names)


def test_a_late_joiner_uses_what_the_lower_layer_holds() -> None:
    async def scenario() -> None:
        fleet = Fleet(CellServer())
        first, _ = fleet.join()
        await first.sync()
        early = first.positions.place(first._invalidations.position)
        await first.append(tags("gone"), 0.0, wait=0)
        for start in range(0, 9_900, 60):
            records = [tags(f"tag {number}") for number in range(start, start + 60)]
            await first._append_records([Waiting(one, 0.0, b"", None) for one in records])
        late, invalidations = fleet.join()
        await late.sync()
        assert early is not None
        stamp = late.positions.stamp(*early)
        assert stamp is not None, "what was stored before is of no use any more"
        assert not invalidations.purged_since(stamp, ("kept",), "label")
        assert invalidations.purged_since(stamp, ("gone",), "label")
        assert invalidations.purged_since(stamp, ("tag 5000",), "label")
        await first.leave()
        await late.leave()

    run(scenario())


def test_a_purge_that_is_too_large_for_a_cell_is_several_or_everything() -> None:
    async def scenario() -> None:
        fleet = Fleet(CellServer(largest=16_384))
        one, _ = fleet.join()
        other, known = fleet.join()
        await one.sync()
        await other.sync()
        before = known.position
        many = [f"a tag that is not short {number:04d}" for number in range(500)]
        await one.append(tags(*many), 0.0, wait=0)
        await other.sync()
        assert other.applied == one.applied > 1
        assert all(known.purged_since(before, (tag,), "label") for tag in many)
        assert not known.purged_since(before, ("another",), "label")
        await one.append(tags("x" * 3000), 0.0, wait=0)
        await other.sync()
        assert known.purged_since(before, ("another",), "label"), "too much rather than too little"
        assert not one.stats()["log_outbox"]
        await one.leave()
        await other.leave()

    run(scenario())


def test_a_long_outage_is_made_up_for_in_records_that_fit() -> None:
    async def scenario() -> None:
        server = CellServer(largest=16_384)
        fleet = Fleet(server)
        one, _ = fleet.join()
        other, known = fleet.join()
        await one.sync()
        await other.sync()
        before = known.position
        load = MemoryCells.load
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryCells, "load", lambda *_: 1 / 0)
            many = [f"a tag that is not short {number:04d}" for number in range(700)]
            receipt = await one.append(tags(*many), 0.0)
            assert not receipt.final
        assert MemoryCells.load is load
        await one.sync()
        await other.sync()
        assert not one.stats()["log_outbox"]
        assert all(known.purged_since(before, (tag,), "label") for tag in many)
        assert not known.purged_since(before, ("another",), "label")
        await one.leave()
        await other.leave()

    run(scenario())
