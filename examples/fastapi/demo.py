"""`make demo`: start the catalogue under uvicorn, send HTTP requests to it, and print the results.

The demo checks its own expectations and exits with status 1 if one is not met. In a terminal the server
then runs until Ctrl-C; otherwise it stops after the table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
START_TIMEOUT = 15.0  # seconds, including the time to seed the database
ADMIN = {"Authorization": f"Bearer {secrets.token_urlsafe(12)}"}
STAFF = {"Authorization": f"Bearer {secrets.token_urlsafe(12)}"}

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)


class NotMetError(Exception):
    """An expectation of the demo was not met."""


def expect(met: object, what: str) -> None:
    if not met:
        raise NotMetError(what)


class Table:
    """A table whose rows are printed immediately."""

    COLUMNS = (
        ("scenario", 39),
        ("requests", 8),
        ("status", 7),
        ("p50 ms", 8),
        ("origin", 6),
        ("Cache-Status", 0),
    )

    def header(self) -> None:
        self._print([name for name, _ in self.COLUMNS])
        self._print(["-" * (width or 40) for _, width in self.COLUMNS])

    def row(
        self, scenario: str, statuses: Sequence[int], times: Sequence[float], origin: int, said: str
    ) -> None:
        status = ",".join(str(code) for code in dict.fromkeys(statuses))
        median = f"{statistics.median(times) * 1e3:.2f}" if times else ""
        self._print([scenario, str(len(statuses)), status, median, str(origin), said])

    def _print(self, cells: Sequence[str]) -> None:
        line = ""
        for index, (cell, (_, width)) in enumerate(zip(cells, self.COLUMNS, strict=True)):
            # Align words left and numbers right.
            line += f"{cell:<{width}}  " if index in (0, 5) else f"{cell:>{width}}  "
        print(line.rstrip(), flush=True)


class Scenario:
    """The requests of one row: latencies, statuses, Cache-Status lines and origin calls."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.responses: list[httpx.Response] = []
        self.times: list[float] = []
        self.origin = 0

    async def ask(self, url: str, method: str = "GET", **options: Any) -> httpx.Response:
        began = time.perf_counter()
        response = await self.demo.client.request(method, url, **options)
        self.times.append(time.perf_counter() - began)
        self.responses.append(response)
        return response

    @property
    def statuses(self) -> list[int]:
        return [response.status_code for response in self.responses]

    def said(self) -> list[str]:
        return [response.headers.get("cache-status", "") for response in self.responses]

    def all_are(self, status: int) -> None:
        expect(set(self.statuses) == {status}, f"status {status}, got {self.statuses}")


