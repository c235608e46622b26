"""Somebody with write access puts old keys of the log back, or writes into it: every instance that was
there before sees it, and from then on nothing that was purged is valid for anybody (G3).

With a secret, so that they can neither sign records or entries of their own nor change those that are
signed; all they can do is take away, and put back what was there once. On a real server, in both worlds.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1
from typing import Any

import pytest

from tests.support.nodes import Node, key_of, settle, world
from tests.support.redis_servers import SharedValkey

pytest_plugins = ("tests.support.redis_servers",)
__all__ = ["world"]

SECRET = b"sixteen bytes or more"
PARTS = ("log", "meta", "members", "acks", "again")
TAG = "page"


class Attacker:
    """Has the server, and not the secret."""

    def __init__(self, server: SharedValkey) -> None:
        self.server = server
        self.copies: dict[str, bytes | None] = {}

    def key(self, part: str) -> str:
        return key_of(self.server.namespace, part)

    def copy(self) -> None:
        self.copies = {part: self.server.cli("DUMP", self.key(part)) for part in PARTS}

    def put_back(self, *but: str) -> None:
        for part in PARTS:
            data = self.copies[part]
            if part in but:
                continue
            if data is None:
                self.server.cli("DEL", self.key(part))
            else:
                self.server.cli("RESTORE", self.key(part), 0, data, "REPLACE")

    def empty(self) -> None:
        self.server.cli("DEL", *map(self.key, PARTS))

    def records(self) -> list[tuple[int, dict[bytes, bytes]]]:
        found = []
        for name, flat in self.server.cli("XRANGE", self.key("log"), "-", "+"):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            found.append((int(name[:-2]), fields))
        return found

    def write(self, records: list[tuple[int, dict[bytes, bytes]]]) -> None:
        self.server.cli("DEL", self.key("log"))
        for position, fields in records:
            flat = [word for name in (b"p", b"t", b"r", b"o") for word in (name, fields[name])]
            self.server.cli("XADD", self.key("log"), f"{position}-0", *flat)


def node(world: Any, server: SharedValkey) -> Node:
    return Node(world, server.url, server.namespace, secret=SECRET, disconnected=1.0)


def dead(one: Node, place: Any) -> bool:
    """Is an entry that was written with ``place``, bearing the tag, none for this instance?"""
    stamp = one.log.positions.stamp(*place)
    return stamp is None or one.knows(TAG, stamp)


async def scene(world: Any, server: SharedValkey) -> tuple[Node, Attacker, Any]:
    """A live instance, and where an entry was written that is purged later on."""
    live = node(world, server)
    await live.join()
    settle(server, server.namespace)
    assert (await live.purge("another")).final
    place = live.log.positions.place(live.position)
    assert place is not None
    return live, Attacker(server), place


async def nobody_has_it(world: Any, server: SharedValkey, live: Node, place: Any) -> None:
    """Neither the live instance nor one that comes now, once the live one has looked."""
    await live.log.sync()
    late = node(world, server)
    await late.join()
    await late.log.sync()
    assert dead(live, place)
    assert dead(late, place)


def test_the_log_is_put_back(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        live, attacker, place = await scene(world, shared_valkey)
        attacker.copy()
        assert (await live.purge(TAG)).final
        assert dead(live, place)
        for _ in range(2):  # and again
            attacker.put_back()
            await nobody_has_it(world, shared_valkey, live, place)

    world.run(scenario())


def test_the_log_is_put_back_as_if_the_lost_had_been_made_up_for(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """What is appended again is looked for under a name that anybody can compute."""

    async def scenario() -> None:
        live, attacker, place = await scene(world, shared_valkey)
        attacker.copy()
        assert (await live.purge(TAG)).final
        position, fields = attacker.records()[-1]
        name = b"%b:%d:%b" % (place[0], position, fields[b"t"])
        attacker.put_back()
        shared_valkey.cli("HSET", attacker.key("again"), name, "1")
        await nobody_has_it(world, shared_valkey, live, place)

    world.run(scenario())


def replaced(tips: Callable[[bytes, dict[bytes, bytes]], bytes]) -> Any:
    """The purge gives way to an older record, and the tips are what ``tips`` says."""

    def tamper(attacker: Attacker) -> None:
        records = attacker.records()
        other = records[0][1]
        at = len(records) - 2  # the purge; after it came another
        position, fields = records[at]
        records[at] = (position, {**fields, b"r": other[b"r"], b"o": other[b"o"]})
        before = b""
        for _, each in records:
            each[b"t"] = tips(before, each)
            before = each[b"t"]
        attacker.write(records)

    return tamper


def chained(before: bytes, fields: dict[bytes, bytes]) -> bytes:
    return sha1(before + fields[b"o"] + fields[b"r"]).hexdigest().encode()


def taken_out(attacker: Attacker) -> None:
    records = attacker.records()
    records[-1][1][b"p"] = records[-2][1][b"p"]
    attacker.write([*records[:-2], records[-1]])


def older_version(attacker: Attacker) -> None:
    """As an older version would have written it: without a nonce."""
    records = attacker.records()
    records[-2][1][b"r"] = records[0][1][b"r"]
    attacker.server.cli("DEL", attacker.key("log"))
    for position, fields in records:
        flat = [word for name in (b"p", b"t", b"r") for word in (name, fields[name])]
        attacker.server.cli("XADD", attacker.key("log"), f"{position}-0", *flat)


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(replaced(lambda _, fields: fields[b"t"]), id="another-record-the-same-tips"),
        pytest.param(replaced(chained), id="another-record-tips-of-its-own"),
        pytest.param(taken_out, id="taken-out"),
        pytest.param(older_version, id="an-older-version"),
    ],
)
def test_a_purge_is_taken_out_of_the_log(
    world: Any, shared_valkey: SharedValkey, tamper: Callable[[Attacker], None]
) -> None:
    """The log is as long as it was, so nobody is ahead of it."""

    async def scenario() -> None:
        live, attacker, place = await scene(world, shared_valkey)
        assert (await live.purge(TAG)).final
        assert (await live.purge("one more")).final
        tamper(attacker)
        await nobody_has_it(world, shared_valkey, live, place)
        # And it goes on.
        assert dead(live, place)
        settle(shared_valkey, shared_valkey.namespace)
        assert (await live.purge("later")).final

    world.run(scenario())


def test_an_older_incarnation_is_put_back(world: Any, shared_valkey: SharedValkey) -> None:
    async def scenario() -> None:
        live, attacker, place = await scene(world, shared_valkey)
        attacker.copy()
        assert (await live.purge(TAG)).final
        attacker.empty()
        await live.log.sync()
        later = live.log.log_id
        assert later is not None and later[:6] > place[0][:6]
        # One that has never been in the old one knows that it is older, too.
        other = node(world, shared_valkey)
        await other.join()
        await live.log.leave()
        for _ in range(2):
            attacker.put_back()
            await nobody_has_it(world, shared_valkey, other, place)
            assert "log_refused" in other.events

    world.run(scenario())


def test_an_incarnation_of_somebody_who_has_no_secret(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """Its number would be higher than all that are to come; nobody who is new begins in it."""

    async def scenario() -> None:
        live, attacker, place = await scene(world, shared_valkey)
        attacker.copy()
        assert (await live.purge(TAG)).final
        attacker.empty()
        shared_valkey.cli("HSET", attacker.key("meta"), "log", b"\xff" * 16, "n", "0")
        await live.log.sync()
        attacker.put_back()
        await nobody_has_it(world, shared_valkey, live, place)
        attacker.empty()
        shared_valkey.cli("HSET", attacker.key("meta"), "log", b"\xff" * 16, "n", "0")
        new = node(world, shared_valkey)
        await new.join()
        assert new.log.log_id != b"\xff" * 16

    world.run(scenario())


def test_what_an_instance_that_is_alone_and_new_cannot_see(
    world: Any, shared_valkey: SharedValkey
) -> None:
    """All it has is that Redis. `RedisLayer` says so."""

    async def scenario() -> None:
        live, attacker, place = await scene(world, shared_valkey)
        attacker.copy()
        assert (await live.purge(TAG)).final
        await live.close()
        attacker.put_back()
        new = node(world, shared_valkey)
        await new.join()
        assert not dead(new, place)

    world.run(scenario())
