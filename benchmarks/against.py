"""Compare this tree with another revision of it: the cost of a change, row by row.

    make bench-against REV=main
    python benchmarks/against.py REV [--rounds 9] [--only miss,post]

One run measures both revisions. In each round a fresh process measures one tree, then another fresh
process measures the other. The order alternates, so a slow phase of the machine affects both. Each row is
processor time per request, without a server. The L2 row is elapsed time, because it waits for a Valkey on a
socket. The ratio is the median of the ratios of all rounds. The smallest times are printed beside it,
because noise can only add time.

The rows use public names only (`LayerGate`, `MemoryLayer`), so they work with any revision.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BODY = b"x" * 2000
FRESH = (b"cache-control", b"public, max-age=86400")
PLAIN = ((b"host", b"shop.example.com"), (b"user-agent", b"curl/8.14"), (b"accept", b"*/*"))
BROWSER = (
    (b"host", b"shop.example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.7,fr;q=0.3"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"referer", b"https://shop.example.com/products?category=kitchen&page=2"),
    (b"connection", b"keep-alive"),
    (b"cookie", b"session=4f5a6b7c8d9e0f1a2b3c4d5e6f708192; theme=dark; _ga=GA1.1.1029384756.1"),
    (b"sec-fetch-dest", b"document"),
    (b"sec-fetch-mode", b"navigate"),
    (b"sec-fetch-site", b"same-origin"),
    (b"cache-control", b"max-age=600, min-fresh=1"),
    (b"priority", b"u=0, i"),
)
PROXY = (
    *BROWSER,
    (b"x-forwarded-for", b"192.0.2.1"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"shop.example.com"),
)


def scope(headers: Any, *, path: str = "/products/7", method: str = "GET") -> dict[str, Any]:
    """A request like a server's: every byte string is a new object."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


def origin(*headers: tuple[bytes, bytes]) -> Any:
    lines = [
        *headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"2000"),
        (b"etag", b'"a"'),
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*lines]})
        await send({"type": "http.response.body", "body": BODY})

    return app


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def sink(message: Any) -> None:
    pass


def stepped(gate: Any, one: dict[str, Any], count: int) -> float:
    """Nanoseconds per request, for requests that need no event loop."""
    begun = time.process_time_ns()
    for _ in range(count):
        call = gate(one, receive, sink)
        try:
            while True:
                call.send(None)
        except StopIteration:
            pass
    return (time.process_time_ns() - begun) / count


async def asked(gate: Any, scopes: list[dict[str, Any]], clock: Callable[[], int]) -> float:
    begun = clock()
    for one in scopes:
        await gate(one, receive, sink)
    return (clock() - begun) / len(scopes)


def environ(headers: Any, path: str = "/products/7") -> dict[str, Any]:
    made = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "RAW_URI": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_SOFTWARE": "gunicorn",
        "gunicorn.socket": object(),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers:
        made["HTTP_" + name.decode().upper().replace("-", "_")] = value.decode()
    return made


def wsgi_origin(environ: Any, start_response: Any) -> list[bytes]:
    start_response(
        "200 OK",
        [
            ("Cache-Control", "public, max-age=86400"),
            ("Content-Type", "application/json"),
            ("Content-Length", "2000"),
        ],
    )
    return [BODY]


def started(*_: Any) -> None:
    pass


def wsgi_asked(gate: Any, environs: list[dict[str, Any]]) -> float:
    begun = time.process_time_ns()
    for one in environs:
        body = gate(one, started)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()
    return (time.process_time_ns() - begun) / len(environs)


