"""The layer that instances share, in a Redis or Valkey."""

# Options come from users: the checks that their declared types make redundant are the ones that help.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from layergate.core.codec import Codec
from layergate.core.entry import Entry
from layergate.core.layer import Key
from layergate.core.lease import Exponential, Waiting
from layergate.core.shared import Joining
from layergate.errors import ConfigError, LayerUnavailable, WireError
from layergate.layers.redis.keys import digest, entry_key, lease_key
from layergate.layers.redis.server import Server
from layergate.sizes import parse_size

if TYPE_CHECKING:
    from layergate.layers.redis.leases import RedisLeases
    from layergate.layers.redis.log import RedisLog

__all__ = ["RedisLayer"]

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_LEAST_LOG: Final = 1000
_FRAME: Final = 1024  # bytes that encoding adds to an entry, or so


class _Joined(NamedTuple):
    """What a stack has made of the layer."""

    joining: Joining
    codec: Codec
    log: RedisLog
    leases: RedisLeases


class RedisLayer:
    """Entries in a Redis or Valkey that other instances use too, with their log and their leases.

    ``target``            where it is: a URL (``redis://``, ``rediss://``, ``unix://``,
                          ``redis+cluster://``, ``redis+sentinel://``), or a client of redis-py whose
                          addresses, credentials and TLS are used, for connections of our own.
    ``name``              of the layer: the key of per-layer TTLs and of metrics.
    ``ttl``               seconds that an entry is fresh for in this layer at most; None: no cap.
    ``stale_while_revalidate``, ``stale_if_error``
                          seconds, at most, of an entry's stale windows in this layer; None: no cap.
    ``namespace``         begins every key. Instances share what is in one namespace.
    ``secret``            at least 16 bytes: what is stored is signed, and keys are hashed, with it.
                          Whoever can write to the Redis but does not know it can take entries and
                          purges away and put old ones back, but make none. The same for all
                          instances. An instance that is running sees a log that was put back, or from
                          which a purge is missing, when it next looks there (four times per
                          ``max_disconnected``), and has the purge made up for, or everything dropped
                          everywhere. What a secret cannot prevent: an old entry that no purge names,
                          and that has not expired, may take the place of a newer one; an instance that
                          starts when no other is running, or before one has looked, cannot tell an old
                          log with its old entries from the present ones; and acknowledgements are not
                          signed, so a purge can be made to look final up to ``max_disconnected`` early.
    ``compress_above``    entries of more bytes (or ``"64KB"``) are compressed; None: none is.
    ``max_size``          the largest entry, in bytes or as ``"16MB"``. A larger one is not stored.
    ``connect_timeout``   seconds that making a connection may take.
    ``timeout``           seconds that an operation may take; one that takes longer is a miss.
    ``max_disconnected``  seconds without a word from the Redis after which this instance takes what
                          it holds for stale, since a purge may have passed unheard. A purge
                          waits that long for an instance that died. None: never; then a
                          purge is not final for an instance that is cut off.
    ``lease_term``        seconds after which a fetch whose instance died is left to another.
    ``waiting``           how often to look whether another instance's fetch has ended, where its
                          message does not come.
    ``log_length``        how many purges the log keeps, at least. An instance that missed more
                          of them begins anew, with an empty memory.

    It works as soon as it belongs to a stack, and connects with the first request. A Redis that does
    not answer costs misses, never errors, and after a few of them nothing until it answers again
    (`layergate.core.breaker`).

    Raises ConfigError: an option that cannot work, or a library that is not installed.
    """

    def __init__(
        self,
        target: Any,
        *,
        name: str = "redis",
        ttl: float | None = None,
        stale_while_revalidate: float | None = None,
        stale_if_error: float | None = None,
        namespace: str = "layergate",
        secret: str | bytes | None = None,
        compress_above: int | str | None = None,
        max_size: int | str = "16MB",
        connect_timeout: float = 1.0,
        timeout: float = 0.2,
        max_disconnected: float | None = 5.0,
        lease_term: float = 10.0,
        waiting: Waiting | None = None,
        log_length: int = 100_000,
    ) -> None:
        for library in ("redis", "msgpack"):
            if find_spec(library) is None:
                raise ConfigError(
                    f"RedisLayer needs {library}, which is not installed;"
                    " run: pip install 'layergate[redis]'"
                )
        if not isinstance(name, str) or not name:
            raise ConfigError(f"name must be a non-empty string, got {name!r}")
        if not isinstance(namespace, str) or _NAMESPACE.fullmatch(namespace) is None:
            raise ConfigError(
                "namespace must be 1 to 64 letters, digits or any of _.:/- (in a Cluster braces"
                f" have a meaning), got {namespace!r}"
            )
        _check_seconds("ttl", ttl, none="no cap")
        _check_seconds("stale_while_revalidate", stale_while_revalidate, none="no cap", zero=True)
        _check_seconds("stale_if_error", stale_if_error, none="no cap", zero=True)
        _check_seconds("connect_timeout", connect_timeout)
        _check_seconds("timeout", timeout)
        _check_seconds("max_disconnected", max_disconnected, none="never stale for that")
        _check_seconds("lease_term", lease_term)
        if waiting is not None and not isinstance(waiting, Waiting):
            raise ConfigError(
                f"waiting must be Fixed(...) or Exponential(...), got {waiting!r}; leave it out for"
                " the default"
            )
        if type(log_length) is not int or log_length < _LEAST_LOG:
            raise ConfigError(
                f"log_length must be a whole number from {_LEAST_LOG}, got {log_length!r}"
            )
        self.name: Final = name
        self.ttl = ttl
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.timeout: Final = timeout
        self.namespace: Final = namespace
        self._namespace = namespace.encode()
        self._max_disconnected = max_disconnected
        self._lease_term = lease_term
        self._waiting = Exponential() if waiting is None else waiting
        self._log_length = log_length
        self._max_size = parse_size(max_size, option="max_size")
        self._codec_options: dict[str, Any] = {
            "secret": secret,
            "max_size": self._max_size,
            "compress_above": None
            if compress_above is None
            else parse_size(compress_above, option="compress_above"),
        }
        Codec(**self._codec_options)  # so that what is wrong with them is said now
        self._secret = secret.encode() if isinstance(secret, str) else secret or b""
        self._server = Server(
            target,
            connect_timeout=connect_timeout,
            timeout=timeout,
            namespace=namespace,
            name=name,
        )
        self._joined: _Joined | None = None
        self._hits = self._misses = self._errors = self._unavailable = 0
        self._undecodable = self._other_log = 0
        self._too_large = self._unplaced = self._fenced = 0

    def __repr__(self) -> str:
        return f"RedisLayer({self._server!r}, name={self.name!r}, namespace={self.namespace!r})"

    def join(self, joining: Joining) -> tuple[RedisLog, RedisLeases]:
        """Become part of a stack: from now on the layer can be used. Nothing starts.

        Raises ConfigError: a client of the other world, or a second stack.
        """
        from layergate.layers.redis.leases import RedisLeases
        from layergate.layers.redis.log import RedisLog

        if self._joined is not None:
            raise ConfigError(
                f"layers must belong to one stack, but layer {self.name!r} is already in another;"
                " make a RedisLayer for each, with the same target and namespace to share entries"
            )
        self._server.bind(joining.runtime, joining.counters)
        codec = Codec(joining.values, **self._codec_options)
        log = RedisLog(
            self._server,
            codec,
            joining,
            namespace=self._namespace,
            max_disconnected=self._max_disconnected,
            log_length=self._log_length,
        )
        leases = RedisLeases(
            self._server,
            joining,
            namespace=self._namespace,
            secret=self._secret,
            term=self._lease_term,
            waiting=self._waiting,
            companion=log.companion,
        )
        self._joined = _Joined(joining, codec, log, leases)
        return log, leases

    # -- reading -------------------------------------------------------------------------------

    async def get(self, key: Key) -> Entry | None:
        """The entry, or None. One that cannot be decoded, or was written before the Redis lost its
        log, is none.

        Raises LayerUnavailable at once while the breaker is open, else what redis-py raises.
        """
        self._in_use()
        try:
            entry = await self.look(key)
        except Exception as error:
            self._failed(error)
            raise
        if entry is None:
            self._misses += 1
        else:
            self._hits += 1
        return entry

    async def look(self, key: Key) -> Entry | None:
        """As `get`, but it is counted as no hit, miss or error."""
        joined = self._in_use()
        name = self._entry_key(key)
        data = await self._server.get(name)
        return None if data is None else self._decoded(joined, name, data)

    async def get_many(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        """The entries found; one round trip for each 512 keys, in a Cluster one per node, where
        those of a node that does not answer are missing. Raises as `get` does."""
        joined = self._in_use()
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return {}
        names = [self._entry_key(key) for key in wanted]
        try:
            values = await self._server.get_many(names)
        except Exception as error:
            self._failed(error)
            raise
        found: dict[Key, Entry] = {}
        for key, name, data in zip(wanted, names, values, strict=True):
            entry = None if data is None else self._decoded(joined, name, data)
            if entry is not None:
                found[key] = entry
        self._hits += len(found)
        self._misses += len(wanted) - len(found)
        return found

    def _decoded(self, joined: _Joined, name: bytes, data: bytes) -> Entry | None:
        try:
            decoded = joined.codec.decode(name, data)
        except WireError as error:
            self._undecodable += 1
            joined.joining.counters.on(
                "layer_error", layer=self.name, operation="decode", error=error
            )
            return None
        stamp = joined.log.stamp(decoded.log, decoded.position)
        if stamp is None:  # positions of another log mean nothing here
            self._other_log += 1
            return None
        entry = decoded.entry
        entry.stamp = entry.checked = stamp
        return entry if entry.expires > joined.joining.runtime.now() else None

    # -- writing -------------------------------------------------------------------------------

    async def set(self, key: Key, entry: Entry) -> None:
        """Keep the entry until its ``expires``, replacing any other.

        Declined, so that nothing is under the key afterwards: one larger than ``max_size``, one
        that has expired, and one that was stamped before the Redis lost its log. What was
        fetched under a lease that somebody else has taken meanwhile is declined too; what they
        have stored stays.

        Raises as `get` does, and WireError for a value that cannot travel.
        """
        joined = self._in_use()
        left = entry.expires - joined.joining.runtime.now()
        data = self._encoded(joined, key, entry) if left > 0 else None
        if data is None:
            await self.delete(key)
            return
        name = self._entry_key(key)
        milliseconds = math.ceil(left * 1000)
        token = joined.leases.token_of(key)
        try:
            if token is None:
                await self._server.call("SET", name, data, "PX", milliseconds)
            else:
                from layergate.layers.redis.scripts import FENCED_SET

                lease = lease_key(self._namespace, digest(key, self._secret))
                if not await self._server.run(
                    FENCED_SET, [lease, name], [token, data, milliseconds]
                ):
                    self._fenced += 1
        except Exception as error:
            self._failed(error)
            raise

    @property
    def largest(self) -> int:
        """``max_size``, less what a frame adds to an entry."""
        return max(0, self._max_size - _FRAME)

    def takes(self, key: Key, size: int, tags: tuple[str, ...] = ()) -> bool:  # noqa: ARG002
        """Would `set` keep an entry of ``size`` bytes, if the Redis answers? Not while it does not."""
        joined = self._joined
        return (
            joined is not None
            and size + sum(map(len, tags)) <= self.largest
            and self._server.breaker.state == "closed"
            and joined.log.place(joined.joining.invalidations.position) is not None
        )

    def _encoded(self, joined: _Joined, key: Key, entry: Entry) -> bytes | None:
        """None if it is not to be stored."""
        place = joined.log.place(entry.stamp)
        if place is None:
            self._unplaced += 1
            return None
        log, position = place
        try:
            return joined.codec.encode(self._entry_key(key), entry, position=position, log=log)
        except WireError as error:
            if "max_size" not in str(error):
                raise
            self._too_large += 1
            return None

    async def delete(self, key: Key) -> bool:
        """Remove the key. True if there was an entry. Raises as `get` does."""
        self._in_use()
        try:
            return bool(await self._server.call("UNLINK", self._entry_key(key)))
        except Exception as error:
            self._failed(error)
            raise

    async def clear(self) -> None:
        """Remove every entry of the namespace; its log and leases stay. Takes a round trip for each
        500 keys of the whole Redis. Raises as `get` does."""
        self._in_use()
        try:
            await self._server.unlink_prefix(self._namespace + b":e:{")
        except Exception as error:
            self._failed(error)
            raise

    # -- around --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connections of this process (under asyncio: of this loop). Using the layer again
        opens new ones."""
        await self._server.close()

    def stats(self) -> Mapping[str, int | float]:
        """Since construction: ``hits``, ``misses``; of the misses, ``undecodable`` ones and those of
        an ``other_log``; of the writes declined, ``too_large``, ``unplaced`` (stamped in an older
        log) and ``fenced`` (somebody else took the lease); ``errors``, and operations refused
        while the breaker was open, ``unavailable``. And `Server.stats`."""
        return {
            "hits": self._hits,
            "misses": self._misses,
            "undecodable": self._undecodable,
            "other_log": self._other_log,
            "too_large": self._too_large,
            "unplaced": self._unplaced,
            "fenced": self._fenced,
            "errors": self._errors,
            "unavailable": self._unavailable,
            **self._server.stats(),
        }

    def _entry_key(self, key: Key) -> bytes:
        return entry_key(self._namespace, digest(key, self._secret))

    def _in_use(self) -> _Joined:
        joined = self._joined
        if joined is None:
            raise LayerUnavailable(
                self.name, f"layer {self.name!r} is not part of a stack; pass it to one"
            )
        return joined

    def _failed(self, error: Exception) -> None:
        if isinstance(error, LayerUnavailable):
            self._unavailable += 1
        else:
            self._errors += 1


def _check_seconds(option: str, value: Any, *, none: str = "", zero: bool = False) -> None:
    if value is None and none:
        return
    number = type(value) in (int, float) and math.isfinite(value)
    if number and (value > 0 or (zero and value == 0)):
        return
    least = ">= 0" if zero else "> 0"
    or_none = f", or None for {none}" if none else ""
    raise ConfigError(
        f"{option} must be {least} seconds{or_none}, got {value!r}; leave it out for the default"
    )
