"""The invalidation log of a single process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final

from layergate.core.invalidation.receipts import PurgeReceipt
from layergate.core.invalidation.records import Invalidation
from layergate.core.invalidation.state import Invalidations

__all__ = ["LocalLog"]


class LocalLog:
    """A log without other instances: a record is applied before `append` returns.

    ``lock`` serializes appends.
    """

    __slots__ = ("_invalidations", "_lock")

    trusted_until: Final = float("inf")

    def __init__(self, invalidations: Invalidations, lock: AbstractContextManager[Any]) -> None:
        self._invalidations = invalidations
        self._lock = lock

    async def append(
        self,
        invalidations: tuple[Invalidation, ...],
        time: float,
        *,
        wait: float | None = None,  # noqa: ARG002 - there is no other instance to wait for
    ) -> PurgeReceipt:
        """Append a record made at ``time`` (seconds since the epoch), and apply it.

        Raises KeyRefused, with nothing applied, for a pattern that `glob` refuses.
        """
        with self._lock:
            known = self._invalidations
            known.apply(known.position + 1, invalidations, time)
        return PurgeReceipt(1, 1)
