"""Spans across instances: the lease carries the leader's trace context, and so does what is stored.

First with two instances in one process and spans in memory; then as it is in production: two
processes, each with an SDK and OTLP over HTTP, and a real receiver.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.support import Fleet
from tests.support import fleet as processes
from tests.support.asgi import Gate, OriginCall
from tests.support.otlp import Receiver
from tests.support.waiting import until
from tests.telemetry.support import Sdk, attributes, child_of, links_to

pytest_plugins = ("tests.support.redis_servers",)

SWR = {"cache-control": "max-age=10, stale-while-revalidate=60"}


async def test_a_follower_on_another_instance(sdk: Sdk, shared_valkey: Any) -> None:
    url, namespace = shared_valkey.url, shared_valkey.namespace
    async with Fleet(url, namespace, count=2, telemetry=sdk.telemetry) as fleet:
        gate = Gate()

        @fleet.origin.on("/a")
        async def handler(call: OriginCall) -> None:
            await gate.wait()
            await call.reply(b"body", 200, SWR)

        leader = asyncio.create_task(fleet[0].get("/a"))
        await gate.reached()
        follower = asyncio.create_task(fleet[1].get("/a"))
        await until(lambda: fleet[1].count("lease_wait"))
        gate.open()
        await asyncio.gather(leader, follower)
        await fleet.idle()
        assert fleet.origin.total == 1
    fetch, wait = sdk.one("layergate.fetch"), sdk.one("layergate.wait")
    assert links_to(wait, fetch)
    assert attributes(wait)["layergate.wait.scope"] == "fleet"
    assert attributes(wait)["layergate.result"] == "landed"
    assert [event.name for event in fetch.events] == ["layergate.fetch.ready"]
    # What the follower then finds names the fetch that brought it.
    lookup = next(span for span in sdk.all("layergate.lookup") if span.links)
    assert links_to(lookup, fetch)
    assert attributes(sdk.one("layergate.backfill"))["layergate.source"] == "redis"


async def test_what_was_waited_for_on_another_instance_is_no_hit(
    sdk: Sdk, shared_valkey: Any
) -> None:
    url, namespace = shared_valkey.url, shared_valkey.namespace
    async with Fleet(url, namespace, count=2, telemetry=sdk.telemetry) as fleet:
        gate = Gate()

        @fleet.origin.on("/a")
        async def handler(call: OriginCall) -> None:
            await gate.wait()
            await call.reply(b"body", 200, SWR)

        leader = asyncio.create_task(fleet[0].get("/a"))
        await gate.reached()
        # One waits for the other instance's lease, and the others for that one.
        followers = [asyncio.create_task(fleet[1].get("/a")) for _ in range(3)]
        await until(lambda: fleet[1].count("lease_wait"))
        await fleet[1].waiting(2)
        gate.open()
        await asyncio.gather(leader, *followers)
        await fleet.idle()
        assert {k: v for k, v in sdk.values("layergate.requests").items() if v} == {
            "outcome=miss": 1,
            "outcome=collapsed": 3,
        }
        assert fleet[1].count("collapsed") == 3
        assert fleet[1].cache.stats()["events"]["hit"] == 0
        assert sdk.values("layergate.hit.age") == {}
        assert (await fleet[1].get("/a")).hit
        assert sdk.values("layergate.requests")["layer=memory outcome=hit"] == 1


async def test_an_entry_names_the_fetch_on_the_other_instance(sdk: Sdk, shared_valkey: Any) -> None:
    url, namespace = shared_valkey.url, shared_valkey.namespace
    async with Fleet(url, namespace, count=2, telemetry=sdk.telemetry, trace_hits=True) as fleet:
        await fleet[0].get("/a")
        await fleet.idle()
        fetch = sdk.one("layergate.fetch")
        sdk.forget()
        for _ in range(2):
            assert (await fleet[1].get("/a")).hit
        below, above = sdk.all("layergate.lookup")
        assert attributes(below)["layergate.layer"] == "redis"
        assert child_of(sdk.one("layergate.backfill"), below)
        assert links_to(below, fetch)
        assert links_to(above, fetch)
        assert attributes(above)["layergate.layer"] == "memory"


async def test_a_refresh_is_told_by_the_one_that_makes_it(sdk: Sdk, shared_valkey: Any) -> None:
    url, namespace = shared_valkey.url, shared_valkey.namespace
    async with Fleet(url, namespace, count=2, telemetry=sdk.telemetry) as fleet:
        fleet.origin.answers("/a", SWR)
        await fleet.everywhere("/a")
        await fleet.idle()
        gate = Gate()

        @fleet.origin.on("/a")
        async def handler(call: OriginCall) -> None:
            await gate.wait()
            await call.reply(b"body", 200, SWR)

        fleet.clock.advance(20)
        await fleet[0].get("/a")
        await gate.reached()
        await fleet[1].get("/a")
        await until(lambda: fleet[1].count("refresh_skipped"))
        gate.open()
        await fleet.idle()
    assert len(sdk.all("layergate.refresh")) == 1


async def test_a_purge_tells_how_many_applied_it(sdk: Sdk, shared_valkey: Any) -> None:
    url, namespace = shared_valkey.url, shared_valkey.namespace
    async with Fleet(url, namespace, count=2, telemetry=sdk.telemetry) as fleet:
        await fleet[0].cache.purge(tags=["x"])
        assert sdk.values("layergate.log.lag") == {"": 0}
        assert sdk.values("layergate.log.trusted") == {"": 1}
    told = attributes(sdk.one("layergate.purge"))
    assert told["layergate.purge.applied"] == told["layergate.purge.instances"] == 2
    assert told["layergate.purge.final"] is True


async def test_a_purge_that_nobody_waits_for_has_no_time_to_applied(
    sdk: Sdk, shared_valkey: Any
) -> None:
    url, namespace = shared_valkey.url, shared_valkey.namespace
    async with Fleet(url, namespace, count=2, telemetry=sdk.telemetry) as fleet:
        fleet.origin.answers("/a", {"cache-control": "private"})
        await fleet[0].get("/a")
        # What was marked as not to be shared is, after all: the others' markers are purged.
        fleet.origin.answers("/a", SWR)
        await fleet[0].get("/a")
        await fleet.idle()
        assert sdk.values("layergate.purges") == {"": 1}
        assert sdk.values("layergate.purge.duration") == {}
        assert "layergate.purge.final" not in attributes(sdk.one("layergate.purge"))
        await fleet[0].cache.purge(tags=["x"])
        assert sdk.values("layergate.purge.duration") == {"purge.final=True": 1}


async def test_an_instance_that_cannot_apply_what_it_hears_of_lags(sdk: Sdk, valkey: Any) -> None:
    """It hears of a purge, and may not run the script that would bring it."""
    valkey.cli("ACL", "SETUSER", "limited", "on", "nopass", "~*", "&*", "+@all")
    limited = f"redis://limited:any@127.0.0.1:{valkey.port}/0"
    layer = {"max_disconnected": 0.5, "timeout": 0.3}
    async with Fleet([limited, valkey.url], "lag", layer=layer, telemetry=sdk.telemetry) as fleet:
        first, second = (world.cache.stack.shared_log for world in fleet.worlds)
        assert first is not None
        assert second is not None
        valkey.cli("ACL", "SETUSER", "limited", "-evalsha", "-eval")
        assert (await fleet[1].cache.purge(tags=["x"])).final
        await until(lambda: first.stats()["log_lag"] == 1)
        # It goes on knowing how far behind it is, also when it hears no more messages.
        assert (await fleet[1].cache.purge(tags=["x"])).final
        await until(lambda: first.stats()["log_lag"] == 2)
        assert second.stats()["log_lag"] == 0
        # Of caches that cannot be told apart, the one that is worse off.
        assert sdk.values("layergate.log.lag") == {"": 2}
        assert sdk.values("layergate.log.trusted") == {"": 0}
        valkey.cli("ACL", "SETUSER", "limited", "+@all")
        await until(lambda: first.stats()["log_trusted"])
        assert first.stats()["log_lag"] == 0
        assert first.stats()["log_position"] == second.stats()["log_position"]


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["uvicorn", pytest.param("gunicorn", marks=pytest.mark.frameworks)]
)
async def test_two_processes_one_trace_of_links(
    kind: str, tmp_path: Path, shared_valkey: Any
) -> None:
    async with Receiver() as receiver:
        environ = {
            "FLEET_TRACED": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "NO_PROXY": "*",
        }
        layer = {"namespace": shared_valkey.namespace}
        async with processes.Fleet(
            tmp_path, shared_valkey.url, kinds=[kind] * 2, layer=layer, environ=environ
        ) as fleet:
            gate = fleet.origin.gated("/page")
            leader = asyncio.create_task(fleet[0].get("/page"))
            await gate.reached()
            follower = asyncio.create_task(fleet[1].get("/page"))

            async def waits() -> bool:
                return bool((await fleet[1].stats())["events"]["lease_wait"])

            await until(waits)
            gate.open()
            bodies = {answer.body for answer in await asyncio.gather(leader, follower)}
            assert bodies == {b"1"}
            assert fleet.origin.calls["/page"] == 1
            names = [str(instance) for instance in fleet.instances]
            wait = await receiver.span("layergate.wait", names[1])
            fetch = await receiver.span("layergate.fetch", names[0], linked_from=wait)
            assert fetch.trace_id != wait.trace_id
            lookup = await receiver.linked("layergate.lookup", names[1], fetch)
            assert lookup.trace_id == wait.trace_id
            assert wait.parent_span_id == lookup.parent_span_id  # the follower's request
            await receiver.metric("layergate.requests", names[1])
            purged = await fleet[0].purge(tags=["x"])
            assert purged.final
            await receiver.metric("layergate.purge.duration", names[0])
