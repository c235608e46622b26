"""Leases in Redis (G2): one holder, bounded waits, the fence. In both worlds."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from redis.exceptions import RedisError

from layergate.core.backoff import Backoff
from layergate.core.shared import Leases, Waited
from layergate.errors import LayerError
from layergate.layers.redis.keys import waiters_key
from layergate.shared import releases as releases_module
from layergate.shared.journal import Held, Release, Taken
from layergate.shared.leases import SharedLease
from layergate.shared.names import blob_name, digest, lease_name
from tests.support.nodes import Loop, Node, Threads, world
from tests.support.proxy import Proxy
from tests.support.redis_servers import SharedValkey, Valkey
from tests.support.waiting import BOUND

pytest_plugins = ("tests.support.redis_servers",)
__all__ = ["world"]

NEVER = Backoff(3600.0, 3600.0)
KEY = b"key"


async def fleet(world: Any, server: Any, count: int = 2, **options: Any) -> list[Node]:
    namespace = getattr(server, "namespace", "fleet")
    nodes = [Node(world, server.url, namespace, **options) for _ in range(count)]
    for node in nodes:
        await node.join()
    return nodes


async def take(node: Node, key: Any = KEY, *, wait: float = 0) -> SharedLease:
    lease = await node.leases.acquire(key, wait=wait)
    assert isinstance(lease, SharedLease)
    return lease


class Counted:
    """Counts the calls of a function."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.number = 0

    def __call__(self, *args: Any) -> Any:
        self.number += 1
        return self._function(*args)


def name(server: SharedValkey, key: Any = KEY, secret: bytes = b"") -> bytes:
    return lease_name(server.namespace, digest(key, secret)).encode()


# -- names -----------------------------------------------------------------------------------------


def test_digests() -> None:
    assert digest(b"a") != digest("a")
    assert digest(b"a") != digest(b"a", b"secret") != digest(b"a", b"secret two")
    assert digest(b"a", b"s" * 65) != digest(b"a", b"s" * 66)
    assert len(digest("\udcff" * 10_000)) == 40
    one = digest(b"a")
    assert blob_name("ns", one) == "ns:e:{" + one + "}"
    assert lease_name("ns", one) == "ns:l:{" + one + "}"
    assert waiters_key("ns", one).decode() == "ns:w:{" + one + "}"


def test_it_is_what_the_core_asks_for(world: Any) -> None:
    leases: Leases = Node(world, "redis://127.0.0.1:1/0", "fleet").leases
    assert leases is not None


# -- one holder ------------------------------------------------------------------------------------


def test_a_child_of_a_fork_holds_and_releases_nothing(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """What its parent holds is the parent's to give back (G2)."""

    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey)
        await take(one)
        one.leases._releases.queue(Release("another", b"token", True, False))
        one.leases.forked()
        assert not one.leases.holding
        assert one.leases.token_of(KEY) is None
        await one.leases.send_releases(once_more=True)
        assert len(one.leases._releases) == 0
        assert await other.leases.acquire(KEY, wait=0) is Waited.TIMEOUT

    world.run(scenario())


def test_one_holds_it(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey)
        lease = await take(one)
        assert not lease.recent
        assert await other.leases.acquire(KEY, wait=0) is Waited.TIMEOUT
        assert await one.leases.acquire(KEY, wait=0) is Waited.TIMEOUT
        await (await take(other, b"another key")).release()
        assert one.leases.token_of(KEY) == (lease.name, lease.token)
        assert other.leases.token_of(KEY) is None
        assert await lease.confirm()
        await lease.release()
        await lease.release()
        assert one.leases.token_of(KEY) is None
        again = await take(other)
        assert again.recent, "somebody else had it a moment ago"
        await lease.release()
        assert await other.leases._renew([again]) == [True]

    world.run(scenario())


