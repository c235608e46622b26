"""`HostLayer`: the layer that the processes of one host share, in a folder. Users construct it; the stack
calls it.

The parts are `log` (purges), `leases`, and `entries`; this puts them together, and turns entries into
bytes and back. An entry is written with the incarnation and the position of the log at which it was
stamped. So one that outlived a restart is checked against every purge since, and one of another log is a
miss.
"""

# Options come from users: the checks that their declared types make redundant are the ones that help.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from layergate.core.codec import MAX_SIZE, Codec
from layergate.core.entry import Entry
from layergate.core.layer import Key
from layergate.core.shared import Joining
from layergate.errors import ConfigError, LayerMissing, LayerUnavailable, WireError
from layergate.layers.host import folder as folders
from layergate.layers.host.entries import Entries
from layergate.layers.host.leases import HostLeases
from layergate.layers.host.log import HostLog
from layergate.layers.host.ring import NAME_SIZE
from layergate.sizes import parse_size

__all__ = ["HostLayer", "from_url", "path_of"]

_logger = logging.getLogger("layergate")

_NO_NAMESPACE: Final = "layergate"  # the gateway's default, which names no folder
_FRAME: Final = 1024  # bytes that encoding adds to an entry, about


class _Joined(NamedTuple):
    joining: Joining
    codec: Codec
    log: HostLog
    leases: HostLeases


