"""Requests known by heart: bytes that were a plain hit before, so they need no parser the next time.

`ClientConnection` looks here first. A known request is still looked up in the cache each time: only the
parsing is saved, and the encoding of the stored response's head.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from layergate.gateway.clients.head import RequestHead
from layergate.gateway.forward import FORWARDED
from layergate.gateway.head import encode_lines, status_line
from layergate.http.message.fields import Lines
from layergate.http.message.key import primary_key
from layergate.http.message.stored import StoredResponse

__all__ = ["Known", "KnownRequests", "plain_request"]

_MOST: Final = 32 * 1024 * 1024  # bytes, per worker
_OVERHEAD: Final = 1536  # bytes: the dicts, lists and lines of one request
_LONGEST_REQUEST: Final = 2048  # bytes
_LONGEST_BLOCK: Final = 16 * 1024  # bytes
_NO_CONTENT: Final = frozenset({204, 304})


class Known:
    """A GET or HEAD without content, as the cache is asked for it.

    ``key``, ``path``, ``fields``  the arguments of `LayerGate.plain_hit`.
    ``block``  the head of the response as it was sent last, from the status line on, without the lines
               that differ each time; ``lines``: the stored lines that it is made of.
    ``size``   bytes of memory, once it is remembered; else 0.
    """

    __slots__ = ("block", "fields", "head", "key", "lines", "path", "request_size", "size")

    def __init__(
        self, key: bytes, path: str, fields: dict[bytes, bytes], head: RequestHead
    ) -> None:
        self.size = 0
        self.request_size = 0
        self.key = key
        self.path = path
        self.fields = fields
        self.head = head
        self.lines: Lines | None = None
        self.block = b""

    def encode(self, stored: StoredResponse) -> None:
        """Make ``block`` of a stored response. Raises ValueError if it can't be sent."""
        self.block = status_line(stored.status) + encode_lines(stored.lines)
        if stored.status not in _NO_CONTENT and b"content-length" not in stored.fields:
            self.block += b"content-length: %d\r\n" % len(stored.body)
        self.lines = stored.lines


def plain_request(head: RequestHead, scheme: str, *, believed: bool) -> Known | None:
    """The request as the cache is asked for it without an ASGI call; None if it needs the call.

    ``believed``: True if the fields of a trusted proxy may change what the request means.
    """
    fields = dict(head.lines)
    if len(fields) != len(head.lines) or not head.origin_form:
        return None
    if not FORWARDED.isdisjoint(fields):
        if believed:
            return None  # the scheme may be another
        for name in FORWARDED:
            fields.pop(name, None)
    raw, _, query = head.url.partition(b"?")
    try:
        path = (raw if b"%" not in raw else unquote_to_bytes(raw)).decode()
        key = primary_key(scheme, fields[b"host"], path, raw, query)
    except (KeyError, UnicodeDecodeError):
        return None
    return Known(key, path, fields, head)


class KnownRequests:
    """The known requests of one worker. Their memory is bounded: when it is used up, all are dropped.

    Only hits are remembered, so requests for what is not stored can't displace those for what is.
    """

    def __init__(self) -> None:
        # By scheme, and by whether the peer is believed: the same bytes mean another request then.
        self.groups: dict[tuple[str, bool], dict[bytes, Known]] = {}
        self.size = 0  # bytes

    def group(self, scheme: str, *, believed: bool) -> dict[bytes, Known]:
        """The requests of such connections, by their bytes."""
        return self.groups.setdefault((scheme, believed), {})

    def remember(self, group: dict[bytes, Known], data: bytes, known: Known) -> None:
        """Keep a request of which ``data`` are all bytes, if it is small and may come again."""
        if len(data) > _LONGEST_REQUEST or len(known.block) > _LONGEST_BLOCK or known.head.close:
            return
        before = group.get(data)
        if before is not None:
            self.size -= before.size
        known.request_size = 2 * len(data)
        self._count(known)
        group[data] = known

    def resized(self, known: Known) -> None:
        """Count a remembered request anew, whose block has changed."""
        self.size -= known.size
        self._count(known)

    def _count(self, known: Known) -> None:
        known.size = _OVERHEAD + known.request_size + 3 * len(known.block)
        self.size += known.size
        if self.size > _MOST:
            for group in self.groups.values():
                group.clear()
            self.size = known.size
