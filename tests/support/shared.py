"""A shared layer without a system behind it: a test says what its log and its leases answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from layergate.core.invalidation import Invalidation, PurgeReceipt
from layergate.core.shared import Joining, Waited
from tests.core.support import DictLayer

__all__ = ["GrantedLease", "GrantingLeases", "LeasedLayer", "Log"]


class Log:
    """Trusted for as long as the test says."""

    def __init__(self, joining: Joining) -> None:
        self.joining = joining
        self.trusted_until = math.inf

    async def append(
        self, invalidations: tuple[Invalidation, ...], time: float, *, wait: float | None = None
    ) -> PurgeReceipt:
        known = self.joining.invalidations
        known.apply(known.position + 1, invalidations, time)
        return PurgeReceipt(1, 1)

    def look(self) -> bool:
        return False

    async def catch_up(self) -> bool:
        return self.joining.runtime.monotonic() < self.trusted_until

    async def leave(self) -> None: ...

    def forked(self) -> None: ...

    def stats(self) -> Mapping[str, int | float]:
        return {}


class GrantedLease:
    """``confirmed``: is it still its holder's? ``released``: how often it was given back."""

    def __init__(self, *, recent: bool = False, confirmed: bool = True) -> None:
        self.recent = recent
        self.confirmed = confirmed
        self.released = 0
        self.free = False

    @property
    def sure(self) -> bool:
        return self.confirmed

    async def confirm(self) -> bool:
        return self.confirmed

    async def release(self, *, free: bool = False) -> None:
        self.released += 1
        self.free = free


class GrantingLeases:
    """Answers each request for a lease as ``script`` says, and grants it when that is at its end.

    A callable of the script does what another instance does meanwhile, and gives the answer.
    """

    def __init__(self) -> None:
        self.script: list[Callable[[], GrantedLease | Waited]] = []
        self.granted: list[GrantedLease] = []
        self.asked: list[Any] = []

    async def acquire(self, key: Any, *, wait: float, **more: Any) -> Any:
        self.asked.append(key)
        answer = self.script.pop(0)() if self.script else GrantedLease()
        if isinstance(answer, GrantedLease):
            self.granted.append(answer)
        return answer

    async def leave(self) -> None: ...


class LeasedLayer(DictLayer):
    """A dict below the memory, with a `Log` and `GrantingLeases`."""

    log: Log

    def __init__(self, name: str = "shared", *, later: bool = False) -> None:
        super().__init__(name, later=later)
        self.leases = GrantingLeases()

    def join(self, joining: Joining) -> Any:
        self.log = Log(joining)
        return self.log, self.leases
