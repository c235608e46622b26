"""Time a hit under WSGI, compared with a bare callable, a Flask route and a view cached by Flask-Caching.

python benchmarks/wsgi_hit_path.py [--repeats 25]
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from _apps import BODY
from _measure import BLOCK_SECONDS, Case, describe_machine, median, print_table, verdict
from _valkey import valkey
from layergate.wsgi import LayerGate

WSGIApp = Callable[..., Any]

# The environ of a small request under gunicorn.
ENVIRON = {
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.errors": sys.stderr,
    "wsgi.input": io.BytesIO(),
    "wsgi.input_terminated": True,
    "wsgi.file_wrapper": io.BytesIO,
    "SERVER_SOFTWARE": "gunicorn/23.0.0",
    "REQUEST_METHOD": "GET",
    "QUERY_STRING": "",
    "RAW_URI": "/item",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "bench.example",
    "HTTP_ACCEPT": "*/*",
    "REMOTE_ADDR": "192.0.2.1",
    "REMOTE_PORT": "50000",
    "SERVER_NAME": "192.0.2.2",
    "SERVER_PORT": "80",
    "PATH_INFO": "/item",
    "SCRIPT_NAME": "",
}
BROWSER = {
    **ENVIRON,
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.7,fr;q=0.3",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
    "HTTP_REFERER": "https://shop.example.com/products?category=kitchen&page=2",
    "HTTP_CONNECTION": "keep-alive",
    "HTTP_COOKIE": "session=4f5a6b7c8d9e0f1a2b3c4d5e6f708192; theme=dark",
    "HTTP_SEC_FETCH_DEST": "document",
    "HTTP_SEC_FETCH_MODE": "navigate",
    "HTTP_CACHE_CONTROL": "max-age=600",
}


class WSGICase(Case):
    """A `Case` for a WSGI app: one call, with its body joined and its iterable closed."""

    def __init__(self, name: str, app: WSGIApp, environ: dict[str, Any]) -> None:
        super().__init__(name, app, [environ])

    def run(self, count: int) -> float:
        """Seconds for ``count`` requests. Each gets a copy of the environ."""
        app, environ = self.app, self.scopes[0]
        heads: list[Any] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            heads.append((status, headers))

        began = time.perf_counter()
        for _ in range(count):
            body: Any = app(environ.copy(), start_response)
            b"".join(body)
            close = getattr(body, "close", None)
            if close is not None:
                close()
            heads.clear()
        return time.perf_counter() - began

    def calibrate_blocking(self) -> None:
        """Warm up, and determine the number of requests in a block."""
        self.run(1)
        count = 1
        while (elapsed := self.run(count)) < BLOCK_SECONDS / 4:
            count *= 4
        self.count = max(1, round(count * BLOCK_SECONDS / elapsed))


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


class Origin:
    """The floor, and the origin behind LayerGate. It counts its calls."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self.calls = 0
        self.headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(BODY))),
            *headers,
        ]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls += 1
        start_response("200 OK", list(self.headers))
        return [BODY]


def flask_route(caching: dict[str, Any] | None = None) -> tuple[WSGIApp, list[int]]:
    """A route that returns ready bytes: the minimum that Flask does for any response."""
    from flask import Flask, Response

    app = Flask("bench")
    calls: list[int] = []

    def item() -> Response:
        calls.append(1)
        return Response(BODY, mimetype="application/json")

    view: Any = item
    if caching:
        from flask_caching import Cache

        cache = Cache(app, config={"CACHE_DEFAULT_TIMEOUT": 86400, **caching})
        view = cache.cached()(item)
    app.add_url_rule("/item", "item", view)
    return app, calls


def hit_case(
    name: str, environ: dict[str, Any], *headers: tuple[str, str], **options: Any
) -> WSGICase:
    """A case, after checking that it is a hit: the second request does not reach the origin."""
    origin = Origin(("Cache-Control", "public, max-age=86400"), *headers)
    gate = LayerGate(origin, **options)
    heads: list[Any] = []

    def start_response(*head: Any) -> Callable[[bytes], object]:
        heads.append(head)
        return heads.append

    for _ in range(2):
        body = b"".join(gate(environ.copy(), start_response))
        gate._runtime.close(5)  # until the response is stored in the background
    told = dict(heads[-1][1]).get("cache-status", "")
    if origin.calls != 1 or body != BODY or "; hit" not in told or "age" not in dict(heads[-1][1]):
        raise SystemExit(f"{name}: not a hit: {told!r}")
    return WSGICase(name, gate, environ)


def run(repeats: int, port: int) -> None:
    floor = WSGICase("bare WSGI callable (the floor)", Origin(), ENVIRON)
    hit = hit_case("LayerGate hit", ENVIRON)
    full = hit_case(
        "LayerGate hit: Vary, validators, browser's headers, Cookie, request Cache-Control",
        BROWSER,
        ("Vary", "Accept-Encoding, Accept-Language"),
        ("ETag", '"2048-1"'),
        ("Last-Modified", "Sat, 01 Nov 2025 10:00:00 GMT"),
    )
    proxied = hit_case(
        "LayerGate hit, with X-Forwarded-For, -Proto and -Host",
        {
            **ENVIRON,
            "HTTP_X_FORWARDED_FOR": "192.0.2.1",
            "HTTP_X_FORWARDED_PROTO": "https",
            "HTTP_X_FORWARDED_HOST": "shop.example.com",
        },
    )
    url = f"redis://127.0.0.1:{port}"
    shared = hit_case("LayerGate hit, shared (memory over Redis)", ENVIRON, shared=url)
    flask = WSGICase("Flask route, ready bytes", flask_route()[0], ENVIRON)
    cases = [floor, hit, full, proxied, shared, flask]
    missing: list[list[str]] = []
    for backend, config in (
        ("SimpleCache", {"CACHE_TYPE": "SimpleCache"}),
        ("RedisCache", {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": f"{url}/1"}),
    ):
        name = f"Flask-Caching {version('flask-caching')}: cached view, {backend}"
        try:
            app, calls = flask_route(config)
            peer = WSGICase(name, app, ENVIRON)
            peer.run(2)
            if len(calls) != 1:
                raise RuntimeError("no hit")
            cases.append(peer)
        except Exception as error:  # the row shows any error of a peer
            missing.append([name, "", "", "", f"not measured: {type(error).__name__}: {error}"])
    for case in cases:
        case.calibrate_blocking()
    order = list(cases)
    for _ in range(repeats):
        random.shuffle(order)
        for case in order:
            case.seconds.append(case.run(case.count) / case.count)

    def row(case: Case) -> list[str]:
        ratio = case.median / flask.median
        target = verdict(ratio, 0.15) if case in (hit, full, shared) else ""
        return [
            case.name, f"{case.median * 1e6:.2f}", f"{case.spread * 100:.0f}%", f"{ratio:.3f}", target,
        ]  # fmt: skip

    print_table(
        f"WSGI, in this process, a 2 KB JSON response, {repeats} interleaved rounds"
        f" (flask {version('flask')}, werkzeug {version('werkzeug')})",
        ["", "us", "+-", "x Flask", "target"],
        [*map(row, cases), *missing],
    )
    noise = median([case.spread for case in cases])
    if noise > 0.05:
        print(
            f"\n  Busy machine: rounds differ by {noise * 100:.0f}%. Repeat this on an idle machine."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25, help="interleaved rounds (default 25)")
    repeats = parser.parse_args().repeats
    random.seed(1)
    print(describe_machine())
    with valkey() as port:
        run(repeats, port)


if __name__ == "__main__":
    main()
