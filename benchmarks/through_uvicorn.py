"""Measure a hit through uvicorn (httptools, uvloop), with server and load generator on separate cores.

    python benchmarks/through_uvicorn.py [--rounds 7] [--seconds 2] [--connections 32]

All servers run all the time, and one at a time gets load, in interleaved rounds. A slow phase of the
machine affects all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _measure import describe_machine, median, print_table, verdict

HERE = Path(__file__).parent
APPS = {
    "floor": "bare ASGI callable (the floor)",
    "layergate": "LayerGate hit",
    "starlette": "Starlette route, ready bytes",
    "fastapi": "FastAPI route, a dict",
}


def pinned(core: int) -> Callable[[], None] | None:
    """A ``preexec_fn`` that binds the child to one core; None if the platform can't."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    chosen = cores[core]
    return lambda: os.sched_setaffinity(0, {chosen})


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


class Server:
    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.port = port
        self.process = process
        self.rounds: list[dict[str, float]] = []

    def of(self, what: str) -> float:
        return median([measured[what] for measured in self.rounds])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(name: str, options: list[str], log: Path) -> Iterator[Server]:
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", f"_apps:{name}", "--port", str(port), *options],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=pinned(0),  # noqa: PLW1509 - no threads here
        )
    try:
        deadline = time.monotonic() + 15
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)
        yield Server(name, port, process)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(server: Server, seconds: int, connections: int, wrk: str | None) -> dict[str, float]:
    if wrk:
        # Without --latency: only the rate is compared.
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s",
                   f"http://127.0.0.1:{server.port}/item"]  # fmt: skip
    else:
        command = [sys.executable, str(HERE / "_load.py"), str(server.port), "/item",
                   str(seconds), str(connections)]  # fmt: skip
    used = processor_seconds(server.process.pid)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=pinned(1),
    )
    used = processor_seconds(server.process.pid) - used
    if done.returncode:
        raise SystemExit(f"load on {server.name} failed:\n{done.stdout}{done.stderr}")
    if wrk:
        rate = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
        if rate is None or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
            raise SystemExit(f"wrk on {server.name}:\n{done.stdout}")
        return {"rate": float(rate[1]), "server": used / seconds}
    result: dict[str, float] = json.loads(done.stdout)
    return result | {"server": used / seconds}


def check_hit(server: Server) -> None:
    """Warm up, and check that LayerGate answers with a hit."""
    said = ""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(2):
        with opener.open(f"http://127.0.0.1:{server.port}/item", timeout=5) as response:
            said = response.headers.get("cache-status", "")
    if server.name == "layergate" and "; hit" not in said:
        raise SystemExit(f"LayerGate: not a hit, Cache-Status {said!r}")


def run(rounds: int, seconds: int, connections: int) -> None:
    fast = all(importlib.util.find_spec(name) for name in ("uvloop", "httptools"))
    options = ["--host", "127.0.0.1", "--log-level", "warning", "--no-access-log"]
    if fast:
        options += ["--loop", "uvloop", "--http", "httptools"]
    wrk = shutil.which("wrk")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serving(name, options, Path(folder) / f"{name}.log"))
            for name in APPS
        ]
        for server in servers:
            check_hit(server)
            load(server, 1, connections, wrk)  # warm
        order = list(servers)
        shuffle = random.Random(1).shuffle
        for _ in range(rounds):
            shuffle(order)
            for server in order:
                server.rounds.append(load(server, seconds, connections, wrk))

    floor = servers[0]

    def ratio(server: Server) -> float:
        """The rate as a fraction of the floor's in the same round; the median of all rounds."""
        return median(
            [
                mine["rate"] / floors["rate"]
                for mine, floors in zip(server.rounds, floor.rounds, strict=True)
            ]
        )

    def ratio_by_work(server: Server) -> float:
        """The same with requests per second of processor time, which is comparable on a busy machine, too."""
        return median(
            [
                (mine["rate"] / mine["server"]) / (floors["rate"] / floors["server"])
                for mine, floors in zip(server.rounds, floor.rounds, strict=True)
            ]
        )

    rows = []
    for server in servers:

        def of(what: str, form: Callable[[float], str], server: Server = server) -> str:
            return form(server.of(what)) if what in server.rounds[0] else ""

        rows.append(
            [
                APPS[server.name],
                f"{server.of('rate'):,.0f}",
                of("p50", lambda value: f"{value * 1e3:.2f}"),
                of("p99", lambda value: f"{value * 1e3:.2f}"),
                of("server", lambda value: f"{value * 100:.0f}%"),
                of("busy", lambda value: f"{value * 100:.0f}%"),
                f"{ratio(server):.2f}",
                f"{ratio_by_work(server):.2f}" if server.of("server") else "",
                verdict(ratio(server), 0.85, at_least=True) if server.name == "layergate" else "",
            ]
        )
    generator = "wrk" if wrk else "_load.py (wrk is not installed)"
    cores = "on separate cores" if pinned(0) else "NOT pinned to cores"
    engine = "httptools, uvloop" if fast else "h11, asyncio: httptools and uvloop are missing"
    print_table(
        f"Through uvicorn ({engine}), {connections} connections, {generator}, {cores}, "
        f"{rounds} interleaved rounds of {seconds:g} s",
        [
            "",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "server",
            "generator",
            "x floor",
            "x by CPU",
            "target",
        ],
        rows,
    )
    share = min(server.of("server") for server in servers)
    if 0 < share < 0.9:
        print(
            f"\n  Other programs used the servers' core (as little as {share * 100:.0f}% was left)."
            " Use `x by CPU`, or repeat this on an idle machine."
        )
    if not wrk and max(server.of("busy") for server in servers) > 0.95:
        print("\n  The load generator was the bottleneck: the fast rows may be faster than shown.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    options: Any = parser.parse_args()
    print(describe_machine())
    run(options.rounds, options.seconds, options.connections)


if __name__ == "__main__":
    main()
