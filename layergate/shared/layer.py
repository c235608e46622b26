"""The layer of a shared system, written once: what turns entries into blobs and back.

`SystemLayer` is the base class of `RedisLayer` and of every other layer that instances share. A subclass
implements `open`, which gives the ports of its system (`layergate.shared.ports`, `.journal`). All else
is here: names, encoding, validity, what is declined, counters, the log and the leases. The stack calls
it like any layer; it never asks the system anything but through the ports.

An entry is written with the incarnation and the position of the log at which it was stamped. So a blob
that is stale, lost, or comes back from a backup is recognized, and costs a miss: see
`layergate.shared.positions`.
"""

# Options come from users: the checks that their declared types make redundant are the ones that help.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from inspect import isawaitable
from typing import Any, ClassVar, Final, NamedTuple, TypedDict

from layergate.core.backoff import Backoff
from layergate.core.codec import Codec
from layergate.core.entry import Entry
from layergate.core.layer import Key
from layergate.core.shared import Joining
from layergate.errors import ConfigError, LayerUnavailable, WireError
from layergate.shared.capabilities import Capabilities
from layergate.shared.guard import Guard
from layergate.shared.journal import FencingLeaseStore, Journal, LeaseStore
from layergate.shared.leases import SharedLeases
from layergate.shared.log import SharedLog
from layergate.shared.names import blob_name, digest
from layergate.shared.ports import Blobs, answered
from layergate.shared.positions import Positions
from layergate.sizes import parse_size

__all__ = ["Bodies", "System", "SystemLayer", "SystemOptions"]

_logger = logging.getLogger("layergate")

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_LEAST_LOG: Final = 1000
_FRAME: Final = 1024  # bytes that encoding adds to an entry, about


class System(NamedTuple):
    """A shared system, as one stack uses it. All ports keep the time budget and the breaker.

    ``guard``  of the blobs: while its breaker is open, nothing is stored.
    ``fence``  the lease store once more, if it can check a lease in the same step in which it writes
               one of the ``blobs``; else None.
    """

    guard: Guard
    blobs: Blobs
    journal: Journal
    leases: LeaseStore
    fence: FencingLeaseStore | None = None


class Bodies(NamedTuple):
    """What of a shared system holds entries. See `System`."""

    guard: Guard
    blobs: Blobs


class SystemOptions(TypedDict, total=False):
    """The options that `SystemLayer` describes."""

    name: str
    ttl: float | None
    stale_while_revalidate: float | None
    stale_if_error: float | None
    namespace: str
    secret: str | bytes | None
    compress_above: int | str | None
    max_size: int | str
    connect_timeout: float
    timeout: float
    max_disconnected: float | None
    lease_term: float
    backoff: Backoff | None
    log_length: int


class _Joined(NamedTuple):
    """What the layer has of its stack, and of its system."""

    joining: Joining
    codec: Codec
    system: System
    positions: Positions
    log: SharedLog
    leases: SharedLeases