def test_two_hundred_at_once_over_four_instances(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        nodes = await fleet(world, shared_valkey, 4)
        holding: list[int] = []
        most: list[int] = []
        taken = 0

        async def fetch(node: Node, number: int) -> None:
            nonlocal taken
            until = time.monotonic() + 30
            while time.monotonic() < until:
                lease = await node.leases.acquire(KEY, wait=20)
                if isinstance(lease, SharedLease):
                    holding.append(number)
                    most.append(len(holding))
                    taken += 1
                    await world.sleep(0.0005)
                    holding.remove(number)
                    await lease.release()
                    return
                assert lease is Waited.LANDED
            pytest.fail("never got it")

        count = 200 if isinstance(world, Loop) and not isinstance(world, Threads) else 60
        await world.together(*(fetch(nodes[number % 4], number) for number in range(count)))
        assert (taken, max(most)) == (count, 1)
        assert [node.leases.waiting for node in nodes] == [0, 0, 0, 0]
        assert not shared_valkey.cli("EXISTS", waiters_key(
            shared_valkey.namespace, digest(KEY)))  # fmt: skip

    world.run(scenario())


def test_those_who_wait_are_told_the_holders_note(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey)
        for note in ("", "done:", "00-" + "a" * 52, "x" * 100):
            told: list[str] = []
            lease = await one.leases.acquire(KEY, wait=1, note=note, held=told.append)
            assert isinstance(lease, SharedLease)
            assert told == []
            waited = await other.leases.acquire(KEY, wait=0.01, held=told.append)
            # (a message of the round before may still come: that is a LANDED for nothing)
            assert isinstance(waited, Waited)
            assert told == [note[:64]]
            # Nor is it taken for a tombstone by a release that nobody knows the acquire of.
            await other.leases.give_back(
                SharedLease(other.leases, digest(KEY), b"t" * 16), granted=False
            )
            lease.until = 0
            assert await lease.confirm()
            await lease.release()
            again = await take(other)  # a tombstone is one, whatever was noted
            assert again.recent
            await again.release()

    world.run(scenario())


# -- waiting ---------------------------------------------------------------------------------------


def test_a_release_wakes_by_message(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other, third = await fleet(world, shared_valkey, 3, backoff=NEVER, term=60.0)
        lease = await take(one)
        woken: list[float] = []

        async def follow(node: Node) -> None:
            assert await node.leases.acquire(KEY, wait=30) is Waited.LANDED
            woken.append(time.monotonic())

        async def release() -> None:
            await world.until(lambda: other.events.count("lease_wait") == 2)
            await world.until(lambda: third.events.count("lease_wait") == 1)
            released.append(time.monotonic())
            await lease.release()

        released: list[float] = []
        await world.together(follow(other), follow(other), follow(third), release())
        assert max(woken) - released[0] < 1.0
        assert other.events.count("lease_wait") == 2
        assert other.leases.waiting == third.leases.waiting == 0

    world.run(scenario())


def test_without_a_companion_looking_again_is_enough(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        (one,) = await fleet(world, shared_valkey, 1)
        runtime = world.runtime()
        runtime.background = lambda: False
        other = Node(world, shared_valkey.url, shared_valkey.namespace, runtime=runtime)
        lease = await take(one)

        async def release() -> None:
            await world.sleep(0.1)
            await lease.release()

        landed, _ = await world.together(other.leases.acquire(KEY, wait=20), release())
        assert landed is Waited.LANDED
        assert not other.log.heartbeat.running
        waiting = waiters_key(shared_valkey.namespace, digest(KEY))
        assert not shared_valkey.cli("EXISTS", waiting)

    world.run(scenario())


def test_waits_are_bounded(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey)
        await_lease = await take(one)
        began = time.monotonic()
        assert await other.leases.acquire(KEY, wait=0.15) is Waited.TIMEOUT
        assert 0.15 <= time.monotonic() - began < 2
        assert other.leases.waiting == 0
        await await_lease.release()

    world.run(scenario())


def test_a_dead_leader_is_replaced_within_one_term(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        (one,) = await fleet(world, shared_valkey, 1, term=0.4, still=True)
        # Its own leases end within no time that a busy machine stands still.
        (other,) = await fleet(world, shared_valkey, 1, term=3 * BOUND, backoff=NEVER, still=True)
        looks = Counted(other.store.look)
        other.store.look = looks  # type: ignore[method-assign, assignment]
        lease = await take(one)  # its heartbeat stands still, so the lease is not renewed
        assert shared_valkey.cli("PTTL", name(shared_valkey)) <= 400, "it ends within one term"
        found = await other.leases.acquire(KEY, wait=BOUND)
        # Its backoff is an hour: it looks only when the lease must have run out. (A millisecond may be
        # missing at the first look. And a busy machine may have let the term pass before all this.)
        assert (found, looks.number) in {(Waited.LANDED, 1), (Waited.LANDED, 2)} or isinstance(
            found, SharedLease
        )
        mine = found if isinstance(found, SharedLease) else await take(other)
        assert not mine.recent, "nobody released it"
        assert not await lease.confirm()
        assert one.events.count("lease_lost") == 1
        assert not await lease.confirm()
        await lease.release()
        assert await other.leases._renew([mine]) == [True], "who lost it cannot give it back"

    world.run(scenario())


def test_a_lease_that_is_held_is_renewed(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=0.5, disconnected=1.0)
        leases = [await take(one, b"k%d" % number) for number in range(5)]
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert await other.leases.acquire(b"k3", wait=0) is Waited.TIMEOUT
            await world.sleep(0.05)
        for lease in leases:
            assert await lease.confirm()
            await lease.release()
        assert "lease_lost" not in one.events

    world.run(scenario())


def test_renewals_survive_scripts_that_redis_forgot(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        (one,) = await fleet(world, shared_valkey, 1, still=True)
        leases = [await take(one, b"k%d" % number) for number in range(3)]
        shared_valkey.cli("SCRIPT", "FLUSH")
        before = [lease.until for lease in leases]
        await one.leases.renew()
        assert all(lease.until > was for lease, was in zip(leases, before, strict=True))

    world.run(scenario())


def test_one_that_is_garbage_is_not_renewed(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=1.0, disconnected=3.0)
        lease = await take(one)
        assert one.leases.holding
        del lease
        gc.collect()
        assert one.leases.token_of(KEY) is None
        found = await other.leases.acquire(KEY, wait=20)
        # (A busy machine may have let its term pass before somebody could wait for it.)
        assert found is Waited.LANDED or isinstance(found, SharedLease)
        await world.until(lambda: not one.leases.holding)

    world.run(scenario())


def test_one_that_is_garbage_is_given_back(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=LONG, still=True)
        await take(one)
        gc.collect()
        await one.leases.renew()
        assert not one.leases.holding
        await one.leases.send_releases()
        await not_held(other)

    world.run(scenario())


def test_confirm_asks_only_if_it_may_have_run_out(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        (one,) = await fleet(world, shared_valkey, 1, still=True)
        lease = await take(one)
        before = one.client.stats()["commands"]
        assert await lease.confirm()
        assert one.client.stats()["commands"] == before
        lease.until = 0
        shared_valkey.cli("DEL", name(shared_valkey))
        assert await lease.confirm(), "nobody took it"
        assert shared_valkey.cli("GET", name(shared_valkey)) == lease.token
        lease.until = 0
        shared_valkey.cli("SET", name(shared_valkey), b"x" * 16)
        assert not await lease.confirm()
        assert lease.lost

    world.run(scenario())


def test_nobody_can_tell_while_redis_is_away(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            node = Node(world, proxy.url, "fleet", timeout=0.1, still=True)
            lease = await take(node)
            lease.until = 0
            proxy.refuse()
            assert await lease.confirm()
            await lease.release()
            with pytest.raises((RedisError, LayerError)):
                await node.leases.acquire(KEY, wait=0)
            assert node.leases.waiting == 0

    world.run(scenario())


def test_redis_goes_away_while_somebody_waits(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            (one,) = await fleet(world, valkey, 1)
            other = Node(world, proxy.url, "fleet", timeout=0.1)
            lease = await take(one)

            async def wait() -> None:
                with pytest.raises((RedisError, LayerError)):
                    await other.leases.acquire(KEY, wait=30)

            async def cut() -> None:
                await world.sleep(0.1)
                proxy.refuse()

            await world.together(wait(), cut())
            assert other.leases.waiting == 0
            await lease.release()

    world.run(scenario())


# -- given back late -------------------------------------------------------------------------------

LONG = 600.0  # seconds of a term: nobody waits for its end


async def not_held(node: Node, key: Any = KEY) -> None:
    """It is taken, and given back, without waiting for the end of anybody's term."""
    limit = time.monotonic() + BOUND
    while not isinstance(lease := await node.leases.acquire(key, wait=BOUND), SharedLease):
        assert lease is Waited.LANDED
        assert time.monotonic() < limit
    await lease.release()


def test_a_release_that_did_not_arrive_is_made_when_redis_answers_again(
    world: Any, valkey: Valkey
) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            (other,) = await fleet(world, valkey, 1, term=LONG)
            one = Node(world, proxy.url, "fleet", timeout=0.1, term=LONG, disconnected=2.0)
            await one.join()
            lease = await take(one)
            proxy.refuse()
            await lease.release()
            assert one.leases.pending_releases == 1
            assert await other.leases.acquire(KEY, wait=0) is Waited.TIMEOUT

            async def back() -> None:
                await world.until(lambda: "lease_wait" in other.events)
                proxy.resume()

            await world.together(not_held(other), back())
            await world.until(lambda: not one.leases.pending_releases)

    world.run(scenario())


def test_what_a_redis_that_stood_still_grants_to_nobody_is_given_back(
    world: Any, valkey: Valkey
) -> None:
    async def scenario() -> None:
        (one,) = await fleet(world, valkey, 1, timeout=0.05, term=LONG, disconnected=2.0)
        (other,) = await fleet(world, valkey, 1, term=LONG)
        keys = [b"k%d" % number for number in range(8)]
        for key in keys:  # it knows the scripts, and connections are open
            await (await take(one, key)).release()
        with valkey.stalled():
            for key in keys:
                with pytest.raises((RedisError, LayerError)):
                    await one.leases.acquire(key, wait=1)
            await world.until(lambda: one.client.stats()["breaker"])
        for key in keys:
            await not_held(other, key)
        await world.until(lambda: not one.leases.pending_releases)

    world.run(scenario())


def test_a_release_while_redis_is_restarted(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, valkey, timeout=0.2, term=LONG, disconnected=2.0)
        lease = await take(one)
        valkey.cli("SAVE")
        valkey.kill()
        await lease.release()
        valkey.restart(empty=False)
        await not_held(other)

    world.run(scenario())


def test_without_a_companion_the_next_lease_brings_it(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            (other,) = await fleet(world, valkey, 1, term=LONG)
            runtime = world.runtime()
            runtime.background = lambda: False
            one = Node(world, proxy.url, "fleet", timeout=0.2, term=LONG, runtime=runtime)
            lease = await take(one)
            proxy.refuse()
            await lease.release()
            proxy.resume()
            await (await take(one, b"another key")).release()
            await not_held(other)
            assert not one.log.heartbeat.running

    world.run(scenario())


def test_a_release_that_was_cancelled_is_made(shared_valkey: SharedValkey) -> None:
    world = Loop()

    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=LONG, still=True)
        lease = await take(one)
        releasing = asyncio.create_task(lease.release())
        await asyncio.sleep(0)
        releasing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await releasing
        assert one.leases.pending_releases == 1
        await one.leases.send_releases()
        assert not one.leases.pending_releases
        await not_held(other)

    world.run(scenario())


def test_queued_releases_are_bounded(
    world: Any, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases_module, "_QUEUED", 3)

    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            node = Node(world, proxy.url, "fleet", timeout=0.1, still=True)
            leases = [await take(node, b"k%d" % number) for number in range(5)]
            proxy.refuse()
            for lease in leases:
                await lease.release()
            waiting = node.leases._releases.waiting
            assert [one.token for one in waiting] == [lease.token for lease in leases[2:]]
            await node.leases.send_releases()
            assert node.leases.pending_releases == 3

    world.run(scenario())


def test_queued_releases_survive_scripts_that_redis_forgot(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=LONG, still=True)
        leases = [await take(one, b"k%d" % number) for number in range(3)]
        for lease in leases:
            free = lease is leases[0]
            one.leases._releases.queue(Release(lease.name, lease.token, True, free))
        shared_valkey.cli("SCRIPT", "FLUSH")
        await one.leases.send_releases()
        assert not one.leases.pending_releases
        for number in range(3):
            words = [shared_valkey.cli("GET", name(shared_valkey, b"k%d" % number))[:5]]
            assert words == [b"free:" if number == 0 else b"done:"]
            await not_held(other, b"k%d" % number)

    world.run(scenario())


def test_a_release_that_redis_refuses_is_queued_for_two_terms(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, valkey, 1, term=LONG, still=True)
        lease = await take(node)
        valkey.cli("CONFIG", "SET", "min-replicas-to-write", "1")
        await lease.release()
        await node.leases.send_releases()
        assert node.leases.pending_releases == 1
        monotonic = node.runtime.monotonic
        node.runtime.monotonic = lambda: monotonic() + 2 * LONG
        await node.leases.send_releases()
        assert node.leases.pending_releases == 0

    world.run(scenario())


def test_who_leaves_gives_back_what_it_holds(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=LONG, still=True)
        held, forgotten = await take(one), await take(one, b"forgotten")
        assert held.token != forgotten.token
        del forgotten
        gc.collect()
        await one.leases.leave()
        assert not one.leases.holding
        await not_held(other)
        await not_held(other, b"forgotten")
        await held.release()
        await one.leases.leave()

    world.run(scenario())


def test_a_renewal_that_comes_after_the_release_takes_nothing(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """Of a lease that had run out while Redis stood still, with both under way."""

    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=LONG, still=True)
        lease = await take(one)
        shared_valkey.cli("DEL", name(shared_valkey))
        await lease.release()
        assert await one.leases._renew([lease]) == [False]
        await not_held(other)

    world.run(scenario())


# -- cancelled -------------------------------------------------------------------------------------


def test_a_storm_of_cancellations_leaves_nothing_behind(shared_valkey: SharedValkey) -> None:
    world = Loop()

    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, backoff=Backoff(0.005, 0.005), timeout=BOUND)
        lease = await take(one)
        tasks = [
            asyncio.create_task(other.leases.acquire(b"k%d" % (number % 7) if number % 2 else KEY,
                                                     wait=30))
            for number in range(200)
        ]  # fmt: skip
        for number, task in enumerate(tasks):
            if number % 10 == 0:
                await asyncio.sleep(0.001)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, SharedLease):
                await result.release()
        del results, tasks
        assert other.leases.waiting == 0
        await world.until(lambda: not other.leases.pending_releases and not other.runtime.pending())
        assert "layer_error" not in other.events
        # What was granted to somebody who was gone by then has been given back.
        for number in range(7):
            again = await take(one, b"k%d" % number)
            await again.release()
        await lease.release()
        gc.collect()
        assert not other.leases._alive()

    world.run(scenario())


def test_a_release_that_overtakes_what_it_releases(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        (one,) = await fleet(world, shared_valkey, 1, still=True)
        late = SharedLease(one.leases, one.leases.name(KEY), b"t" * 16)
        await one.leases.give_back(late, granted=False)
        assert isinstance(await one.store.acquire(late.name, late.token, 10.0, b""), Held)
        lease = await take(one)
        # Nor does it take anything from who has it by then.
        await one.leases.give_back(late, granted=False)
        lease.until = 0
        assert await lease.confirm()

    world.run(scenario())


def test_two_releases_that_overtake_what_they_release(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """There is one tombstone for both: what the first is to release is granted after all."""

    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=LONG, still=True)
        late = [
            SharedLease(one.leases, one.leases.name(KEY), bytes([200, n]) * 8) for n in range(2)
        ]
        for lease in late:
            await one.leases.give_back(lease, granted=False)
        assert isinstance(await one.store.acquire(late[0].name, late[0].token, LONG, b""), Taken)
        await one.leases.send_releases(once_more=True)
        await not_held(other)
        # And then it is known, or so long ago that nothing is under way any more.
        monotonic = one.runtime.monotonic
        one.runtime.monotonic = lambda: monotonic() + 10
        await one.leases.send_releases(once_more=True)
        assert not one.leases.pending_releases

    world.run(scenario())


# -- the fence -------------------------------------------------------------------------------------


def test_who_lost_the_lease_cannot_write(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, term=0.2, still=True)
        lease = await take(one)
        entry = blob_name(shared_valkey.namespace, digest(KEY))

        async def write(node: Node, value: bytes) -> bool:
            lease = node.leases.token_of(KEY)
            assert lease is not None
            return await node.store.fenced_set(*lease, entry, value, 60.0)

        assert await write(one, b"first")
        await world.sleep(0.3)
        assert await write(one, b"run out, but nobody has taken it")
        theirs = await take(other)
        assert not await write(one, b"late")
        assert await write(other, b"theirs")
        await theirs.release()
        assert not await write(one, b"later"), "they have finished after us"
        assert shared_valkey.cli("GET", entry) == b"theirs"
        assert 0 < shared_valkey.cli("PTTL", entry) <= 60_000
        assert lease.token

    world.run(scenario())
