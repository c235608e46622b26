"""How entries and log records travel: versioned, data only, bounded, signed if there is a secret.

    blob      version (1 byte) | flags (1 byte) | MAC (16 bytes, if flagged) | payload
    payload   of an entry:  log, position, size, times (72 bytes) | msgpack [code, tags, value]
              of a record:  msgpack [time, kind, value, soft, kind, value, soft, ...]

The payload of an entry may be one zstd frame (flagged). The MAC is HMAC-SHA256, cut to 16 bytes,
over purpose, version, flags, key and payload as they are in the blob: a blob that is copied to
another key, or from an entry to the log, does not verify. With a secret nothing is looked at before
it verifies; whether a secret is used is decided by the configuration, never by the flag.

Values are plain data: None, bool, int (64 bits), float, str, bytes, list, tuple, dict, set,
frozenset, datetime; and the registered `ValueType`s. Every type comes back as itself. What msgpack
has no type for is a list that begins with a *marker* (an extension type): no bytes in bytes, and so
msgpack's own limits on nesting hold for all of it: from 511 (msgpack 1.1) to 1024 levels.

Without a secret, whoever can write to the shared system can put any plain data anywhere, and make
one decode build objects of some 80 times `max_size` bytes. No blob can do more than that: nothing
here is ever pickled or imported by name.

Both msgpack and zstd are optional installs: they are imported when a `Codec` is made.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib import import_module
from struct import Struct
from typing import Any, Final, NamedTuple, get_args

from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation, InvalidationKind, glob
from layergate.errors import ConfigError, KeyRefused, WireError

__all__ = [
    "FAR",
    "LOG_ID",
    "MAX_INVALIDATIONS",
    "MAX_INVALIDATION_LENGTH",
    "MAX_SIZE",
    "MAX_TAGS",
    "Codec",
    "Decoded",
    "ValueType",
]

VERSION: Final = 1
MAX_SIZE: Final = 16 * 1024 * 1024  # bytes
MAX_TAGS: Final = 4096  # of an entry; `max_tags` is 128 by default
MAX_INVALIDATIONS: Final = 1000  # of a record
MAX_INVALIDATION_LENGTH: Final = 8192  # characters
LOG_ID: Final = 16  # bytes
FAR: Final = 2.0**40
"""No time on the wire is further than this from 1970, in seconds: some 35,000 years."""

_ZSTD: Final = 1
_MAC: Final = 2
_MAC_SIZE: Final = 16
_LEAST_SECRET: Final = 16  # bytes
_MAX_TAG_TEXT: Final = 1024 * 1024  # characters, all tags of an entry together
# Lists are allocated at the length they declare, before their items are seen, and up to 1024 of them
# in each other: so this, and the length of the data, is the most that one may declare.
_MAX_ITEMS: Final = 1_000_000
_MAX_RECORD: Final = 64 + MAX_INVALIDATIONS * (16 + 4 * MAX_INVALIDATION_LENGTH)  # bytes
_SMALL: Final = 16 * 1024  # bytes; up to here a copy is quicker than a view

# log, position, size, created, fresh_until, stale_while_revalidate, stale_if_error, expires
_HEAD: Final = Struct("<16sQQ5d")
_HEAD_SIZE: Final = _HEAD.size

_KINDS: Final[tuple[InvalidationKind, ...]] = get_args(InvalidationKind)
_PLAIN: Final = 0  # the code of a value that is plain data
_STRUCTURE: Final = 0  # the extension type of the markers below; those of values have their codes


class ValueType(NamedTuple):
    """How values of one type go over the wire.

    ``code``: 1 to 127, the same for ever. ``type``: exactly this class, not its subclasses.
    ``pack`` makes plain data of a value and raises ValueError for one that `unpack` would refuse.
    ``unpack`` makes the value of plain data that anybody may have written, and raises ValueError
    for anything odd.
    """

    code: int
    type: type
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


class Decoded(NamedTuple):
    """An entry from the wire. Its ``stamp`` is 0: the layer sets it, from ``position`` (a position
    of the log whose incarnation is ``log``, 16 bytes)."""

    entry: Entry
    position: int
    log: bytes


class _Extended(Exception):
    """The data has a marker: it takes a `_Reader`."""


class _Marker:
    __slots__ = ("code", "name")

    def __init__(self, code: int, name: bytes) -> None:
        self.code = code
        self.name = name


class _Reader:
    """The hooks of one decoding, for data with markers.

    ``open`` counts markers whose list has not ended yet. A marker that is anything but the first
    item of a list stays open for ever, which gives it away.
    """

    __slots__ = ("open", "types")

    def __init__(self, types: dict[int, ValueType]) -> None:
        self.types = types
        self.open = 0

    def ext(self, code: int, data: bytes) -> _Marker:
        self.open += 1
        return _Marker(code, bytes(data))

    def list(self, items: list[Any]) -> Any:
        if not items or type(items[0]) is not _Marker:
            return items
        self.open -= 1
        code, name = items[0].code, items[0].name
        if code != _STRUCTURE:
            _, packed = items
            if name:
                raise WireError("a marker has a name it cannot have")
            return self.types[code].unpack(packed)
        del items[0]
        if name == b"t":
            return tuple(items)
        if name == b"d":
            (text,) = items
            return datetime.fromisoformat(text)
        made = {b"s": set, b"f": frozenset}[name](items)
        if len(made) != len(items):
            raise WireError("a set has an item twice")
        return made


def _no_markers(code: int, data: bytes) -> Any:  # noqa: ARG001 - msgpack's signature
    raise _Extended


class Codec:
    """Entries and log records to bytes and back. Safe to use from any number of threads.

    ``values``          the types that values may have beside plain data.
    ``secret``          at least 16 bytes (a str counts in UTF-8): what is not signed with it is
                        refused. None: nothing is signed, and what is signed is refused.
    ``compress_above``  an entry of more bytes is compressed, if that saves an eighth. None: none.
    ``max_size``        bytes of a payload, before compression; more is neither encoded nor decoded.

    Raises ConfigError: an option that cannot work, or a library that is not installed.
    """

    __slots__ = (
        "_by_code",
        "_by_type",
        "_compress",
        "_compress_above",
        "_decompressor",
        "_entry_mac",
        "_log_mac",
        "_markers",
        "_max_size",
        "_packer",
        "_record_mac",
        "_unpackb",
    )

    def __init__(
        self,
        values: Sequence[ValueType] = (),
        *,
        secret: str | bytes | None = None,
        compress_above: int | None = None,
        max_size: int = MAX_SIZE,
    ) -> None:
        try:
            # By name: nothing of it is used but these three, and none of them has types.
            msgpack: Any = import_module("msgpack")
        except ImportError as error:
            raise ConfigError(
                "a shared layer needs msgpack, which is not installed;"
                " run: pip install 'layergate[redis]'"
            ) from error
        _check_count("max_size", max_size, least=1)
        if compress_above is not None:
            _check_count("compress_above", compress_above, least=0)
        self._max_size = max_size
        self._compress_above = compress_above
        self._packer: Callable[..., Any] = msgpack.Packer
        self._unpackb: Callable[..., Any] = msgpack.unpackb
        ext: Callable[[int, bytes], Any] = msgpack.ExtType
        self._markers: dict[type, Any] = {
            tuple: ext(_STRUCTURE, b"t"),
            set: ext(_STRUCTURE, b"s"),
            frozenset: ext(_STRUCTURE, b"f"),
            datetime: ext(_STRUCTURE, b"d"),
        }
        self._by_code: dict[int, ValueType] = {}
        self._by_type: dict[type, ValueType] = {}
        for value in values:
            _check_value_type(value, self._by_code, self._by_type)
            self._by_code[value.code] = value
            self._by_type[value.type] = value
            self._markers[value.type] = ext(value.code, b"")
        self._compress, self._decompressor = _zstd(max_size)
        if compress_above is not None and self._compress is None:
            raise ConfigError(
                "compress_above needs zstd, which is not installed;"
                " run: pip install 'layergate[zstd]'"
            )
        self._entry_mac = self._record_mac = self._log_mac = None
        if secret is not None:
            key = _checked_secret(secret)
            self._entry_mac = hmac.new(key, b"layergate entry\0", "sha256")
            self._record_mac = hmac.new(key, b"layergate record\0", "sha256")
            self._log_mac = hmac.new(key, b"layergate log\0", "sha256")

    # -- entries -------------------------------------------------------------------------------

    def encode(self, key: bytes, entry: Entry, *, position: int, log: bytes) -> bytes:
        """The entry as bytes for ``key`` (what it is stored under; only those who ask under the
        same key can decode it, if there is a secret).

        ``position``: its stamp, as a position (0 to 2**64 - 1) in the log of incarnation ``log``.
        Raises WireError for a value, a tag or a time that cannot travel, and for too many bytes.
        """
        try:
            times = (
                entry.created,
                # (What a soft purge made stale is made so anew by its mark, wherever it is read.)
                entry.stale_from,
                entry.stale_while_revalidate,
                entry.stale_if_error,
                entry.expires,
            )
            _check_times(*times)
            _check_tags(entry.tags)
            _check_log(log)
            head = _HEAD.pack(log, position, entry.size, *times)
            value = entry.value
            known = self._by_type.get(type(value))
            document = (
                [_PLAIN, list(entry.tags), value]
                if known is None
                else [known.code, list(entry.tags), known.pack(value)]
            )
            body = self._pack(document, min(entry.size, self._max_size) + 1024)
        except WireError:
            raise
        except Exception as error:
            # Whatever a value's own `pack` raises, or msgpack: OverflowError, RecursionError, ...
            raise WireError(_unencodable(error)) from error
        size = _HEAD_SIZE + len(body)
        if size > self._max_size:
            raise WireError(f"an entry of {size} bytes is above max_size, {self._max_size} bytes")
        flags = 0
        parts: tuple[Any, ...] = (head, body)
        if self._compress_above is not None and size > self._compress_above:
            frame = self._compress(b"".join(parts))
            if len(frame) < size - size // 8:
                flags, parts = _ZSTD, (frame,)
        return _sealed(self._entry_mac, key, flags, parts)

    def decode(self, key: bytes, data: bytes) -> Decoded:
        """What `encode` made for ``key``.

        Raises WireError, and nothing else, whatever the bytes are.
        """
        try:
            payload, compressed = _opened(self._entry_mac, key, data, self._max_size)
            if compressed:
                payload = self._decompressed(payload)
            (
                log, position, size,
                created, fresh_until, stale_while_revalidate, stale_if_error, expires,
            ) = _HEAD.unpack_from(payload)  # fmt: skip
            _check_times(created, fresh_until, stale_while_revalidate, stale_if_error, expires)
            code, tags, value = self._unpack(payload[_HEAD_SIZE:])
            if type(code) is not int:
                raise WireError("the code of a value is no integer")
            if code != _PLAIN:
                value = self._by_code[code].unpack(value)
            if tags:
                _check_tags(tags)
            elif tags != []:
                raise WireError("the tags are no list")
            if 0 < size < len(payload) // 2:
                size = len(payload)  # nothing takes less of a memory layer's budget than it holds
            entry = Entry(
                value,
                created=created,
                fresh_until=fresh_until,
                stale_while_revalidate=stale_while_revalidate,
                stale_if_error=stale_if_error,
                expires=expires,
                tags=tuple(tags),
                size=size,
            )
        except WireError:
            raise
        except Exception as error:
            raise WireError(_undecodable(error)) from None
        return Decoded(entry, position, log)

    # -- records of the log --------------------------------------------------------------------

    def encode_record(
        self, log: bytes, invalidations: tuple[Invalidation, ...], time: float
    ) -> bytes:
        """A record of the log of incarnation ``log`` (16 bytes): ``marks`` made at ``time``
        (seconds since the epoch), 1000 at most.

        A key or prefix of more than 8192 characters becomes a shorter prefix, which purges no less.
        Raises WireError for any other mark that long, for too many, and for an odd one.
        """
        try:
            _check_log(log)
            if len(invalidations) > MAX_INVALIDATIONS:
                raise WireError(
                    f"a record holds at most {MAX_INVALIDATIONS} marks, got {len(invalidations)};"
                    " make several records of them"
                )
            document: list[Any] = [float(time)]
            for invalidation in invalidations:
                kind, value, soft = invalidation
                if kind in ("key", "prefix") and len(value) > MAX_INVALIDATION_LENGTH:
                    kind, value = "prefix", value[:MAX_INVALIDATION_LENGTH]
                document += _KINDS.index(kind), value, bool(soft)
            _read_record(document)
            body = self._pack(document, 1024)
        except WireError:
            raise
        except Exception as error:
            raise WireError(_unencodable(error)) from error
        return _sealed(self._record_mac, log, 0, (body,))

    def decode_record(self, log: bytes, data: bytes) -> tuple[tuple[Invalidation, ...], float]:
        """The marks and the time of a record of the log of incarnation ``log``.

        `Invalidations.apply` takes these marks without an error. Raises WireError, and nothing else.
        """
        try:
            payload, compressed = _opened(self._record_mac, log, data, _MAX_RECORD)
            if compressed:
                raise WireError("a record is compressed")
            return _read_record(
                self._unpackb(
                    payload,
                    max_array_len=1 + 3 * MAX_INVALIDATIONS,
                    max_map_len=0,
                    max_ext_len=0,
                    max_str_len=4 * MAX_INVALIDATION_LENGTH,
                    max_bin_len=0,
                    unicode_errors="surrogatepass",
                )
            )
        except WireError:
            raise
        except Exception as error:
            raise WireError(_undecodable(error)) from None

    def seal(self, log: bytes) -> bytes:
        """What shows that the incarnation ``log`` was made by who knows the secret; b"" without one."""
        if self._log_mac is None:
            return b""
        mac = self._log_mac.copy()
        mac.update(log)
        return mac.digest()[:_MAC_SIZE]

    def sealed(self, log: bytes, seal: bytes) -> bool:
        """Is this the `seal` of ``log``? Without a secret nobody can tell, so it is."""
        return self._log_mac is None or hmac.compare_digest(self.seal(log), seal)

    # -- inside --------------------------------------------------------------------------------

    def _pack(self, document: list[Any], size: int) -> Any:
        """``document`` as msgpack (a buffer). ``size``: what it will probably need, in bytes."""
        try:
            packer = self._packer(
                default=self._mark, strict_types=True, buf_size=size, autoreset=False
            )
            packer.pack(document)
        except UnicodeEncodeError:
            # Lone surrogates: tags from headers may have them. Rare, and slower for every str.
            packer = self._packer(
                default=self._mark,
                strict_types=True,
                buf_size=size,
                autoreset=False,
                unicode_errors="surrogatepass",
            )
            packer.pack(document)
        return packer.getbuffer()

    def _mark(self, value: Any) -> list[Any]:
        """What msgpack cannot pack, as a list with a marker."""
        kind = type(value)
        marker = self._markers.get(kind)
        if marker is None:
            if kind is int:
                raise WireError("an int of more than 64 bits cannot be shared; store it as a str")
            raise WireError(
                f"a value of type {kind.__module__}.{kind.__qualname__} cannot be shared;"
                " store plain data (None, bool, int, float, str, bytes, list, tuple, dict, set,"
                " datetime) made of it"
            )
        if kind is datetime:
            if value.tzinfo is not None and type(value.tzinfo) is not timezone:
                raise WireError(
                    "a datetime with a named time zone cannot be shared;"
                    " store value.astimezone(datetime.UTC)"
                )
            return [marker, value.isoformat()]
        known = self._by_type.get(kind)
        return [marker, *value] if known is None else [marker, known.pack(value)]

    def _unpack(self, data: Any) -> Any:
        """The document that the msgpack ``data`` holds. Raises anything."""
        unpackb = self._unpackb
        items = min(len(data), _MAX_ITEMS)
        try:
            return unpackb(
                data,
                ext_hook=_no_markers,
                timestamp=3,
                strict_map_key=False,
                unicode_errors="surrogatepass",
                max_array_len=items,
                max_map_len=items,
            )
        except _Extended:
            pass
        reader = _Reader(self._by_code)
        document = unpackb(
            data,
            ext_hook=reader.ext,
            list_hook=reader.list,
            timestamp=3,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            max_array_len=items,
            max_map_len=items,
        )
        if reader.open:
            raise WireError("a marker is not at the beginning of a list")
        return document

    def _decompressed(self, frame: Any) -> bytes:
        """At most ``max_size`` bytes, whatever the frame says of itself. Raises anything."""
        if self._decompressor is None:
            raise WireError("compressed, and zstd is not installed: pip install 'layergate[zstd]'")
        decompressor = self._decompressor()
        payload: bytes = decompressor.decompress(frame, self._max_size + 1)
        if len(payload) > self._max_size:
            raise WireError("larger than max_size when decompressed")
        if not decompressor.eof or decompressor.unused_data:
            raise WireError("not exactly one zstd frame")
        return payload


def _sealed(mac: hmac.HMAC | None, key: bytes, flags: int, parts: tuple[Any, ...]) -> bytes:
    if mac is None:
        return b"".join((bytes((VERSION, flags)), *parts))
    flags |= _MAC
    return b"".join((bytes((VERSION, flags)), _signature(mac, key, flags, *parts), *parts))


def _signature(mac: hmac.HMAC, key: bytes, flags: int, *parts: Any) -> bytes:
    state = mac.copy()
    # The length first, so that no byte of the key can pass for one of the payload.
    state.update(b"%c%c%d:%b" % (VERSION, flags, len(key), key))
    for part in parts:
        state.update(part)
    return state.digest()[:_MAC_SIZE]


def _opened(mac: hmac.HMAC | None, key: bytes, data: bytes, max_size: int) -> tuple[Any, int]:
    """The payload of a blob, and whether it is compressed. Raises WireError, or IndexError."""
    if data[0] != VERSION:
        raise WireError(f"format version {data[0]} is not known here")
    flags = data[1]
    if flags & ~(_ZSTD | _MAC):
        raise WireError("unknown flags")
    start = 2
    if mac is not None:
        if not flags & _MAC:
            raise WireError("not signed")
        start += _MAC_SIZE
    elif flags & _MAC:
        raise WireError("signed, and there is no secret to verify it with")
    if len(data) - start > max_size:
        raise WireError("larger than max_size")
    payload: Any = data[start:] if len(data) <= _SMALL else memoryview(data)[start:]
    if mac is not None and not hmac.compare_digest(
        _signature(mac, key, flags, payload), data[2:start]
    ):
        raise WireError("the signature is not that of this data under this key")
    return payload, flags & _ZSTD


def _read_record(document: Any) -> tuple[tuple[Invalidation, ...], float]:
    """Raises WireError, and anything for what is no list at all."""
    time, *flat = document
    if type(time) is not float or not -FAR <= time <= FAR:
        raise WireError("the time of a record is no finite number of seconds")
    if len(flat) % 3 or len(flat) > 3 * MAX_INVALIDATIONS:
        raise WireError("the marks are not so many triples")
    invalidations = []
    for at in range(0, len(flat), 3):
        code, value, soft = flat[at : at + 3]
        if type(code) is not int or not 0 <= code < len(_KINDS):
            raise WireError("a mark is of an unknown kind")
        if type(value) is not str or len(value) > MAX_INVALIDATION_LENGTH or type(soft) is not bool:
            raise WireError("a mark is malformed, or too long")
        kind = _KINDS[code]
        if kind in ("glob", "path"):
            try:
                glob(value)
            except KeyRefused as error:
                raise WireError(f"a mark cannot be applied: {error}") from None
        invalidations.append(Invalidation(kind, value, soft))
    return tuple(invalidations), time


def _check_times(
    created: float,
    fresh_until: float,
    stale_while_revalidate: float,
    stale_if_error: float,
    expires: float,
) -> None:
    # Written so that NaN fails too.
    if not (
        -FAR <= created <= FAR
        and -FAR <= fresh_until <= FAR
        and 0.0 <= stale_while_revalidate <= FAR
        and 0.0 <= stale_if_error <= FAR
        and -FAR <= expires <= FAR
    ):
        raise WireError("a time is not finite, or a window is negative")


def _check_tags(tags: Any) -> None:
    # join: the quickest way to see that all of them are str, and how long they are together.
    if (
        type(tags) not in (list, tuple)
        or len(tags) > MAX_TAGS
        or len("".join(tags)) > _MAX_TAG_TEXT
    ):
        raise WireError("the tags are malformed, too many or too long")


def _check_log(log: bytes) -> None:
    if len(log) != LOG_ID:
        raise WireError(f"the id of a log is {LOG_ID} bytes, got {len(log)}")


def _unencodable(error: Exception) -> str:
    if isinstance(error, OverflowError):
        return "an int of more than 64 bits cannot be shared; store it as a str"
    if isinstance(error, RecursionError) or "recursion" in str(error):
        return "a value is nested too deeply to be shared (hundreds of levels)"
    return f"cannot be shared: {type(error).__name__}: {error}"


def _undecodable(error: Exception) -> str:
    # Nothing of the data, and no cause: msgpack's errors hold all that they have read.
    if isinstance(error, KeyError):
        return "a value of a type that is not known here"
    return f"not readable ({type(error).__name__})"


def _zstd(max_size: int) -> tuple[Any, Any]:
    """What compresses, and what makes a decompressor; Nones if there is no zstd."""
    for name in ("compression.zstd", "backports.zstd"):  # the former since Python 3.14
        try:
            zstd = import_module(name)
        except ImportError:
            continue
        # A frame says how much memory it wants for its window: as much as `max_size` at most.
        window = min(max((max_size - 1).bit_length(), 10), 27)  # what zstd takes without asking
        options = {zstd.DecompressionParameter.window_log_max: window}
        return zstd.compress, partial(zstd.ZstdDecompressor, options=options)
    return None, None


def _check_count(option: str, value: Any, *, least: int) -> None:
    if type(value) is not int or value < least:
        raise ConfigError(f"{option} must be an integer >= {least} (bytes), got {value!r}")


def _check_value_type(
    value: ValueType, by_code: dict[int, ValueType], by_type: dict[type, ValueType]
) -> None:
    if type(value.code) is not int or not 1 <= value.code <= 127:
        raise ConfigError(f"code must be 1 to 127, got {value.code!r} for {value.type!r}")
    if value.code in by_code:
        raise ConfigError(
            f"code {value.code} is given to {by_code[value.code].type!r} and {value.type!r};"
            " give each type a code of its own"
        )
    if value.type in by_type or value.type in _NATIVE:
        raise ConfigError(f"type {value.type!r} has a code already; leave one of them out")


_NATIVE: Final = frozenset(
    {type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime}
)


def _checked_secret(secret: Any) -> bytes:
    key = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(key, bytes) or len(key) < _LEAST_SECRET:
        raise ConfigError(
            f"secret must be a str or bytes of at least {_LEAST_SECRET} bytes;"
            " python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
        )
    return key
