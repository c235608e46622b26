"""One Redis (or Valkey) as this process speaks with it: either world, any topology.

`Server` knows a single server, the master that Sentinels name, or a Cluster; from a URL or from a
client of redis-py. Of a client it takes where and how to connect, never its connections: those
here are of this process and this event loop only, keep this layer's time budgets, and are never
shared, so nothing that anybody else does with the client can mix up replies.

Under asyncio what is asked in one turn of the loop travels together (`batch`). Under threads each
call is a round trip of its own, on the thread that asks.
"""

from __future__ import annotations

import hashlib
import os
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from layergate.core.breaker import Breaker, State
from layergate.core.events import Counters
from layergate.core.ports import Runtime
from layergate.errors import ConfigError, LayerUnavailable
from layergate.layers.redis.url import Address, Target, parse_url

if TYPE_CHECKING:
    from layergate.layers.redis.batch import Batcher
    from layergate.layers.redis.cluster import Slots
    from layergate.layers.redis.link import Command, Link, Recipe

__all__ = ["Script", "Server", "Subscription"]

_IDLE: Final = 32  # connections kept for later, per node and loop
_REDIRECTIONS: Final = 3  # in a row, of one command in a Cluster
_REMAP_PAUSE: Final = 0.25  # seconds between two looks at the map of a Cluster that has faults
_SWEEP: Final = 500  # keys per round trip of `unlink_prefix`
_DOWN: Final = ("BUSY ", "CLUSTERDOWN ", "MASTERDOWN ", "TRYAGAIN ")
_MOST_NODES: Final = 1024  # addresses of a Cluster that have a breaker
_QUIET: Final = 5.0  # seconds without a message after which a subscription asks for a sign of life


class Script(NamedTuple):
    """A Lua script; make it with `Script.of`. All its keys must be in one hash slot.

    It may run twice, when a connection breaks between its run and the reply.
    """

    name: str
    source: str
    sha1: str

    @classmethod
    def of(cls, name: str, source: str) -> Script:
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        return cls(name, source, digest)


def _always() -> bool:
    return True


def _import_all() -> None:
    """Import what calls will use, before there are any.

    The first requests of a process come at the same time. Threads that import a package at once,
    one from its middle, find it half made (ImportError, or a deadlock of its modules' locks), and a
    loop that imports one keeps nobody's time meanwhile.
    """
    import redis.asyncio.sentinel
    import redis.sentinel  # noqa: F401

    import layergate.layers.redis.batch
    import layergate.layers.redis.cluster
    import layergate.layers.redis.link  # noqa: F401


