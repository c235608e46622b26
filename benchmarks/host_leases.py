"""Measures how a process of one host learns that another one's lease is free: by looking, or by a datagram.

    python benchmarks/host_leases.py

Prints, in one run: what taking and giving back a lease costs; how long after a release a process that
waits goes on, with each way; the CPU that waiting takes, with 1 and 200 keys waited for in one process; and
what a release costs its holder if it sends a datagram to each of N processes, since it cannot know who
waits. The datagram has the best case: its reader does nothing else, and what it costs a process to be woken
for fetches that it does not wait for is not measured.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from layergate.core.events import Counters
from layergate.core.invalidation import Invalidations
from layergate.core.shared import Joining, Lease, Waited
from layergate.layers.host.leases import HostLeases
from layergate.runtime.blocking import run_blocking
from layergate.runtime.loop import LoopRuntime
from layergate.runtime.threads import ThreadRuntime

ROUNDS = 200
TRIES = 20_000
FETCH = 0.02  # seconds that a holder takes
WAITED = 3.0  # seconds
TIME = struct.Struct("=d")


def made(folder: Path, runtime: ThreadRuntime | LoopRuntime) -> HostLeases:
    return HostLeases(folder, Joining(Invalidations(), runtime, Counters([]), ()))


def took(leases: HostLeases, key: str) -> Lease:
    lease = run_blocking(leases.acquire(key, wait=0))
    assert not isinstance(lease, Waited)
    return lease


def try_costs(folder: Path) -> float:
    leases = made(folder, ThreadRuntime())
    began = time.perf_counter()
    for _ in range(TRIES):
        run_blocking(took(leases, "k").release())
    return (time.perf_counter() - began) / TRIES


def delays(wait: Callable[[int], object], end: Callable[[int], Callable[[], None]]) -> list[float]:
    """Seconds between each release in a child and the end of the wait here. ``end`` runs in the child."""
    found = []
    for number in range(ROUNDS):
        ready, told = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            end_of_child(number, ready[1], told[1], end)
        os.read(ready[0], 1)
        wait(number)
        now = time.perf_counter()
        (released,) = TIME.unpack(os.read(told[0], TIME.size))
        found.append(now - released)
        os.waitpid(child, 0)
        for fd in (*ready, *told):
            os.close(fd)
    return found


def end_of_child(
    number: int, ready: int, told: int, end: Callable[[int], Callable[[], None]]
) -> None:
    try:
        end_with = end(number)
        os.write(ready, b"r")
        time.sleep(FETCH)
        released = time.perf_counter()
        end_with()
        os.write(told, TIME.pack(released))
    finally:
        os._exit(0)


def by_looking(folder: Path) -> list[float]:
    own = made(folder, ThreadRuntime())

    def end(number: int) -> Callable[[], None]:
        lease = took(made(folder, ThreadRuntime()), f"look {number}")
        return lambda: run_blocking(lease.release())

    return delays(lambda number: run_blocking(own.acquire(f"look {number}", wait=10)), end)


def by_datagram(folder: Path) -> list[float]:
    path = str(folder / "socket")
    own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    own.bind(path)

    def end(number: int) -> Callable[[], None]:
        lease = took(made(folder, ThreadRuntime()), f"told {number}")
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

        def release() -> None:
            run_blocking(lease.release())
            other.sendto(b"8 bytes.", path)

        return release

    found = delays(lambda _: own.recv(64), end)
    own.close()
    return found


def cpu_of_waiting(folder: Path, keys: int, *, together: bool) -> float:
    """The share of a CPU that a process needs to wait for so many keys: one look for all, or each its own."""
    holder, one = made(folder, ThreadRuntime()), made(folder, LoopRuntime())
    waiting = [one if together else made(folder, LoopRuntime()) for _ in range(keys)]
    names = [f"slow {number}" for number in range(keys)]
    held = [took(holder, name) for name in names]

    async def wait() -> float:
        began = time.process_time()
        await asyncio.gather(
            *(each.acquire(name, wait=WAITED) for each, name in zip(waiting, names, strict=True))
        )
        return time.process_time() - began

    used = asyncio.run(wait()) / WAITED
    for lease in held:
        run_blocking(lease.release())
    return used


def sending_costs(folder: Path, processes: int) -> float:
    """Seconds to send a datagram to each of so many sockets that are read."""
    paths = [str(folder / f"to-{processes}-{number}") for number in range(processes)]
    sockets = []
    for path in paths:
        each = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        each.bind(path)
        sockets.append(each)
    own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    spent = 0.0
    for _ in range(1000):
        began = time.perf_counter()
        for path in paths:
            own.sendto(b"8 bytes.", path)
        spent += time.perf_counter() - began
        for each in sockets:
            each.recv(64)
    for each in (own, *sockets):
        each.close()
    return spent / 1000


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"take and give back:                   {try_costs(folder) * 1e6:8.1f} us")
        for way, found in (("looking", by_looking(folder)), ("a datagram", by_datagram(folder))):
            ordered = sorted(found)
            median, late = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
            say(f"waking by {way:<11} p50, p99:       {median * 1e3:8.2f} ms {late * 1e3:8.2f} ms")
        for keys, together in ((1, True), (200, True), (200, False)):
            used = cpu_of_waiting(folder, keys, together=together)
            how = "together" if together else "each"
            say(f"looking at {keys:>3} keys, {how:<8}, of a CPU: {used * 100:6.1f} %")
        for processes in (3, 15):
            costs = sending_costs(folder, processes)
            say(f"a release that tells {processes:>2} processes:     {costs * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
