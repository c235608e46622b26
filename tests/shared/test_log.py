"""The log in Redis: order, trust, seams, finality (G3). Against real servers, in both worlds."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from layergate.core.invalidation import Invalidation
from layergate.errors import KeyRefused
from layergate.layers.redis import journal as journal_module
from layergate.layers.redis.log_scripts import APPEND, SYNC
from layergate.runtime.threads import ThreadRuntime
from layergate.shared import outbox, replay
from layergate.shared.leases import SharedLease
from tests.support.nodes import FAR, Loop, Node, Threads, key_of, part_of, settle, world
from tests.support.proxy import Proxy
from tests.support.redis_servers import SharedValkey, Valkey

pytest_plugins = ("tests.support.redis_servers",)
__all__ = ["world"]


async def fleet(world: Any, server: Any, count: int = 3, **options: Any) -> list[Node]:
    """Instances that have joined a log that has settled."""
    namespace = getattr(server, "namespace", "fleet")
    nodes = [Node(world, server.url, namespace, **options) for _ in range(count)]
    for node in nodes:
        await node.join()
    settle(server, namespace)
    return nodes


def records(server: Any) -> list[Any]:
    found: list[Any] = server.cli("XRANGE", part_of(server, "log"), "-", "+")
    return found


def meta(server: Any, field: str) -> Any:
    return server.cli("HGET", part_of(server, "meta"), field)


def stamp(node: Node, place: Any) -> int:
    """What an entry written with ``place`` is stamped, at ``node``."""
    found = node.log.positions.stamp(*place)
    assert found is not None
    return found


async def lease_of(node: Node, key: bytes) -> SharedLease:
    lease = await node.leases.acquire(key, wait=0)
    assert isinstance(lease, SharedLease)
    return lease


# -- purges ----------------------------------------------------------------------------------------


def test_when_a_purge_returns_every_instance_has_applied_it(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        nodes = await fleet(world, shared_valkey)
        for number in range(10):
            tag = f"t{number}"
            before = [node.held(tag) for node in nodes]
            assert all(held() for held in before)
            assert await nodes[number % 3].purge(tag) == (3, 3, True)
            assert not any(held() for held in before)
            assert all(node.held(tag)() for node in nodes)
        assert len({node.log.applied for node in nodes}) == 1

    world.run(scenario())


def test_the_first_purge_of_all_waits_for_instances_that_may_be_unknown(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        node = Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=1.0)
        await node.join()
        began = time.monotonic()
        assert await node.purge("a", wait=0.05) == (1, 1, False)
        assert await node.purge("a") == (1, 1, True)
        assert time.monotonic() - began > 1.0
        began = time.monotonic()
        assert await node.purge("a") == (1, 1, True)
        assert time.monotonic() - began < 1.0

    world.run(scenario())


def test_a_purge_costs_the_same_however_many_keys_there_are(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1)
        await node.purge("warm")

        async def commands() -> int:
            before = node.client.stats()["commands"]
            await node.purge("one tag of a million entries")
            return int(node.client.stats()["commands"] - before)

        # The append and one look, which finds it final. (And a beat, should one be due.)
        assert await commands() <= 6

    world.run(scenario())


def test_a_purge_waits_for_an_instance_that_stands_still_until_it_cannot_be_trusted(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, disconnected=0.6, still=True)
        held = still.held("a")
        trusted_until = still.log.trusted_until
        receipt = await other.purge("a", wait=0.05)
        assert receipt == (1, 2, False)
        assert held() and still.trusted
        assert await other.purge("a") == (1, 1, True)
        assert still.runtime.monotonic() > trusted_until
        assert not still.trusted and held()
        await still.join()
        assert not held()

    world.run(scenario())


def test_an_instance_that_is_slow_is_waited_for(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, still=True)
        held = still.held("a")

        async def later() -> None:
            await world.sleep(0.2)
            assert held()
            await still.log.sync()

        receipt, _ = await world.together(other.purge("a"), later())
        assert receipt == (2, 2, True)
        assert not held()

    world.run(scenario())


def test_a_soft_purge_counts_from_now_whatever_the_clock_of_its_maker(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, 2)
        since = other.position
        ahead = one.runtime.now() + 3600
        receipt = await one.log.append((Invalidation("tag", "a", soft=True),), ahead)
        assert receipt.final
        assert not other.knows("a", since)
        entry_time = other.invalidations._soft.earliest_after(since, ("a",), "label")
        assert entry_time is not None and entry_time <= other.runtime.now()

    world.run(scenario())


def test_a_pattern_that_is_refused_is_not_appended(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1)
        held = node.held("a")
        for invalidations in [
            (Invalidation("glob", ""),),
            (Invalidation("tag", "a"), Invalidation("glob", "*" * 99)),
        ]:
            with pytest.raises(KeyRefused):
                await node.log.append(invalidations, 0.0)
        assert records(shared_valkey) == []
        assert held()

    world.run(scenario())


def test_more_marks_than_one_record_holds(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, 2)
        invalidations = tuple(Invalidation("tag", f"t{number}") for number in range(2500))
        before = [other.held(f"t{number}") for number in (0, 999, 1000, 2499)]
        unrelated = other.held("unrelated")
        assert (await one.log.append(invalidations, 1.0)).final
        assert not any(held() for held in before)
        assert unrelated()
        assert len(records(shared_valkey)) == 3

    world.run(scenario())


def test_a_mark_that_cannot_travel_purges_everything(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, 2)
        held = other.held("a")
        assert (await one.log.append((Invalidation("tag", "x" * 9000),), 1.0)).final
        assert not held()

    world.run(scenario())


def test_many_purges_at_once(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        nodes = await fleet(world, shared_valkey)

        async def purging(node: Node, name: str) -> None:
            for number in range(15):
                tag = f"{name}-{number}"
                before = [one.held(tag) for one in nodes]
                assert (await node.purge(tag)).final
                assert not any(held() for held in before)

        names = [(node, f"{index}-{half}") for index, node in enumerate(nodes) for half in "ab"]
        await world.together(*(purging(node, name) for node, name in names))
        assert len(records(shared_valkey)) == 90
        await world.until(lambda: {node.log.applied for node in nodes} == {90})
        assert {node.invalidations.counts()["tags"] for node in nodes} == {90}

    world.run(scenario())


# -- joining ---------------------------------------------------------------------------------------


def test_a_joiner_knows_what_was_purged_before(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1)
        old = node.log.positions.place(node.position)
        assert old is not None
        for number in range(5):
            await node.purge(f"t{number}")
        new = node.log.positions.place(node.position)
        assert new == (old[0], 5)
        joiner = Node(world, shared_valkey.url, shared_valkey.namespace)
        assert joiner.log.positions.place(joiner.position) is None
        assert joiner.log.positions.stamp(*old) is None
        own = joiner.held("unrelated")
        await joiner.join()
        assert not own(), "what it fetched before it knew of any purge is gone"
        at_old, at_new = joiner.log.positions.stamp(*old), joiner.log.positions.stamp(*new)
        assert at_old is not None and at_new is not None
        assert joiner.knows("t0", at_old) and joiner.knows("t4", at_old)
        assert not joiner.knows("t4", at_new) and not joiner.knows("other", at_old)
        assert "log_trimmed" not in joiner.events
        assert await node.purge("t5") == (2, 2, True)

    world.run(scenario())


def test_a_joiner_of_a_trimmed_log_takes_nothing_from_before(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1, length=3)
        places = []
        for number in range(6):
            await node.purge(f"t{number}")
            places.append(node.log.positions.place(node.position))
        joiner = Node(world, shared_valkey.url, shared_valkey.namespace, length=3)
        await joiner.join()
        gone = [joiner.knows("unrelated", stamp(joiner, place)) for place in places]
        # The last three records are there: what was stamped at 3 or later can be judged.
        assert gone == [True, True, False, False, False, False]

    world.run(scenario())


def test_a_long_log_is_read_in_pieces(
    world: Any, shared_valkey: SharedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1)
        old = node.log.positions.place(node.position)
        for number in range(40):
            await node.purge(f"t{number}", wait=0)
        monkeypatch.setattr(journal_module, "_LIMIT", 7)
        joiner = Node(world, shared_valkey.url, shared_valkey.namespace)
        await joiner.join()
        assert old is not None
        since = stamp(joiner, old)
        assert all(joiner.knows(f"t{number}", since) for number in range(40))

    world.run(scenario())


def test_a_reader_who_is_not_done_is_no_member(shared_valkey: SharedValkey) -> None:
    world = Loop()

    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1)
        for number in range(10):
            await node.purge(f"t{number}", wait=0)
        joiner = Node(world, shared_valkey.url, shared_valkey.namespace, still=True)
        arguments = joiner.journal.arguments(joiner.log.place(member=True))
        arguments[9] = 5  # as many at once
        reply = await joiner.client.run(SYNC, joiner.journal.keys, arguments)
        assert (reply[2], reply[3], len(reply[4])) == (0, 0, 5)
        assert await node.purge("x") == (1, 1, True)

    world.run(scenario())


def test_nothing_is_asked_before_the_first_use(world: Any) -> None:
    node = Node(world, "redis://127.0.0.1:1/0", "fleet")
    assert not node.trusted
    assert node.client.stats()["connects"] == 0
    assert not node.log.heartbeat.running
    world.run(node.log.leave())
    assert node.client.stats()["connects"] == 0


# -- trust -----------------------------------------------------------------------------------------


def test_trust_lapses_without_a_word_and_comes_back(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1, disconnected=0.2, still=True)
        assert node.trusted
        await world.sleep(0.25)
        assert not node.trusted
        held = node.held("a")
        assert await node.log.catch_up() and node.trusted
        assert held(), "nothing was purged meanwhile, so nothing is lost"

    world.run(scenario())


def test_trust_is_counted_from_when_the_question_was_sent(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            node = Node(world, proxy.url, "fleet", disconnected=5.0, still=True)
            await node.join()
            proxy.delay(0.3)
            sent = node.runtime.monotonic()
            await node.log.sync()
            assert node.runtime.monotonic() >= sent + 0.6
            assert node.log.trusted_until <= sent + 5.0 + 0.5

    world.run(scenario())


def test_none_trusts_for_ever_once_it_has_joined(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        node = Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=None)
        assert not node.trusted
        await node.join()
        assert node.log.trusted_until == float("inf")

    world.run(scenario())


def test_without_a_background_it_asks_each_time_and_nobody_waits_for_it(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        (other,) = await fleet(world, shared_valkey, 1)
        runtime = world.runtime()
        runtime.background = lambda: False
        node = Node(world, shared_valkey.url, shared_valkey.namespace, runtime=runtime)
        assert await node.log.catch_up()
        assert not node.trusted
        held = node.held("a")
        assert await other.purge("a") == (1, 1, True)
        assert await node.log.catch_up()
        assert not held()
        # Its own purges wait for the others.
        held = other.held("b")
        assert await node.purge("b") == (2, 2, True)
        assert not held()
        await world.together(*(node.log.catch_up() for _ in range(8)))

    world.run(scenario())


def test_who_is_no_member_has_nothing_to_acknowledge(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """So it asks once, although what it reads is new."""

    async def scenario() -> None:
        (other,) = await fleet(world, shared_valkey, 1)
        runtime = world.runtime()
        runtime.background = lambda: False
        node = Node(world, shared_valkey.url, shared_valkey.namespace, runtime=runtime)
        assert await node.log.catch_up()
        sync, replies = node.journal.sync, []

        async def counted(*args: Any, **kwargs: Any) -> Any:
            replies.append(await sync(*args, **kwargs))
            return replies[-1]

        node.journal.sync = counted  # type: ignore[method-assign]
        assert (await other.purge("a")).final
        assert await node.log.sync()
        assert [(len(reply.records), reply.member) for reply in replies] == [(1, False)]

    world.run(scenario())


def test_who_asks_each_time_takes_no_answer_from_before(shared_valkey: SharedValkey) -> None:
    """A sync that was sent before this request came says nothing about it."""
    world = Loop()

    async def scenario() -> None:
        (other,) = await fleet(world, shared_valkey, 1)
        runtime = world.runtime()
        runtime.background = lambda: False
        node = Node(world, shared_valkey.url, shared_valkey.namespace, runtime=runtime)
        assert await node.log.catch_up()
        run = node.client.run
        answered, go_on = asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> Any:
            reply = await run(*args, **kwargs)
            answered.set()
            await go_on.wait()
            return reply

        node.client.run = slow
        early = asyncio.create_task(node.log.catch_up())
        await answered.wait()
        held = node.held("a")
        assert (await other.purge("a")).final
        late = asyncio.create_task(node.log.catch_up())
        await asyncio.sleep(0.01)
        go_on.set()
        assert await late
        assert not held()
        assert await early

    world.run(scenario())


def test_a_cancelled_sync_is_taken_over_by_who_waits_for_it(shared_valkey: SharedValkey) -> None:
    world = Loop()

    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1, still=True)
        run = node.client.run
        stuck = asyncio.Event()

        async def never(*args: Any, **kwargs: Any) -> Any:
            stuck.set()
            await asyncio.Event().wait()

        node.client.run = never
        first = asyncio.create_task(node.log.sync())
        await stuck.wait()
        second = asyncio.create_task(node.log.sync(fresh=False))
        await asyncio.sleep(0.01)
        node.client.run = run
        first.cancel()
        assert await asyncio.wait_for(second, 5)
        assert node.log.turns.waiting == 0

    world.run(scenario())


def test_leaving(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, 2)
        await other.log.leave()
        assert not other.trusted
        assert await one.purge("a") == (1, 1, True)
        await world.sleep(0.05)
        assert await one.purge("a") == (1, 1, True)
        await other.log.leave()
        await other.join()
        assert await one.purge("a") == (2, 2, True)

    world.run(scenario())


def test_what_was_under_way_when_it_left_founds_no_trust(shared_valkey: SharedValkey) -> None:
    """It was a member when the script ran, but is none any more."""
    world = Loop()

    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1, still=True)
        run = node.client.run
        answered, go_on = asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> Any:
            reply = await run(*args, **kwargs)
            answered.set()
            await go_on.wait()
            return reply

        node.client.run = slow
        purging = asyncio.create_task(node.purge("a", wait=0))
        await answered.wait()
        node.client.run = run
        await node.log.leave()
        node.log.left = False  # as `catch_up` does, before it asks anything
        go_on.set()
        await purging
        assert not node.trusted

    world.run(scenario())


def test_leaving_is_quick_when_redis_does_not_answer(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        (node,) = await fleet(world, valkey, 1, timeout=0.2, still=True)
        with valkey.stalled():
            began = time.monotonic()
            await node.log.leave()
            assert time.monotonic() - began < 1.0

    world.run(scenario())


# -- cut off ---------------------------------------------------------------------------------------


def test_after_a_cut_it_reads_on_and_loses_nothing(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            (other,) = await fleet(world, valkey, 1, disconnected=0.5)
            node = Node(world, proxy.url, "fleet", disconnected=0.5, timeout=0.1)
            await node.join()
            kept, gone = node.held("kept"), node.held("gone")
            proxy.refuse()
            await world.until(lambda: not node.trusted)
            for _ in range(3):
                assert (await other.purge("gone")).final
            assert not await node.log.catch_up()
            assert gone(), "nobody told it yet"
            proxy.resume()
            await world.until(lambda: node.trusted)
            assert not gone() and kept()
            await world.until(lambda: node.events.count("shared_back") == 1)
            assert node.events.count("shared_lost") == 1
            assert not {"log_trimmed", "log_reset", "log_leap"} & set(node.events)

    world.run(scenario())


def test_who_missed_more_than_the_log_holds_lets_go_of_everything(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, length=4, disconnected=0.3, still=True)
        held = still.held("unrelated")
        for number in range(4):
            await other.purge(f"t{number}", wait=0)
        await still.log.sync()
        assert held() and "log_trimmed" not in still.events
        for number in range(6):
            await other.purge(f"t{number}", wait=0)
        await still.log.sync()
        assert not held()
        assert still.events.count("log_trimmed") == 1
        assert still.held("new")()

    world.run(scenario())


def test_a_purge_while_redis_is_away_works_here_and_is_made_up_for(
    world: Any, valkey: Valkey
) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            (other,) = await fleet(world, valkey, 1)
            node = Node(world, proxy.url, "fleet", timeout=0.1, disconnected=2.0)
            await node.join()
            mine, theirs = node.held("a"), other.held("a")
            proxy.refuse()
            assert await node.purge("a") == (1, 1, False)
            assert not mine() and theirs()
            # Stamped by somebody who cannot know of it, and later in the log than anything here.
            await other.purge("b", wait=0)
            place = other.log.positions.place(other.position)
            assert place is not None
            theirs_here = stamp(node, place)
            assert node.knows("a", theirs_here)
            assert not node.knows("c", theirs_here)
            assert node.log.positions.place(node.position) == (place[0], 0)
            proxy.resume()
            await world.until(lambda: not theirs())
            await world.until(lambda: node.log.stats()["log_outbox"] == 0)
            place = other.log.positions.place(other.position)
            assert place is not None and not node.knows("a", stamp(node, place))

    world.run(scenario())


def test_a_purge_before_the_first_contact_is_made_up_for(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            (other,) = await fleet(world, valkey, 1)
            proxy.refuse()
            node = Node(world, proxy.url, "fleet", timeout=0.1, disconnected=2.0)
            held, theirs = node.held("a"), other.held("a")
            assert not await node.log.catch_up()
            assert await node.purge("a") == (1, 1, False)
            assert not held()
            proxy.resume()
            await world.until(lambda: node.trusted and not theirs())

    world.run(scenario())


def test_more_purges_than_can_wait_become_one_for_everything(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Threads()
    monkeypatch.setattr(outbox, "_RECORDS", 5)

    async def scenario() -> None:
        with Proxy(valkey.port) as proxy:
            (other,) = await fleet(world, valkey, 1)
            node = Node(world, proxy.url, "fleet", timeout=0.1, disconnected=2.0)
            await node.join()
            proxy.refuse()
            theirs = other.held("unrelated")
            for number in range(9):
                assert not (await node.purge(f"t{number}")).final
            assert node.log.stats()["log_outbox"] <= 5
            proxy.resume()
            await world.until(lambda: not theirs())
            await world.until(lambda: node.log.stats()["log_outbox"] == 0)

    world.run(scenario())


def test_a_purge_that_was_cancelled_is_made(shared_valkey: SharedValkey) -> None:
    world = Loop()

    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, 2)
        held = other.held("a")
        run = one.client.run
        asked = asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> Any:
            asked.set()
            await asyncio.sleep(60)

        one.client.run = slow
        task = asyncio.create_task(one.purge("a"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        one.client.run = run
        await world.until(lambda: not held())

    world.run(scenario())


# -- seams -----------------------------------------------------------------------------------------


def test_redis_comes_back_empty(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        nodes = await fleet(world, valkey, disconnected=2.0)
        one = nodes[0]
        before = one.position
        await one.purge("old")
        old = one.log.positions.place(one.position)
        assert old is not None
        kept = [node.held("kept") for node in nodes]
        valkey.cli("FLUSHALL")
        await world.until(lambda: all("log_reset" in node.events for node in nodes))
        # Nothing can have become final without them: what they hold is good.
        assert all(held() for held in kept)
        assert all(node.knows("old", before) for node in nodes)
        # Entries of the old log are none any more, and old stamps go nowhere.
        assert one.log.positions.stamp(*old) is None
        assert one.log.positions.place(before) is None
        # What they knew is in the new log, once.
        await world.until(lambda: len(records(valkey)) == 1)
        await world.sleep(0.7)
        assert len(records(valkey)) == 1
        joiner = Node(world, valkey.url, "fleet", disconnected=2.0)
        await joiner.join()
        assert joiner.knows("old", stamp(joiner, (joiner.log.log_id, 0)))
        settle(valkey, "fleet")
        assert await one.purge("new") == (4, 4, True)

    world.run(scenario())


def test_who_was_cut_off_when_redis_was_emptied_lets_go(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, valkey, 2, disconnected=0.3, still=True)
        held = still.held("unrelated")
        valkey.cli("FLUSHALL")
        assert not (await other.purge("a", wait=0)).final
        await world.sleep(0.35)
        await still.log.sync()
        assert still.trusted and not held()
        assert still.held("unrelated")()

    world.run(scenario())


def empty(server: SharedValkey) -> None:
    server.cli(
        "DEL", *(part_of(server, part) for part in ("log", "meta", "members", "acks", "again"))
    )


def later(node: Node) -> None:
    """An hour passes on its clock."""
    monotonic = node.runtime.monotonic
    node.runtime.monotonic = lambda: monotonic() + 3600.0


def test_who_was_cut_off_since_before_redis_was_emptied_has_its_purges_made_all_the_same(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, disconnected=5.0, still=True)
        held = still.held("a")
        assert not (await other.purge("a", wait=0)).final
        empty(shared_valkey)
        await still.log.sync()
        assert still.trusted and held(), "nobody could tell it"
        later(other)
        await other.log.sync()
        await still.log.sync()
        assert not held()
        assert len(records(shared_valkey)) == 1

    world.run(scenario())


def test_more_was_emptied_than_anybody_remembers(
    world: Any, shared_valkey: SharedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_RECORDS", 3)

    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, still=True)
        held = still.held("t0")
        for number in range(5):
            await other.purge(f"t{number}", wait=0)
        empty(shared_valkey)
        await still.log.sync()
        assert still.trusted and held()
        await other.log.sync()
        await still.log.sync()
        assert not held()
        # What was forgotten so long ago that everybody had it is not missed.
        await other.log.sync()
        for node in (still, other):
            later(node)
            await node.log.sync()
        unrelated = still.held("unrelated")
        empty(shared_valkey)
        await still.log.sync()
        await other.log.sync()
        await still.log.sync()
        assert unrelated() and still.trusted
        assert not records(shared_valkey)

    world.run(scenario())


def test_a_purge_that_waits_while_redis_is_emptied_is_final_in_the_new_log(
    world: Any, valkey: Valkey
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, valkey, 2, disconnected=1.0, still=True)
        held = still.held("a")

        async def empty() -> None:
            await world.sleep(0.1)
            valkey.cli("FLUSHALL")
            await world.sleep(0.1)
            assert held()
            await still.log.sync()
            await still.log.sync()

        receipt, _ = await world.together(other.purge("a"), empty())
        assert receipt.final
        assert not held() or not still.trusted
        assert len(records(valkey)) == 1

    world.run(scenario())


def lose_the_end(server: Valkey) -> Any:
    """A way back to now."""
    server.cli("SAVE")

    def back() -> None:
        server.kill()
        server.restart(empty=False)

    return back


def test_a_restart_that_lost_the_end_of_the_log(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        nodes = await fleet(world, valkey, disconnected=15.0)
        one = nodes[0]
        assert (await one.purge("first")).final
        back = lose_the_end(valkey)
        before = one.log.positions.place(one.position)
        assert before is not None
        kept = [node.held("kept") for node in nodes]
        assert (await nodes[1].purge("lost")).final
        assert (await nodes[2].purge("lost too")).final
        highest = one.log.applied
        fetched_after = [node.held("lost") for node in nodes]
        assert all(held() for held in fetched_after)
        back()
        await world.until(lambda: all("log_leap" in node.events for node in nodes))
        assert all(held() for held in kept), "whoever is trusted keeps what it holds"

        def again() -> bool:
            return len(records(valkey)) == 4 and len({node.log.applied for node in nodes}) == 1

        await world.until(again)
        await world.sleep(0.3)
        # first, the leap, and each lost one once
        assert [fields[5] == b"" for _, fields in records(valkey)] == [False, True, False, False]
        positions = [int(name.split(b"-")[0]) for name, _ in records(valkey)]
        assert positions[1] > highest + 1000
        # One that comes now takes nothing from before, for who knows what else was lost.
        joiner = Node(world, valkey.url, "fleet", disconnected=15.0)
        await joiner.join()
        assert joiner.knows("unrelated", stamp(joiner, before))
        # And one from before the failure that reads what another one stamped then knows it.
        assert one.knows("lost", stamp(one, before))
        assert not one.knows("unrelated", stamp(one, before))
        settle(valkey, "fleet")
        assert await joiner.purge("new") == (4, 4, True)

    world.run(scenario())


def test_who_was_cut_off_when_the_end_was_lost_lets_go(world: Any, valkey: Valkey) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, valkey, 2, disconnected=0.3, still=True)
        back = lose_the_end(valkey)
        held = still.held("lost")
        assert (await other.purge("lost", wait=3)).final, "the other one does not answer"
        assert held() and not still.trusted
        back()
        # The only one that knew of it is gone.
        await still.log.sync()
        assert still.trusted and not held()

    world.run(scenario())


def test_a_purge_that_waits_while_its_record_is_lost_is_made_again(
    world: Any, valkey: Valkey
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, valkey, 2, disconnected=4.0, still=True, timeout=0.5)
        back = lose_the_end(valkey)
        held = still.held("a")
        done: list[Any] = []

        async def purge() -> None:
            done.append(await other.purge("a"))

        async def lose() -> None:
            await world.until(lambda: len(records(valkey)) == 1)
            back()
            limit = time.monotonic() + 15
            while not done and time.monotonic() < limit:
                await world.sleep(0.02)
                await still.log.catch_up()
                await still.log.sync()

        await world.together(purge(), lose())
        (receipt,) = done
        assert not held() or not receipt.final

    world.run(scenario())


def test_more_was_lost_than_anybody_remembers(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Threads()
    monkeypatch.setattr(replay, "_RECORDS", 3)

    async def scenario() -> None:
        (node,) = await fleet(world, valkey, 1, disconnected=15.0)
        back = lose_the_end(valkey)
        for number in range(5):
            await node.purge(f"t{number}")
        back()
        await world.until(lambda: len(records(valkey)) == 2)
        joiner = Node(world, valkey.url, "fleet")
        await joiner.join()
        _, (_, _, _, _, _, blob, *_) = records(valkey)[1]
        invalidations, _ = joiner.codec.decode_record(joiner.log.log_id or b"", blob)
        assert invalidations == (Invalidation("all"),)

    world.run(scenario())


def test_an_older_history_with_the_same_server_id_is_a_leap_too(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """A backup that was restored into the running server: the instance is ahead of it."""

    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1, still=True)
        await node.purge("first")
        keys = [part_of(shared_valkey, part) for part in ("log", "meta")]
        dumps = [shared_valkey.cli("DUMP", key) for key in keys]
        await node.purge("lost")
        for key, dump in zip(keys, dumps, strict=True):
            shared_valkey.cli("RESTORE", key, 0, dump, "REPLACE")
        await node.log.sync()
        assert "log_leap" in node.events
        await node.log.sync()
        assert len(records(shared_valkey)) == 3

    world.run(scenario())


def test_a_purge_made_up_for_is_lost_before_its_maker_has_seen_it_in_the_log(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """The reply to what appended it comes after one that tells of the leap."""
    lost: list[Any] = []

    class Line:
        def __init__(self, server: Any) -> None:
            self.server = server

        def __getattr__(self, name: str) -> Any:
            return getattr(self.server, name)

        async def run(self, script: Any, *args: Any, **options: Any) -> Any:
            reply = await self.server.run(script, *args, **options)
            if script is APPEND and lost:
                lost.pop()()
                await node.log.refresh()
            return reply

    async def scenario() -> None:
        (still,) = await fleet(world, shared_valkey, 1, still=True)
        await node.join()
        await node.purge("first", wait=0)
        keys = [part_of(shared_valkey, part) for part in ("log", "meta")]
        dumps = [shared_valkey.cli("DUMP", key) for key in keys]
        await node.purge("ahead", wait=0)

        def lose() -> None:
            for key, dump in zip(keys, dumps, strict=True):
                shared_valkey.cli("RESTORE", key, 0, dump, "REPLACE")

        held = still.held("a")
        node.log._put_off((Invalidation("tag", "a"),), node.runtime.now())
        lost.append(lose)
        await node.log.sync()
        assert "log_leap" in node.events and not lost
        await still.log.sync()
        assert still.trusted and not held()
        assert not node.log.stats()["log_outbox"]

    node = Node(world, shared_valkey.url, shared_valkey.namespace, still=True, wrap=Line)
    world.run(scenario())


def test_a_leap_that_was_trimmed_before_it_was_seen(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, still=True, length=4)
        await still.purge("first", wait=0)
        keys = [part_of(shared_valkey, part) for part in ("log", "meta")]
        dumps = [shared_valkey.cli("DUMP", key) for key in keys]
        held = still.held("lost")
        await other.purge("lost", wait=0)
        for key, dump in zip(keys, dumps, strict=True):
            shared_valkey.cli("RESTORE", key, 0, dump, "REPLACE")
        shared_valkey.cli("HSET", keys[1], "run", "another")
        for number in range(150):  # (a node of the stream, of a hundred, is trimmed as a whole)
            await still.purge(f"t{number}", wait=0)
        assert "log_leap" in still.events and still.trusted and held()
        later(other)
        await other.log.sync()
        assert "log_trimmed" in other.events and "log_leap" not in other.events
        await still.log.sync()
        assert not held()

    world.run(scenario())


def test_two_histories_from_one_beginning_make_a_new_log(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, still=True)
        await still.purge("zero", wait=0)
        await other.log.sync()
        keys = [part_of(shared_valkey, part) for part in ("log", "meta")]
        dumps = [shared_valkey.cli("DUMP", key) for key in keys]
        await still.purge("one", wait=0)
        for key, dump in zip(keys, dumps, strict=True):
            shared_valkey.cli("RESTORE", key, 0, dump, "REPLACE")
        held, theirs = still.held("another"), other.held("one")
        await other.purge("another", wait=0)
        assert still.log.applied == other.log.applied == 2
        await still.log.sync()
        assert "log_reset" in still.events
        await other.log.sync()
        await still.log.sync()
        assert other.log.log_id == still.log.log_id
        assert not held() and not theirs()

    world.run(scenario())


@pytest.mark.parametrize("part", ["meta", "log", "members", "acks", "again"])
def test_a_key_that_is_evicted(world: Any, shared_valkey: SharedValkey, part: str) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, disconnected=1.0, still=True)
        await other.purge("before", wait=0)
        held = still.held("a")
        shared_valkey.cli("DEL", part_of(shared_valkey, part))
        receipt = await other.purge("a", wait=0.05)
        assert not receipt.final, "the other one is still trusted"
        assert held() and still.trusted
        receipt, _ = await world.together(other.purge("a"), still.log.sync())
        assert receipt.final
        assert not held() or not bool(still.trusted)

    world.run(scenario())


def test_the_newest_records_are_evicted(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, still=True)
        await other.purge("a", wait=0)
        held = still.held("a")
        shared_valkey.cli("DEL", part_of(shared_valkey, "log"))
        await still.log.sync()
        assert still.trusted and not held()

    world.run(scenario())


def test_a_member_that_the_new_server_does_not_know_is_waited_for(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        (one,) = await fleet(world, shared_valkey, 1, still=True)
        keys = [part_of(shared_valkey, part) for part in ("meta", "members")]
        dumps = [shared_valkey.cli("DUMP", key) for key in keys]
        other = Node(world, shared_valkey.url, shared_valkey.namespace, still=True)
        await other.join()
        for key, dump in zip(keys, dumps, strict=True):
            shared_valkey.cli("RESTORE", key, 0, dump, "REPLACE")
        shared_valkey.cli("HSET", keys[0], "run", "another")
        held = other.held("a")
        assert await one.purge("a", wait=0.05) == (1, 1, False)
        assert other.trusted and held()
        # (One that is emptied behaves the same: see above.)
        settling = int(meta(shared_valkey, "settle")) - int(meta(shared_valkey, "clock"))
        assert settling > 5000 - 100

    world.run(scenario())


def test_a_record_that_cannot_be_read_purges_everything(
    world: Any, shared_valkey: SharedValkey
) -> None:
    async def scenario() -> None:
        one, other = await fleet(world, shared_valkey, 2, still=True)
        held, soft = other.held("a"), one.held("a")
        stranger = Node(
            world, shared_valkey.url, shared_valkey.namespace, secret=b"x" * 16, still=True
        )
        await stranger.purge("only this", wait=0)
        await other.log.sync()
        await one.log.sync()
        assert not held() and not soft()
        assert other.events.count("record_refused") == 0, "unsigned is what it reads"

    async def signed() -> None:
        one, other = await fleet(world, shared_valkey, 2, still=True, secret=b"s" * 16)
        held = other.held("a")
        stranger = Node(
            world, shared_valkey.url, shared_valkey.namespace, secret=b"x" * 16, still=True
        )
        await stranger.purge("only this", wait=0)
        await other.log.sync()
        assert not held()
        assert other.events.count("record_refused") == 1
        held = other.held("a")
        await one.purge("other", wait=0)
        await other.log.sync()
        assert held()

    world.run(signed())


# -- the server's clock, and servers that tell less ------------------------------------------------


@pytest.mark.parametrize("step", [3_600_000, -3_600_000])
def test_a_step_of_the_servers_clock_ends_no_membership(
    world: Any, shared_valkey: SharedValkey, step: int
) -> None:
    async def scenario() -> None:
        still, other = await fleet(world, shared_valkey, 2, still=True)
        held = still.held("a")
        key = part_of(shared_valkey, "meta")
        shared_valkey.cli("HINCRBY", key, "at", -step)
        assert await other.purge("a", wait=0.05) == (1, 2, False)
        assert still.trusted and held()
        await still.log.sync()
        assert await other.purge("a", wait=0.05) == (1, 2, False)
        # And the dead do not live for ever.
        assert int(meta(shared_valkey, "clock")) < 60_000

    world.run(scenario())


def test_who_is_dead_is_not_waited_for_longer_after_the_clock_was_set_back(
    shared_valkey: SharedValkey,
) -> None:
    world = Threads()

    async def scenario() -> None:
        _still, other = await fleet(world, shared_valkey, 2, disconnected=0.3, still=True)
        shared_valkey.cli("HINCRBY", part_of(shared_valkey, "meta"), "at", 3_600_000)
        began = time.monotonic()
        assert await other.purge("a") == (1, 1, True)
        assert time.monotonic() - began < 2.0

    world.run(scenario())


def test_where_scripts_may_not_ask_which_server_this_is(world: Any, tmp_path: Path) -> None:
    # In a file: as the server starts again, there is no moment in which they may.
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all -info\n")

    async def scenario(valkey: Valkey) -> None:
        nodes = await fleet(world, valkey, disconnected=15.0)
        assert meta(valkey, "run") == b""
        assert (await nodes[0].purge("a")).final
        back = lose_the_end(valkey)
        assert (await nodes[1].purge("lost")).final
        back()
        await world.until(lambda: any("log_leap" in node.events for node in nodes))
        await world.until(lambda: len(records(valkey)) == 3)
        assert meta(valkey, "run") == b""

    with Valkey(tmp_path, config={"aclfile": str(users)}) as valkey:
        world.run(scenario(valkey))


def test_each_kind_of_server(any_server: Valkey) -> None:
    world = Threads()

    async def scenario() -> None:
        nodes = await fleet(world, any_server)
        held = [node.held("a") for node in nodes]
        assert await nodes[0].purge("a") == (3, 3, True)
        assert not any(one() for one in held)
        assert len(meta(any_server, "run")) == 40
        lease = await lease_of(nodes[0], b"k")
        assert await lease.confirm()
        await lease.release()
        any_server.cli("FLUSHALL")
        await world.until(lambda: all("log_reset" in node.events for node in nodes))

    world.run(scenario())


def test_in_a_cluster(world: Any, shared_cluster: Any) -> None:
    async def scenario() -> None:
        namespace = f"fleet{id(world)}"
        nodes = [Node(world, shared_cluster.url, namespace) for _ in range(3)]
        for node in nodes:
            await node.join()
        owner = shared_cluster.owner(key_of(namespace, "meta"))
        settle(owner, namespace)
        held = [node.held("a") for node in nodes]
        assert await nodes[0].purge("a") == (3, 3, True)
        assert not any(one() for one in held)
        for number in range(6):  # each in a slot of its own
            lease = await lease_of(nodes[0], b"k%d" % number)
            await nodes[0].leases.renew()
            assert await lease.confirm()
            await lease.release()

    world.run(scenario())


def test_sentinels_promote_a_replica(valkey_sentinel: Any) -> None:
    world = Threads()

    async def scenario() -> None:
        nodes = [
            Node(world, valkey_sentinel.url, "fleet", disconnected=30.0, timeout=0.5)
            for _ in range(2)
        ]
        for node in nodes:
            await node.join()
        master = valkey_sentinel.master
        settle(master, "fleet")
        assert (await nodes[0].purge("a")).final
        kept = [node.held("kept") for node in nodes]
        master.kill()
        valkey_sentinel.failed_over(master)
        await world.until(lambda: all("log_leap" in node.events for node in nodes))
        assert all(held() for held in kept)
        settle(valkey_sentinel.master, "fleet")
        held = [node.held("b") for node in nodes]
        assert (await nodes[0].purge("b")).final
        assert not any(one() for one in held)

    world.run(scenario())


# -- processes -------------------------------------------------------------------------------------


FORKING = """
    import json, os, sys, time
    from layergate.core.codec import Codec
    from layergate.core.events import Counters
    from layergate.core.shared import Joining
    from layergate.core.invalidation import Invalidation, Invalidations
    from layergate.core.backoff import Backoff
    from layergate.layers.redis.client import RedisClient
    from layergate.layers.redis.journal import RedisJournal
    from layergate.layers.redis.leases import RedisLeaseStore
    from layergate.shared.leases import SharedLeases
    from layergate.shared.log import SharedLog
    from layergate.runtime.threads import ThreadRuntime, run_blocking

    url, namespace = sys.argv[1:]
    runtime, marks = ThreadRuntime(), Invalidations()
    joining = Joining(marks, runtime, Counters(), ())
    client = RedisClient(url, connect_timeout=1.0, timeout=1.0, namespace=namespace)
    client.bind(runtime, joining.counters)
    journal = RedisJournal(client, namespace=namespace, max_disconnected=5.0, log_length=1000)
    log = SharedLog(journal, Codec(), joining, timeout=1.0, connect_timeout=1.0)
    leases = SharedLeases(RedisLeaseStore(client, namespace), joining, namespace=namespace, term=5.0,
                          backoff=Backoff(0.01, 0.01), heartbeat=log.heartbeat)
    assert run_blocking(log.catch_up())
    lease = run_blocking(leases.acquire(b"k", wait=0))
    mine = log.instance
    # The worst moment: somebody holds the locks.
    log._lock.acquire(); log.heartbeat._lock.acquire(); leases._lock.acquire()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = {"trusted": runtime.monotonic() < log.trusted_until,
                "running": log.heartbeat.running, "same": log.instance == mine}
        told["caught up"] = run_blocking(log.catch_up())
        told["token"] = leases.token_of(b"k") is not None
        receipt = run_blocking(log.append((Invalidation("tag", "child"),), 0.0, wait=5.0))
        told["receipt"] = list(receipt)[:2]
        os.write(write, json.dumps(told).encode())
        run_blocking(log.leave())
        os._exit(0)
    log._lock.release(); log.heartbeat._lock.release(); leases._lock.release()
    told = json.loads(os.read(read, 10_000))
    os.waitpid(pid, 0)
    told["parent"] = [runtime.monotonic() < log.trusted_until, marks.purged_since(0, ("child",), "")]
    told["confirmed"] = run_blocking(lease.confirm())
    print(json.dumps(told))
    run_blocking(log.leave())