class Server:
    """How this process speaks with a Redis.

    ``target``           a URL (see `layergate.layers.redis.url`), or a client of redis-py:
                         ``Redis`` or ``RedisCluster``, of ``redis`` under threads, of
                         ``redis.asyncio`` under asyncio. A URL serves both. Never closed here.
    ``connect_timeout``  seconds for making one connection, which is more than a call may take.
    ``timeout``          seconds that one call may take. Under threads a call that has to connect
                         first, or to find its way in a Cluster, may take ``connect_timeout`` more;
                         resolving a host's name is not bounded there (no system call can be).
    ``namespace``        for the name that the connections show in CLIENT LIST.
    ``name``             of the layer, for events and errors.

    Nothing is connected before the first call. A fork's child makes connections of its own.

    Raises ConfigError for a target that cannot be used.
    """

    def __init__(
        self,
        target: Any,
        *,
        connect_timeout: float,
        timeout: float,
        namespace: str,
        name: str = "redis",
    ) -> None:
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.namespace = namespace
        self.name = name
        self._source: Target | _Client
        self._source = parse_url(target) if isinstance(target, str) else _Client(target)
        self.is_cluster = self._source.kind == "cluster"
        self._runtime: Runtime | None = None
        self._counters: Counters | None = None
        self._sides: dict[tuple[int, int], _Side] = {}
        # A child keeps its parent's connections, unused and open: closing them, or having them
        # collected, could reach the parent's event loop, which it shares some descriptors with.
        self._inherited: list[object] = []
        self._breaker: Breaker | None = None
        self._nodes: dict[Address, Breaker] = {}
        self.connects = 0
        self.calls = 0
        _servers.add(self)

    def __repr__(self) -> str:
        return f"Server({self._source})"

    def bind(self, runtime: Runtime, counters: Counters) -> None:
        """Take on the runtime. Nothing starts.

        Raises ConfigError for a client of the other world, and for an option of the URL that the
        installed redis-py does not have there.
        """
        _import_all()
        if isinstance(self._source, _Client):
            self._source.check(blocking=runtime.blocking)
        else:
            _check_options(self._source, blocking=runtime.blocking)
        self._runtime = runtime
        self._counters = counters
        self._breaker = self._new_breaker(self._changed)

    @property
    def breaker(self) -> Breaker:
        """Counts round trips. Of a Cluster: those in which no node answered; each node has a
        breaker of its own as well. Raises LayerUnavailable before `bind`."""
        if self._breaker is None:
            raise LayerUnavailable(self.name, "this layer is not part of a stack yet")
        return self._breaker

    # -- asking --------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """The value under ``key``. Raises as `call` does."""
        ticket = self._enter(False)
        side = self._side()
        if side.batcher is not None:
            value: bytes | None = await side.batcher.get(key, ticket)
            return value
        (value,) = _checked(await self._now(side, [("GET", key)], ticket, False))
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values under these keys, in their order; one round trip for each 512 of them.

        In a Cluster, keys of a node that does not answer count as missing, unless none does.
        """
        values: list[bytes | None] = []
        for start in range(0, len(keys), 512):
            part = keys[start : start + 512]
            if self.is_cluster:
                replies = await self.call_all([("GET", key) for key in part])
                if all(isinstance(reply, Exception) for reply in replies):
                    _checked(replies)
                values += [None if isinstance(reply, Exception) else reply for reply in replies]
            else:
                values += await self.call("MGET", *part)
        return values

    async def call(self, *command: Any, probe: bool = False) -> Any:
        """The reply to one command: bytes, int, None, or a list of these.

        Words are bytes, str, int or float, the name in capitals. A connection that broke while it
        was idle is replaced, and the command sent again, once: it may have run twice.

        Raises LayerUnavailable at once while the breaker is open, unless ``probe``: that is let
        through, and closes the breaker if it is answered. Raises ResponseError for an error reply,
        ConnectionError and TimeoutError (all of redis.exceptions) when there was none.
        """
        ticket = self._enter(probe)
        side = self._side()
        if side.batcher is not None:
            return await side.batcher.ask(command, ticket, probe=probe)
        (reply,) = _checked(await self._now(side, [command], ticket, probe))
        return reply

    async def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to at most 512 commands in one round trip (in a Cluster one per node), error
        replies among them as exceptions, faults of single nodes of a Cluster as well.

        Raises as `call` does.
        """
        if not commands:
            return []
        ticket = self._enter(False)
        side = self._side()
        if side.batcher is not None:
            return await side.batcher.ask_all(list(commands), ticket)
        return await self._now(side, list(commands), ticket, False)

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Any] = (),
        *,
        probe: bool = False,
    ) -> Any:
        """The reply of a script: EVALSHA, or EVAL where the server does not know it yet.

        Raises as `call` does.
        """
        from redis.exceptions import NoScriptError

        rest = (len(keys), *keys, *args)
        try:
            return await self.call("EVALSHA", script.sha1, *rest, probe=probe)
        except NoScriptError:
            return await self.call("EVAL", script.source, *rest, probe=probe)

    async def unlink_prefix(self, prefix: bytes) -> int:
        """Remove every key that begins with ``prefix`` (no glob characters), in batches, from every
        master. Returns how many; keys that come meanwhile may stay. Raises as `call` does."""
        removed = 0
        for node in await self._masters():
            cursor = b"0"
            while True:
                scan = ("SCAN", cursor, "MATCH", prefix + b"*", "COUNT", _SWEEP)
                cursor, keys = await self._at(node, scan)
                for start in range(0, len(keys), _SWEEP):
                    part = keys[start : start + _SWEEP]
                    if self.is_cluster:
                        replies = await self.call_all([("UNLINK", key) for key in part])
                        removed += sum(_checked(replies))
                    else:
                        removed += await self.call("UNLINK", *part)
                if cursor == b"0":
                    break
        return removed

    async def subscribe(self, channels: Sequence[bytes], *, probe: bool = False) -> Subscription:
        """On a connection of its own. Subscribed when it returns: what is published from now on
        arrives, or `Subscription.next` raises. In a Cluster any node will do.

        Raises as `call` does; may take ``connect_timeout`` more.
        """
        ticket = self._enter(probe)
        side = self._side()
        try:
            node = None
            if self.is_cluster:
                give_up = time.monotonic() + self.connect_timeout + self.timeout
                node = (await self._slots(side, give_up)).node(None)
            link = await self._connected(side, node, self.connect_timeout)
            subscription = Subscription(link, self.timeout)
            await subscription.begin(channels)
        except Exception as error:
            self._settle(ticket, error)
            raise
        self.breaker.succeeded(ticket)
        return subscription

    # -- ending --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connections of this process (under asyncio: of this loop). A later call
        connects anew. Subscriptions are closed by who has them."""
        side = self._sides.pop(self._key(), None)
        if side is not None:
            await side.close()

    def forked(self) -> None:
        """This is the child of a fork: nothing of the parent's is used or closed. Called by itself
        where ``os.fork`` is."""
        self._inherited.append(self._sides)
        self._sides = {}
        if self._runtime is not None:
            # A lock may be held by a thread that does not exist here.
            self._breaker = self._new_breaker(self._changed)
            self._nodes = {}

    def stats(self) -> dict[str, int | float]:
        """``breaker``: 0 closed, 1 half-open, 2 open; ``breaker_opened``: how often;
        ``nodes_open``: of a Cluster's nodes, how many are not asked now; ``connections``: idle;
        ``connects``; ``round_trips``; ``commands`` (a merged MGET is one)."""
        sides = list(self._sides.values())
        batchers = [side.batcher for side in sides if side.batcher is not None]
        breaker = self._breaker
        return {
            "breaker": 0 if breaker is None else breaker.number,
            "breaker_opened": 0 if breaker is None else breaker.opened,
            "nodes_open": sum(node.number == 2 for node in list(self._nodes.values())),
            "connections": sum(side.count() for side in sides),
            "connects": self.connects,
            "round_trips": self.calls + sum(batcher.trips for batcher in batchers),
            "commands": self.calls + sum(batcher.commands for batcher in batchers),
        }

    # -- the breaker ---------------------------------------------------------------------------

    def _new_breaker(
        self, changed: Callable[[State, State], object] | None, cap: float = 15.0
    ) -> Breaker:
        runtime = self._runtime
        assert runtime is not None
        return Breaker(
            clock=runtime.monotonic,
            random=runtime.random,
            lock=runtime.lock(),
            cap=cap,
            changed=changed,
        )

    def _changed(self, was: State, now: State) -> None:
        assert self._counters is not None
        self._counters.on("breaker", layer=self.name, was=was, state=now)

    def _enter(self, probe: bool) -> int:
        ticket = self.breaker.enter(probe=probe)
        if ticket is None:
            raise LayerUnavailable(
                self.name, f"layer {self.name!r} does not answer and is not asked for now"
            )
        return ticket

    def _settle(self, ticket: int, outcome: list[Any] | BaseException) -> None:
        """Tell the breaker how a round trip ended."""
        replies = [outcome] if isinstance(outcome, BaseException) else outcome
        if any(_is_answer(reply) for reply in replies):
            self.breaker.succeeded(ticket)
        elif any(is_fault(reply) for reply in replies):
            self.breaker.failed(ticket)
        # else nobody was asked: no outcome

    # -- the round trip ------------------------------------------------------------------------

    def _key(self) -> tuple[int, int]:
        runtime = self._runtime
        if runtime is None:
            raise LayerUnavailable(self.name, "this layer is not part of a stack yet")
        if runtime.blocking:
            return os.getpid(), 0
        import asyncio

        return os.getpid(), id(asyncio.get_running_loop())

    def _side(self) -> _Side:
        key = self._key()
        side = self._sides.get(key)
        if side is None or side.closed():
            side = self._new_side(key)
        return side

    def _new_side(self, key: tuple[int, int]) -> _Side:
        pid, loop_id = key
        for other, old in list(self._sides.items()):
            if other[0] == pid and old.closed():
                self._sides.pop(other, None)
                old.abandon()
        recipe = self._recipe(blocking=not loop_id)
        if not loop_id:
            # Two threads may come here at once: the first one's counts.
            return self._sides.setdefault(key, _Side(recipe))
        import asyncio

        from layergate.layers.redis.batch import Batcher

        side = _Side(recipe, asyncio.get_running_loop())

        async def send(
            commands: list[Command], probe: bool, wanted: Callable[[], bool]
        ) -> list[Any]:
            return await self._send(side, commands, probe, wanted)

        side.batcher = Batcher(
            asyncio.get_running_loop(),
            send,
            self._settle,
            merge=not self.is_cluster,
            timeout=self.timeout,
        )
        self._sides[key] = side
        assert self._runtime is not None
        self._runtime.at_end(side.close, last=True)
        return side

    def _recipe(self, *, blocking: bool) -> Recipe:
        if isinstance(self._source, _Client):
            return self._source.recipe(self.connect_timeout, blocking=blocking)
        return _recipe(
            self._source,
            blocking=blocking,
            connect_timeout=self.connect_timeout,
            client_name=f"layergate-{self.namespace}",
        )

    async def _now(
        self, side: _Side, commands: list[Command], ticket: int, probe: bool
    ) -> list[Any]:
        """A round trip on this thread."""
        self.calls += 1
        try:
            replies = await self._send(side, commands, probe, _always)
        except Exception as error:
            self._settle(ticket, error)
            raise
        self._settle(ticket, replies)
        return replies

    async def _send(
        self, side: _Side, commands: list[Command], probe: bool, wanted: Callable[[], bool]
    ) -> list[Any]:
        """A reply for each command, or none at all if nobody waits any more."""
        give_up = time.monotonic() + self.connect_timeout + self.timeout
        if self.is_cluster:
            return await self._spread(side, commands, probe, wanted, give_up)
        replies: list[Any] = []
        await self._exchange(side, None, commands, replies, wanted, give_up)
        return replies

    async def _exchange(
        self,
        side: _Side,
        node: Address | None,
        commands: Sequence[Command],
        replies: list[Any],
        wanted: Callable[[], bool],
        give_up: float,
    ) -> None:
        """One round trip with one server; what it answers is appended to ``replies``."""
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import ReadOnlyError

        from layergate.layers.redis.link import pack

        packed = pack(commands)
        fresh = False
        while True:
            link = None if fresh else await side.take(node)
            used = link is not None
            if link is None:
                left = give_up - time.monotonic()
                link = await self._connected(side, node, min(left, self.connect_timeout))
            if not wanted():
                await side.give(node, link)
                return
            left = give_up - time.monotonic()
            try:
                await link.exchange(packed, len(commands), replies, min(left, self.timeout))
            except RedisConnectionError:
                await link.drop()
                if not used or replies:
                    raise
                # It broke while it was idle, as the others have then: the server was restarted.
                await side.clear(node)
                fresh = True
                continue
            except BaseException:
                await link.drop()
                raise
            if any(isinstance(reply, ReadOnlyError) for reply in replies):
                # The master we were connected to is none any more. Its name, or its Sentinels,
                # lead to the new one.
                await link.drop()
                await side.clear(node)
            else:
                await side.give(node, link)
            return

    async def _connected(self, side: _Side, node: Address | None, seconds: float) -> Link:
        from redis.exceptions import TimeoutError as RedisTimeoutError

        if seconds <= 0:
            raise RedisTimeoutError("no time left to connect")
        self.connects += 1
        recipe = side.recipe if node is None else side.recipe.at(node)
        link = side.link(recipe, seconds)
        await link.connect(seconds)
        return link

    # -- the Cluster ---------------------------------------------------------------------------

    async def _spread(
        self,
        side: _Side,
        commands: list[Command],
        probe: bool,
        wanted: Callable[[], bool],
        give_up: float,
    ) -> list[Any]:
        """A reply for each command from the node it belongs to; a fault of a node is the reply to
        what was asked of it."""
        from layergate.layers.redis.cluster import redirection, slot_of

        slots = await self._slots(side, give_up)
        results: list[Any] = [None] * len(commands)
        todo: dict[Address, list[tuple[int, bool]]] = {}  # which commands, each with ASKING or not
        for index, command in enumerate(commands):
            try:
                todo.setdefault(slots.node(slot_of(command)), []).append((index, False))
            except LookupError:
                side.stale = True
                results[index] = _uncovered()
        for _ in range(_REDIRECTIONS):
            if not todo:
                break
            work = [
                self._ask_node(side, node, commands, which, results, probe, wanted, give_up)
                for node, which in todo.items()
            ]
            await side.together(work)
            if not wanted():
                return []
            again: dict[Address, list[tuple[int, bool]]] = {}
            for node, which in todo.items():
                for index, _asking in which:
                    new = redirection(results[index])
                    if new is None:
                        continue
                    there = slots.address(new.host, new.port, node)
                    again.setdefault(there, []).append((index, new.asking))
                    if not new.asking:
                        slots.move(new.slot, there)
            todo = again
        return results

    async def _ask_node(
        self,
        side: _Side,
        node: Address,
        commands: list[Command],
        which: list[tuple[int, bool]],
        results: list[Any],
        probe: bool,
        wanted: Callable[[], bool],
        give_up: float,
    ) -> None:
        breaker = self._nodes.get(node)
        if breaker is None:
            if len(self._nodes) >= _MOST_NODES:  # addresses come and go, and redirections name any
                self._nodes.clear()
            breaker = self._nodes.setdefault(node, self._new_breaker(None, cap=5.0))
        ticket = breaker.enter(probe=probe)
        if ticket is None:
            refused = LayerUnavailable(self.name, f"node {node} does not answer for now")
            for index, _ in which:
                results[index] = refused
            return
        wire: list[Command] = []
        for index, asking in which:
            if asking:
                wire.append(("ASKING",))
            wire.append(commands[index])
        replies: list[Any] = []
        fault: Exception | None = None
        try:
            await self._exchange(side, node, wire, replies, wanted, give_up)
        except Exception as error:
            fault = error
            side.stale = True
            breaker.failed(ticket)
        else:
            breaker.succeeded(ticket)
        answers = iter(replies)
        for index, asking in which:
            if asking:
                next(answers, None)
            results[index] = next(answers, fault)
            if is_fault(results[index]):  # CLUSTERDOWN and the like: look at the map again
                side.stale = True

    async def _slots(self, side: _Side, give_up: float) -> Slots:
        """The map, looked at again if there was a fault since. Raises what the last node raised."""
        from redis.exceptions import ConnectionError as RedisConnectionError

        from layergate.layers.redis.cluster import Slots

        slots = side.slots
        now = time.monotonic()
        if slots is not None and not (side.stale and now >= side.looked + _REMAP_PAUSE):
            return slots
        side.looked = now
        side.stale = False
        candidates = list(self._source.addresses)
        if slots is not None:
            candidates = [*slots.masters, *candidates]
        assert self._runtime is not None
        # Not always the same first: it may be the one that is away.
        turn = int(self._runtime.random() * len(candidates))
        last: Exception = RedisConnectionError("no node of the Cluster answered in time")
        for node in dict.fromkeys(candidates[turn:] + candidates[:turn]):
            if time.monotonic() >= give_up:
                break
            replies: list[Any] = []
            try:
                await self._exchange(side, node, [("CLUSTER", "SLOTS")], replies, _always, give_up)
                (reply,) = _checked(replies)
                side.slots = Slots(reply, node, self._source.remap)
                return side.slots
            except Exception as error:
                last = error
        side.stale = True
        if slots is not None:
            return slots
        raise last

    async def _masters(self) -> list[Address | None]:
        if not self.is_cluster:
            return [None]
        side = self._side()
        give_up = time.monotonic() + self.connect_timeout + self.timeout
        return list((await self._slots(side, give_up)).masters)

    async def _at(self, node: Address | None, command: Command) -> Any:
        """The reply of one node to one command."""
        if node is None:
            return await self.call(*command)
        ticket = self._enter(False)
        replies: list[Any] = []
        give_up = time.monotonic() + self.connect_timeout + self.timeout
        try:
            await self._exchange(self._side(), node, [command], replies, _always, give_up)
        except Exception as error:
            self._settle(ticket, error)
            raise
        (reply,) = _checked(replies)
        return reply


class Subscription:
    """Messages of some channels, on a connection of its own. A lost connection raises: messages
    are lost then, and whoever listens looks at the source again and subscribes anew."""

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._heard = time.monotonic()
        self._asked = False

    async def begin(self, channels: Sequence[bytes]) -> None:
        """Subscribe. Raises redis-py's errors, with the connection closed."""
        from layergate.layers.redis.link import pack

        replies: list[Any] = []
        try:
            packed = pack([("SUBSCRIBE", *channels)])
            await self._link.exchange(packed, len(channels), replies, self._timeout)
            _checked(replies)
        except BaseException:
            await self._link.drop()
            raise

    async def next(self, timeout: float) -> tuple[bytes, bytes] | None:
        """(channel, payload), or None when none came for ``timeout`` seconds.

        Raises ConnectionError (of redis.exceptions) when the connection is lost, which is noticed
        after some ten seconds of calls even if it vanished without a sign. It stays lost.
        """
        from redis.exceptions import ConnectionError as RedisConnectionError

        until = time.monotonic() + timeout
        while True:
            message = await self._link.receive(max(0.0, until - time.monotonic()))
            if message is None:
                await self._check()
                return None
            self._heard = time.monotonic()
            self._asked = False
            kind = message[0] if isinstance(message, list) and message else None
            if kind == b"message":
                return message[1], message[2]
            if kind not in {b"pong", b"subscribe"}:
                await self._link.drop()
                raise RedisConnectionError(f"not a message: {message!r:.100}")

    async def _check(self) -> None:
        """Nothing was heard: is there anybody?"""
        from redis.exceptions import ConnectionError as RedisConnectionError

        from layergate.layers.redis.link import pack

        now = time.monotonic()
        if now - self._heard < _QUIET:
            return
        if self._asked:
            await self._link.drop()
            raise RedisConnectionError("the server has gone quiet")
        self._heard = now
        self._asked = True
        await self._link.exchange(pack([("PING",)]), 0, [], self._timeout)

    async def close(self) -> None:
        await self._link.drop(gently=True)

    def abandon(self) -> None:
        """Its loop is closed."""
        self._link.abandon()


