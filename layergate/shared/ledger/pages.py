"""The records that the head has no room for any more: pages, and how they are written and read.

A page is a cell with up to `Sizes.page` records. Pages are numbered from 1, and page q lies in slot
q modulo `Sizes.pages`, so the oldest is overwritten: the number of cells is bounded. `HeadCell` and
`CellsJournal` read pages for whoever was away for longer than the head reaches back, and write them
when the head is full. Nothing here changes the head.

A page that is missing, damaged, or of another incarnation costs a gap, which the reader sees in the
chain, and never a wrong record.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from layergate.errors import WireError
from layergate.shared.ledger.head import Chain, Head, Page
from layergate.shared.ports import Cells

__all__ = ["Ask", "Pages", "Sizes"]

_logger = logging.getLogger("layergate")

Ask: TypeAlias = Callable[..., Awaitable[Any]]
"""`layergate.shared.guard.Guard.call`."""


class Sizes(NamedTuple):
    """How much goes where. The same for all who share a log.

    ``cell``   bytes of a cell, at most.
    ``keep``   records that stay in the head when it is emptied into a page.
    ``head``   records in the head at which that happens.
    ``page``   records in a page.
    ``pages``  pages that are kept. The newest may be almost empty.
    """

    cell: int = 256 * 1024
    keep: int = 32
    head: int = 64
    page: int = 256
    pages: int = 64

    @property
    def record(self) -> int:
        """Bytes of the largest record. Any record fits in a head, and in a page, beside others."""
        return self.cell // 8


class Pages:
    """The pages of one log. ``name``: what the names of their cells begin with."""

    def __init__(self, cells: Cells, ask: Ask, name: str, sizes: Sizes) -> None:
        self._cells = cells
        self._ask = ask
        self._name = name
        self._sizes = sizes

    def _cell(self, number: int) -> str:
        return f"{self._name}{number % self._sizes.pages:03d}"

    async def _load(self, number: int, log: bytes, *, probe: bool) -> tuple[Page | None, Any]:
        """The page, or None if it is not there any more; and the tag of its cell."""
        loaded = await self._ask(self._cells.load, self._cell(number), probe=probe)
        if loaded is None:
            return None, None
        data, tag = loaded
        try:
            page = Page.decode(data)
        except WireError as error:
            _logger.debug("page %d of the shared log is not readable: %s", number, error)
            return None, tag
        return (page if page.log == log and page.number == number else None), tag

    async def older(self, head: Head, after: int, *, probe: bool) -> Chain:
        """The records after position ``after`` that lie before those in the head, as far as they are
        still there without a gap."""
        base, tip = head.chain.base, head.chain.tip
        found: list[Chain] = []
        number = head.page
        while base > after and number > max(0, head.page - self._sizes.pages):
            page, _ = await self._load(number, head.log, probe=probe)
            if page is None or page.chain.tip_at(base) != tip:
                break
            chain = page.chain.until(base)
            found.append(chain)
            base, tip = chain.base, chain.tip
            number -= 1
        records = [record for chain in reversed(found) for record in chain.records]
        return Chain(base, tip, tuple(records))

    def full(self, head: Head, more: int, size: int) -> bool:
        """There is no room in the head for ``more`` records of ``size`` bytes, and to empty it helps."""
        held = len(head.chain.records)
        if held <= self.keep(head):
            return False
        return held + more > self._sizes.head or head.chain.size + size > self._sizes.cell // 2

    def keep(self, head: Head) -> int:
        """How many records stay in the head when it is emptied."""
        kept = size = 0
        for record in reversed(head.chain.records):
            size += len(record.data)
            if kept == self._sizes.keep or size > self._sizes.cell // 8:
                break
            kept += 1
        return kept

    async def spill(self, head: Head, *, probe: bool) -> int | None:
        """Write all records but `keep` of them into pages. The number of the newest page then; None
        if another process was quicker, which the head may tell by now."""
        moving = head.chain.until(head.chain.position - self.keep(head))
        number = max(1, head.page)
        page, tag = await self._load(number, head.log, probe=probe)
        if head.page and page is not None and page.chain.tip_at(moving.base) == moving.tip:
            if page.chain.tip_at(moving.position) == moving.last_tip:
                return number  # it was written, and the head was not
            before = page.chain.until(moving.base)
            chain = Chain(before.base, before.tip, before.records + moving.records)
            if len(chain.records) <= self._sizes.page and chain.size <= self._sizes.cell * 3 // 4:
                return await self._write(Page(head.log, number, chain), tag, probe=probe)
        if head.page:
            number = head.page + 1
            page, tag = await self._load(number, head.log, probe=probe)
        if page is not None and page.chain.tip_at(moving.position) == moving.last_tip:
            return number
        return await self._write(Page(head.log, number, moving), tag, probe=probe)

    async def _write(self, page: Page, tag: Any, *, probe: bool) -> int | None:
        name = self._cell(page.number)
        done = await self._ask(self._cells.swap, name, tag, page.encode(), probe=probe)
        return None if done is None else page.number
