"""The log of purges in Redis: the port `Journal`, on the scripts of `log_scripts`.

All that needs more than one step happens inside Redis, in one script. What remains here is to name the
keys, to count durations, and to read the replies.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from layergate.layers.redis.client import RedisClient
from layergate.layers.redis.errors import garbled, reraise
from layergate.layers.redis.keys import log_key
from layergate.layers.redis.log_scripts import APPEND, LEAVE, MEND, STATUS, SYNC
from layergate.layers.redis.script import Script
from layergate.layers.redis.subscription import Subscription
from layergate.shared.journal import (
    INCARNATION_SIZE,
    Addition,
    Appended,
    End,
    Grew,
    News,
    Place,
    Record,
    Released,
    Reply,
    Status,
    Terms,
)
from layergate.shared.names import lease_name

__all__ = ["RedisJournal", "release_channels"]

_logger = logging.getLogger("layergate")

_PARTS: Final = ("log", "meta", "members", "acks", "again")
_LIMIT: Final = 1000  # records in one reply
_DIGITS: Final = 16  # of a position, which is below 2^53
_DIGEST: Final = 40  # characters


def release_channels(namespace: str) -> bytes:
    """What the name of every instance's own channel begins with."""
    return log_key(namespace, "i:")


class RedisJournal:
    """`layergate.shared.journal.Journal` on one Redis.

    ``max_disconnected``  seconds that an instance is trusted after its last sync; None: forever.
    ``log_length``        how many records Redis keeps, at least.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        namespace: str,
        max_disconnected: float | None,
        log_length: int,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._length = log_length
        self.keys: Final = [log_key(namespace, part) for part in _PARTS]
        self.channel = self.keys[0]
        self.channels: Final = release_channels(namespace)
        self._identity = repr(client), self.keys[0]
        if max_disconnected is None:
            trust, heartbeat, self._term, self._stride = math.inf, 5.0, 30.0, 7.5
        else:
            # One heartbeat may come late by one, and the fleet's clock keeps up with one instance.
            trust, heartbeat = max_disconnected, max_disconnected / 4
            self._stride = heartbeat + 0.25
            self._term = max_disconnected + self._stride
        self.terms: Final = Terms(trust, heartbeat, self._term)

    @property
    def identity(self) -> Hashable:
        return self._identity

    async def sync(self, place: Place, *, probe: bool = False) -> Reply:
        return self._read(await self._run(SYNC, place, probe=probe))

    async def append(
        self, place: Place, additions: Sequence[Addition], *, probe: bool = False
    ) -> Reply:
        words = [word for one in additions for word in (one.nonce, one.again, one.data)]
        return self._read(await self._run(APPEND, place, *words, probe=probe))

    async def status(self, place: Place, record: Appended) -> Status:
        log, found, members, applied, settling, known = await self._run(
            STATUS, place._replace(member=False), record.position, record.tip
        )
        found = bool(found) and log == record.log
        if not known:  # the caller is no member, but it has applied the record
            members, applied = members + 1, applied + 1
        return Status(log, found, members, applied, applied >= members and not int(settling))

    async def leave(self, place: Place) -> None:
        await self._run(LEAVE, place._replace(member=False))

    async def end(self) -> End | None:
        try:
            log, end = await self._client.call("HMGET", self.keys[1], "log", "n", probe=True)
        except RedisError as error:
            reraise(self._client.name, error)
        return None if log is None or end is None else End(log, int(end))

    async def subscribe(self, instance: bytes, *, probe: bool = False) -> RedisSubscription:
        channels = [self.channel, self.own_channel(instance)]
        try:
            messages = await self._client.subscribe(channels, probe=probe)
        except RedisError as error:
            reraise(self._client.name, error)
        return RedisSubscription(messages, channels[0], self._namespace)

    def own_channel(self, instance: bytes) -> bytes:
        """Where this instance hears of released leases."""
        return self.channels + instance

    def forked(self) -> None:
        self._client.forked()

    async def _run(self, script: Script, place: Place, *words: Any, probe: bool = False) -> Any:
        arguments = [*self.arguments(place), *words]
        try:
            try:
                return await self._client.run(script, self.keys, arguments, probe=probe)
            except RedisError as error:
                if not (garbled(error) and await self._mended(probe)):
                    raise
                return await self._client.run(script, self.keys, arguments, probe=probe)
        except RedisError as error:
            reraise(self._client.name, error)

    async def _mended(self, probe: bool) -> bool:
        """Somebody has written into the log's keys, and they were taken away: the log begins anew."""
        try:
            mended = bool(await self._client.run(MEND, self.keys, probe=probe))
        except RedisError as error:
            _logger.debug("the log's keys cannot be looked at: %r", error)
            return False
        if mended:
            _logger.warning(
                "keys of the shared log in %r held what LayerGate does not write; they were removed, and"
                " the log begins anew: give it a Redis database of its own, and a secret",
                self._client.name,
            )
        return mended

    def arguments(self, place: Place) -> list[Any]:
        """What every script of the log is given first: see `log_scripts`."""
        founding = place.founding
        return [
            founding.log,
            round(self._term * 1000),
            round(self._stride * 1000),
            self._length,
            place.log or b"",
            place.position,
            place.tip,
            place.instance,
            b"1" if place.member else b"",
            _LIMIT,
            founding.seal,
            founding.refused,
        ]

    def _read(self, answer: Any) -> Reply:
        log, last, complete, member, raw, appended, tip, leap, seal = answer
        records = []
        for name, fields in raw:
            before, record_tip, data = fields[1], fields[3], fields[5]
            nonce = fields[7] if len(fields) > 7 else None
            records.append(Record(int(name[:-2]), int(before), record_tip, data, nonce))
        trusted_for = self.terms.trust if member else 0.0
        return Reply(
            log,
            seal,
            int(last),
            records,
            bool(complete),
            bool(member),
            trusted_for,
            int(leap),
            int(appended),
            tip,
        )


class RedisSubscription:
    """News of the log (channel ``channel``), and of released leases (any other channel)."""

    def __init__(self, messages: Subscription, channel: bytes, namespace: str) -> None:
        self._messages = messages
        self._channel = channel
        self._namespace = namespace

    async def next(self, seconds: float) -> News | None:
        message = await self._messages.next(seconds)
        if message is None:
            return None
        channel, payload = message
        if channel != self._channel:
            # The digest of the key, with "!" after it if the lease was released as free.
            name = payload[:_DIGEST].decode("ascii", "replace")
            return Released(lease_name(self._namespace, name), free=len(payload) > _DIGEST)
        log, position = payload[:INCARNATION_SIZE], payload[INCARNATION_SIZE:]
        if len(position) > _DIGITS or not position.isdigit():
            return Grew(None, 0)
        return Grew(log, int(position))

    async def close(self) -> None:
        await self._messages.close()

    def abandon(self) -> None:
        self._messages.abandon()
