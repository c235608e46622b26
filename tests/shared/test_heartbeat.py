"""What runs beside the requests: it listens, beats, comes back, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from typing import Any

import pytest
from redis.exceptions import RedisError

from layergate.errors import LayerError
from tests.support.nodes import Loop, Node, Threads, part_of, settle, world
from tests.support.proxy import Proxy
from tests.support.redis_servers import SharedValkey, Valkey
from tests.support.waiting import BOUND, wait_until

pytest_plugins = ("tests.support.redis_servers",)
__all__ = ["world"]


async def listening(world: Any, server: Any, node: Node) -> None:
    def subscribed() -> bool:
        (_, count) = server.cli("PUBSUB", "NUMSUB", node.journal.own_channel(node.log.instance))
        return int(count) == 1

    await world.until(subscribed)


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "layergate heartbeat"]


def test_it_keeps_the_instance_trusted(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        node = Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=0.6)
        await node.join()
        until = node.log.trusted_until
        await world.until(lambda: node.log.trusted_until > until + 0.5)
        assert node.trusted
        assert node.counters["shared_lost"] == 0

    world.run(scenario())


def test_a_message_is_enough(world: Any, shared_valkey: SharedValkey) -> None:
    """The beat is minutes away: only the message can tell."""

    async def scenario() -> None:
        one, other = (
            Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=600.0)
            for _ in "ab"
        )
        for node in (one, other):
            await node.join()
            await listening(world, shared_valkey, node)
        settle(shared_valkey, shared_valkey.namespace)
        for number in range(5):
            held = other.held(f"t{number}")
            assert (await one.purge(f"t{number}", wait=BOUND)).final
            assert not held()

    world.run(scenario())


def test_a_cut_connection_is_replaced(
    world: Any, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "layergate")

    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            node = Node(world, proxy.url, "fleet", disconnected=600.0)
            other = Node(world, valkey.url, "fleet", disconnected=600.0)
            for one in (node, other):
                await one.join()
                await listening(world, valkey, one)
            settle(valkey, "fleet")
            for number in range(3):
                proxy.cut()
                held = node.held(f"t{number}")
                receipt = await other.purge(f"t{number}", wait=BOUND)
                assert receipt.final and not held()
                await listening(world, valkey, node)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    world.run(scenario())


def test_losing_redis_is_told_once_and_so_is_its_return(
    world: Any, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "layergate")

    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            node = Node(world, proxy.url, "fleet", disconnected=0.4, timeout=0.1)
            await node.join()
            for _ in range(3):
                proxy.refuse()
                await world.until(lambda: not node.trusted)
                proxy.resume()
                await world.until(lambda: node.trusted)
                await world.until(
                    lambda: node.counters["shared_lost"] == node.counters["shared_back"]
                )
            assert node.counters["shared_lost"] >= 3  # (a machine that stands still is a loss too)

    world.run(scenario())
    told = [
        (record.levelname, record.getMessage()[:30])
        for record in caplog.records
        if record.getMessage().startswith("the shared layer")
    ]
    assert told == [
        ("WARNING", "the shared layer does not answ"),
        ("INFO", "the shared layer answers again"),
    ]


def test_it_closes_the_breaker(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            node = Node(world, proxy.url, "fleet", disconnected=0.4, timeout=0.1)
            await node.join()
            proxy.refuse()
            await world.until(lambda: not node.trusted)
            while node.client.stats()["breaker"] != 2:
                with contextlib.suppress(RedisError, LayerError):
                    await node.client.get(b"x")
            assert not await node.log.catch_up()
            proxy.resume()
            await world.until(lambda: node.trusted)
            assert node.client.stats()["breaker"] == 0

    world.run(scenario())


def test_where_it_may_not_subscribe_it_beats(
    world: Any, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.cli("ACL", "SETUSER", "deaf", "on", ">deaf", "~*", "+@all", "resetchannels")
    valkey.cli("ACL", "SETUSER", "default", "allchannels")

    async def scenario() -> None:
        url = valkey.url.replace("redis://", "redis://deaf:deaf@")
        node = Node(world, url, "fleet", disconnected=1.0)
        other = Node(world, valkey.url, "fleet", disconnected=1.0)
        for one in (node, other):
            await one.join()
        settle(valkey, "fleet")
        for number in range(3):
            held = node.held(f"t{number}")
            assert (await other.purge(f"t{number}")).applied == 2
            assert not held() and node.trusted
        assert node.counters["shared_lost"] == 0

    world.run(scenario())
    told = [one for one in caplog.records if "cannot subscribe" in one.getMessage()]
    assert len(told) == 1


def test_a_line_that_is_cut_without_a_word_is_noticed(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        node, other = (
            Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=0.8) for _ in "ab"
        )
        for one in (node, other):
            await one.join()
            await listening(world, shared_valkey, one)
        # The channel it hears nothing on any more.
        deaf = node.journal.channel
        node.journal.channel = b"nothing is ever said here"
        channels = []
        subscribe = node.client.subscribe

        async def noted(which: Any, **options: Any) -> Any:
            channels.append(which)
            return await subscribe(which, **options)

        node.client.subscribe = noted
        before = node.log.heartbeat._task
        assert before is not None
        node.log.heartbeat.stop()
        await world.until(before.done)
        node.log.heartbeat.ensure()
        await world.until(lambda: len(channels) == 1)
        node.journal.channel = deaf

        async def anew() -> bool:
            await other.purge("a", wait=0)
            await world.sleep(0.1)
            return len(channels) >= 2

        await world.until(anew)
        assert channels[-1][0] == deaf

    world.run(scenario())


def test_it_ends_when_the_instance_leaves(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        node = Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=0.4)
        await node.join()
        await listening(world, shared_valkey, node)
        task = node.log.heartbeat._task
        assert task is not None and node.log.heartbeat.running
        await node.log.leave()
        assert not node.log.heartbeat.running
        await world.until(task.done)
        assert not node.trusted
        key = part_of(shared_valkey, "members")
        assert shared_valkey.cli("ZCARD", key) == 0
        # And again.
        await node.join()
        await listening(world, shared_valkey, node)
        assert shared_valkey.cli("ZCARD", key) == 1

    world.run(scenario())


def test_it_is_started_once(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        node = Node(world, shared_valkey.url, shared_valkey.namespace)
        companion = node.runtime.companion
        started = []

        def counted(work: Any, *, name: str) -> Any:
            started.append(name)
            return companion(work, name=name)

        node.runtime.companion = counted
        assert all(await world.together(*(node.log.catch_up() for _ in range(20))))
        assert started == ["layergate heartbeat"]

    world.run(scenario())


def test_it_keeps_nothing_alive(shared_valkey: SharedValkey) -> None:
    """With a stack that nobody uses any more its thread ends."""
    world = Threads()
    before = set(threads())
    node = Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=0.4)
    gone = weakref.ref(node.log)
    client = node.client
    node.counters._hooks = ()  # the way from the server back to this node

    async def scenario(node: Node) -> None:
        await node.join()
        await listening(world, shared_valkey, node)
        world.nodes.clear()

    world.run(scenario(node))
    (its,) = set(threads()) - before
    del node
    gc.collect()
    wait_until(lambda: gc.collect() is not None and gone() is None)
    wait_until(lambda: not its.is_alive())
    Threads().run(client.close())


def test_a_closed_loop_takes_it_along_and_the_next_use_starts_another(
    shared_valkey: SharedValkey,
) -> None:
    world = Loop()
    node = Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=0.4)

    async def use() -> None:
        await node.join()
        await node.client.close()

    asyncio.run(use())
    asyncio.run(asyncio.sleep(0.5))
    assert not node.trusted
    assert not node.log.heartbeat.running

    async def again() -> None:
        await node.join()
        until = node.log.trusted_until
        await world.until(lambda: node.log.trusted_until > until)
        await node.close()

    asyncio.run(again())


def test_no_thread_to_be_had(shared_valkey: SharedValkey) -> None:
    """As at the end of the interpreter: it does without."""
    world = Threads()

    async def scenario() -> None:
        node = Node(world, shared_valkey.url, shared_valkey.namespace)

        def refused(work: Any, *, name: str) -> Any:
            work.close()
            raise RuntimeError("can't start new thread at interpreter shutdown")

        node.runtime.companion = refused
        assert await node.log.catch_up()
        assert not node.trusted
        assert (await node.purge("a", wait=0)).instances == 1

    world.run(scenario())


def test_a_request_does_not_pay_for_what_just_failed(world: Any, valkey: Valkey) -> None:
    """Redis answers, but with an error each time: no breaker opens for that."""

    async def scenario() -> None:
        node = Node(world, valkey.url, "fleet", disconnected=0.4)
        await node.join()
        valkey.cli("ACL", "SETUSER", "default", "-evalsha", "-eval")
        await world.until(lambda: not node.trusted)
        assert not await node.log.catch_up()
        before = node.client.stats()["commands"]
        for _ in range(500):
            assert not await node.log.catch_up()
        assert node.client.stats()["commands"] - before < 100
        valkey.cli("ACL", "SETUSER", "default", "+evalsha", "+eval")
        await world.until(lambda: node.trusted)

    world.run(scenario())