class _Side:
    """What belongs to one event loop of one process, or to all the threads of one process."""

    def __init__(self, recipe: Recipe, loop: Any = None) -> None:
        self.recipe = recipe
        self.batcher: Batcher | None = None
        self.slots: Slots | None = None
        self.stale = False
        self.looked = 0.0
        self._loop = loop
        self._done = False
        self._idle: dict[Address | None, list[Link]] = {}

    def closed(self) -> bool:
        return self._done or (self._loop is not None and self._loop.is_closed())

    def count(self) -> int:
        return sum(len(links) for links in list(self._idle.values()))

    def link(self, recipe: Recipe, seconds: float) -> Link:
        from layergate.layers.redis.link import LoopLink, ThreadLink

        return ThreadLink(recipe, seconds) if self._loop is None else LoopLink(recipe, seconds)

    async def take(self, node: Address | None) -> Link | None:
        """An idle connection that looks well, or None."""
        links = self._idle.get(node)
        while links:
            try:
                link = links.pop()  # the one used last: others may be let go by the server
            except IndexError:  # another thread was quicker
                break
            if not await link.dirty():
                return link
            await link.drop()
        return None

    async def give(self, node: Address | None, link: Link) -> None:
        links = self._idle.get(node)
        if links is None:
            links = self._idle.setdefault(node, [])
        if self._done or len(links) >= _IDLE:
            await link.drop()
        else:
            links.append(link)

    async def clear(self, node: Address | None) -> None:
        for link in self._idle.pop(node, ()):
            await link.drop()

    async def together(self, work: Sequence[Awaitable[None]]) -> None:
        """Do all of it, at the same time where that is possible."""
        if self._loop is None or len(work) == 1:
            for one in work:
                await one
            return
        import asyncio

        await asyncio.gather(*work)

    def abandon(self) -> None:
        """Its loop was closed over it."""
        self._done = True
        for node in list(self._idle):
            for link in self._idle.pop(node, ()):
                link.abandon()

    async def close(self) -> None:
        self._done = True
        if self.batcher is not None:
            await self.batcher.close()
        for node in list(self._idle):
            for link in self._idle.pop(node, ()):
                await link.drop(gently=True)
        # Connections to Sentinels are the only ones that redis-py keeps for us.
        manager = getattr(self.recipe.keep, "sentinel_manager", None)
        for sentinel in () if manager is None else manager.sentinels:
            if self._loop is None:
                sentinel.close()
            else:
                await sentinel.aclose()


