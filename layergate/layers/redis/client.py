"""One Redis (or Valkey) as this process speaks with it: either world, any topology.

`RedisClient` knows a single server, the master that Sentinels name, or a Cluster; from a URL or from a
client of redis-py. Of a client it reads where and how to connect, never its connections: those here
belong to one process and one event loop, keep the time budgets of the layer, and are never shared, so
nothing that the application does with its client can mix up replies.

Under asyncio, what is asked in one turn of the loop travels together (`batch`). Under threads each call
is a round trip of its own, on the thread that asks. The ports (`blobs`, `journal`, `leases`) call it.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from layergate.core.breaker import Breaker
from layergate.core.events import Counters
from layergate.core.ports import Runtime
from layergate.errors import LayerUnavailable
from layergate.layers.redis.batch import Batcher
from layergate.layers.redis.connection import Command, Connection, pack
from layergate.layers.redis.errors import is_answer, is_fault, raise_first
from layergate.layers.redis.given import GivenClient
from layergate.layers.redis.params import ConnectParams, check_options, of_url
from layergate.layers.redis.pool import Pool
from layergate.layers.redis.routing import Router
from layergate.layers.redis.script import Script
from layergate.layers.redis.subscription import Subscription
from layergate.layers.redis.url import Address, Target, parse_url
from layergate.shared.guard import Guard

__all__ = ["RedisClient"]

_SWEEP: Final = 500  # keys per round trip of `unlink_prefix`


def _always() -> bool:
    return True


class RedisClient:
    """How this process speaks with a Redis.

    ``target``           a URL (see `layergate.layers.redis.url`), or a client of redis-py:
                         ``Redis`` or ``RedisCluster``, of ``redis`` under threads, of
                         ``redis.asyncio`` under asyncio. A URL serves both. Never closed here.
    ``connect_timeout``  seconds for making one connection, beyond what a call may take.
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
        self._source: Target | GivenClient
        self._source = parse_url(target) if isinstance(target, str) else GivenClient(target)
        self.is_cluster = self._source.kind == "cluster"
        self._runtime: Runtime | None = None
        self._guard: Guard | None = None
        self._pools: dict[tuple[int, int], Pool] = {}
        self._pid = os.getpid()
        # A child keeps its parent's connections, unused and open: closing them, or having them
        # collected, could reach the parent's event loop, which it shares some descriptors with.
        self._inherited: list[object] = []
        self.router = Router(self._source, name)
        self.connects = 0
        self.calls = 0
        _clients.add(self)

    def __repr__(self) -> str:
        return f"RedisClient({self._source})"

    def bind(self, runtime: Runtime, counters: Counters) -> None:
        """Take on the runtime. Nothing starts.

        Raises ConfigError for a client of the other world, and for an option of the URL that the
        installed redis-py does not have there.
        """
        if isinstance(self._source, GivenClient):
            self._source.check(blocking=runtime.blocking)
        else:
            check_options(self._source, blocking=runtime.blocking)
        self._runtime = runtime
        self._guard = Guard(
            runtime,
            counters,
            name=self.name,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
        )
        self.router.bind(self._guard, runtime.random)

    @property
    def guard(self) -> Guard:
        """Its breaker counts round trips; of a Cluster, a round trip fails if no node answers, and
        each node has a breaker of its own as well. Raises LayerUnavailable before `bind`."""
        if self._guard is None:
            raise LayerUnavailable(self.name, "this layer is not part of a stack yet")
        return self._guard

    @property
    def runtime(self) -> Runtime:
        """Raises LayerUnavailable before `bind`."""
        if self._runtime is None:
            raise LayerUnavailable(self.name, "this layer is not part of a stack yet")
        return self._runtime

    @property
    def breaker(self) -> Breaker:
        """Of `guard`."""
        return self.guard.breaker

    # -- asking --------------------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """The value under ``key``. Raises as `call` does."""
        ticket = self.guard.enter()
        pool = self._pool()
        if pool.batcher is not None:
            value: bytes | None = await pool.batcher.get(key, ticket)
            return value
        (value,) = raise_first(await self._now(pool, [("GET", key)], ticket, False))
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
                    raise_first(replies)
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
        ticket = self.guard.enter(probe=probe)
        pool = self._pool()
        if pool.batcher is not None:
            return await pool.batcher.ask(command, ticket, probe=probe)
        (reply,) = raise_first(await self._now(pool, [command], ticket, probe))
        return reply

    async def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to at most 512 commands in one round trip (in a Cluster one per node), error
        replies among them as exceptions, faults of single nodes of a Cluster as well.

        Raises as `call` does.
        """
        if not commands:
            return []
        ticket = self.guard.enter()
        pool = self._pool()
        if pool.batcher is not None:
            return await pool.batcher.ask_all(list(commands), ticket)
        return await self._now(pool, list(commands), ticket, False)

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
        rest = (len(keys), *keys, *args)
        try:
            return await self.call("EVALSHA", script.sha1, *rest, probe=probe)
        except NoScriptError:
            return await self.call("EVAL", script.source, *rest, probe=probe)

    async def run_all(
        self, script: Script, calls: Sequence[tuple[Sequence[bytes], Sequence[Any]]]
    ) -> list[Any]:
        """The replies of a script that is run with each of these keys and arguments, in one round
        trip; error replies among them as exceptions, faults of single nodes of a Cluster as well.

        Raises as `call` does.
        """
        replies = await self.call_all(
            [("EVALSHA", script.sha1, len(keys), *keys, *args) for keys, args in calls]
        )
        for index, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                try:
                    replies[index] = await self.run(script, *calls[index])
                except Exception as error:
                    replies[index] = error
        return replies

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
                        removed += sum(raise_first(replies))
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
        ticket = self.guard.enter(probe=probe)
        pool = self._pool()
        try:
            node = None
            if self.is_cluster:
                give_up = time.monotonic() + self.connect_timeout + self.timeout
                node = (await self.router.slots(self.exchange, pool, give_up)).node(None)
            connection = await self._connected(pool, node, self.connect_timeout)
            subscription = Subscription(connection, self.timeout)
            await subscription.begin(channels)
        except Exception as error:
            self._settle(ticket, error)
            raise
        self.breaker.succeeded(ticket)
        return subscription

    # -- ending --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connections of this process (under asyncio: of this loop). A later call
        connects anew. Subscriptions stay open: their owners close them."""
        self._drop_stranded()
        pool = self._pools.pop(self._key(), None)
        if pool is not None:
            await pool.close()

    def forked(self) -> None:
        """This is the child of a fork: use and close nothing that is the parent's. Happens by itself where
        there is ``os.fork``."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._inherited.append(self._pools)
        self._pools = {}
        self.router.forked()
        if self._guard is not None:
            self._guard.forked()

    def stats(self) -> dict[str, int | float]:
        """``breaker``: 0 closed, 1 half-open, 2 open; ``breaker_opened``: how often;
        ``nodes_open``: of a Cluster's nodes, how many are not asked now; ``connections``: idle;
        ``connects``; ``round_trips``; ``commands`` (a merged MGET is one)."""
        pools = list(self._pools.values())
        batchers = [pool.batcher for pool in pools if pool.batcher is not None]
        breaker = None if self._guard is None else self._guard.breaker
        return {
            "breaker": 0 if breaker is None else breaker.number,
            "breaker_opened": 0 if breaker is None else breaker.opened,
            "nodes_open": self.router.nodes_open,
            "connections": sum(pool.count() for pool in pools),
            "connects": self.connects,
            "round_trips": self.calls + sum(batcher.trips for batcher in batchers),
            "commands": self.calls + sum(batcher.commands for batcher in batchers),
        }

    def _settle(self, ticket: int, outcome: list[Any] | BaseException) -> None:
        """Tell the breaker how a round trip ended."""
        replies = [outcome] if isinstance(outcome, BaseException) else outcome
        if any(is_answer(reply) for reply in replies):
            self.breaker.succeeded(ticket)
        elif any(is_fault(reply) for reply in replies):
            self.breaker.failed(ticket)
        # Else the server was not asked: no outcome.

    # -- the round trip ------------------------------------------------------------------------

    def _key(self) -> tuple[int, int]:
        if self.runtime.blocking:
            return os.getpid(), 0
        return os.getpid(), id(asyncio.get_running_loop())

    def _pool(self) -> Pool:
        key = self._key()
        pool = self._pools.get(key)
        if len(self._pools) > 1:
            self._drop_stranded()
        if pool is None or pool.closed():
            pool = self._new_pool(key)
        return pool

    def _drop_stranded(self) -> None:
        """Abandon the pools of event loops that were closed over them."""
        pid = os.getpid()
        for other, old in list(self._pools.items()):
            if other[0] == pid and old.closed():
                self._pools.pop(other, None)
                old.abandon()

    def _new_pool(self, key: tuple[int, int]) -> Pool:
        _, loop_id = key
        self._drop_stranded()
        params = self._params(blocking=not loop_id)
        if not loop_id:
            # Two threads may come here at once: the first one's counts.
            return self._pools.setdefault(key, Pool(params))
        pool = Pool(params, asyncio.get_running_loop())

        async def send(
            commands: list[Command], probe: bool, wanted: Callable[[], bool]
        ) -> list[Any]:
            return await self._send(pool, commands, probe, wanted)

        pool.batcher = Batcher(
            asyncio.get_running_loop(),
            send,
            self._settle,
            merge=not self.is_cluster,
            timeout=self.timeout,
        )
        self._pools[key] = pool
        self.runtime.at_end(pool.close, last=True)
        return pool

    def _params(self, *, blocking: bool) -> ConnectParams:
        if isinstance(self._source, GivenClient):
            return self._source.params(self.connect_timeout, blocking=blocking)
        return of_url(
            self._source,
            blocking=blocking,
            connect_timeout=self.connect_timeout,
            client_name=f"layergate-{self.namespace}",
        )

    async def _now(
        self, pool: Pool, commands: list[Command], ticket: int, probe: bool
    ) -> list[Any]:
        """A round trip on this thread."""
        self.calls += 1
        try:
            replies = await self._send(pool, commands, probe, _always)
        except Exception as error:
            self._settle(ticket, error)
            raise
        self._settle(ticket, replies)
        return replies

    async def _send(
        self, pool: Pool, commands: list[Command], probe: bool, wanted: Callable[[], bool]
    ) -> list[Any]:
        """A reply for each command; an empty list if no caller waits any more."""
        give_up = time.monotonic() + self.connect_timeout + self.timeout
        if self.is_cluster:
            return await self.router.spread(self.exchange, pool, commands, probe, wanted, give_up)
        replies: list[Any] = []
        await self.exchange(pool, None, commands, replies, wanted, give_up)
        return replies

    async def exchange(
        self,
        pool: Pool,
        node: Address | None,
        commands: Sequence[Command],
        replies: list[Any],
        wanted: Callable[[], bool],
        give_up: float,
    ) -> None:
        """One round trip with one server. Its replies are appended to ``replies``."""
        packed = pack(commands)
        fresh = False
        while True:
            connection = None if fresh else await pool.take(node)
            used = connection is not None
            if connection is None:
                left = give_up - time.monotonic()
                connection = await self._connected(pool, node, min(left, self.connect_timeout))
            if not wanted():
                await pool.give(node, connection)
                return
            left = give_up - time.monotonic()
            try:
                await connection.exchange(packed, len(commands), replies, min(left, self.timeout))
            except RedisConnectionError:
                await connection.drop()
                if not used or replies:
                    raise
                # It broke while it was idle, so the server was restarted, and the others broke too.
                await pool.clear(node)
                fresh = True
                continue
            except BaseException:
                await connection.drop()
                raise
            if any(isinstance(reply, ReadOnlyError) for reply in replies):
                # This server is not the master any more. The name of the master, or its
                # Sentinels, lead to the new one.
                await connection.drop()
                await pool.clear(node)
            else:
                await pool.give(node, connection)
            return

    async def _connected(self, pool: Pool, node: Address | None, seconds: float) -> Connection:
        if seconds <= 0:
            raise RedisTimeoutError("no time left to connect")
        self.connects += 1
        params = pool.params if node is None else pool.params.at(node)
        connection = pool.connection(params, seconds)
        await connection.connect(seconds)
        return connection

    async def _masters(self) -> list[Address | None]:
        if not self.is_cluster:
            return [None]
        give_up = time.monotonic() + self.connect_timeout + self.timeout
        return list((await self.router.slots(self.exchange, self._pool(), give_up)).masters)

    async def _at(self, node: Address | None, command: Command) -> Any:
        """The reply of one node to one command."""
        if node is None:
            return await self.call(*command)
        ticket = self.guard.enter()
        replies: list[Any] = []
        give_up = time.monotonic() + self.connect_timeout + self.timeout
        try:
            await self.exchange(self._pool(), node, [command], replies, _always, give_up)
        except Exception as error:
            self._settle(ticket, error)
            raise
        (reply,) = raise_first(replies)
        return reply


# A fork's child makes connections of its own.
_clients: Final[weakref.WeakSet[RedisClient]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