class Demo:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.table = Table()

    async def origin_calls(self) -> int:
        """The number of requests that reached the app so far, without the demo's own /debug requests."""
        response = await self.client.get("/debug/calls")
        calls: dict[str, int] = response.raise_for_status().json()
        return sum(count for url, count in calls.items() if "/debug/" not in url)

    @contextlib.asynccontextmanager
    async def scenario(self, name: str, origin: int | None = None) -> AsyncIterator[Scenario]:
        """One row. ``origin``: the expected number of calls of the app; None: the body checks it."""
        scenario = Scenario(self)
        before = await self.origin_calls()
        try:
            yield scenario
            scenario.origin = await self.origin_calls() - before
            if origin is not None:
                expect(
                    scenario.origin == origin,
                    f"{origin} calls of the app, got {scenario.origin}; "
                    f"Cache-Status: {list(dict.fromkeys(scenario.said()))[:5]}",
                )
        except NotMetError as error:
            raise NotMetError(f"{name}: expected {error}") from None
        self.table.row(
            name, scenario.statuses, scenario.times, scenario.origin, summary(scenario.said())
        )

    async def run(self) -> None:
        self.table.header()
        await self.fresh()
        await self.variants()
        await self.stale()
        await self.purges()
        await self.streams()

    async def fresh(self) -> None:
        async with self.scenario("cold: a product, slow query", origin=1) as cold:
            first = await cold.ask("/products/7")
            cold.all_are(200)
            expect("fwd=uri-miss" in cold.said()[0], f"fwd=uri-miss, got {cold.said()[0]!r}")
            expect("stored" in cold.said()[0], f"stored, got {cold.said()[0]!r}")

        async with self.scenario("hot: the same, one after the other", origin=0) as hot:
            for _ in range(200):
                await hot.ask("/products/7")
            hot.all_are(200)
            expect(all("; hit" in said for said in hot.said()), f"hits, got {set(hot.said())}")
            expect(
                all(response.content == first.content for response in hot.responses),
                "the same body",
            )

        # Connect first, because connecting takes longer than the query that all requests share.
        await asyncio.gather(*(self.client.get("/debug/calls") for _ in range(100)))
        async with self.scenario("100 at once on a cold product", origin=1) as burst:
            await asyncio.gather(*(burst.ask("/products/42") for _ in range(100)))
            burst.all_are(200)
            expect(len({response.content for response in burst.responses}) == 1, "the same body")
            collapsed = sum("collapsed" in said for said in burst.said())
            expect(collapsed, f"requests that were collapsed, got {set(burst.said())}")

        async with self.scenario("conditional: If-None-Match", origin=0) as conditional:
            for _ in range(20):
                response = await conditional.ask(
                    "/products/7", headers={"If-None-Match": first.headers["etag"]}
                )
                expect(not response.content, "no body with a 304")
            conditional.all_are(304)

    async def variants(self) -> None:
        async with self.scenario("Vary: en, fr, de, each twice", origin=3) as vary:
            for _ in range(2):
                for language, text in (("en", "Welcome"), ("fr", "Bienvenue"), ("de", "Willk")):
                    response = await vary.ask("/welcome", headers={"Accept-Language": language})
                    expect(text in response.text, f"{text} for {language}, got {response.text}")
                    expect(
                        "accept-language" in response.headers.get("vary", "").lower(),
                        "Vary: Accept-Language for downstream caches",
                    )
            vary.all_are(200)

        async with self.scenario("per user: Ann, Bob, by header", origin=6) as users:
            for _ in range(3):
                for token, name in (("ann-secret", "Ann"), ("bob-secret", "Bob")):
                    response = await users.ask("/me", headers={"Authorization": f"Bearer {token}"})
                    expect(response.json()["name"] == name, f"{name}'s page, got {response.text}")
            users.all_are(200)

        async with self.scenario("per user: Ann, Bob, by cookie", origin=6) as users:
            for _ in range(3):
                for token, name in (("ann-secret", "Ann"), ("bob-secret", "Bob")):
                    response = await users.ask("/me", headers={"Cookie": f"session={token}"})
                    expect(response.json()["name"] == name, f"{name}'s page, got {response.text}")
            users.all_are(200)

    async def stale(self) -> None:
        async with self.scenario("soon stale: the front page", origin=1) as cold:
            await cold.ask("/")
            cold.all_are(200)
        async with self.scenario("stale: the report, while it is fine", origin=1) as report:
            good = await report.ask("/report")
            report.all_are(200)
        # Both have max-age=1; HTTP counts lifetimes in whole seconds.
        await asyncio.sleep(2.1)

        async with self.scenario("stale-while-revalidate: served at once") as stale:
            before = await self.origin_calls()
            first = await stale.ask("/")
            stale.all_are(200)
            expect("; hit" in stale.said()[0], f"a hit, got {stale.said()[0]!r}")
            # One refresh runs in the background, however many requests arrive.
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                if await self.origin_calls() != before:
                    break
                await asyncio.sleep(0.02)
            refreshed = await self.origin_calls() - before
            expect(refreshed == 1, f"one refresh in the background, got {refreshed}")
            expect(first.text.startswith("<!doctype html>"), "the page")

        await self.client.post("/debug/failing", params={"on": True})
        try:
            async with self.scenario("stale-if-error: the report fails") as failing:
                before = await self.origin_calls()
                response = await failing.ask("/report")
                failing.all_are(200)
                expect(response.content == good.content, "the last good report")
                expect(await self.origin_calls() == before + 1, "that the app was asked first")
        finally:
            await self.client.post("/debug/failing", params={"on": False})

    async def purges(self) -> None:
        page = "/products?category=pans"
        async with self.scenario("before a write: the page of a category", origin=1) as before:
            shown = (await before.ask(page)).json()
            await before.ask(page)
        old = next(row["cents"] for row in shown if row["id"] == 7)

        async with self.scenario("write: PUT a price, purges by tag", origin=1) as write:
            await write.ask("/products/7", "PUT", json={"cents": old + 1}, headers=STAFF)
            write.all_are(200)

        async with self.scenario("after: the product, and the page", origin=2) as after:
            for _ in range(2):
                product = (await after.ask("/products/7")).json()
                listed = next(row for row in (await after.ask(page)).json() if row["id"] == 7)
                expect(product["cents"] == listed["cents"] == old + 1, "the new price on both")
            after.all_are(200)

        async with self.scenario("PURGE a URL, ask again", origin=1) as purge:
            response = await purge.ask("/products/7", "PURGE", headers=ADMIN)
            expect(response.status_code == 200, f"200 for PURGE, got {response.status_code}")
            await purge.ask("/products/7")
            expect("fwd=" in purge.said()[1], f"a miss after it, got {purge.said()[1]!r}")

        async with self.scenario("POST /_layergate/purge, ask again", origin=1) as purge:
            response = await purge.ask(
                "/_layergate/purge", "POST", json={"tags": ["product:7"]}, headers=ADMIN
            )
            purge.all_are(200)
            expect(response.json()["success"], f"success, got {response.text}")
            await purge.ask("/products/7")

        async with self.scenario("the same without the token", origin=0) as refused:
            response = await refused.ask(
                "/_layergate/purge", "POST", json={"purge_everything": True}
            )
            expect(response.status_code in (401, 403), f"401 or 403, got {response.status_code}")

    async def streams(self) -> None:
        async with self.scenario("events: an SSE stream, beside a write", origin=2) as events:
            began = time.perf_counter()
            async with self.client.stream("GET", "/events") as response:
                lines = response.aiter_lines()
                async with asyncio.timeout(5):
                    async for line in lines:
                        if line == "event: hello":
                            break
                    events.times.append(time.perf_counter() - began)
                    await events.ask("/products/9", "PUT", json={"cents": 900}, headers=STAFF)
                    async for line in lines:
                        if line.startswith("data: {"):
                            expect("9.00" in line, f"the new price, got {line!r}")
                            break
            events.responses.insert(0, response)


