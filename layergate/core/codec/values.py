"""Values as msgpack: plain data, and the types that are registered as `ValueType`.

Plain data is None, bool, int (64 bits), float, str, bytes, list, tuple, dict, set, frozenset and
datetime. Every type comes back as itself. A type that msgpack does not have becomes a list that
begins with a *marker*, a msgpack extension type. No value is packed into bytes inside bytes, so the
limits of msgpack on nesting (511 levels in msgpack 1.1, 1024 in others) hold for the whole
document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import import_module
from typing import Any, Final, NamedTuple

from layergate.errors import ConfigError, WireError

__all__ = ["PLAIN", "ValuePacker", "ValueType"]

PLAIN: Final = 0
"""The code of a value that is plain data."""

_STRUCTURE: Final = 0  # the extension type of the markers for tuple, set, frozenset and datetime
# msgpack allocates a list at the length that it declares, before its items are read, and up to 1024
# lists inside each other. So a list may declare no more items than this, and no more than the data
# has bytes.
_MAX_ITEMS: Final = 1_000_000

_NATIVE: Final = frozenset(
    {type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime}
)


class ValueType(NamedTuple):
    """How values of one type travel.

    ``code``    1 to 127. It must never change.
    ``type``    exactly this class; its subclasses are not included.
    ``pack``    makes plain data of a value. Raises ValueError for a value that ``unpack`` would
                refuse.
    ``unpack``  makes the value of plain data. The data may be hostile: raises ValueError unless it
                is exactly what ``pack`` writes.
    """

    code: int
    type: type
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


class ValuePacker:
    """Documents (lists of values) to msgpack and back. ``values``: the types beside plain data.

    Raises ConfigError if msgpack is not installed, or if two types share a code or a class.
    """

    __slots__ = ("_markers", "_packer", "_unpackb", "by_code", "by_type")

    def __init__(self, values: Sequence[ValueType]) -> None:
        try:
            # By name, because msgpack has no annotations; only the three names below are used.
            msgpack: Any = import_module("msgpack")
        except ImportError as error:
            raise ConfigError(
                "a shared layer needs msgpack, which is not installed; run: pip install msgpack"
            ) from error
        self._packer: Callable[..., Any] = msgpack.Packer
        self._unpackb: Callable[..., Any] = msgpack.unpackb
        ext: Callable[[int, bytes], Any] = msgpack.ExtType
        self._markers: dict[type, Any] = {
            tuple: ext(_STRUCTURE, b"t"),
            set: ext(_STRUCTURE, b"s"),
            frozenset: ext(_STRUCTURE, b"f"),
            datetime: ext(_STRUCTURE, b"d"),
        }
        self.by_code: dict[int, ValueType] = {}
        self.by_type: dict[type, ValueType] = {}
        for value in values:
            _check_value_type(value, self.by_code, self.by_type)
            self.by_code[value.code] = value
            self.by_type[value.type] = value
            self._markers[value.type] = ext(value.code, b"")

    def pack(self, document: list[Any], size: int) -> Any:
        """``document`` as msgpack, in a buffer. ``size``: about how many bytes it will take.

        Raises WireError for a value that cannot travel, and whatever msgpack raises.
        """
        try:
            packer = self._packer(
                default=self._marked, strict_types=True, buf_size=size, autoreset=False
            )
            packer.pack(document)
        except UnicodeEncodeError:
            # Lone surrogates, which tags from header fields may have. They are rare, and this way
            # is slower for every str.
            packer = self._packer(
                default=self._marked,
                strict_types=True,
                buf_size=size,
                autoreset=False,
                unicode_errors="surrogatepass",
            )
            packer.pack(document)
        return packer.getbuffer()

    def _marked(self, value: Any) -> list[Any]:
        """A value that msgpack cannot pack, as a list that begins with a marker."""
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
        known = self.by_type.get(kind)
        return [marker, *value] if known is None else [marker, known.pack(value)]

    def unpack(self, data: Any) -> Any:
        """The document in the msgpack ``data``. May raise any exception."""
        unpackb = self._unpackb
        items = min(len(data), _MAX_ITEMS)
        try:
            return unpackb(
                data,
                ext_hook=_refuse_markers,
                timestamp=3,
                strict_map_key=False,
                unicode_errors="surrogatepass",
                max_array_len=items,
                max_map_len=items,
            )
        except _HasMarkers:
            pass
        reader = _MarkerReader(self.by_code)
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

    def unpack_flat(self, data: Any, *, max_items: int, max_text: int) -> Any:
        """The same for a list of at most ``max_items`` numbers and texts of at most ``max_text``
        bytes each. May raise any exception."""
        return self._unpackb(
            data,
            max_array_len=max_items,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=max_text,
            max_bin_len=0,
            unicode_errors="surrogatepass",
        )


class _HasMarkers(Exception):
    """The data has a marker, so it takes a `_MarkerReader`, which is slower."""


def _refuse_markers(code: int, data: bytes) -> Any:  # noqa: ARG001 - msgpack's signature
    raise _HasMarkers


class _Marker:
    __slots__ = ("code", "name")

    def __init__(self, code: int, name: bytes) -> None:
        self.code = code
        self.name = name


class _MarkerReader:
    """The msgpack hooks for one document with markers.

    ``open``: how many markers are in a list that has not ended yet. A marker that is not the first
    item of a list stays open forever, which gives it away.
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
                raise WireError("a marker has a name that it must not have")
            return self.types[code].unpack(packed)
        del items[0]
        if name == b"t":
            return tuple(items)
        if name == b"d":
            (text,) = items
            return datetime.fromisoformat(text)
        made = {b"s": set, b"f": frozenset}[name](items)
        if len(made) != len(items):
            raise WireError("a set has the same item twice")
        return made


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
        raise ConfigError(f"type {value.type!r} has a code already; remove one of the two")
