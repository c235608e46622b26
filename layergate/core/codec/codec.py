"""`Codec`: what shared layers turn entries and log records into bytes with. See the package."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from layergate.core.codec.blobs import MAC_SIZE, ZSTD, checked_secret, open_blob, seal_blob
from layergate.core.codec.compression import Zstd
from layergate.core.codec.entries import HEAD, check_log, check_tags, check_times
from layergate.core.codec.records import (
    MAX_INVALIDATION_LENGTH,
    MAX_ITEMS,
    MAX_RECORD,
    read_record,
    record_document,
)
from layergate.core.codec.values import PLAIN, ValuePacker, ValueType
from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation
from layergate.errors import ConfigError, WireError

__all__ = ["MAX_SIZE", "Codec", "Decoded"]

MAX_SIZE: Final = 16 * 1024 * 1024
"""Bytes of a payload, by default."""

_HEAD_SIZE: Final = HEAD.size


class Decoded(NamedTuple):
    """An entry that was decoded.

    ``entry``     its ``stamp`` is 0; the layer sets it, from ``position``.
    ``position``  a position of the log whose incarnation is ``log`` (16 bytes).
    """

    entry: Entry
    position: int
    log: bytes


class Codec:
    """Entries and log records to bytes and back. Safe to use from any number of threads.

    ``values``          the types that values may have beside plain data.
    ``secret``          at least 16 bytes (a str is encoded as UTF-8). Data that is not signed with
                        it is refused. None: nothing is signed, and signed data is refused.
    ``compress_above``  bytes. A larger entry is compressed if that saves at least an eighth. None:
                        no entry is compressed.
    ``max_size``        bytes of a payload before compression. A larger one is neither encoded nor
                        decoded.

    Raises ConfigError for an option that cannot work, or a library that is not installed.
    """

    __slots__ = (
        "_compress_above",
        "_entry_mac",
        "_log_mac",
        "_max_size",
        "_record_mac",
        "_values",
        "_zstd",
    )

    def __init__(
        self,
        values: Sequence[ValueType] = (),
        *,
        secret: str | bytes | None = None,
        compress_above: int | None = None,
        max_size: int = MAX_SIZE,
    ) -> None:
        self._values = ValuePacker(values)
        _check_bytes("max_size", max_size, least=1)
        if compress_above is not None:
            _check_bytes("compress_above", compress_above, least=0)
        self._max_size = max_size
        self._compress_above = compress_above
        self._zstd = Zstd(max_size)
        if compress_above is not None and self._zstd.compress is None:
            raise ConfigError(
                "compress_above needs zstd, which is not installed;"
                " run: pip install 'layergate[zstd]'"
            )
        self._entry_mac = self._record_mac = self._log_mac = None
        if secret is not None:
            key = checked_secret(secret)
            self._entry_mac = hmac.new(key, b"layergate entry\0", "sha256")
            self._record_mac = hmac.new(key, b"layergate record\0", "sha256")
            self._log_mac = hmac.new(key, b"layergate log\0", "sha256")

    # -- entries -------------------------------------------------------------------------------

    def encode(self, key: bytes, entry: Entry, *, position: int, log: bytes) -> bytes:
        """The entry as bytes.

        ``key``       what the entry is stored under. With a secret, only a reader that passes the
                      same key can decode it.
        ``position``  the stamp of the entry, as a position (0 to 2**64 - 1) of the log whose
                      incarnation is ``log`` (16 bytes).

        Raises WireError for a value, a tag or a time that cannot travel, and for an entry over
        ``max_size``.
        """
        try:
            times = (
                entry.created,
                # Not the 0 that a soft purge may have set: readers apply that purge themselves.
                entry.stale_from,
                entry.stale_while_revalidate,
                entry.stale_if_error,
                entry.expires,
            )
            check_times(*times)
            check_tags(entry.tags)
            check_log(log)
            head = HEAD.pack(log, position, entry.size, *times)
            value = entry.value
            known = self._values.by_type.get(type(value))
            document = (
                [PLAIN, list(entry.tags), value]
                if known is None
                else [known.code, list(entry.tags), known.pack(value)]
            )
            body = self._values.pack(document, min(entry.size, self._max_size) + 1024)
        except WireError:
            raise
        except Exception as error:
            # Raised by the `pack` of a value, or by msgpack: OverflowError, RecursionError, ...
            raise WireError(_unencodable(error)) from error
        size = _HEAD_SIZE + len(body)
        if size > self._max_size:
            raise WireError(f"an entry of {size} bytes is above max_size, {self._max_size} bytes")
        flags = 0
        parts: tuple[Any, ...] = (head, body)
        if self._compress_above is not None and size > self._compress_above:
            assert self._zstd.compress is not None
            frame = self._zstd.compress(b"".join(parts))
            if len(frame) < size - size // 8:
                flags, parts = ZSTD, (frame,)
        return seal_blob(self._entry_mac, key, flags, parts)

    def decode(self, key: bytes, data: bytes) -> Decoded:
        """The entry that `encode` wrote for ``key``.

        Raises WireError, and no other exception, whatever the bytes are.
        """
        try:
            payload, compressed = open_blob(self._entry_mac, key, data, self._max_size)
            if compressed:
                payload = self._zstd.decompress(payload)
            (
                log, position, size,
                created, fresh_until, stale_while_revalidate, stale_if_error, expires,
            ) = HEAD.unpack_from(payload)  # fmt: skip
            check_times(created, fresh_until, stale_while_revalidate, stale_if_error, expires)
            code, tags, value = self._values.unpack(payload[_HEAD_SIZE:])
            if type(code) is not int:
                raise WireError("the code of a value is not an integer")
            if code != PLAIN:
                value = self._values.by_code[code].unpack(value)
            if tags:
                check_tags(tags)
            elif tags != []:
                raise WireError("the tags are not a list")
            if 0 < size < len(payload) // 2:
                # A memory layer charges at least what the entry holds, whatever size is declared.
                size = len(payload)
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
        """A record of the log whose incarnation is ``log`` (16 bytes), made at ``time`` (seconds
        since the epoch), with at most 1000 invalidations.

        A key or prefix of more than 8192 characters becomes a shorter prefix, which purges no less.
        Raises WireError for any other invalidation that long, for too many of them, and for a
        malformed one.
        """
        try:
            check_log(log)
            body = self._values.pack(record_document(invalidations, time), 1024)
        except WireError:
            raise
        except Exception as error:
            raise WireError(_unencodable(error)) from error
        return seal_blob(self._record_mac, log, 0, (body,))

    def decode_record(self, log: bytes, data: bytes) -> tuple[tuple[Invalidation, ...], float]:
        """The invalidations and the time of a record of the log whose incarnation is ``log``.

        `Invalidations.apply` accepts them. Raises WireError, and no other exception.
        """
        try:
            payload, compressed = open_blob(self._record_mac, log, data, MAX_RECORD)
            if compressed:
                raise WireError("a record is compressed")
            return read_record(
                self._values.unpack_flat(
                    payload, max_items=MAX_ITEMS, max_text=4 * MAX_INVALIDATION_LENGTH
                )
            )
        except WireError:
            raise
        except Exception as error:
            raise WireError(_undecodable(error)) from None

    def seal(self, log: bytes) -> bytes:
        """Proof that the incarnation ``log`` was made by a process that knows the secret (16
        bytes); b"" without a secret."""
        if self._log_mac is None:
            return b""
        mac = self._log_mac.copy()
        mac.update(log)
        return mac.digest()[:MAC_SIZE]

    def sealed(self, log: bytes, seal: bytes) -> bool:
        """Whether ``seal`` is the `seal` of ``log``. Always True without a secret."""
        return self._log_mac is None or hmac.compare_digest(self.seal(log), seal)


def _unencodable(error: Exception) -> str:
    if isinstance(error, OverflowError):
        return "an int of more than 64 bits cannot be shared; store it as a str"
    if isinstance(error, RecursionError) or "recursion" in str(error):
        return "a value is nested too deeply to be shared (hundreds of levels)"
    return f"a value cannot be shared: {type(error).__name__}: {error}"


def _undecodable(error: Exception) -> str:
    # Without the data and without a cause: the errors of msgpack hold all that was read.
    if isinstance(error, KeyError):
        return "a value has a type that is not known here"
    return f"the data is not readable ({type(error).__name__})"


def _check_bytes(option: str, value: Any, *, least: int) -> None:
    if type(value) is not int or value < least:
        raise ConfigError(f"{option} must be an integer >= {least} (bytes), got {value!r}")
