"""What a lease means for requests, whatever system grants it: one fetch in the fleet (G2), and nothing
stored by an instance that has been replaced (G3)."""

from __future__ import annotations

from typing import Any

import pytest

from layergate import HttpCache, MemoryLayer
from layergate.core.shared import Waited
from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi import LayerGate as WSGILayerGate
from tests.support import wsgi
from tests.support.asgi import FRESH, Gate, OriginCall, World
from tests.support.shared import GrantedLease, LeasedLayer
from tests.support.waiting import until, wait_until


def lost() -> GrantedLease:
    return GrantedLease(confirmed=False)


async def test_g3_what_was_fetched_under_a_lost_lease_is_not_stored() -> None:
    """The process stood still for longer than a term, and another instance fetches in its place."""
    layer = LeasedLayer()
    layer.leases.script = [lost]
    world = World(shared=layer)
    assert (await world.get("/")).body == b"/ 1"
    await world.idle()
    assert not layer.data
    assert [facts["reason"] for name, facts in world.events if name == "refused"] == ["superseded"]
    assert (await world.get("/")).body == b"/ 2"
    await world.idle()
    assert (await world.get("/")).body == b"/ 2"
    assert [lease.released for lease in layer.leases.granted] == [1, 1]
    world.assert_nothing_left()


async def test_g3_what_was_validated_under_a_lost_lease_is_not_stored() -> None:
    layer = LeasedLayer()
    world = World(shared=layer)
    headers = {"cache-control": "max-age=60", "etag": '"1"'}

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        known = call.header("if-none-match") is not None
        await call.reply(b"" if known else b"one", 304 if known else 200, headers)

    await world.get("/")
    await world.idle()
    world.clock.advance(61)
    layer.leases.script = [lost]
    assert (await world.get("/")).body == b"one"
    await world.idle()
    assert (await world.get("/")).body == b"one"
    assert world.origin.calls["/"] == 3
    world.assert_nothing_left()


def test_g3_what_a_thread_fetched_under_a_lost_lease_is_not_stored() -> None:
    calls = 0

    def origin(environ: Any, start_response: Any) -> list[bytes]:
        nonlocal calls
        calls += 1
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"%d" % calls]

    layer = LeasedLayer()
    layer.leases.script = [lost]
    cache = HttpCache(runtime=ThreadRuntime(), layers=[MemoryLayer("1MB"), layer])
    app = WSGILayerGate(origin, cache=cache)
    assert wsgi.ask(app).body == b"1"
    wait_until(lambda: not cache.runtime.pending())
    assert wsgi.ask(app).body == b"2"
    wait_until(lambda: not cache.runtime.pending())
    assert wsgi.ask(app).body == b"2"
    app.close()


@pytest.mark.parametrize("how", ["ends", "breaks"])
async def test_g2_a_fetch_that_takes_another_ones_place_takes_over_its_lease(how: str) -> None:
    """After a purge a request does not wait for the fetch that began before. The lease is still the
    only one: other instances wait for the newer fetch, and not for the end of the older one."""
    layer = LeasedLayer()
    world = World(shared=layer)
    older, newer = Gate(), Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await (older if call.number == 1 else newer).wait()
        if call.number == 1 and how == "breaks":
            raise ConnectionError("no")
        await call.reply(b"%d" % call.number, 200, FRESH)

    first = world.call("/")
    await older.reached()
    assert (await world.cache.purge(everything=True)).final
    second = world.call("/")
    await newer.reached()
    (lease,) = layer.leases.granted
    older.open()
    if how == "breaks":
        with pytest.raises(ConnectionError):
            await first.done()
    else:
        assert (await first.done()).body == b"1"
    await until(lambda: world.clock.pending() == 1)  # the newer fetch alone
    assert lease.released == 0, "those who wait for it elsewhere would fetch once more"
    newer.open()
    assert (await second.done()).body == b"2"
    await world.idle()
    assert lease.released == 1
    assert (await world.get("/")).body == b"2"
    world.assert_nothing_left()


async def test_g2_a_request_waits_for_one_variant_after_the_other() -> None:
    """What landed is another variant than the one that it wants, and that one is being fetched by now:
    it waits for that, too."""
    layer = LeasedLayer()
    world = World(shared=layer)
    theirs = LeasedLayer()
    theirs.data = layer.data  # another instance, on the same system
    elsewhere = World(clock=world.clock.twin(), origin=world.origin, shared=theirs)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        language = call.header("accept-language") or ""
        await call.reply(language.encode(), 200, {**FRESH, "vary": "accept-language"})

    async def fetched(language: str) -> None:
        await elsewhere.get("/", headers={"accept-language": language})
        await elsewhere.idle()

    waits: list[str] = ["en", "de"]

    async def acquire(key: Any, **more: Any) -> Any:
        layer.leases.asked.append(key)
        if waits:
            await fetched(waits.pop(0))
            return Waited.LANDED
        return GrantedLease()

    layer.leases.acquire = acquire  # type: ignore[method-assign]
    call = await world.get("/", headers={"accept-language": "de"})
    assert call.body == b"de"
    assert world.origin.calls["/"] == 2
    assert len(set(layer.leases.asked)) == 2
    await world.idle()
    world.assert_nothing_left()