"""


def test_a_forks_child_is_another_instance(shared_valkey: SharedValkey) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(FORKING),
            shared_valkey.url,
            shared_valkey.namespace,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "trusted": False,
        "running": False,
        "same": False,
        "caught up": True,
        "token": False,
        "receipt": [2, 2],
        "parent": [True, True],
        "confirmed": True,
    }


def test_a_thread_runtime_and_a_loop_share_a_log(shared_valkey: SharedValkey) -> None:
    """A WSGI and an ASGI process."""
    loop, threads = Loop(), Threads()
    stop: list[Any] = []

    async def purge_in_threads() -> None:
        (node,) = await fleet(threads, shared_valkey, 1)
        held = node.held("from the loop")
        stop.append(held)
        await threads.until(lambda: not held())
        await threads.until(lambda: len(stop) == 2)

    async def scenario() -> None:
        other = asyncio.create_task(asyncio.to_thread(threads.run, purge_in_threads()))
        await loop.until(lambda: bool(stop))
        node = Node(loop, shared_valkey.url, shared_valkey.namespace)
        await node.join()
        assert (await node.purge("from the loop")).applied == 2
        stop.append(node.trusted)
        await other

    loop.run(scenario())


def test_one_engine_in_several_loops(shared_valkey: SharedValkey) -> None:
    """One after the other, as with `asyncio.run` in a script: the companion goes on in the next."""
    world = Loop()
    node = Node(world, shared_valkey.url, shared_valkey.namespace, disconnected=1.0)

    async def use() -> None:
        await node.join()
        await node.purge("a", wait=0.01)
        await node.client.close()

    for _ in range(3):
        asyncio.run(use())
    node.log.trusted_until = float("-inf")

    async def last() -> None:
        await node.join()
        assert node.log.heartbeat.running
        await node.runtime.aclose(1.0)
        await node.client.close()

    asyncio.run(last())


def test_stamps_are_positions_with_room_for_local_ones(shared_valkey: SharedValkey) -> None:
    world = Threads()

    async def scenario() -> None:
        (node,) = await fleet(world, shared_valkey, 1, still=True)
        log = node.log
        await node.purge("a")
        at_one = node.position

        def at(position: int) -> int:
            assert log.log_id is not None
            return stamp(node, (log.log_id, position))

        log._put_off((Invalidation("tag", "b"),), FAR)
        assert node.position == at_one + 1
        assert log.positions.place(at_one) == log.positions.place(at_one + 1) == (log.log_id, 1)
        assert at(1) == at_one == at(7)
        await node.log.sync()
        assert at(7) > at(2) == node.position
        assert ThreadRuntime.blocking

    world.run(scenario())