def measure(tree: str, valkey_port: int, only: set[str]) -> dict[str, float]:
    """All rows of one tree, in nanoseconds."""
    sys.path.insert(0, tree)
    import layergate
    from layergate import LayerGate
    from layergate.wsgi import LayerGate as WsgiGate

    assert layergate.__file__ is not None
    if not layergate.__file__.startswith(tree):
        raise SystemExit(f"imported {layergate.__file__} instead of {tree}")
    best: dict[str, float] = {}

    def note(row: str, nanoseconds: float) -> None:
        best[row] = min(best.get(row, float("inf")), nanoseconds)

    def wanted(row: str) -> bool:
        return not only or any(word in row for word in only)

    options: dict[str, Any] = {"telemetry": False}

    async def warm(gate: Any, one: dict[str, Any]) -> None:
        for _ in range(3):
            await gate(dict(one), receive, sink)
            await asyncio.sleep(0.005)

    hits: dict[str, tuple[Any, dict[str, Any]]] = {}
    vary = (b"vary", b"accept-encoding")
    for row, headers, fields in (
        ("hit", PLAIN, (FRESH,)),
        ("hit, a browser's fields", BROWSER, (FRESH,)),
        ("hit, a browser's fields and Vary", BROWSER, (FRESH, vary)),
        ("hit, behind a proxy", PROXY, (FRESH,)),
    ):
        if wanted(row):
            gate, one = LayerGate(origin(*fields), **options), scope(headers)
            asyncio.run(warm(gate, one))
            before = gate.cache.stack.counters.hits
            stepped(gate, one, 10)
            assert gate.cache.stack.counters.hits - before == 10, row
            hits[row] = gate, one
    wsgi_hits = {}
    for row, headers in (
        ("WSGI hit", PLAIN),
        ("WSGI hit, a browser's fields", BROWSER),
    ):
        if wanted(row):
            wsgi, own = WsgiGate(wsgi_origin, **options), environ(headers)
            for _ in range(2):
                wsgi_asked(wsgi, [dict(own)])
            wsgi_hits[row] = wsgi, own
    for _ in range(25):
        for row, (gate, one) in hits.items():
            note(row, stepped(gate, one, 800))
        for row, (wsgi, own) in wsgi_hits.items():
            note(row, wsgi_asked(wsgi, [own] * 500))

    async def loop_rows() -> None:
        cpu = time.process_time_ns
        miss = LayerGate(origin(FRESH), memory="8MB", **options)
        refused = LayerGate(origin((b"cache-control", b"no-store")), **options)
        posted = LayerGate(origin((b"cache-control", b"no-store")), **options)
        await warm(refused, scope(BROWSER))
        for number in range(12):
            if wanted("miss"):
                scopes = [scope(BROWSER, path=f"/m/{number}/{i}") for i in range(300)]
                note("miss", await asked(miss, scopes, cpu))
            if wanted("known uncacheable"):
                scopes = [scope(BROWSER) for _ in range(300)]
                note("known uncacheable", await asked(refused, scopes, cpu))
            if wanted("POST"):
                scopes = [scope(BROWSER, method="POST") for _ in range(300)]
                note("POST", await asked(posted, scopes, cpu))
        await miss.cache.aclose()

    asyncio.run(loop_rows())
    if wanted("WSGI miss"):
        wsgi = WsgiGate(wsgi_origin, memory="8MB", **options)
        for number in range(12):
            note(
                "WSGI miss",
                wsgi_asked(wsgi, [environ(BROWSER, f"/m/{number}/{i}") for i in range(300)]),
            )
    if wanted("L2 hit") and valkey_port:
        asyncio.run(second_layer(LayerGate, valkey_port, note, options))
    return best


async def second_layer(
    gate_of: Any, port: int, note: Callable[[str, float], None], options: dict[str, Any]
) -> None:
    """A hit in the shared layer, after the memory layer above it has been cleared."""
    gate = gate_of(
        origin(FRESH), shared=f"redis://127.0.0.1:{port}/0", layer_timeout=2.0, **options
    )
    stack = gate.cache.stack
    for i in range(100):
        await gate(scope(BROWSER, path=f"/l2/{i}"), receive, sink)
    await asyncio.sleep(0.3)  # until everything is written
    for _ in range(12):
        result = stack.layers[0].clear()
        assert result is None
        counted = stack.counters.requests["hit", "redis"]
        scopes = [scope(BROWSER, path=f"/l2/{i}") for i in range(100)]
        spent = await asked(gate, scopes, time.perf_counter_ns)
        assert stack.counters.requests["hit", "redis"] - counted == 100
        note("L2 hit", spent)
    await gate.cache.aclose()


@contextmanager
def other_tree(revision: str) -> Iterator[str]:
    """Check out ``revision`` in a temporary folder. Yields its path."""
    with tempfile.TemporaryDirectory() as folder:
        tree = str(Path(folder) / "tree")
        run = ["git", "-C", str(ROOT)]
        subprocess.run([*run, "worktree", "add", "--detach", "--quiet", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*run, "worktree", "remove", "--force", tree], check=True)


def one_process(tree: str, port: int, only: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", tree, "--port", str(port), "--only", only],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    rows: dict[str, float] = json.loads(done.stdout)
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    arguments.add_argument("revision", nargs="?", default="HEAD")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument(
        "--only", default="", help="only rows that contain one of these words, separated by commas"
    )
    arguments.add_argument("--measure", help=argparse.SUPPRESS)
    arguments.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.measure:
        only = {word for word in asked.only.split(",") if word}
        print(json.dumps(measure(asked.measure, asked.port, only)))
        return

    from _measure import describe_machine, print_table
    from _valkey import valkey

    with other_tree(asked.revision) as before, valkey() as port:
        rounds = []
        for number in range(asked.rounds):
            trees = [before, str(ROOT)] if number % 2 == 0 else [str(ROOT), before]
            measured = {tree: one_process(tree, port, asked.only) for tree in trees}
            rounds.append((measured[before], measured[str(ROOT)]))
    print(describe_machine())
    table = []
    for row in rounds[0][0]:
        ratios = [now[row] / then[row] for then, now in rounds]
        table.append(
            [
                row,
                f"{min(then[row] for then, _ in rounds) / 1000:.2f}",
                f"{min(now[row] for _, now in rounds) / 1000:.2f}",
                f"{statistics.median(ratios):.3f}",
                f"{min(now[row] for _, now in rounds) / min(then[row] for then, _ in rounds):.3f}",
            ]
        )
    print_table(
        f"This tree compared with {asked.revision}, {asked.rounds} rounds",
        ["", f"{asked.revision}, us", "this tree, us", "ratio, median", "ratio, fastest"],
        table,
    )


if __name__ == "__main__":
    main()
