"""Pack the values of the HTTP cache into plain data for `core.codec`, and unpack them with checks.

`assembly` passes `VALUES` to the codec of each shared layer. The bytes that come back are untrusted, so
every unpacked value is safe to send to a client. Each header line is a single line with a valid name. No
line frames a message or is otherwise never stored, and none sets a cookie unless the entry has the flag
for it. A body is as long as its Content-Length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from layergate.core.codec import FAR, ValueType
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.extensions.no_vary_search import MAX_FIELD, MAX_PARAMS, SearchVariance
from layergate.http.message.cache_control import LAYERGATE_CONTROL
from layergate.http.message.fields import Line
from layergate.http.message.stored import Part, PartialResponse, StoredResponse
from layergate.http.rfc9111.combining import MAX_PARTS
from layergate.http.rfc9111.storing import NEVER_STORED_FIELDS, NotStored

__all__ = ["VALUES"]

# status, flags, generated, response_time, request_time
_HEAD: Final = Struct("<HB3d")
_NO_CACHE: Final = 1
_MUST_REVALIDATE: Final = 2
_WITHOUT_CREDENTIALS_ONLY: Final = 4
_SHARED_WITH_AUTHORIZATION: Final = 8
_SHARED_WITH_USERS: Final = 16
_IMMUTABLE: Final = 32
_SETS_COOKIES: Final = 64
_RELOADED: Final = 128
_FLAGS: Final = 255
_OF_WHOLES: Final = frozenset({b"content-length", b"content-range"})
_LONGEST: Final = 10**18  # octets of a representation

_REASONS: Final = {reason.token: reason for reason in NotStored}

_MAX_LINES: Final = 1000
_MAX_NAME_SETS: Final = 64
_MAX_NAMES: Final = 256  # of a set
_MAX_VARIANTS: Final = 10_000  # `max_variants` is 32 by default
_MAX_WITNESSES: Final = 64
_WITNESS: Final = 16  # bytes
_MAX_KEY: Final = 1024 * 1024  # bytes; `max_key_length` is 8192 by default

_MEMO: Final = 2048  # lines
_MEMO_LINE: Final = 160  # bytes

# RFC 9110 5.1 (token, in lower case) and 5.5: no field value may contain CR, LF or NUL.
_TOKEN: Final[Callable[[bytes], object]] = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_TRACEPARENT: Final[Callable[[str], object]] = re.compile(
    r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch
_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9a-z]+):([^\r\n\0]*)").fullmatch


# LayerGate never stores these fields, so an entry that has one was written by something else.
_NEVER: Final = NEVER_STORED_FIELDS
_COOKIES: Final = frozenset({b"set-cookie", b"set-cookie2"})


class _Lines(dict[bytes, Line]):
    """A memo from a packed line to (name, value), for lines that HTTP allows.

    Most responses have the same lines, which are then checked once and stored once. This is safe
    without a lock: each step is one dict operation, and a lost line is parsed again.
    """

    __slots__ = ()

    def __missing__(self, written: bytes) -> Line:
        match = _LINE(written)
        if match is None:
            raise ValueError("a header line is malformed")
        line: Line = match.groups()  # type: ignore[assignment]
        if line[0] in _NEVER:
            raise ValueError("a header line that is never stored")
        if len(written) <= _MEMO_LINE:
            if len(self) >= _MEMO:
                self.clear()  # lines with dates come and go; common lines soon return
            self[written] = line
        return line


_lines: Final = _Lines()


def _read_lines(block: bytes) -> list[Line]:
    if not block:
        return []
    written = block.split(b"\n", _MAX_LINES)
    if len(written) > _MAX_LINES:
        raise ValueError("too many header lines")
    lines = _lines
    return [lines[line] for line in written]


def _check_length(lines: list[Line], length: int) -> None:
    for value in [value for name, value in lines if name == b"content-length"]:
        if not value.isdigit() or len(value) > 18 or int(value) != length:
            raise ValueError("a body is not as long as its Content-Length says")


def _pack_response(stored: StoredResponse) -> list[Any]:
    times = stored.generated, stored.response_time, stored.request_time
    _check_head(stored.status, *times)
    block = b"\n".join([b"%b:%b" % line for line in stored.lines])
    # Read it back before writing it, so that no line break or colon can turn it into other lines.
    lines = _read_lines(block)
    if lines != list(stored.lines):
        raise ValueError("a header line is malformed")
    _check_length(lines, len(stored.body))
    flags = (
        (_NO_CACHE if stored.no_cache else 0)
        | (_MUST_REVALIDATE if stored.must_revalidate else 0)
        | (_WITHOUT_CREDENTIALS_ONLY if stored.without_credentials_only else 0)
        | (_SHARED_WITH_AUTHORIZATION if stored.shared_with_authorization else 0)
        | (_SHARED_WITH_USERS if stored.shared_with_users else 0)
        | (_IMMUTABLE if stored.immutable else 0)
        | (_RELOADED if stored.reloaded else 0)
        | (_SETS_COOKIES if _sets_cookies(lines) else 0)
    )
    packed: list[Any] = [_HEAD.pack(stored.status, flags, *times), block, stored.body]
    traceparent = None if stored.traceparent is None else _traceparent(stored.traceparent)
    if stored.own is not None:
        packed += (traceparent, _own(stored.own))
    elif traceparent is not None:
        packed.append(traceparent)
    return packed


def _unpack_response(packed: Any) -> StoredResponse:
    # The rest is optional: the trace context of the fetch, then LayerGate-Cache-Control. If only the
    # latter is present, nil takes the place of the former.
    head, block, body, *rest = packed
    if len(rest) > 2:
        raise ValueError("a response has unknown parts")
    traceparent, own = (*rest, None, None)[:2]
    if len(rest) == 1 and traceparent is None:
        raise ValueError("a trace context is malformed")
    if type(head) is not bytes or type(block) is not bytes or type(body) is not bytes:
        raise ValueError("a response is not made of bytes")
    status, flags, generated, response_time, request_time = _HEAD.unpack(head)
    _check_head(status, generated, response_time, request_time)
    if flags > _FLAGS:
        raise ValueError("a response has unknown flags")
    lines = _read_lines(block)
    if _sets_cookies(lines) != (flags & _SETS_COOKIES != 0):
        raise ValueError("a header line that is never stored")
    _check_length(lines, len(body))
    return StoredResponse(
        status,
        lines,
        body,
        generated=generated,
        response_time=response_time,
        request_time=request_time,
        no_cache=flags & _NO_CACHE != 0,
        must_revalidate=flags & _MUST_REVALIDATE != 0,
        without_credentials_only=flags & _WITHOUT_CREDENTIALS_ONLY != 0,
        shared_with_authorization=flags & _SHARED_WITH_AUTHORIZATION != 0,
        shared_with_users=flags & _SHARED_WITH_USERS != 0,
        immutable=flags & _IMMUTABLE != 0,
        reloaded=flags & _RELOADED != 0,
        traceparent=None if traceparent is None else _traceparent(traceparent),
        own=_own(own) if len(rest) == 2 else None,
    )


def _sets_cookies(lines: list[Line]) -> bool:
    return any(name in _COOKIES for name, _ in lines)


def _traceparent(text: Any) -> str:
    """W3C Trace Context 3.2, version 00, checked because a shared layer is untrusted."""
    if type(text) is not str or not _TRACEPARENT(text):
        raise ValueError("a trace context is malformed")
    return text


def _own(value: Any) -> bytes:
    """A field value, checked like any other (RFC 9110 5.5), although it is not sent."""
    if type(value) is not bytes or not _LINE(b"%b:%b" % (LAYERGATE_CONTROL, value)):
        raise ValueError("a header line is malformed")
    return value


def _check_head(status: int, generated: float, response_time: float, request_time: float) -> None:
    # Written so that NaN fails too.
    if not (
        100 <= status <= 999
        and -FAR <= generated <= FAR
        and -FAR <= response_time <= FAR
        and -FAR <= request_time <= FAR
    ):
        raise ValueError("a status code or a time is out of range")


def _pack_partial(stored: PartialResponse) -> list[Any]:
    # The attributes of a complete response are packed the same way, with an empty body.
    parts = [item for part in stored.parts for item in part]
    packed = [stored.whole, stored.vague, parts, *_pack_response(stored)]
    _unpack_partial(packed)
    return packed


def _unpack_partial(packed: Any) -> PartialResponse:
    whole, vague, items, *rest = packed
    if not (whole is None or (type(whole) is int and 0 < whole < _LONGEST)):
        raise ValueError("the length of a representation is malformed")
    if type(vague) is not bool or type(items) is not list or not 2 <= len(items) <= 2 * MAX_PARTS:
        raise ValueError("parts are malformed, or too many")
    parts: list[Part] = []
    end = -1
    for first, octets in zip(items[::2], items[1::2], strict=True):
        if type(first) is not int or type(octets) is not bytes or not octets:
            raise ValueError("a part is malformed")
        if not end < first < _LONGEST:
            raise ValueError("parts are not in order, or without a gap")
        end = first + len(octets)
        parts.append((first, octets))
    if end > (_LONGEST if whole is None else whole):
        raise ValueError("a part is beyond the end of its representation")
    common = _unpack_response(rest)
    if common.status != 200 or common.body or not _OF_WHOLES.isdisjoint(common.fields.names()):
        raise ValueError("a response with parts is not a 200, or has a Content-Length")
    return PartialResponse(common.lines, tuple(parts), whole, vague=vague, **common.attributes())


def _pack_index(index: VariantIndex) -> list[Any]:
    packed: list[Any] = [[list(names) for names in index.names], list(index.variants)]
    if index.expires:
        packed.append(list(index.expires))
    _unpack_index(packed)
    return packed


def _unpack_index(packed: Any) -> VariantIndex:
    # The last item is optional: older versions of LayerGate wrote an index without it.
    names, variants, *rest = packed
    expires = rest[0] if rest else []
    if type(expires) is not list or len(rest) > 1 or (rest and not expires):
        raise ValueError("the ends of variants are malformed")
    for end in expires:
        if type(end) is not int or not 0 <= end <= FAR:
            raise ValueError("the end of a variant is malformed")
    for items, most in ((names, _MAX_NAME_SETS), (variants, _MAX_VARIANTS)):
        if type(items) is not list or len(items) > most:
            raise ValueError("an index of variants is malformed, or too long")
    for one in names:
        if type(one) is not list or len(one) > _MAX_NAMES:
            raise ValueError("a set of names is malformed, or too long")
        for name in one:
            if type(name) is not bytes or not _TOKEN(name):
                raise ValueError("the name of a field is malformed")
    for key in variants:
        if type(key) is not bytes or not 0 < len(key) <= _MAX_KEY:
            raise ValueError("the key of a variant is malformed, or too long")
    if rest and len(expires) != len(variants):
        raise ValueError("the ends of variants are too few or too many")
    return VariantIndex(tuple(map(tuple, names)), tuple(variants), tuple(expires))


def _pack_marker(marker: HitForMiss) -> Any:
    token = marker.reason.token
    return [token, list(marker.witnesses)] if marker.witnesses else token


def _unpack_marker(packed: Any) -> HitForMiss:
    token, witnesses = packed if type(packed) is list else (packed, None)
    reason = _REASONS.get(token) if type(token) is str else None
    if reason is None:
        raise ValueError("a reason is not known here")
    if witnesses is None:
        return HitForMiss(reason)
    if type(witnesses) is not list or not 0 < len(witnesses) <= _MAX_WITNESSES:
        raise ValueError("the witnesses of a marker are malformed, or too many")
    for one in witnesses:
        if type(one) is not bytes or len(one) != _WITNESS:
            raise ValueError("a witness of a marker is malformed")
    return HitForMiss(reason, tuple(witnesses))


def _pack_variance(variance: SearchVariance) -> list[Any]:
    packed = [variance.ordered, variance.only, list(variance.names)]
    _unpack_variance(packed)
    return packed


def _unpack_variance(packed: Any) -> SearchVariance:
    ordered, only, names = packed
    if type(ordered) is not bool or type(only) is not bool:
        raise ValueError("a search variance is malformed")
    if type(names) is not list or len(names) > MAX_PARAMS or sorted(set(names)) != names:
        raise ValueError("the names of a search variance are malformed, or too many")
    for name in names:
        if type(name) is not bytes or len(name) > MAX_FIELD:
            raise ValueError("the name of a parameter is malformed, or too long")
    return SearchVariance(ordered, only, tuple(names))


VALUES: Final[tuple[ValueType, ...]] = (
    ValueType(1, StoredResponse, _pack_response, _unpack_response),
    ValueType(2, VariantIndex, _pack_index, _unpack_index),
    ValueType(3, HitForMiss, _pack_marker, _unpack_marker),
    ValueType(4, PartialResponse, _pack_partial, _unpack_partial),
    ValueType(6, SearchVariance, _pack_variance, _unpack_variance),
)
"""The value types of an HTTP cache, for its codecs. Codes are permanent: a type whose form changes gets
a new code, and the old form stays readable or is ignored."""
