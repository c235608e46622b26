"""What the tests of a host's log share: a log of its own for each "process", and purges by tag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layergate.core.codec import Codec
from layergate.core.entry import Entry
from layergate.core.events import Counters
from layergate.core.invalidation import Invalidation, Invalidations, PurgeReceipt
from layergate.core.shared import Joining
from layergate.layers.host.log import HostLog
from layergate.runtime.blocking import run_blocking
from layergate.runtime.threads import ThreadRuntime


class Process:
    """One process's view of the log: its own file descriptor, invalidations and counters."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.runtime = ThreadRuntime()
        self.invalidations = Invalidations()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.counters = Counters([lambda event, facts: self.events.append((event, facts))])
        joining = Joining(self.invalidations, self.runtime, self.counters, ())
        self.codec = Codec()
        self.log = HostLog(folder, joining, self.codec, **options)

    def join(self) -> Process:
        assert self.log.ready()
        return self

    def purge(self, *tags: str, wait: float | None = None, soft: bool = False) -> PurgeReceipt:
        named = tuple(Invalidation("tag", tag, soft) for tag in tags)
        return run_blocking(self.log.append(named, self.runtime.now(), wait=wait))

    def fetched(self, *tags: str) -> Entry:
        """An entry whose fetch begins now."""
        assert self.trusted
        now = self.runtime.now()
        return Entry("v", created=now, fresh_until=now + 60, tags=tags, stamp=self.position)

    def admits(self, entry: Entry) -> bool:
        """As a hit is decided: trust first, then the purges."""
        return self.trusted and (
            entry.checked == self.invalidations.position or self.invalidations.admit(entry, "")
        )

    @property
    def position(self) -> int:
        return self.invalidations.position

    @property
    def trusted(self) -> bool:
        """As `StackBase.catch_up` decides it."""
        return (
            self.runtime.monotonic() < self.log.trusted_until
            or self.log.look()
            or run_blocking(self.log.catch_up())
        )

    def names(self) -> list[str]:
        return [event for event, _ in self.events]
