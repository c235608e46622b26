"""Compare the parts that the gateway could be made of: bare servers and bare HTTP clients.

    python benchmarks/gateway_parts.py [--seconds 3] [--rounds 3]

Servers: each answers every request from a dict, with six field lines and 2 KB. It runs as one process on
one core, with wrk on the other. Clients: each makes sequential requests for 2 KB to a bare origin, over one
persistent connection. Processor time (user and system) is per request, and comparable on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from _measure import describe_machine
from gateway import Contender, free_port, load, serve_origin, started

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2048\r\n"
    b'cache-control: max-age=60\r\netag: "abc"\r\nage: 3\r\ncache-status: c; hit; ttl=57\r\n\r\n'
)
SKETCH = f"""
import asyncio, uvloop, httptools, sys
HITS = {{b"/hit": {HEAD!r} + b"x" * 2048}}
class Sketch(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)
    def data_received(self, data): self.parser.feed_data(data)
    def on_url(self, url): self.url, self.fields = url, []
    def on_header(self, name, value): self.fields.append((name.lower(), value))
    def on_message_complete(self):
        dict(self.fields)
        self.transport.write(HITS[self.url])
async def main():
    server = await asyncio.get_running_loop().create_server(Sketch, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
uvloop.run(main())
"""
APPS = """
LINES = [("content-type", "text/plain"), ("cache-control", "max-age=60"), ("etag", '"abc"'), ("age", "3"),
         ("cache-status", "c; hit; ttl=57")]
RAW = [(a.encode(), b.encode()) for a, b in LINES] + [(b"content-length", b"2048")]
HITS = {"/hit": b"x" * 2048}
async def asgi(scope, receive, send):
    if scope["type"] == "http":
        dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": RAW})
        await send({"type": "http.response.body", "body": HITS[scope["path"]]})
async def rsgi(scope, protocol):
    dict(scope.headers.items())
    protocol.response_bytes(200, LINES, HITS[scope.path])
"""


def servers(folder: Path, seconds: float, rounds: int) -> None:
    (folder / "sketch.py").write_text(SKETCH)
    (folder / "apps.py").write_text(APPS)
    os.environ["PYTHONPATH"] = str(folder)
    granian = [
        sys.executable,
        "-m",
        "granian",
        "--no-access-log",
        "--loop",
        "uvloop",
        "--workers",
        "1",
    ]
    commands: dict[str, Callable[[int], list[str]]] = {
        "asyncio.Protocol, httptools, uvloop": lambda port: [
            sys.executable, str(folder / "sketch.py"), str(port),
        ],
        "uvicorn (httptools, uvloop), ASGI": lambda port: [
            sys.executable, "-m", "uvicorn", "apps:asgi", "--port", str(port), "--log-level", "error",
        ],
        "granian, ASGI": lambda port: [
            *granian, "--interface", "asginl", "--port", str(port), "apps:asgi",
        ],
        "granian, RSGI": lambda port: [
            *granian, "--interface", "rsgi", "--port", str(port), "apps:rsgi",
        ],
    }  # fmt: skip
    there: list[Contender] = []
    try:
        for name, command in commands.items():
            port = free_port()
            there.append(started(name, command(port), port, "0"))
        for _ in range(rounds):
            for contender in there:
                load(contender, "hit", "/hit", 1, seconds, folder)
    finally:
        for contender in there:
            contender.process.terminate()
            contender.process.wait(10)
    print(f"\n{'servers: a bare hit':40}{'requests/s':>12}{'CPU us':>8}")
    for contender in there:
        rate = statistics.median(contender.rates["hit"])
        print(f"{contender.name:40}{rate:>12,.0f}{statistics.median(contender.cpus['hit']):>8.1f}")


async def clients(port: int, count: int, rounds: int) -> None:
    import aiohttp
    import httpx

    from layergate.gateway.upstream_options import UpstreamOptions
    from layergate.gateway.upstreams.pool import Pool
    from layergate.gateway.upstreams.responses import Kind

    url = f"http://127.0.0.1:{port}/2048/pass"
    pool = Pool(UpstreamOptions(f"http://127.0.0.1:{port}"))
    request = f"GET /2048/pass HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode()

    async def ours() -> int:
        connection = pool.idle() or await pool.take()
        connection.begin(head_only=False)
        connection.write(request)
        size = 0
        while True:
            event = await connection.next()
            if event.kind is Kind.END:
                break
            size += len(event.data)
        pool.give(connection)
        return size

    async with aiohttp.ClientSession() as session, httpx.AsyncClient() as client:

        async def by_aiohttp() -> int:
            async with session.get(url) as response:
                return len(await response.read())

        async def by_httpx() -> int:
            return len((await client.get(url)).content)

        them: dict[str, Callable[[], Awaitable[int]]] = {
            "the gateway's (httptools)": ours,
            "aiohttp": by_aiohttp,
            "httpx": by_httpx,
        }
        used: dict[str, list[float]] = {name: [] for name in them}
        for _ in range(rounds + 1):
            for name, fetch in them.items():
                began = time.process_time()
                for _ in range(count):
                    if await fetch() != 2048:
                        raise RuntimeError(f"{name}: unexpected body length")
                used[name].append((time.process_time() - began) / count * 1e6)
    pool.close()
    print(f"\n{'clients: a fetch of 2 KB':40}{'CPU us':>8}")
    for name, times in used.items():
        print(f"{name:40}{statistics.median(times[1:]):>8.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--origin", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.origin:
        serve_origin(arguments.origin)
        return 0
    if not shutil.which("wrk") or not shutil.which("taskset"):
        print("wrk and taskset are required: apt-get install wrk util-linux")
        return 1
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        servers(Path(name), arguments.seconds, arguments.rounds)
    port = free_port()
    origin = subprocess.Popen([sys.executable, __file__, "--origin", str(port)])
    try:
        time.sleep(1)
        import uvloop

        uvloop.run(clients(port, 2000, arguments.rounds))
    finally:
        origin.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
