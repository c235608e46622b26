"""Time a hit in memory, compared with a bare callable, Starlette, FastAPI and other caches.

The second table is the overhead of LayerGate for a request that it only forwards.

    python benchmarks/hit_path.py [--repeats 25]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from importlib import metadata
from typing import Any

from _apps import BODY, Origin, fastapi_route, starlette_route
from _measure import (
    Case,
    ask,
    describe_machine,
    measure,
    median,
    paired,
    print_table,
    scope_for,
    verdict,
)
from _peers import PEERS
from layergate import LayerGate, Rule

FRESH = (b"cache-control", b"public, max-age=86400")

# A browser's request: names in lower case, as HTTP/2 and uvicorn deliver them.
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

# The same behind a proxy that terminates TLS, like most hits.
BEHIND_A_PROXY = (
    *BROWSER,
    (b"x-forwarded-for", b"192.0.2.1"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"shop.example.com"),
)


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


async def hit_case(name: str, app: Any, origin: Origin, scope: dict[str, Any]) -> Case:
    """A case, after checking that it is a hit: the second request does not reach the origin."""
    await ask(app, scope)
    warm = origin.calls
    answer = await ask(app, scope)
    if answer.status != 200 or answer.body != BODY or origin.calls != warm:
        raise SystemExit(f"{name}: not a hit: {answer.status} {answer.cache_status!r}")
    if "; hit" not in answer.cache_status or "age" not in answer.headers:
        raise SystemExit(f"{name}: no Age or Cache-Status on a hit: {answer.headers}")
    return Case(name, app, [scope])


async def peer_cases() -> tuple[list[Case], list[tuple[str, str]]]:
    cases, missing = [], []
    for distribution, what, build in PEERS:
        name = f"{distribution} {version(distribution)}: {what}"
        try:
            app, calls = await build()
            await ask(app, scope_for())
            warm = calls()
            answer = await ask(app, scope_for())
            if answer.status != 200 or calls() != warm:
                raise RuntimeError(f"no hit: status {answer.status}")
        except Exception as error:  # the row shows any error of a peer
            missing.append((name, f"not measured: {type(error).__name__}: {error}"))
        else:
            cases.append(Case(name, app, [scope_for()]))
    return cases, missing


async def bypass_cases() -> list[tuple[str, Case, Case]]:
    """A description, the app with LayerGate, and the same app without it."""
    pairs = []
    for what, scope, headers, rules in (
        ("POST", scope_for(method="POST"), (), ()),
        ("GET, known as uncacheable (no-store)", scope_for(), ((b"cache-control", b"no-store"),), ()),
        ("GET, known as uncacheable, as a browser asks", scope_for(headers=BROWSER),
         ((b"cache-control", b"private, max-age=60"),), ()),
        ("GET with Authorization, no Cache-Control", scope_for(
            headers=((b"host", b"bench.example"), (b"authorization", b"Bearer x"))), (), ()),
        ("a rule with bypass=True", scope_for(), (), [Rule("/item", bypass=True)]),
    ):  # fmt: skip
        origin = Origin(*headers)
        gate = LayerGate(origin, rules=rules)
        for _ in range(3):
            calls = origin.calls
            answer = await ask(gate, scope)
            if origin.calls != calls + 1 or answer.body != BODY:
                raise SystemExit(f"bypass {what!r}: the app was not called: {answer.cache_status}")
        pairs.append((what, Case(what, gate, [scope]), Case(f"{what}: without", origin, [scope])))
    return pairs


async def run(repeats: int) -> None:
    plain_origin = Origin(FRESH)
    said = (
        FRESH,
        (b"vary", b"Accept-Encoding, Accept-Language"),
        (b"etag", b'"2048-1"'),
        (b"last-modified", b"Sat, 01 Nov 2025 10:00:00 GMT"),
    )
    full_origin, proxied_origin = Origin(*said), Origin(*said)
    floor = Case("bare ASGI callable (the floor)", Origin(), [scope_for()])
    plain = await hit_case("LayerGate hit", LayerGate(plain_origin), plain_origin, scope_for())
    full = await hit_case(
        "LayerGate hit: Vary, validators, browser's headers, Cookie, request Cache-Control",
        LayerGate(full_origin),
        full_origin,
        scope_for(headers=BROWSER),
    )
    proxied = await hit_case(
        "LayerGate hit: the same, with X-Forwarded-For, -Proto and -Host",
        LayerGate(proxied_origin),
        proxied_origin,
        scope_for(headers=BEHIND_A_PROXY),
    )
    starlette = Case("Starlette route, ready bytes", starlette_route(), [scope_for()])
    fastapi = Case("FastAPI route, a dict", fastapi_route(), [scope_for()])
    peers, missing = await peer_cases()
    bypasses = await bypass_cases()

    everything = [floor, plain, full, proxied, starlette, fastapi, *peers]
    for _, with_gate, without in bypasses:
        everything += [with_gate, without]
    await measure(everything, repeats)

    def row(case: Case, target: str = "") -> list[str]:
        ratio = case.median / starlette.median
        return [
            case.name,
            f"{case.median * 1e6:.2f}",
            f"{case.spread * 100:.0f}%",
            f"{ratio:.2f}",
            target,
        ]

    print_table(
        f"In this process, a 2 KB JSON response, {repeats} interleaved rounds "
        f"(starlette {version('starlette')}, fastapi {version('fastapi')})",
        ["", "us", "+-", "x Starlette", "target"],
        [
            row(floor),
            row(plain, verdict(plain.median / starlette.median, 0.5)),
            row(full, verdict(full.median / starlette.median, 0.5)),
            row(proxied),
            row(starlette),
            row(fastapi),
            *(row(case) for case in peers),
            *([name, "", "", "", text] for name, text in missing),
        ],
    )
    rows = []
    for what, with_gate, without in bypasses:
        cost = paired(with_gate, without)
        ratio = cost / starlette.median
        rows.append(
            [
                what,
                f"{without.median * 1e6:.2f}",
                f"{with_gate.median * 1e6:.2f}",
                f"{cost * 1e6:.2f}",
                f"{ratio:.3f}",
                verdict(ratio, 0.15),
            ]
        )
    print_table(
        "The overhead of LayerGate for a forwarded request",
        ["", "us without", "us with", "us added", "x Starlette", "target"],
        rows,
    )
    noise = median([case.spread for case in everything])
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
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(repeats))


if __name__ == "__main__":
    main()
