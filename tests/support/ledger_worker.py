"""One process of a fleet on the ledger, for `tests/shared/ledger/test_processes.py`.

``python -m tests.support.ledger_worker JSON`` reads and purges through a `CacheStack`, and prints what it
has seen as one line of JSON. The *origin* is a file that all processes have mapped: the newest version
of each key; and beside it the *floor*, the version for which the last final purge of the key was made.
The rule that is checked: a read that begins when the floor is n gives no version below n.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import random
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from layergate import CacheStack, MemoryLayer
from layergate.shared.ledger import rules
from tests.support.redis_cells import RedisCellsLayer

__all__ = ["BROKEN", "KEYS", "make"]

KEYS = 32
_SIZE = 4096

BROKEN: dict[str, Any] = {
    # The purge is final at once.
    "nothing is waited for": {
        "waited_out": lambda since, term: True,
        "is_settled": lambda *_: True,
    },
    # The purge is final although the log was lost a moment ago.
    "a lost head is as any other": {"is_settled": lambda head, known_for: True},
    # A process that was killed is not waited for.
    "the silent are out at once": {
        "is_out": lambda member, known_for, term: bool(member.mark),
        "waited_out": lambda since, term: since > 0.05,
    },
}


def make(folder: Path) -> None:
    """The files that the processes share."""
    for name in ("origin", "floor"):
        (folder / name).write_bytes(bytes(_SIZE))


def mapped(path: Path) -> memoryview:
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("Q")


class Worker:
    def __init__(
        self,
        *,
        url: str,
        namespace: str,
        folder: str,
        number: int,
        of: int,
        seconds: float,
        term: float,
    ) -> None:
        self.origin = mapped(Path(folder, "origin"))
        self.floor = mapped(Path(folder, "floor"))
        self.number, self.of = number, of
        self.ends = time.monotonic() + seconds
        self.layer = RedisCellsLayer(
            url, namespace=namespace, max_disconnected=term, timeout=0.5, lease_term=2.0
        )
        self.stack = CacheStack([MemoryLayer("4MB"), self.layer])
        self.chance = random.Random()
        self.reads = self.fetches = self.purges = self.finals = 0
        self.violations: list[str] = []
        self.waits: list[float] = []

    async def read(self) -> None:
        key = self.chance.randrange(KEYS)
        floor = self.floor[key]

        async def fetch() -> int:
            version = self.origin[key]
            self.fetches += 1
            await asyncio.sleep(self.chance.random() * 0.01)
            return version

        version = await self.stack.get(f"k{key}", fetch, ttl=60, tags=[f"t{key}"])
        self.reads += 1
        if version < floor:
            self.violations.append(f"{key}: {version} below {floor} at {time.monotonic():.3f}")

    async def reader(self) -> None:
        while time.monotonic() < self.ends:
            for _ in range(20):
                await self.read()
            await asyncio.sleep(0.002)

    async def writer(self) -> None:
        while time.monotonic() < self.ends:
            await asyncio.sleep(self.chance.random() * 0.2)
            # Each key has one writer, so no version is lost.
            key = self.chance.randrange(self.number, KEYS, self.of)
            version = self.origin[key] = self.origin[key] + 1
            began = time.monotonic()
            receipt = await self.stack.invalidate_by_tag(f"t{key}")
            self.purges += 1
            if receipt.final:
                self.finals += 1
                self.waits.append(time.monotonic() - began)
                self.floor[key] = version

    async def run(self) -> None:
        await self.read()
        print("ready", flush=True)  # noqa: T201 - it is what the test reads
        await asyncio.gather(self.reader(), self.reader(), self.writer())
        await self.stack.aclose()
        await self.layer.aclose()

    def told(self) -> dict[str, Any]:
        waits = sorted(self.waits) or [0.0]
        return {
            "reads": self.reads,
            "fetches": self.fetches,
            "purges": self.purges,
            "finals": self.finals,
            "violations": self.violations[:5],
            "violated": len(self.violations),
            "median": waits[len(waits) // 2],
            "longest": waits[-1],
        }


def main() -> None:
    options = json.loads(sys.argv[1])
    for rule, instead in BROKEN.get(options.pop("broken"), {}).items():
        mock.patch.object(rules, rule, instead).start()
    worker = Worker(**options)
    asyncio.run(worker.run())
    print(json.dumps(worker.told()), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
