"""The time budget and the breaker of one shared system, as one worker process uses it.

Everything that is asked of a shared system goes through a `Guard`, so that a sick system costs at most
``timeout`` seconds a call, and nothing once the breaker has opened (G5).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final, TypeVar, overload

from layergate.core.breaker import Breaker, State
from layergate.core.events import Counters
from layergate.core.layer import MaybeAwaitable
from layergate.core.ports import Runtime
from layergate.errors import LayerRefused, LayerTimeout, LayerUnavailable

__all__ = ["Guard"]

T = TypeVar("T")


class Guard:
    """Asks a shared system, within a time budget, unless its breaker is open.

    ``name``             of the layer, for events and errors.
    ``timeout``          seconds that one call may take.
    ``connect_timeout``  seconds more that a call may take that is a probe: it may have to connect.

    Under threads a call cannot be ended from outside; there the client library has to keep the budget.
    """

    def __init__(
        self,
        runtime: Runtime,
        counters: Counters,
        *,
        name: str,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        self.name: Final = name
        self.timeout: Final = timeout
        self.connect_timeout: Final = connect_timeout
        self._runtime = runtime
        self._counters = counters
        self.breaker = self.new_breaker(self._changed)
        _guards.add(self)

    @overload
    async def call(
        self, operation: Callable[..., Awaitable[T]], *args: Any, probe: bool = False
    ) -> T: ...

    @overload
    async def call(
        self, operation: Callable[..., MaybeAwaitable[T]], *args: Any, probe: bool = False
    ) -> T: ...

    async def call(self, operation: Callable[..., Any], *args: Any, probe: bool = False) -> Any:
        """The answer of ``operation(*args)``.

        ``probe``: ask also while the breaker is open, and allow the time to connect.

        Raises `LayerUnavailable` at once while the breaker is open, `LayerTimeout` when the time is
        over, and what the operation raises.
        """
        ticket = self.enter(probe=probe)
        seconds = self.timeout + (self.connect_timeout if probe else 0.0)
        try:
            asked = operation(*args)
            answer = await self._runtime.within(seconds, asked) if isawaitable(asked) else asked
        except LayerUnavailable:
            raise  # nothing was asked
        except LayerRefused:
            self.breaker.succeeded(ticket)  # the system is there
            raise
        except TimeoutError as error:
            self.breaker.failed(ticket)
            if isinstance(error, LayerTimeout):
                raise
            raise LayerTimeout(self.name, f"no answer within {seconds:.3g} s") from error
        except Exception:
            self.breaker.failed(ticket)
            raise
        self.breaker.succeeded(ticket)
        return answer

    def enter(self, *, probe: bool = False) -> int:
        """A ticket for one call, to be given to ``breaker.succeeded`` or ``breaker.failed``. Raises
        `LayerUnavailable` while the breaker is open, unless ``probe``."""
        ticket = self.breaker.enter(probe=probe)
        if ticket is None:
            raise LayerUnavailable(
                self.name, f"layer {self.name!r} does not answer and is not asked for now"
            )
        return ticket

    def forked(self) -> None:
        """This is the child of a fork: a lock may be held by a thread that does not exist here. Happens by
        itself where there is ``os.fork``."""
        self.breaker = self.new_breaker(self._changed)

    def new_breaker(
        self, changed: Callable[[State, State], object] | None = None, cap: float = 15.0
    ) -> Breaker:
        """Another breaker, for a part of the system (a node). ``cap``: as for `Breaker`."""
        runtime = self._runtime
        return Breaker(
            clock=runtime.monotonic,
            random=runtime.random,
            lock=runtime.lock(),
            cap=cap,
            changed=changed,
        )

    def _changed(self, was: State, now: State) -> None:
        self._counters.on("breaker", layer=self.name, was=was, state=now)


_guards: Final[weakref.WeakSet[Guard]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for guard in list(_guards):
        guard.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