# -- fork -----------------------------------------------------------------------------------------

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_servers):
        server.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# -- what went wrong ------------------------------------------------------------------------------


def is_fault(reply: object) -> bool:
    """Is this (a reply, or what was raised) a sign that the Redis does not work?

    Error replies are answers: the server is there. OOM, READONLY, MISCONF and NOREPLICAS refuse
    writes only; reads go on, so the breaker does not count them. A Cluster or replica that says it
    cannot serve (CLUSTERDOWN, TRYAGAIN, MASTERDOWN) is as good as away, and so is one that is held up
    by a script (BUSY), loads its data (LOADING is a ConnectionError) or does not let us in
    (AuthenticationError is one, too).
    """
    if not isinstance(reply, BaseException):
        return False
    from redis.exceptions import ClusterDownError, RedisError, ResponseError, TryAgainError

    if isinstance(reply, ResponseError):
        # By name as well: outside of its own Cluster client redis-py 5 does not know these.
        down = isinstance(reply, (ClusterDownError, TryAgainError))
        return down or str(reply).startswith(_DOWN)
    return isinstance(reply, (RedisError, OSError))


def _is_answer(reply: object) -> bool:
    if not isinstance(reply, BaseException):
        return True
    from redis.exceptions import ResponseError

    return isinstance(reply, ResponseError) and not is_fault(reply)