class SystemLayer(ABC):
    """Entries in a system that other instances use too, with the log of purges and the leases.

    ``name``              of the layer: the key of per-layer TTLs and of metrics.
    ``ttl``               seconds that an entry is fresh in this layer at most; None: no cap.
    ``stale_while_revalidate``, ``stale_if_error``
                          seconds, at most, of an entry's stale windows in this layer; None: no cap.
    ``namespace``         begins every name in the system. Instances with the same namespace share.
    ``secret``            at least 16 bytes, the same for all instances: entries and purges are signed
                          with it, and keys are hashed with it. Somebody who can write to the system
                          but does not know the secret can remove entries and purges and put old ones
                          back, but cannot make any. A running instance that finds an old log restored,
                          or a purge missing, has the purge made again, or everything dropped
                          everywhere; it looks four times per ``max_disconnected``. A secret does not
                          prevent that:
                          an old entry that no purge names, and that has not expired, replaces a newer
                          one; an instance that starts while no other is running, or before one has
                          looked, takes an old log with its old entries for the present ones; and a
                          purge looks final up to ``max_disconnected`` early, because acknowledgements
                          are not signed.
    ``compress_above``    entries of more bytes (or ``"64KB"``) are compressed; None: none.
    ``max_size``          the largest entry, in bytes or as ``"16MB"``. A larger one is not stored.
    ``connect_timeout``   seconds that making a connection may take.
    ``timeout``           seconds that an operation may take; one that takes longer is a miss.
    ``max_disconnected``  seconds without an answer of the system after which this instance treats
                          what it holds as stale, because it may have missed a purge. A purge waits
                          that long for an instance that died. None: never; then a purge is not final
                          for an instance that is cut off. The same for all instances.
    ``lease_term``        seconds after which a fetch whose instance died is left to another.
    ``backoff``           how often to look whether the fetch of another instance has ended, where no
                          message tells; None: `Backoff()`.
    ``log_length``        how many purges the log keeps, at least. An instance that missed more of them
                          begins anew, with an empty memory.

    It works as soon as it belongs to a stack, and connects with the first request. A system that does
    not answer costs misses, never errors, and after a few of them nothing until it answers again
    (`layergate.core.breaker`).

    Raises ConfigError: an option that cannot work, or a library that is not installed.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules that have to be installed, beside msgpack."""
    install: ClassVar[str] = "msgpack"
    """What to give to ``pip install`` to get them."""

    def __init__(
        self,
        *,
        name: str,
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
        backoff: Backoff | None = None,
        log_length: int = 100_000,
    ) -> None:
        for library in (*self.libraries, "msgpack"):
            if find_spec(library) is None:
                raise ConfigError(
                    f"{type(self).__name__} needs {library}, which is not installed;"
                    f" run: pip install '{self.install}'"
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
        if backoff is not None and not isinstance(backoff, Backoff):
            raise ConfigError(
                f"backoff must be a Backoff(initial, maximum), got {backoff!r}; leave it out for"
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
        self.connect_timeout: Final = connect_timeout
        self.namespace: Final = namespace
        self.max_disconnected: Final = max_disconnected
        self.lease_term: Final = lease_term
        self.log_length: Final = log_length
        self._backoff = Backoff() if backoff is None else backoff
        self._max_size = parse_size(max_size, option="max_size")
        self._codec_options: dict[str, Any] = {
            "secret": secret,
            "compress_above": None
            if compress_above is None
            else parse_size(compress_above, option="compress_above"),
        }
        self.options: Final[SystemOptions] = {
            "name": name,
            "ttl": ttl,
            "stale_while_revalidate": stale_while_revalidate,
            "stale_if_error": stale_if_error,
            "namespace": namespace,
            "secret": secret,
            "compress_above": compress_above,
            "max_size": max_size,
            "connect_timeout": connect_timeout,
            "timeout": timeout,
            "max_disconnected": max_disconnected,
            "lease_term": lease_term,
            "backoff": backoff,
            "log_length": log_length,
        }
        Codec(max_size=self._max_size, **self._codec_options)  # raises for options that cannot work
        self._secret = secret.encode() if isinstance(secret, str) else secret or b""
        self._joined: _Joined | None = None
        self._hits = self._misses = self._errors = self._unavailable = 0
        self._undecodable = self._other_log = self._unaccounted = 0
        self._too_large = self._unplaced = self._fenced = 0
        self._told = False

    # -- joining -------------------------------------------------------------------------------

    @abstractmethod
    def open(self, joining: Joining) -> System:
        """The ports of the system. Called once, when the layer becomes part of a stack. Nothing may
        start, or connect, before a port is used."""

    def open_bodies(self, joining: Joining) -> Bodies:
        """What holds entries, for a layer that coordinates with another system (`Shared`). Called instead
        of `open`, and like it."""
        system = self.open(joining)
        return Bodies(system.guard, system.blobs)

    # -- for operators -------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities | None:
        """What this system can promise; None if the layer does not say."""
        return None

    def setup(self) -> Sequence[str]:
        """Make what the system needs: tables, indexes. Blocks. Idempotent, and safe from many processes
        at once. Does not need a stack. Returns a sentence for each thing that was made.

        Raises ConfigError, with the remedy, if the system refuses it, and LayerError for a fault.
        """
        return ()

    def examine(self) -> Sequence[str]:
        """What is missing, or would break a promise: a sentence for each. Blocks; changes nothing; does
        not need a stack. Raises LayerError if the system cannot be asked."""
        return ()

    def system_stats(self) -> Mapping[str, int | float]:
        """What the client of the system counts; a part of `stats`."""
        return {}

    # -- in a stack ----------------------------------------------------------------------------

    def join(self, joining: Joining) -> tuple[SharedLog, SharedLeases]:
        """Become part of a stack: from now on the layer can be used. Nothing starts.

        Raises ConfigError: a second stack, or a system that cannot be used there.
        """
        if self._joined is not None:
            raise ConfigError(
                f"layers must belong to one stack, but layer {self.name!r} is already in another;"
                f" make a {type(self).__name__} for each, with the same target and namespace to"
                " share entries"
            )
        system = self.open(joining)
        limits = system.blobs.limits
        longest = len(blob_name(self.namespace, digest("")))
        if limits.longest_name is not None and longest > limits.longest_name:
            most = limits.longest_name - longest + len(self.namespace)
            raise ConfigError(
                f"namespace must be at most {most} characters in this system, got"
                f" {self.namespace!r}"
            )
        codec = Codec(joining.values, max_size=self._max_size, **self._codec_options)
        log = SharedLog(
            system.journal,
            codec,
            joining,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
        )
        leases = SharedLeases(
            system.leases,
            joining,
            namespace=self.namespace,
            secret=self._secret,
            term=self.lease_term,
            backoff=self._backoff,
            heartbeat=log.heartbeat,
        )
        self._joined = _Joined(joining, codec, system, log.positions, log, leases)
        return log, leases

    def _in_use(self) -> _Joined:
        joined = self._joined
        if joined is None:
            raise LayerUnavailable(
                self.name, f"layer {self.name!r} is not part of a stack; pass it to one"
            )
        return joined

    # -- reading -------------------------------------------------------------------------------

    async def get(self, key: Key) -> Entry | None:
        """The entry, or None. An entry that cannot be decoded, or was written before the log was
        lost, is a miss.

        Raises LayerUnavailable at once while the breaker is open, else what the ports raise.
        """
        self._in_use()
        try:
            entry = await self.inspect(key)
        except Exception as error:
            self._failed(error)
            raise
        if entry is None:
            self._misses += 1
        else:
            self._hits += 1
        return entry

    async def inspect(self, key: Key) -> Entry | None:
        """As `get`, but it does not count as a hit, miss or error."""
        joined = self._in_use()
        name = self.blob_name(key)
        found = joined.system.blobs.get_many((name,))
        if isawaitable(found):
            found = await found
        data = found[0]
        entry = None if data is None else self._decoded(joined, name, data)
        if entry is not None and entry.stamp > joined.joining.invalidations.position:
            return await self._accounted_for(joined, entry)
        return entry

    async def _accounted_for(self, joined: _Joined, entry: Entry) -> Entry | None:
        """The entry, which was stamped after all that is known of the log here; None if the log does not
        reach so far."""
        place = joined.positions.claimed(entry.stamp)
        if place is None or await joined.log.reaches(*place):
            return entry
        self._unaccounted += 1
        return None

    async def get_many(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        """The entries found. Raises as `get` does."""
        joined = self._in_use()
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return {}
        names = [self.blob_name(key) for key in wanted]
        try:
            values = await answered(joined.system.blobs.get_many(names))
        except Exception as error:
            self._failed(error)
            raise
        found: dict[Key, Entry] = {}
        for key, name, data in zip(wanted, names, values, strict=True):
            entry = None if data is None else self._decoded(joined, name, data)
            if entry is not None and entry.stamp > joined.joining.invalidations.position:
                entry = await self._accounted_for(joined, entry)
            if entry is not None:
                found[key] = entry
        self._hits += len(found)
        self._misses += len(wanted) - len(found)
        return found

    def _decoded(self, joined: _Joined, name: str, data: bytes) -> Entry | None:
        try:
            decoded = joined.codec.decode(name.encode(), data)
        except WireError as error:
            self._undecodable += 1
            joined.joining.counters.on(
                "layer_error", layer=self.name, operation="decode", error=error
            )
            return None
        stamp = joined.positions.stamp(decoded.log, decoded.position)
        if stamp is None:  # positions of another log mean nothing here
            self._other_log += 1
            return None
        entry = decoded.entry
        entry.stamp = entry.checked = stamp
        return entry if entry.expires > joined.joining.runtime.now() else None

    # -- writing -------------------------------------------------------------------------------

    async def set(self, key: Key, entry: Entry) -> None:
        """Keep the entry until its ``expires``, replacing any other.

        These are declined, so that nothing is under the key afterwards: an entry larger than
        ``max_size``, one that has expired, and one that was stamped before the log was lost. An entry
        that was fetched under a lease which another instance has taken since is declined too; what
        the other instance has stored stays.

        Raises as `get` does, and WireError for a value that cannot travel.
        """
        joined = self._in_use()
        left = entry.expires - joined.joining.runtime.now()
        name = self.blob_name(key)
        data = self._encoded(joined, name, entry) if left > 0 else None
        system = joined.system
        if data is not None and not self._fits(system.blobs.limits.largest, len(data)):
            data = None
        if data is None:
            await self.delete(key)
            return
        seconds = max(left, system.blobs.limits.least_lifetime)
        lease = None if system.fence is None else joined.leases.token_of(key)
        try:
            if lease is None or system.fence is None:
                await answered(system.blobs.set(name, data, seconds))
            elif not await answered(system.fence.fenced_set(*lease, name, data, seconds)):
                self._fenced += 1
        except Exception as error:
            self._failed(error)
            raise

    @property
    def largest(self) -> int:
        """``max_size``, or what the system takes if that is less, without what a frame adds to an
        entry."""
        most = self._max_size
        if self._joined is not None:
            # Some systems tell only once they are connected.
            limit = self._joined.system.blobs.limits.largest
            most = most if limit is None else min(most, limit)
        return max(0, most - _FRAME)

    def takes(self, key: Key, size: int, tags: tuple[str, ...] = ()) -> bool:  # noqa: ARG002
        """True if `set` would keep an entry of ``size`` bytes, provided that the system answers. False
        while it does not."""
        joined = self._joined
        return (
            joined is not None
            and size + sum(map(len, tags)) <= self.largest
            and joined.system.guard.breaker.state == "closed"
            and joined.positions.place(joined.joining.invalidations.position) is not None
        )

    def _fits(self, largest: int | None, size: int) -> bool:
        """False, counted and said once, if the system does not take ``size`` bytes."""
        if largest is None or size <= largest:
            return True
        self._too_large += 1
        if not self._told:
            self._told = True
            _logger.warning(
                "layer %r: an entry of %d bytes is not stored, because this system takes %d bytes at"
                " most; later ones are counted (too_large) and not logged",
                self.name,
                size,
                largest,
            )
        return False

    def _encoded(self, joined: _Joined, name: str, entry: Entry) -> bytes | None:
        """None if it must not be stored."""
        place = joined.positions.place(entry.stamp)
        if place is None:
            self._unplaced += 1
            return None
        log, position = place
        try:
            return joined.codec.encode(name.encode(), entry, position=position, log=log)
        except WireError as error:
            if "max_size" not in str(error):
                raise
            self._too_large += 1
            return None

    async def delete(self, key: Key) -> bool:
        """Remove the key. True if there was an entry. Raises as `get` does."""
        joined = self._in_use()
        try:
            return bool(await answered(joined.system.blobs.delete(self.blob_name(key))))
        except Exception as error:
            self._failed(error)
            raise

    async def clear(self) -> None:
        """Remove every entry of the namespace; its log and leases stay. Raises as `get` does."""
        joined = self._in_use()
        try:
            await answered(joined.system.blobs.clear())
        except Exception as error:
            self._failed(error)
            raise

    # -- around --------------------------------------------------------------------------------

    async def aclose(self) -> None:  # noqa: B027 - most systems have nothing to close
        """Close what this process has open, under asyncio what this loop has open. Using the layer
        again opens it anew."""

    def stats(self) -> Mapping[str, int | float]:
        """Since construction: ``hits``, ``misses``; of the misses, those ``undecodable``, those of
        an ``other_log``, and those ``unaccounted`` for (stamped beyond the end of the log); of the writes declined, ``too_large``, ``unplaced`` (stamped in an older log)
        and ``fenced`` (another instance took the lease); ``errors``, and operations refused while the
        breaker was open, ``unavailable``. ``breaker``: 0 closed, 1 half-open, 2 open;
        ``breaker_opened``: how often. With those of `system_stats`."""
        breaker = None if self._joined is None else self._joined.system.guard.breaker
        return {
            "hits": self._hits,
            "misses": self._misses,
            "undecodable": self._undecodable,
            "other_log": self._other_log,
            "unaccounted": self._unaccounted,
            "too_large": self._too_large,
            "unplaced": self._unplaced,
            "fenced": self._fenced,
            "errors": self._errors,
            "unavailable": self._unavailable,
            "breaker": 0 if breaker is None else breaker.number,
            "breaker_opened": 0 if breaker is None else breaker.opened,
            **self.system_stats(),
        }

    def blob_name(self, key: Key) -> str:
        """What the entry of ``key`` is called in the system."""
        return blob_name(self.namespace, digest(key, self._secret))

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