def summary(said: Sequence[str]) -> str:
    """The distinct Cache-Status lines. With more than two, their ttl is left out."""
    if len(set(said)) <= 2:
        return " | ".join(dict.fromkeys(line or "(none)" for line in said))
    kinds: dict[str, int] = {}
    for line in said:
        kind = (
            "; ".join(part for part in line.split("; ")[1:] if not part.startswith("ttl="))
            or "(none)"
        )
        kinds[kind] = kinds.get(kind, 0) + 1
    return " | ".join(f"{count} x {kind}" for kind, count in kinds.items())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> bool:
    """True once the port accepts connections; False if the server exited or took too long."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def running_server(database: Path, name: str = "server", **more: str) -> Iterator[int]:
    """Run the catalogue in its own process, and stop it at the end. Yields its port.

    ``name``: the name of its log, next to the database. ``more``: environment variables.
    """
    environment = os.environ | {
        "CATALOGUE_ADMIN_TOKEN": ADMIN["Authorization"].removeprefix("Bearer "),
        "CATALOGUE_DB": str(database),
        "CATALOGUE_DEBUG": "1",
        "CATALOGUE_STAFF_TOKEN": STAFF["Authorization"].removeprefix("Bearer "),
        **more,
    }
    log = database.with_name(f"{name}.log")
    options = ["--app-dir", str(HERE), "--host", "127.0.0.1", "--log-level", "warning"]
    options += ["--no-access-log", "--timeout-graceful-shutdown", "2"]
    for _ in range(3):  # another process may take the port before the server listens
        port = free_port()
        with log.open("wb") as output:
            server = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "app:app", *options, "--port", str(port)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal stops the demo, which then stops the server.
                start_new_session=True,
            )
        try:
            if wait_until_ready(server, port):
                yield port
                return
        finally:
            stop(server)
        if "address already in use" not in log.read_text(errors="replace").lower():
            break
    raise NotMetError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


async def run(port: int) -> None:
    # trust_env=False, because a proxy from the environment can't reach a loopback address.
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=10, limits=LIMITS, trust_env=False
    ) as client:
        await Demo(client).run()


def stay_up(port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    admin, staff = ADMIN["Authorization"], STAFF["Authorization"]
    print(f"""
The catalogue runs at {base}/ until Ctrl-C. Try:

  curl -i {base}/products/7
  curl -i -H 'Accept-Language: fr' {base}/welcome
  curl -i -H 'Authorization: Bearer ann-secret' {base}/me
  curl -N {base}/events
  curl -X PUT -H '{"Authorization: " + staff}' -H 'Content-Type: application/json' \\
       -d '{{"cents": 1999}}' {base}/products/7
  curl -X PURGE -H '{"Authorization: " + admin}' {base}/products/7
  curl -H '{"Authorization: " + admin}' -d '{{"tags": ["product:7"]}}' {base}/_layergate/purge
  curl -H '{"Authorization: " + admin}' {base}/_layergate/stats
""")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def main() -> int:
    # `kill` has the effect of Ctrl-C, so it stops the server too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="layergate-demo-") as folder,
            running_server(Path(folder) / "catalogue.db") as port,
        ):
            asyncio.run(run(port))
            print("\nall as expected")
            if sys.stdin is not None and sys.stdin.isatty():
                stay_up(port)
    except NotMetError as error:
        print(f"\nNOT AS EXPECTED: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"\nNOT AS EXPECTED: the server did not answer: {error!r}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