def _uncovered() -> Exception:
    from redis.exceptions import ClusterDownError

    return ClusterDownError("CLUSTERDOWN Hash slot not served")


def _checked(replies: list[Any]) -> list[Any]:
    """The replies, if none is an error; else the first error is raised."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


# -- where the connections come from --------------------------------------------------------------


def _check_options(target: Target, *, blocking: bool) -> None:
    """Raises ConfigError for options of TLS that are not known to redis-py's connections: some came to
    ``redis.asyncio`` years after ``redis``."""
    if not target.tls:
        return
    import inspect

    import redis.asyncio.connection
    import redis.connection

    module: Any = redis.connection if blocking else redis.asyncio.connection
    known = inspect.signature(module.SSLConnection.__init__).parameters
    for name in target.options:
        if name.startswith("ssl_") and name not in known:
            raise ConfigError(
                f"url has {name}, which redis-py {redis.__version__} does not take under"
                f" {'threads' if blocking else 'asyncio'}; install a newer one, or leave it out"
            )


def _recipe(target: Target, *, blocking: bool, connect_timeout: float, client_name: str) -> Recipe:
    """How to connect to what a URL names."""
    import redis.asyncio.connection
    import redis.connection

    from layergate.layers.redis.link import Recipe, keepalive

    module: Any = redis.connection if blocking else redis.asyncio.connection
    options: dict[str, Any] = {
        "db": target.db,
        "username": target.username,
        "password": target.password,
        "client_name": client_name,
        **target.options,
    }
    if target.path is not None:
        options["path"] = target.path
        return Recipe.of(module.UnixDomainSocketConnection, options, blocking=blocking)
    options |= {"socket_keepalive": True, "socket_keepalive_options": keepalive()}
    if target.kind == "sentinel":
        asked = {
            **target.options,
            "username": target.sentinel_username,
            "password": target.sentinel_password,
            "ssl": target.tls,
        }
        if target.tls:
            options["ssl"] = True
        return _by_sentinel(
            target.addresses,
            target.master,
            asked,
            {**options, "protocol": 2},
            connect_timeout,
            blocking=blocking,
        )
    connection = module.SSLConnection if target.tls else module.Connection
    if target.kind == "single":
        options |= target.addresses[0]._asdict()
    else:
        options.pop("db")
    return Recipe.of(connection, options, blocking=blocking)


def _by_sentinel(
    addresses: Sequence[Address],
    master: str,
    asked: dict[str, Any],
    options: dict[str, Any],
    connect_timeout: float,
    *,
    blocking: bool,
) -> Recipe:
    """How to connect to the master that Sentinels name.

    ``asked``: options of the connections to Sentinels; ``options``: to the master.
    """
    import redis.asyncio.sentinel
    import redis.sentinel

    from layergate.layers.redis.link import Recipe, check_hostname

    if asked.get("ssl"):
        check_hostname(asked)
    module: Any = redis.sentinel if blocking else redis.asyncio.sentinel
    # They are asked one after the other, and all but the last may be away: each gets a share of the
    # time, so that the last one, and then the master, have theirs.
    share = connect_timeout / (2 * len(addresses) + 1)
    bare = Recipe.of(object, asked, blocking=blocking).options
    asked = {**bare, "socket_timeout": share, "socket_connect_timeout": share}
    manager = module.Sentinel([tuple(address) for address in addresses], sentinel_kwargs=asked)
    pool = module.SentinelConnectionPool(master, manager, **options)
    recipe = Recipe.of(pool.connection_class, pool.connection_kwargs, blocking=blocking)
    return recipe._replace(keep=pool)  # to which the connections refer weakly


class _Client:
    """A client of redis-py that the application made."""

    def __init__(self, client: object) -> None:
        import redis
        import redis.asyncio

        self._client: Any = client
        self.kind: Any = "single"
        if isinstance(client, (redis.RedisCluster, redis.asyncio.RedisCluster)):
            self.kind = "cluster"
        elif not isinstance(client, (redis.Redis, redis.asyncio.Redis)):
            raise ConfigError(
                "client must be a URL such as 'redis://localhost:6379/0', or a Redis or RedisCluster"
                f" of redis or redis.asyncio, got {type(client).__module__}.{type(client).__name__};"
                " give its URL"
            )
        self._blocking = isinstance(client, (redis.Redis, redis.RedisCluster))
        pool = getattr(client, "connection_pool", None)
        self._by_sentinel = hasattr(pool, "sentinel_manager")
        if self._by_sentinel and not getattr(pool, "is_master", True):
            raise ConfigError(
                "client must be connected to a master, got one for its replicas;"
                " make it with sentinel.master_for(...)"
            )

    def __str__(self) -> str:
        return f"{type(self._client).__module__}.{type(self._client).__name__}"

    def check(self, *, blocking: bool) -> None:
        """Raises ConfigError if it is one for the other world."""
        if self._blocking is blocking:
            return
        name = type(self._client).__name__
        if blocking:
            given, wanted, world = f"redis.asyncio.{name}", f"redis.{name}", "threads (WSGI)"
        else:
            given, wanted, world = f"redis.{name}", f"redis.asyncio.{name}", "asyncio (ASGI)"
        raise ConfigError(
            f"client must fit the server it runs under, {world}, got a {given}; pass a {wanted}, or"
            " a URL such as 'redis://localhost:6379/0', which serves both"
        )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Of a Cluster: where it can be asked for its map."""
        nodes = self._client.nodes_manager.startup_nodes.values()
        return tuple(Address(node.host, int(node.port)) for node in nodes)

    def remap(self, address: Address) -> Address:
        remap = getattr(self._client.nodes_manager, "address_remap", None)
        return address if remap is None else Address(*remap(tuple(address)))

    def recipe(self, connect_timeout: float, *, blocking: bool) -> Recipe:
        from layergate.layers.redis.link import Recipe

        client = self._client
        if self.kind == "single":
            pool = client.connection_pool
            if self._by_sentinel:
                return self._sentinel_recipe(pool, connect_timeout, blocking=blocking)
            return Recipe.of(pool.connection_class, pool.connection_kwargs, blocking=blocking)
        if blocking:
            # Any node's: they differ in the address only.
            pool = client.get_redis_connection(client.get_default_node()).connection_pool
            connection, options = pool.connection_class, dict(pool.connection_kwargs)
        else:
            options = dict(client.get_connection_kwargs())
            connection = options["connection_class"]
        options.pop("redis_connect_func", None)  # it may make connections read-only
        return Recipe.of(connection, options, blocking=blocking)

    def _sentinel_recipe(self, pool: Any, connect_timeout: float, *, blocking: bool) -> Recipe:
        """With Sentinels of our own, which are not asked ten times each."""
        manager = pool.sentinel_manager
        places = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
        options = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if name != "connection_pool"
        }
        options.pop("protocol", None)
        return _by_sentinel(
            [Address(place["host"], place["port"]) for place in places],
            pool.service_name,
            dict(manager.sentinel_kwargs),
            options | {"connection_class": pool.connection_class},
            connect_timeout,
            blocking=blocking,
        )