class HostLayer:
    """Entries in a folder that other processes of this host use too, with the log of purges and leases.

    ``path``              the folder, an absolute path. It is made if there is none, for its user only. None:
                          one of the ``namespace`` in the user's own places, see
                          `layergate.layers.host.folder`.
    ``size``              bytes of the entries (or ``"256MB"``); ``large``: bytes of those that are too large
                          for that, in a file of their own. Together they take at most an eighth of what is
                          free on the file system, and of the memory that the control group may use.
    ``durable``           True: a purge is on the disk before it is final, so entries outlive a start of the
                          machine. False: after one, the folder begins empty.
    ``namespace``         names the folder if no ``path`` does. None: a name for the working directory.
    ``name``              of the layer: the key of per-layer TTLs and of metrics.
    ``ttl``, ``stale_while_revalidate``, ``stale_if_error``
                          seconds, at most, that an entry in this layer is fresh, and of its stale windows;
                          None: no cap.
    ``secret``            at least 16 bytes: entries and purges are signed with it. None: who can write to
                          the folder is trusted.
    ``compress_above``    entries of more bytes (or ``"64KB"``) are compressed; None: none.

    Nothing is opened before the first request.

    Raises LayerMissing: without a ``path``, there is no place for a folder. Raises ConfigError: an option
    that cannot work; a folder that belongs to another user, that others can
    write to, or that is on a network file system; a system without file locks (Windows).
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        size: int | str = "256MB",
        large: int | str = "1GB",
        durable: bool = False,
        namespace: str | None = None,
        name: str = "host",
        ttl: float | None = None,
        stale_while_revalidate: float | None = None,
        stale_if_error: float | None = None,
        secret: str | bytes | None = None,
        compress_above: int | str | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"name must be a non-empty string, got {name!r}")
        if type(durable) is not bool:
            raise ConfigError(f"durable must be True or False, got {durable!r}")
        if path is not None and namespace is not None:
            raise ConfigError("path excludes namespace, which names the folder if no path does")
        for option, seconds in (
            ("ttl", ttl),
            ("stale_while_revalidate", stale_while_revalidate),
            ("stale_if_error", stale_if_error),
        ):
            if seconds is not None and not (type(seconds) in (int, float) and 0 <= seconds < 1e12):
                raise ConfigError(f"{option} must be >= 0 seconds, or None, got {seconds!r}")
        self.name: Final = name
        self.ttl = ttl
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.path: Final = _folder(path, namespace)
        self.durable: Final = durable
        self._size = parse_size(size, option="size")
        self._large = parse_size(large, option="large")
        self._secret = secret
        self._compress_above = (
            None if compress_above is None else parse_size(compress_above, option="compress_above")
        )
        Codec(secret=secret, compress_above=self._compress_above)  # raises for what cannot work
        self._entries: Entries | None = None
        self._joined: _Joined | None = None
        self._pid = os.getpid()
        self._hits = self._misses = self._errors = 0
        self._undecodable = self._other_log = self._too_large = self._unplaced = 0

    def __repr__(self) -> str:
        return f"HostLayer({str(self.path)!r}, name={self.name!r})"

    # -- joining -------------------------------------------------------------------------------

    def join(self, joining: Joining) -> tuple[HostLog, HostLeases]:
        """Become part of a stack: from now on the layer can be used. Nothing starts.

        Raises ConfigError: a second stack.
        """
        if self._joined is not None:
            raise ConfigError(
                f"layers must belong to one stack, but layer {self.name!r} is already in another;"
                " make a HostLayer for each, with the same path to share entries"
            )
        codec = Codec(joining.values, secret=self._secret, compress_above=self._compress_above)
        log = HostLog(self.path, joining, codec, durable=self.durable)
        leases = HostLeases(self.path, joining)
        log.on_moved += [leases.reopen, self.aclose]
        self._joined = _Joined(joining, codec, log, leases)
        _layers.add(self)
        return log, leases

    def _in_use(self) -> _Joined:
        joined = self._joined
        if joined is None:
            raise LayerUnavailable(
                self.name, f"layer {self.name!r} is not part of a stack; pass it to one"
            )
        return joined

    def _opened(self, joined: _Joined) -> Entries:
        entries = self._entries
        if entries is None or self._pid != os.getpid():
            room = folders.room(self.path)
            size = min(self._size, max(room // 2, room - self._large))
            large = min(self._large, room - size)
            _logger.info(
                "the processes that share %s keep up to %d MB of entries there, and %d MB of large ones;"
                " each also has a memory of its own",
                self.path,
                size >> 20,
                large >> 20,
            )
            entries = self._entries = Entries(
                self.path, size=size, large=large, runtime=joined.joining.runtime
            )
            self._pid = os.getpid()
        return entries

    # -- reading -------------------------------------------------------------------------------

    def get(self, key: Key) -> Entry | None:
        """The entry, or None. One that cannot be decoded, or that is of another log, is a miss.

        Raises LayerUnavailable for a layer that is not part of a stack.
        """
        entry = self.inspect(key)
        if entry is None:
            self._misses += 1
        else:
            self._hits += 1
        return entry

    def inspect(self, key: Key) -> Entry | None:
        """As `get`, but it does not count as a hit or miss."""
        joined = self._in_use()
        name = self._name(key)
        data = self._opened(joined).get(name)
        if data is None:
            return None
        try:
            decoded = joined.codec.decode(name, data)
        except WireError as error:
            self._undecodable += 1
            joined.joining.counters.on(
                "layer_error", layer=self.name, operation="decode", error=error
            )
            return None
        stamp = joined.log.positions.stamp(decoded.log, decoded.position)
        if stamp is None:
            self._other_log += 1
            return None
        entry = decoded.entry
        entry.stamp = entry.checked = stamp
        return entry if entry.expires > joined.joining.runtime.now() else None

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        """The entries found."""
        found = {}
        for key in dict.fromkeys(keys):
            entry = self.get(key)
            if entry is not None:
                found[key] = entry
        return found

    # -- writing -------------------------------------------------------------------------------

    def set(self, key: Key, entry: Entry) -> None:
        """Keep the entry until its ``expires``, replacing any other.

        These are declined, so that nothing is under the key afterwards: an entry larger than `largest`,
        one that has expired, and one that was stamped in another log.

        Raises as `get` does, WireError for a value that cannot travel, and OSError.
        """
        joined = self._in_use()
        name = self._name(key)
        entries = self._opened(joined)
        data = None
        if entry.expires > joined.joining.runtime.now():
            data = self._encoded(joined, name, entry)
        if data is None or not entries.set(name, data, entry.expires):
            entries.delete(name)

    def _encoded(self, joined: _Joined, name: bytes, entry: Entry) -> bytes | None:
        """None if it must not be stored."""
        place = joined.log.positions.place(entry.stamp)
        if place is None:
            self._unplaced += 1
            return None
        log, position = place
        try:
            return joined.codec.encode(name, entry, position=position, log=log)
        except WireError as error:
            if "max_size" not in str(error):
                raise
            self._too_large += 1
            return None

    @property
    def largest(self) -> int:
        """Bytes of the largest entry that is ever kept."""
        joined = self._joined
        entries = Entries.largest_of(self._size, self._large)
        if joined is not None and self._entries is not None:
            entries = self._entries.largest
        return max(0, min(entries, MAX_SIZE) - _FRAME)

    def takes(self, key: Key, size: int, tags: tuple[str, ...] = ()) -> bool:  # noqa: ARG002
        """True if `set` would keep an entry of ``size`` bytes."""
        joined = self._joined
        return (
            joined is not None
            and size + sum(map(len, tags)) <= self.largest
            and joined.log.positions.log is not None
        )

    def delete(self, key: Key) -> bool:
        """Remove the key. True if there was an entry. Raises as `set` does."""
        return self._opened(self._in_use()).delete(self._name(key))

    def clear(self) -> None:
        """Remove every entry; the log and the leases stay. Raises as `set` does."""
        self._opened(self._in_use()).clear()

    # -- around --------------------------------------------------------------------------------

    def aclose(self) -> None:
        """Close the files of this process. Using the layer again opens them anew."""
        entries, self._entries = self._entries, None
        if entries is not None:
            entries.close()

    def forked(self) -> None:
        """This is the child of a fork."""
        joined = self._joined
        self.aclose()
        if joined is not None:
            joined.leases.forked()
            joined.log.forked()

    async def reports(self) -> tuple[list[dict[str, Any]], int]:
        """The statistics of the processes that use the folder; see `HostLog.reports`."""
        return await self._in_use().log.reports()

    def report_with(self, report: Callable[[], Mapping[str, Any]]) -> None:
        """``report``: the statistics of this process, for itself and for others that ask."""
        self._in_use().log.report = report

    def stats(self) -> Mapping[str, int | float]:
        """Since construction, in this process: ``hits``, ``misses``; of the misses, those ``undecodable``
        and those of an ``other_log``; of the writes declined, ``too_large`` and ``unplaced`` (stamped in
        another log). And what `Entries.stats` tells."""
        entries = self._entries
        return {
            "hits": self._hits,
            "misses": self._misses,
            "undecodable": self._undecodable,
            "other_log": self._other_log,
            "too_large": self._too_large,
            "unplaced": self._unplaced,
            **({} if entries is None else entries.stats()),
        }

    def _name(self, key: Key) -> bytes:
        # "a" and b"a" are two keys.
        data = b"s" + key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"b" + key
        return blake2b(data, digest_size=NAME_SIZE).digest()


def path_of(text: str) -> str | None:
    """What follows ``host`` in a URL: a path, the name of a namespace, or None. Raises ConfigError."""
    scheme, _, rest = text.partition(":")
    if scheme.lower() != "host" or (not rest and text.endswith(":")):
        raise ConfigError(
            f"shared must be 'host', 'host:/path' or 'host:name' for a folder of this machine, got {text!r}"
        )
    if rest.startswith("//"):
        if not rest.startswith("///"):
            raise ConfigError(
                f"a folder is on this machine, so a host: URL names no other, got {text!r};"
                " write host:/var/cache/shop"
            )
        rest = rest[2:]
    return rest or None


def from_url(url: str, *, namespace: str | None = None, **options: Any) -> HostLayer:
    """The layer for ``host``, ``host:/path`` or ``host:name``. ``namespace``: names the folder of a plain
    ``host``. Raises ConfigError."""
    options.pop("timeout", None)  # nothing here waits
    options.pop("connect_timeout", None)
    where = path_of(url)
    if where is not None and where.startswith("/"):
        return HostLayer(where, **options)
    if where is None and namespace != _NO_NAMESPACE:
        where = namespace
    return HostLayer(namespace=where, **options)


from_url.shown_url = str  # type: ignore[attr-defined] # see `layergate.layers.schemes`: nothing is secret


def _folder(path: str | os.PathLike[str] | None, namespace: str | None) -> Path:
    if path is not None:
        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"path must be a path, or None, got {path!r}")
        folder = Path(path)
        folders.check(folder)
        return folder
    if namespace is None:
        namespace = folders.default_namespace()
    if not isinstance(namespace, str) or folders.NAMESPACE.fullmatch(namespace) is None:
        raise ConfigError(
            f"namespace must be 1 to 64 letters, digits or any of _.-, got {namespace!r}"
        )
    place, reasons = folders.place_for(namespace)
    if place is None:
        raise LayerMissing(
            f"shared='host' finds no place for its folder: {'; '.join(reasons)};"
            " name one with shared='host:/path'"
        )
    return place


_layers: Final[weakref.WeakSet[HostLayer]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for layer in list(_layers):
        layer.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
