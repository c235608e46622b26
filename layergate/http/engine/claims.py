"""What a fetch holds that others need, and how it gives it back.

A fetch holds its place among the flights, bytes of the budget for bodies, the fleet's lease, and a span;
and it may leave work in the background. An `Exchange` is a state machine and holds nothing; its `Claims`
take and return these things when its state changes. `receive` and `feed` call them, and `collapse` and
`refresh` where a fetch ends before it begins.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from layergate.core.events import NO_SPAN
from layergate.core.ports import Task
from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange, State
from layergate.http.engine.tally import count_not_stored, end_span
from layergate.http.rfc9111.storing import NotStored

__all__ = ["Claims"]


class Claims:
    """The claims of one exchange. ``reserved``: what it has of the budget, bytes."""

    __slots__ = ("_tasks", "engine", "exchange", "reserved")

    def __init__(self, engine: Engine, exchange: Exchange) -> None:
        self.engine = engine
        self.exchange = exchange
        self.reserved = 0
        self._tasks: list[Task] = []

    # -- bytes of the budget -------------------------------------------------------------------

    def reserve(self, length: int) -> bool:
        """Reserve so many bytes for the body, in all. False if the budget does not have them."""
        more = length - self.reserved
        if more <= 0:
            return True
        if not self.engine.budget.take(more, self.engine.settings.max_inflight, self):
            return False
        self.reserved = length
        return True

    def return_bytes(self) -> None:
        if self.reserved:
            with self.engine.budget.lock:  # from any thread, but only once
                size, self.reserved = self.reserved, 0
            if size:
                self.engine.budget.give(size, self)

    @property
    def held_up(self) -> bool:
        """As `budget.Holder`."""
        return self.exchange.stream.held_up

    def surrender(self) -> None:
        """As `budget.Holder`: others need the bytes, and this fetch waits for its client."""
        self.refuse(NotStored.BUDGET)

    # -- the flight, the lease, the span -------------------------------------------------------

    def land(self) -> None:
        """No other request may join any more."""
        exchange, flights = self.exchange, self.engine.flights
        key = exchange.asked.flight_key
        if key is not None:
            flights.land(key, exchange)
        if exchange.alias is not None:
            flights.land(exchange.alias, exchange)

    def return_lease(self, *, free: bool = False) -> None:
        """Give the lease back, if there is one: those who wait for it on other instances find what is
        stored by now, or take it. ``free``: or they need not wait, since this is not for sharing."""
        exchange = self.exchange
        lease, exchange.lease = exchange.lease, None
        if lease is not None:  # (at the end of the process it runs out by itself)
            self.spawn(lease.release(free=free), "layergate release")

    # -- endings -------------------------------------------------------------------------------

    def refuse(self, reason: NotStored) -> None:
        """Give up storing, in the middle of the body. From any thread."""
        if self.exchange.refuse(reason):
            self.return_bytes()
            count_not_stored(self.engine, self.exchange, reason)
            self.land()  # the beginning is about to be dropped
            self.return_lease(free=True)

    def abort(self, error: BaseException | None = None) -> None:
        """The fetch broke off, or ended too early. Does nothing if it is over already. ``error``: what
        the origin raised."""
        exchange = self.exchange
        stream = exchange.stream
        if stream.ended or stream.broken:
            return
        cut = exchange.storing or exchange.state in (State.PENDING, State.STREAMING)
        end_span(exchange, error or (NotStored.INCOMPLETE.token if cut else None))
        self.return_bytes()
        self.land()
        exchange.abort(error)
        self.return_lease()

    def withdraw(self) -> None:
        """There will be no fetch: those who have joined decide anew, and no span is reported."""
        self.exchange.span = NO_SPAN
        self.abort()

    def finish(self) -> None:
        """All is stored that is to be stored."""
        self.land()
        self.return_bytes()  # those who read on read what is stored
        if self.exchange.state is not State.RELEASED:  # (then what is remembered comes first)
            self.return_lease()

    # -- work in the background ----------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> bool:
        """Run ``work`` in the background. False when nothing is started any more, since the process
        ends: then ``work`` is closed."""
        runtime = self.engine.runtime
        try:
            task = runtime.spawn(work, name=name)
        except RuntimeError:
            return False
        if not runtime.lasts():
            self._tasks.append(task)
        return True

    @property
    def unfinished(self) -> list[Task]:
        """The tasks that are not done yet, where a loop may end with the request that led to them."""
        if self._tasks:
            self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks
