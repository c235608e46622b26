"""Fuzz a gateway: `make fuzz MINUTES=5`, or tools/fuzz.py --minutes 5 [--seed 1].

A gateway, an origin and clients in one process; see tests/gateway/fuzzing.py for what they do and what
must hold. Prints a line every ten seconds. Ends with status 1, and the seed to repeat it with, at the
first thing that does not hold; timing is not repeated, so it may take some attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.gateway.fuzzing import LIMITS, Fuzzer
from tests.support.gateways import gateway

_ROUND = 160  # conversations, after which nothing may be left
_GROWTH = 32.0  # MB that it may take after the first minute


def rss() -> float:
    """Resident memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def fuzz(minutes: float, seed: int) -> None:
    begun = time.monotonic()
    end = begun + minutes * 60
    shown = 0.0
    settled: float | None = None
    rounds = 0
    print("     s   convers.   probes  of these hits  seen by origin  tasks   MB")
    async with gateway(**LIMITS) as gate:
        tasks = len(asyncio.all_tasks())
        requests = 0
        fuzzer = Fuzzer(gate, seed)
        while time.monotonic() < end:
            fuzzer.random.seed(seed + rounds)
            rounds += 1
            try:
                await fuzzer.run(_ROUND)
                await fuzzer.settled()
                assert not gate.origin.malformed, gate.origin.malformed
                errors = gate.logged.errors
                assert not errors, logging.Formatter().format(errors[0])
            except BaseException:
                print(f"failed with --seed {seed + rounds - 1}")
                raise
            gate.logged.records.clear()
            requests += len(gate.origin.seen)
            gate.origin.forget()
            now = time.monotonic()
            if now - shown > 10:
                shown = now
                left = len(asyncio.all_tasks()) - tasks
                print(
                    f"{now - begun:6.0f} {fuzzer.conversations:9} {fuzzer.probes:8} {fuzzer.hits:14}"
                    f" {requests:15} {left:6} {rss():6.1f}",
                    flush=True,
                )
            if settled is None and now - begun > min(60.0, minutes * 20):
                settled = rss()
        grown = 0.0 if settled is None else rss() - settled
        await asyncio.sleep(1.5)  # what was abandoned is given up
        assert len(asyncio.all_tasks()) <= tasks + 2, asyncio.all_tasks()
    assert grown < _GROWTH, f"{grown:.1f} MB more than after the first minute"
    print(f"ok: seeds {seed} to {seed + rounds - 1}, memory {grown:+.1f} MB after the first minute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.randrange(10**6) * 1000 if given.seed is None else given.seed  # noqa: S311
    print(f"seed {seed}")
    logging.getLogger().addHandler(logging.NullHandler())
    work = fuzz(given.minutes, seed)
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    main()
